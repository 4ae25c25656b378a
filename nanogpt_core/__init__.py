"""NanoGPT's embedding models, without a framework.

The names below are the public API. They are loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanogpt_core.catalogue import MODELS, ModelInfo, get_model
    from nanogpt_core.embedder import Embedder
    from nanogpt_core.errors import NanoGPTError
    from nanogpt_core.live import list_models
    from nanogpt_core.sandbox import Sandbox
    from nanogpt_core.usage import Estimate, Usage

__all__ = [
    "MODELS",
    "Embedder",
    "Estimate",
    "ModelInfo",
    "NanoGPTError",
    "Sandbox",
    "Usage",
    "get_model",
    "list_models",
]

_HOMES = {
    "MODELS": "catalogue",
    "Embedder": "embedder",
    "Estimate": "usage",
    "ModelInfo": "catalogue",
    "NanoGPTError": "errors",
    "Sandbox": "sandbox",
    "Usage": "usage",
    "get_model": "catalogue",
    "list_models": "live",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

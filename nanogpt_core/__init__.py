"""NanoGPT's embedding models, without a framework.

The names below are the public API. They are loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanogpt_core.cache import EmbeddingCache, MemoryCache
    from nanogpt_core.cache_tools import CacheReport, clear_cache, export_cache, inspect_cache, verify_cache
    from nanogpt_core.catalogue import MODELS, ModelInfo, get_model
    from nanogpt_core.embedder import Embedder
    from nanogpt_core.errors import NanoGPTError
    from nanogpt_core.live import list_models
    from nanogpt_core.sandbox import Sandbox
    from nanogpt_core.sqlite_cache import SQLiteCache
    from nanogpt_core.streaming import EmbeddedBatch
    from nanogpt_core.usage import Estimate, Usage

__all__ = [
    "MODELS",
    "CacheReport",
    "EmbeddedBatch",
    "Embedder",
    "EmbeddingCache",
    "Estimate",
    "MemoryCache",
    "ModelInfo",
    "NanoGPTError",
    "SQLiteCache",
    "Sandbox",
    "Usage",
    "clear_cache",
    "export_cache",
    "get_model",
    "inspect_cache",
    "list_models",
    "verify_cache",
]

_HOMES = {
    "MODELS": "catalogue",
    "CacheReport": "cache_tools",
    "EmbeddedBatch": "streaming",
    "Embedder": "embedder",
    "EmbeddingCache": "cache",
    "Estimate": "usage",
    "MemoryCache": "cache",
    "ModelInfo": "catalogue",
    "NanoGPTError": "errors",
    "SQLiteCache": "sqlite_cache",
    "Sandbox": "sandbox",
    "Usage": "usage",
    "clear_cache": "cache_tools",
    "export_cache": "cache_tools",
    "get_model": "catalogue",
    "inspect_cache": "cache_tools",
    "list_models": "live",
    "verify_cache": "cache_tools",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

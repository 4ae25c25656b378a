"""NanoGPT's embedding models, without a framework.

The names below are the public API. They are loaded when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanogpt_core.cache.admin import CacheReport, clear_cache, export_cache, inspect_cache, verify_cache
    from nanogpt_core.cache.base import EmbeddingCache, MemoryCache
    from nanogpt_core.cache.sqlite import SQLiteCache
    from nanogpt_core.embeddings.embedder import Embedder
    from nanogpt_core.embeddings.stream import EmbeddedBatch
    from nanogpt_core.embeddings.usage import Estimate, Usage
    from nanogpt_core.errors import NanoGPTError
    from nanogpt_core.models.catalog import MODELS, ModelInfo, get_model
    from nanogpt_core.models.listing import list_models
    from nanogpt_core.sandbox import Sandbox

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
    "MODELS": "models.catalog",
    "CacheReport": "cache.admin",
    "EmbeddedBatch": "embeddings.stream",
    "Embedder": "embeddings.embedder",
    "EmbeddingCache": "cache.base",
    "Estimate": "embeddings.usage",
    "MemoryCache": "cache.base",
    "ModelInfo": "models.catalog",
    "NanoGPTError": "errors",
    "SQLiteCache": "cache.sqlite",
    "Sandbox": "sandbox",
    "Usage": "embeddings.usage",
    "clear_cache": "cache.admin",
    "export_cache": "cache.admin",
    "get_model": "models.catalog",
    "inspect_cache": "cache.admin",
    "list_models": "models.listing",
    "verify_cache": "cache.admin",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

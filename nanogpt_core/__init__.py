"""NanoGPT's embedding models without a framework, and the base of both plugins, for embeddings and chat.

The names below are the public API. Each but the errors is imported at its first use: importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nanogpt_core import errors
from nanogpt_core.errors import *  # noqa: F403 - its __all__ has the error classes

if TYPE_CHECKING:
    from nanogpt_core.cache.admin import CacheReport, clear_cache, export_cache, inspect_cache, verify_cache
    from nanogpt_core.cache.base import EmbeddingCache, MemoryCache
    from nanogpt_core.cache.sqlite import SQLiteCache
    from nanogpt_core.embeddings.embedder import Embedder
    from nanogpt_core.embeddings.pipeline import Estimate
    from nanogpt_core.embeddings.stream import EmbeddedBatch
    from nanogpt_core.http.account import Balance, KeyUsage, UsageRow, fetch_balance, fetch_usage
    from nanogpt_core.http.limits import SharedLimits
    from nanogpt_core.models.catalog import MODELS, ModelInfo, get_model
    from nanogpt_core.models.listing import list_models
    from nanogpt_core.models.tokens import count_tokens
    from nanogpt_core.observability.records import RequestRecord
    from nanogpt_core.observability.usage import TrackedUsage, Usage, track_usage
    from nanogpt_core.sandbox import Sandbox
    from nanogpt_core.scale.embed_table import EmbedTable
    from nanogpt_core.scale.ledger import Ledger, OpenRequest
    from nanogpt_core.scale.redis_cache import RedisCache
    from nanogpt_core.scale.redis_limits import RedisLimits

__all__ = [
    "MODELS",
    "Balance",
    "CacheReport",
    "EmbedTable",
    "EmbeddedBatch",
    "Embedder",
    "EmbeddingCache",
    "Estimate",
    "KeyUsage",
    "Ledger",
    "MemoryCache",
    "ModelInfo",
    "OpenRequest",
    "RedisCache",
    "RedisLimits",
    "RequestRecord",
    "SQLiteCache",
    "Sandbox",
    "SharedLimits",
    "TrackedUsage",
    "Usage",
    "UsageRow",
    "__version__",
    "clear_cache",
    "count_tokens",
    "export_cache",
    "fetch_balance",
    "fetch_usage",
    "get_model",
    "inspect_cache",
    "list_models",
    "track_usage",
    "verify_cache",
]
__all__ += errors.__all__

__version__: str

_NAMES = {
    "cache.admin": ["CacheReport", "clear_cache", "export_cache", "inspect_cache", "verify_cache"],
    "cache.base": ["EmbeddingCache", "MemoryCache"],
    "cache.sqlite": ["SQLiteCache"],
    "embeddings.embedder": ["Embedder"],
    "embeddings.pipeline": ["Estimate"],
    "embeddings.stream": ["EmbeddedBatch"],
    "http.account": ["Balance", "KeyUsage", "UsageRow", "fetch_balance", "fetch_usage"],
    "http.limits": ["SharedLimits"],
    "models.catalog": ["MODELS", "ModelInfo", "get_model"],
    "models.listing": ["list_models"],
    "models.tokens": ["count_tokens"],
    "observability.records": ["RequestRecord"],
    "observability.usage": ["TrackedUsage", "Usage", "track_usage"],
    "sandbox": ["Sandbox"],
    "scale.embed_table": ["EmbedTable"],
    "scale.ledger": ["Ledger", "OpenRequest"],
    "scale.redis_cache": ["RedisCache"],
    "scale.redis_limits": ["RedisLimits"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        from nanogpt_core._runtime.extras import package_version

        value = package_version()
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

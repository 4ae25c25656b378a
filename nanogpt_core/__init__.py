"""NanoGPT's embedding models, without a framework.

The names below are the public API. Each but the errors is imported at its first use: importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    ConnectionFailedError,
    DamagedReplyError,
    DimensionsError,
    InsufficientBalanceError,
    InvalidInputError,
    InvalidTypeError,
    LimitsUnavailableError,
    ModelNotFoundError,
    NanoGPTError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RefusalError,
    ReplyError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServerError,
    StatusError,
    TextTooLongError,
)

if TYPE_CHECKING:
    from nanogpt_core.cache.admin import CacheReport, clear_cache, export_cache, inspect_cache, verify_cache
    from nanogpt_core.cache.base import EmbeddingCache, MemoryCache
    from nanogpt_core.cache.sqlite import SQLiteCache
    from nanogpt_core.embeddings.embedder import Embedder
    from nanogpt_core.embeddings.estimate import Estimate
    from nanogpt_core.embeddings.stream import EmbeddedBatch
    from nanogpt_core.http.account import Balance, KeyUsage, fetch_balance, fetch_usage
    from nanogpt_core.http.limits import SharedLimits
    from nanogpt_core.models.catalog import MODELS, ModelInfo, get_model
    from nanogpt_core.models.listing import list_models
    from nanogpt_core.models.tokens import count_tokens
    from nanogpt_core.observability.records import RequestRecord
    from nanogpt_core.observability.usage import Usage, track_usage
    from nanogpt_core.sandbox import Sandbox
    from nanogpt_core.scale.embed_table import EmbedTable
    from nanogpt_core.scale.ledger import Ledger
    from nanogpt_core.scale.redis_cache import RedisCache
    from nanogpt_core.scale.redis_limits import RedisLimits

__all__ = [
    "MODELS",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "BudgetExceededError",
    "CacheReport",
    "ConfigurationError",
    "ConnectionFailedError",
    "DamagedReplyError",
    "DimensionsError",
    "EmbedTable",
    "EmbeddedBatch",
    "Embedder",
    "EmbeddingCache",
    "Estimate",
    "InsufficientBalanceError",
    "InvalidInputError",
    "InvalidTypeError",
    "KeyUsage",
    "Ledger",
    "LimitsUnavailableError",
    "MemoryCache",
    "ModelInfo",
    "ModelNotFoundError",
    "NanoGPTError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitError",
    "RedisCache",
    "RedisLimits",
    "RefusalError",
    "ReplyError",
    "RequestRecord",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "SQLiteCache",
    "Sandbox",
    "ServerError",
    "SharedLimits",
    "StatusError",
    "TextTooLongError",
    "Usage",
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

__version__: str

_MODULES = {
    "MODELS": "models.catalog",
    "Balance": "http.account",
    "CacheReport": "cache.admin",
    "EmbedTable": "scale.embed_table",
    "EmbeddedBatch": "embeddings.stream",
    "Embedder": "embeddings.embedder",
    "EmbeddingCache": "cache.base",
    "Estimate": "embeddings.estimate",
    "KeyUsage": "http.account",
    "Ledger": "scale.ledger",
    "MemoryCache": "cache.base",
    "ModelInfo": "models.catalog",
    "RedisCache": "scale.redis_cache",
    "RedisLimits": "scale.redis_limits",
    "RequestRecord": "observability.records",
    "SQLiteCache": "cache.sqlite",
    "Sandbox": "sandbox",
    "SharedLimits": "http.limits",
    "Usage": "observability.usage",
    "clear_cache": "cache.admin",
    "count_tokens": "models.tokens",
    "export_cache": "cache.admin",
    "fetch_balance": "http.account",
    "fetch_usage": "http.account",
    "get_model": "models.catalog",
    "inspect_cache": "cache.admin",
    "list_models": "models.listing",
    "track_usage": "observability.usage",
    "verify_cache": "cache.admin",
}


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        from importlib.metadata import version

        value = version("nanogpt-rag")
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

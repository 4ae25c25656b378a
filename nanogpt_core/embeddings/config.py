"""The options of ``Embedder``: their types, defaults and checks. Both plugins take the same options."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from nanogpt_core._runtime.log import warn
from nanogpt_core._runtime.validation import (
    MIN_REQUESTS_PER_SECOND,
    check_bool,
    check_http_client,
    check_model_name,
    check_number,
    check_plain_function,
    check_positive,
    check_str_or_none,
)
from nanogpt_core.cache.base import EmbeddingCache
from nanogpt_core.embeddings.planning import OVERFLOW_MODES, Overflow
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.endpoint import DEFAULT_TIMEOUT, Endpoint
from nanogpt_core.http.limits import SharedLimits, check_limits
from nanogpt_core.http.secrets import ApiKey
from nanogpt_core.models.catalog import MAX_DIMENSIONS, MAX_ITEMS, ModelInfo, get_model
from nanogpt_core.models.listing import live_model_info
from nanogpt_core.observability.records import OnRequest, check_on_request

if TYPE_CHECKING:
    from nanogpt_core.cache.sqlite import SQLiteCache

Progress = bool | Callable[[int, int], None] | None
"""None or False for nothing, True for a bar, or a function of (texts done, texts in total)."""

OPTION_ALIASES = {
    "api_base": "base_url",
    "async_http_client": "http_async_client",
    "openai_api_base": "base_url",
    "openai_api_key": "api_key",
    "nanogpt_api_key": "api_key",
    "chunk_size": "batch_size",
    "embed_batch_size": "batch_size",
    "deployment": "model",
    "model_name": "model",
    "num_workers": "max_concurrency",
    "request_timeout": "timeout",
    "headers": "default_headers",
    "show_progress": "progress",
    "show_progress_bar": "progress",
}
"""Names of the same options in other embedding classes, for hints."""


class EmbedderOptions(TypedDict, total=False):
    """Keyword options of :class:`nanogpt_core.Embedder`, for type checkers."""

    api_key: ApiKey
    base_url: str | None
    model_info: Literal["live"] | ModelInfo | None
    dimensions: int | None
    user: str | None
    on_overflow: Overflow
    query_instruction: str | None
    batch_size: int | None
    max_concurrency: int
    coalesce: bool
    requests_per_second: float | None
    max_retries: int
    timeout: float
    deadline: float | None
    cache: str | os.PathLike[str] | EmbeddingCache | None
    budget_usd: float | None
    limits: SharedLimits | None
    progress: Progress
    on_request: OnRequest | None
    default_headers: Mapping[str, str] | None
    http_client: Any
    http_async_client: Any
    allow_insecure_http: bool


@dataclass(frozen=True)
class EmbedderConfig:
    """All options of one embedder, checked once. See :class:`nanogpt_core.Embedder` for their meaning.

    The constructor takes the options as a user passes them, and keeps them in the form in which they are used: the key,
    base URL, timeout and headers in ``endpoint``, the row of the model in ``model_row``, an opened cache in
    ``opened_cache``.
    """

    model: str | ModelInfo = "text-embedding-3-small"
    _: KW_ONLY
    api_key: ApiKey = field(default=None, repr=False)
    base_url: str | None = None
    model_info: Literal["live"] | ModelInfo | None = field(default=None, repr=False)
    dimensions: int | None = None
    user: str | None = None
    on_overflow: Overflow = "error"
    query_instruction: str | None = None
    batch_size: int | None = None
    max_concurrency: int = 16
    coalesce: bool = True
    requests_per_second: float | None = None
    max_retries: int = 5
    timeout: float = DEFAULT_TIMEOUT
    deadline: float | None = None
    cache: str | os.PathLike[str] | EmbeddingCache | None = None
    budget_usd: float | None = None
    limits: SharedLimits | None = None
    progress: Progress = None
    on_request: OnRequest | None = None
    default_headers: Mapping[str, str] | None = field(default=None, repr=False)
    http_client: Any = None
    http_async_client: Any = None
    allow_insecure_http: bool = False

    model_row: ModelInfo = field(init=False, repr=False)
    endpoint: Endpoint = field(init=False, repr=False)
    opened_cache: EmbeddingCache | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_number("batch_size", self.batch_size, 1, MAX_ITEMS)
        check_number("max_concurrency", self.max_concurrency, 1)
        check_bool("coalesce", self.coalesce)
        check_number("max_retries", self.max_retries, 0)
        check_positive("requests_per_second", self.requests_per_second, at_least=MIN_REQUESTS_PER_SECOND)
        check_positive("deadline", self.deadline)
        check_positive("budget_usd", self.budget_usd)
        check_limits(self.limits, requests_per_second=self.requests_per_second, budget_usd=self.budget_usd)
        _check_overflow(self.on_overflow)
        check_str_or_none("query_instruction", self.query_instruction)
        check_str_or_none("user", self.user)
        _check_progress(self.progress)
        check_on_request(self.on_request)
        check_http_client("http_client", self.http_client, "Client")
        check_http_client("http_async_client", self.http_async_client, "AsyncClient")
        endpoint = Endpoint.resolve(
            api_key=self.api_key,
            base_url=self.base_url,
            timeout=self.timeout,
            headers=self.default_headers,
            allow_insecure_http=self.allow_insecure_http,
        )
        model = _model_row(self.model, self.model_info, endpoint, self.http_client)
        if model.is_reranker:
            warn(
                f"{model.id} is a reranker, not an embedding model: its vectors are of no use in a search.",
                UserWarning,
            )
        _check_dimensions(model, self.dimensions)
        _check_price(self.budget_usd, model)
        if self.limits is not None:
            _check_price(self.limits.budget_usd, model)
        resolved = {
            "model": model.id,
            "model_row": model,
            "endpoint": endpoint,
            "opened_cache": _open_cache(self.cache),
            "on_overflow": str.__str__(self.on_overflow),  # without the class of a string enum
            # Secrets are in the endpoint only, which hides them.
            "api_key": None,
            "default_headers": None,
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)  # the class is frozen for all other code

    @property
    def own_cache(self) -> SQLiteCache | None:
        """The cache if it was opened here, at a path, and not passed."""
        is_own = isinstance(self.cache, (str, os.PathLike))
        return cast("SQLiteCache", self.opened_cache) if is_own else None


def _model_row(model: str | ModelInfo, info: object, endpoint: Endpoint, http_client: Any) -> ModelInfo:
    """Return the facts about the model: the caller's, the service's, or the catalog's."""
    name = check_model_name(model.id if isinstance(model, ModelInfo) else model)
    if isinstance(info, ModelInfo):
        if info.id != name:
            raise ConfigurationError(
                f"model_info is about {info.id!r}, and model is {name!r}.", remedy="Pass the row as model."
            )
        return info
    if isinstance(info, str) and info == "live":
        return live_model_info(endpoint, name, http_client)
    if info is not None:
        raise InvalidTypeError(f'model_info must be "live" or a ModelInfo, not {info!r}.')
    return model if isinstance(model, ModelInfo) else get_model(name)


def _check_price(budget_usd: float | None, model: ModelInfo) -> None:
    if budget_usd is not None and model.usd_per_million_tokens is None:
        raise ConfigurationError(
            f"budget_usd cannot be kept for {model.id!r}: its price is unknown.",
            remedy=(
                'Leave it out, or pass model_info="live" for the price in the service\'s list; if the list has none, a '
                "ModelInfo with usd_per_million_tokens."
            ),
        )


def _open_cache(cache: Any) -> EmbeddingCache | None:
    if cache is None:
        return None
    if isinstance(cache, (str, os.PathLike)):
        from nanogpt_core.cache.sqlite import SQLiteCache

        return SQLiteCache(cache)
    if isinstance(cache, EmbeddingCache) and not isinstance(cache, type):
        if inspect.iscoroutinefunction(cache.get_many) or inspect.iscoroutinefunction(cache.put_many):
            raise InvalidTypeError(
                f"cache is a {type(cache).__name__} with async methods.",
                remedy="Give it sync ones: async calls use a cache in a thread.",
            )
        return cache
    raise InvalidTypeError(
        f"cache must be a path or have get_many() and put_many(), not {type(cache).__name__}.",
        remedy="See nanogpt_core.EmbeddingCache.",
    )


def _check_dimensions(model: ModelInfo, dimensions: int | None) -> None:
    if dimensions is None:
        return
    if model.dimensions is not None and not model.reduces:
        check_number("dimensions", dimensions, 1)
        raise ConfigurationError(
            f"{model.id} does not take `dimensions`; its vectors have {model.dimensions}.", remedy="Leave it out."
        )
    try:
        check_number("dimensions", dimensions, model.min_dimensions or 1, model.max_dimensions or MAX_DIMENSIONS)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{model.id}: {error.message}", remedy="Leave it out for the model's full dimensions."
        ) from None


def _check_overflow(mode: Any) -> None:
    if not isinstance(mode, str) or mode not in OVERFLOW_MODES:
        raise ConfigurationError(f"on_overflow must be one of {', '.join(OVERFLOW_MODES)}, not {mode!r}.")


def _check_progress(progress: Any) -> None:
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InvalidTypeError(f"progress must be a bool or a function of (done, total), not {progress!r}.")
    check_plain_function("progress", progress, "done", "total")

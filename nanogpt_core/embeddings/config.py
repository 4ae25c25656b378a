"""The options that ``Embedder`` and both plugins share, and the checks of them."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from nanogpt_core.cache.base import EmbeddingCache
from nanogpt_core.embeddings.planning import OVERFLOW_MODES, Overflow
from nanogpt_core.errors import ConfigurationError, InvalidTypeError, NanoGPTError
from nanogpt_core.http.endpoint import Secret, resolve_key
from nanogpt_core.models.catalog import MAX_ITEMS, ModelInfo
from nanogpt_core.validation import check_encodes, check_number, check_positive

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

__all__ = [
    "WIDEST",
    "EmbedderOptions",
    "Progress",
    "check_batch_size",
    "check_budget",
    "check_choices",
    "check_dimensions",
    "open_cache",
    "reject_unknown_options",
]

R = TypeVar("R")
# What other embedding classes call the same option.
_ELSEWHERE = {
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
WIDEST = 65_536
"""Most ``dimensions`` of a model that the catalogue does not know."""

Progress = bool | Callable[[int, int], None] | None
"""None or False for silence, True for a bar, or a function of (texts done, texts in all)."""


class EmbedderOptions(TypedDict, total=False):
    """The options beside model, key and base URL; see :class:`nanogpt_core.Embedder` for their meaning."""

    dimensions: int | None
    user: str | None
    on_overflow: Overflow
    query_instruction: str | None
    batch_size: int | None
    max_concurrency: int
    requests_per_second: float
    max_retries: int
    timeout: float
    deadline: float | None
    cache: str | os.PathLike[str] | EmbeddingCache | None
    budget_usd: float | None
    progress: Progress
    default_headers: Mapping[str, str] | None
    http_client: Any
    http_async_client: Any
    allow_insecure_http: bool


def reject_unknown_options(init: Callable[P, R]) -> Callable[P, R]:
    """Let a constructor answer an unknown option with our error, naming the option that may have been meant."""
    known = [name for name in inspect.signature(init).parameters if name not in ("self", "options")]
    known += [name for name in EmbedderOptions.__annotations__ if name not in known]

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if isinstance(kwargs.get("api_key"), str):
            # Out of this frame and those below at once, since some traceback tools print the frames' variables.
            kwargs["api_key"] = _wrapped(kwargs.pop("api_key"))
        for name in kwargs:
            if name not in known:
                elsewhere = _ELSEWHERE.get(name)
                near = [elsewhere] if elsewhere in known else difflib.get_close_matches(name, known, n=1)
                raise InvalidTypeError(
                    f"Unknown option {name!r}.",
                    remedy=f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}.",
                )
        return init(*args, **kwargs)

    return checked


def _wrapped(key: Any) -> Secret:
    try:
        return resolve_key(key)
    except NanoGPTError as error:
        key = None
        raise error.with_traceback(None) from None


def check_budget(budget_usd: Any, model: ModelInfo) -> None:
    """Check ``budget_usd``.

    Raises:
        InvalidTypeError: It is not a number.
        ConfigurationError: It is not positive, or the model's price is not known.
    """
    check_positive("budget_usd", budget_usd, optional=True)
    if budget_usd is not None and model.usd_per_million_tokens is None:
        raise ConfigurationError(
            f"budget_usd cannot be kept for {model.id!r}: its price is not in the catalogue.", remedy="Leave it out."
        )


def open_cache(cache: Any) -> EmbeddingCache | None:
    """Return the cache that the option means: None, an object, or a file in SQLite.

    Raises:
        InvalidTypeError: It is neither a path nor an embedding cache.
    """
    if cache is None:
        return None
    if isinstance(cache, (str, os.PathLike)):
        from nanogpt_core.cache.sqlite import SQLiteCache

        return SQLiteCache(cache)
    if isinstance(cache, EmbeddingCache) and not isinstance(cache, type):
        return cache
    raise InvalidTypeError(
        f"cache must be a path or have get_many() and put_many(), not {type(cache).__name__}.",
        remedy="See nanogpt_core.cache.base.EmbeddingCache.",
    )


def check_dimensions(model: ModelInfo, dimensions: int | None) -> None:
    """Check ``dimensions`` against what the model takes; an unknown model takes any.

    Raises:
        InvalidTypeError: It is not a whole number.
        ConfigurationError: The model does not take it.
    """
    if dimensions is None:
        return
    if model.dimensions is not None and not model.reduces:
        check_number("dimensions", dimensions, 1)
        raise ConfigurationError(
            f"{model.id} does not take `dimensions`; its vectors have {model.dimensions}.", remedy="Leave it out."
        )
    try:
        check_number("dimensions", dimensions, model.min_dimensions or 1, model.max_dimensions or WIDEST)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{model.id}: {error.message}", remedy="Leave it out for the model's full width."
        ) from None


def check_batch_size(batch_size: int | None) -> None:
    """Check ``batch_size``: None, or 1 to 2048.

    Raises:
        InvalidTypeError: It is not a whole number.
        ConfigurationError: It is out of range.
    """
    if batch_size is not None:
        check_number("batch_size", batch_size, 1, MAX_ITEMS)


def check_choices(*, on_overflow: Any, query_instruction: Any, user: Any, progress: Any) -> None:
    """Check the options that are neither numbers nor about the connection.

    Raises:
        InvalidTypeError: One is of the wrong type.
        ConfigurationError: One has a value that does not exist.
    """
    if on_overflow not in OVERFLOW_MODES:
        raise ConfigurationError(f"on_overflow must be one of {', '.join(OVERFLOW_MODES)}, not {on_overflow!r}.")
    for name, value in (("query_instruction", query_instruction), ("user", user)):
        if value is not None and not isinstance(value, str):
            raise InvalidTypeError(f"{name} must be a str or None, not {type(value).__name__}.")
        check_encodes(name, value or "")
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise InvalidTypeError(f"progress must be a bool or a function of (done, total), not {progress!r}.")

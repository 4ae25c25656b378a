"""``RequestRecord``: one finished request, as the hook ``on_request`` gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nanogpt_core._runtime.validation import check_plain_function
from nanogpt_core.errors import InvalidTypeError

Kind = Literal["embeddings", "chat"]

CANCELLED = "Cancelled"
"""``error`` of a request whose caller was cancelled or interrupted, or left a stream before its end."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One finished request, over all its attempts. It holds no text and no key.

    Embeddings that share a request (``coalesce``) have a record for each call, with its part of the tokens and the
    cost. Vectors from the cache have a record too, with ``cached=True`` and no attempt. Sums over all records of an
    object are its :class:`Usage`.

    Attributes:
        kind: ``"embeddings"`` or ``"chat"``.
        model: Name of the model.
        texts: Number of texts, 0 for chat.
        prompt_tokens: Tokens billed for the input, as the service counts them; None if it did not say.
        completion_tokens: Tokens billed for the answer, 0 for embeddings; None if the service did not say.
        cost_usd: US dollars: the cost that the reply gives, or the tokens at the model's price. None if both are
            unknown, or if a request failed that may have been billed.
        seconds: Duration with all waits and retries; of a stream, until its end.
        attempts: HTTP requests that were made.
        uncertain: Attempts that failed and may have been billed; their tokens and cost are not known.
        request_id: The service's ``X-Request-ID``, or None.
        cached: True for the texts of a call whose vectors came from the cache.
        shared: True if another call's record counts this HTTP request, which carried the texts of both.
        error: Name of the error's class, ``"Cancelled"`` if the caller was cancelled or left a stream before its end,
            or None.
    """

    kind: Kind
    model: str
    texts: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float
    attempts: int
    uncertain: int = 0
    request_id: str | None = None
    cached: bool = False
    shared: bool = False
    error: str | None = None


OnRequest = Callable[[RequestRecord], object]
"""A hook: a function that gets the record of each finished request."""


def check_on_request(hook: Any) -> None:
    """Check the option ``on_request``.

    Raises:
        InvalidTypeError: It is neither None nor a function of one argument, or it is a coroutine function.
    """
    if hook is None:
        return
    if not callable(hook):
        raise InvalidTypeError(f"on_request must be a function of a RequestRecord, not {type(hook).__name__}.")
    check_plain_function("on_request", hook, "a RequestRecord")


def error_name(error: BaseException) -> str:
    """Return the ``error`` of a record. Cancellation comes as one of several exceptions that are no ``Exception``."""
    return type(error).__name__ if isinstance(error, Exception) else CANCELLED

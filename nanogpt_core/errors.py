"""Every error that this project raises.

::

    NanoGPTError                      root; what the SDK or the network said is kept as __cause__
    ├── ConfigurationError            also ValueError: a key, URL or option that cannot be right
    ├── InvalidInputError             also ValueError: an argument's value; .positions
    │   └── TextTooLongError          a text is over the model's token limit
    ├── InvalidTypeError              also TypeError: an argument of the wrong type; .positions
    ├── BudgetExceededError           sending would go past budget_usd
    ├── ReplyError                    the service answered, but not with the right vectors; .request_id
    │   ├── DamagedReplyError         the reply cannot be read: not JSON, cut off
    │   └── DimensionsError                the vectors have another number of dimensions than expected; .width
    ├── ConnectionFailedError         no answer: refused, DNS, TLS, reset
    │   └── RequestTimeoutError       no answer in time
    └── StatusError                   the service said no; .status .code .request_id
        ├── BadRequestError           400 and other 4xx
        │   └── RequestTooLargeError  400 or 413 that speaks of size
        ├── AuthenticationError       401
        ├── InsufficientBalanceError  402
        ├── PermissionDeniedError     403
        ├── ModelNotFoundError        404
        ├── RateLimitError            429
        │   └── QuotaExceededError    429 that waiting a moment does not cure
        └── ServerError               5xx and 408

A message says what is wrong, where, and what to do about it. No message holds an API key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DamagedReplyError",
    "DimensionsError",
    "InsufficientBalanceError",
    "InvalidInputError",
    "InvalidTypeError",
    "ModelNotFoundError",
    "NanoGPTError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitError",
    "ReplyError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "ServerError",
    "StatusError",
    "TextTooLongError",
    "bare",
    "causes",
]


class NanoGPTError(Exception):
    """The root of all errors of this project.

    Attributes:
        message: What is wrong.
        remedy: What to do about it, or an empty string where nothing general can be said.
        transient: Whether the same request may well succeed a little later.
        completed: Where a call failed in its middle: the vectors that were there by then, ``(d,)`` float32 each, by
            position in the caller's list, counted from 0.
        failed_positions: The positions that have no vector.
    """

    transient = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy
        self.completed: Mapping[int, NDArray[np.float32]] = MappingProxyType({})
        self.failed_positions: tuple[int, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments are not in args, so that an error comes back from a worker process by its attributes.
        return _restore, (type(self), self.args, {**self.__dict__, "completed": dict(self.completed)})

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class ConfigurationError(NanoGPTError, ValueError):
    """A key, a URL or an option that cannot be right."""


class _PositionedError(NanoGPTError):
    """An error about some of the given texts.

    Attributes:
        positions: Indices, counted from 0, into the list that the caller gave.
    """

    def __init__(self, message: str, *, remedy: str = "", positions: Sequence[int] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.positions = tuple(positions)


class InvalidInputError(_PositionedError, ValueError):
    """An argument whose value is not accepted."""


class TextTooLongError(InvalidInputError):
    """A text has more tokens than the model takes."""


class InvalidTypeError(_PositionedError, TypeError):
    """An argument of the wrong type."""


class BudgetExceededError(NanoGPTError):
    """Sending would go past ``budget_usd``; nothing of it was sent."""


class ReplyError(NanoGPTError):
    """The service answered 200, but not with what was asked for.

    Attributes:
        request_id: The service's ``X-Request-ID``, or None.
    """

    def __init__(self, message: str, *, remedy: str = "", request_id: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.request_id = request_id


class DamagedReplyError(ReplyError):
    """The reply cannot be read at all, as when a proxy cuts it off; asking again may help."""

    transient = True


class DimensionsError(ReplyError):
    """The vectors are of another width than any source gives for the model.

    Attributes:
        width: The width of the reply's vectors.
    """

    def __init__(self, message: str, *, remedy: str, width: int) -> None:
        super().__init__(message, remedy=remedy)
        self.width = width


class ConnectionFailedError(NanoGPTError):
    """No answer came: refused, unknown host, TLS failure, or a connection reset."""

    transient = True


class RequestTimeoutError(ConnectionFailedError):
    """No complete answer came in time."""


class StatusError(NanoGPTError):
    """The service answered with an error status.

    Attributes:
        status: The HTTP status.
        code: The service's error code, or None.
        param: The parameter that the service names, or None.
        request_id: The service's ``X-Request-ID``, or None.
        detail: The service's own words, shortened.
        retry_after: Seconds after which the service says to come again, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        status: int,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        detail: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.detail = detail
        self.retry_after = retry_after


class BadRequestError(StatusError):
    """The service does not accept the request (400, or a 4xx without a class of its own)."""


class RequestTooLargeError(BadRequestError):
    """The request has too many items or tokens (400 or 413)."""


class AuthenticationError(StatusError):
    """The key is missing or wrong (401)."""


class InsufficientBalanceError(StatusError):
    """The account's balance does not cover the request (402)."""


class PermissionDeniedError(StatusError):
    """The key may not do this (403)."""


class ModelNotFoundError(StatusError):
    """The service has no such model, or no such path (404)."""


class RateLimitError(StatusError):
    """Too many requests (429)."""

    transient = True


class QuotaExceededError(RateLimitError):
    """A quota or daily cap is used up (429); trying again soon does not help."""

    transient = False


class ServerError(StatusError):
    """The service failed (5xx, 408)."""

    transient = True


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error``, what caused it, and so on; each once, since causes can run in a circle."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def bare(error: NanoGPTError) -> NanoGPTError:
    """Return ``error`` without the frames that hold the reply: it may repeat the key."""
    for cause in causes(error):
        cause.__traceback__ = None
    return error


def _restore(kind: type[NanoGPTError], args: tuple[object, ...], state: dict[str, object]) -> NanoGPTError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error

"""All errors of this project, in one tree.

::

    NanoGPTError                      root; the error of the SDK or the network is its __cause__
    ├── ConfigurationError            also ValueError: an invalid key, URL or option
    ├── InvalidInputError             also ValueError: an argument's value; .positions
    │   └── TextTooLongError          a text is over the model's token limit
    ├── InvalidTypeError              also TypeError: an argument of the wrong type; .positions
    ├── BudgetExceededError           the next requests would exceed budget_usd
    ├── LimitsUnavailableError        shared limits cannot be read, so nothing is sent
    ├── ReplyError                    the service answered 200 with an invalid reply; .request_id
    │   ├── DamagedReplyError         the reply cannot be parsed: not JSON, or truncated
    │   ├── RefusalError              the model, or a content filter, refused structured output or a tool call
    │   └── DimensionsError           the vectors have other dimensions than expected; .width
    ├── ConnectionFailedError         no answer: refused, DNS, TLS, reset
    │   └── RequestTimeoutError       no answer in time
    └── StatusError                   an HTTP error status; .status .code .request_id
        ├── BadRequestError           400 and other 4xx
        │   └── RequestTooLargeError  400, 413 or 422 about the size of the request
        ├── AuthenticationError       401
        ├── InsufficientBalanceError  402
        ├── PermissionDeniedError     403
        ├── ModelNotFoundError        404, and 400 about the model's name; .wrong_base_url
        ├── RateLimitError            429
        │   └── QuotaExceededError    429 that a short wait does not cure
        └── ServerError               5xx and 408

A message names the problem, its place and the remedy. No message contains an API key.
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
    "LimitsUnavailableError",
    "ModelNotFoundError",
    "NanoGPTError",
    "PermissionDeniedError",
    "QuotaExceededError",
    "RateLimitError",
    "RefusalError",
    "ReplyError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "ServerError",
    "StatusError",
    "TextTooLongError",
]


class NanoGPTError(Exception):
    """The root of all errors of this project.

    Attributes:
        message: The problem.
        remedy: The remedy, or an empty string if there is no general one.
        transient: True if the same request is likely to succeed a little later.
        unsent: True if the last attempt ended before anything was sent to the service: that attempt costs nothing.
        completed: The vectors that a failed call had by then, ``(d,)`` float32 each, by position in the caller's list,
            counted from 0.
        failed_positions: The positions without a vector.
    """

    transient = False
    unsent = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy
        self.completed: Mapping[int, NDArray[np.float32]] = MappingProxyType({})
        self.failed_positions: tuple[int, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments are not in args: an error from a worker process is restored by its attributes.
        return _restore, (type(self), self.args, {**self.__dict__, "completed": dict(self.completed)})

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class ConfigurationError(NanoGPTError, ValueError):
    """An invalid key, URL or option, or a closed object. Also a ``ValueError``."""


class _PositionedError(NanoGPTError):
    """An error about some of the given texts."""

    def __init__(self, message: str, *, remedy: str = "", positions: Sequence[int] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.positions = tuple(positions)


class InvalidInputError(_PositionedError, ValueError):
    """An argument has a value that is not accepted. Also a ``ValueError``.

    Attributes:
        positions: Positions in the caller's list, counted from 0, of the texts that it is about; empty if about none.
    """


class TextTooLongError(InvalidInputError):
    """A text has more tokens than the model takes; ``positions`` says which."""


class InvalidTypeError(_PositionedError, TypeError):
    """An argument of the wrong type. Also a ``TypeError``.

    Attributes:
        positions: Positions in the caller's list, counted from 0, of the texts that it is about; empty if about none.
    """


class BudgetExceededError(NanoGPTError):
    """The next requests would exceed ``budget_usd``, of the object or of shared limits; none of them was sent."""


class LimitsUnavailableError(NanoGPTError):
    """Shared limits cannot be read, for example because Redis is not reachable; nothing was sent."""

    transient = True


class ReplyError(NanoGPTError):
    """The service answered 200 with an invalid reply. Without another ``remedy``, it has a general one.

    Attributes:
        request_id: The service's ``X-Request-ID``, or None.
    """

    def __init__(self, message: str, *, remedy: str = "", request_id: str | None = None) -> None:
        super().__init__(message, remedy=remedy or "Try again later; if it stays so, check the model and base_url.")
        self.request_id = request_id


class DamagedReplyError(ReplyError):
    """The reply cannot be parsed, for example truncated by a proxy; a retry may help."""

    transient = True


class RefusalError(ReplyError):
    """The model refused, or a content filter stopped it, when structured output or a tool call was asked for."""


class DimensionsError(ReplyError):
    """The vectors have other dimensions than any source gives for the model.

    Attributes:
        width: The dimensions of the reply's vectors.
    """

    def __init__(self, message: str, *, remedy: str, width: int) -> None:
        super().__init__(message, remedy=remedy)
        self.width = width


class ConnectionFailedError(NanoGPTError):
    """No reply arrived: refused, unknown host, TLS failure, or a connection reset."""

    transient = True


class RequestTimeoutError(ConnectionFailedError):
    """No complete reply arrived in time."""


class StatusError(NanoGPTError):
    """The service answered with an error status.

    Attributes:
        status: The HTTP status.
        code: The service's error code, or None.
        param: The parameter that the service names, or None.
        request_id: The service's ``X-Request-ID``, or None.
        detail: The service's own message, truncated.
        retry_after: Seconds to wait before the next request, by the service; or None.
        positions: The position in the caller's list, counted from 0, of the text that the service names, as in
            ``input[3]``; empty if it names none.
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
        self.positions: tuple[int, ...] = ()


class BadRequestError(StatusError):
    """The service does not accept the request (400, or another 4xx)."""


class RequestTooLargeError(BadRequestError):
    """The request has too many items or tokens (400, 413 or 422)."""


class AuthenticationError(StatusError):
    """The key is missing or wrong (401)."""


class InsufficientBalanceError(StatusError):
    """The account's balance does not cover the request (402)."""


class PermissionDeniedError(StatusError):
    """The key may not do this (403)."""


class ModelNotFoundError(StatusError):
    """The service has no such model (404, or 400), or no such path (404).

    Attributes:
        wrong_base_url: True if the base URL, not the model, is likely to be wrong.
    """

    wrong_base_url = False


class RateLimitError(StatusError):
    """Too many requests (429)."""

    transient = True


class QuotaExceededError(RateLimitError):
    """A quota or daily cap is used up (429); trying again soon does not help."""

    transient = False


class ServerError(StatusError):
    """The service failed (5xx, 408)."""

    transient = True


def causes(error: BaseException, handled: BaseException | None = None) -> Iterator[BaseException]:
    """Yield ``error`` and its chain of causes; each once, since a chain can be circular.

    The chain ends before ``handled``: an earlier error that the caller was handling is a context, and no cause.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and cause is not handled and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _restore(kind: type[NanoGPTError], args: tuple[object, ...], state: dict[str, object]) -> NanoGPTError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error

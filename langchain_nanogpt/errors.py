"""This project's errors as LangChain's own: its retries, fallbacks and summaries react to them.

Each class here is one of :mod:`nanogpt_core.errors` and one of :mod:`langchain_core.exceptions`; catch either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from langchain_core import exceptions as theirs
from langchain_openai.chat_models.base import OpenAIRefusalError

from nanogpt_core import errors as ours
from nanogpt_core.errors import NanoGPTError


class ChatAuthenticationError(ours.AuthenticationError, theirs.ModelAuthenticationError):
    """The key is missing or wrong (401)."""


class ChatBadRequestError(ours.BadRequestError, theirs.ModelInvalidRequestError):
    """The service does not accept the request (400)."""


class ChatRequestTooLargeError(ours.RequestTooLargeError, theirs.ContextOverflowError):
    """The messages are too long for the model."""


class ChatInsufficientBalanceError(ours.InsufficientBalanceError, theirs.ModelError):
    """The account's balance does not cover the request (402)."""


class ChatPermissionDeniedError(ours.PermissionDeniedError, theirs.ModelPermissionDeniedError):
    """The key may not do this (403)."""


class ChatModelNotFoundError(ours.ModelNotFoundError, theirs.ModelNotFoundError):
    """The service has no such model (404)."""


class ChatRateLimitError(ours.RateLimitError, theirs.ModelRateLimitError):
    """Too many requests (429)."""


class ChatQuotaExceededError(ours.QuotaExceededError, theirs.ModelRateLimitError):
    """A quota or daily cap is used up (429)."""


class ChatServerError(ours.ServerError, theirs.ModelAPIError):
    """The service failed (5xx, 408)."""


class ChatConnectionFailedError(ours.ConnectionFailedError, theirs.ModelConnectionError):
    """No answer came, or it broke off."""


class ChatRequestTimeoutError(ours.RequestTimeoutError, theirs.ModelTimeoutError):
    """No answer came in time."""


class ChatReplyError(ours.ReplyError, theirs.ModelError):
    """The service answered, but not with a whole answer."""


class _RefusalError(OpenAIRefusalError):
    """LangChain's refusal error with the arguments of any exception: its own initializer takes one text."""

    def __init__(self, *args: object) -> None:
        Exception.__init__(self, *args)
        self.raw_message = None


class ChatRefusalError(ours.RefusalError, _RefusalError):
    """The model, or a content filter, refused structured output or a tool call."""


_KINDS: dict[type[NanoGPTError], type[NanoGPTError]] = {
    kind.__bases__[0]: kind
    for kind in (
        ChatAuthenticationError,
        ChatBadRequestError,
        ChatRequestTooLargeError,
        ChatInsufficientBalanceError,
        ChatPermissionDeniedError,
        ChatModelNotFoundError,
        ChatRateLimitError,
        ChatQuotaExceededError,
        ChatServerError,
        ChatConnectionFailedError,
        ChatRequestTimeoutError,
        ChatRefusalError,
        ChatReplyError,
    )
}


@contextlib.contextmanager
def map_to_langchain_errors() -> Iterator[None]:
    """Raise errors of this project in the block as errors that LangChain knows too."""
    try:
        yield
    except NanoGPTError as error:
        failure, trace = _as_langchain_error(error), error.__traceback__
    else:
        return
    raise failure.with_traceback(trace)


def _as_langchain_error(error: NanoGPTError) -> NanoGPTError:
    """Return a copy of an error in the class here that is LangChain's too; the error itself if there is none."""
    kind = next((_KINDS[one] for one in type(error).__mro__ if one in _KINDS), None)
    if kind is None:
        return error
    twin = kind.__new__(kind, *error.args)
    twin.__dict__.update(error.__dict__, transient=error.transient, is_retryable=error.transient)
    twin.__cause__ = error.__cause__
    return twin

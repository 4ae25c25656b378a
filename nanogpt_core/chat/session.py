"""What the sync and the async chat client decide alike: when to try, whether to try again, and which error to raise."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import openai

from nanogpt_core import errors
from nanogpt_core.chat.response import ErrorBody, check_whole
from nanogpt_core.errors import NanoGPTError, ReplyError, bare, causes
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.error_body import error_message, excerpt
from nanogpt_core.http.error_mapping import map_error, truncate_sdk_error
from nanogpt_core.http.pool import http
from nanogpt_core.http.rate_limiter import RateLimit, Reservation
from nanogpt_core.http.retry import CallLimits, Wait, backoff_delay, send_with_retries
from nanogpt_core.validation import check_number, check_positive

__all__ = ["DEFAULT_RETRIES", "REQUEST_ERRORS", "ChatSession", "Steps"]

DEFAULT_RETRIES = 2
"""Attempts beyond the first of a chat call: fewer than for embeddings, since each may be billed."""

REQUEST_ERRORS: tuple[type[Exception], ...] = (
    NanoGPTError,
    openai.OpenAIError,
    http.HTTPError,
    http.StreamError,
    OSError,
    TimeoutError,
)
"""What is raised about a request, by us, by the SDK and by what is below it; a caller's mistake is none of it."""

Steps = Generator[Wait | None, NanoGPTError | None, None]
"""Yields a wait, or None for an attempt; is sent the error of the attempt, or None."""

_CUT_SHORT = (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError)


class ChatSession:
    """What the chat clients of one object share.

    Args:
        endpoint: Where to and with which key.
        max_retries: Attempts beyond the first that one call may take, at least 0.
        requests_per_second: Most attempts to start in a second, over all objects of this process that use the same key
            at the same address, embeddings among them; the lowest value counts. Default: as in the Embedder.

    Raises:
        ConfigurationError: A number out of range.
        InvalidTypeError: Something else than a number.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_retries: int = DEFAULT_RETRIES,
        requests_per_second: float | None = None,
    ) -> None:
        check_number("max_retries", max_retries, 0)
        check_positive("requests_per_second", requests_per_second, optional=True)
        self.endpoint = endpoint
        self._max_retries = max_retries
        self._requests_per_second = requests_per_second
        self._rate_limit = RateLimit(endpoint, requests_per_second)

    def __repr__(self) -> str:
        return f"<ChatSession of {self.endpoint.host}>"

    def __deepcopy__(self, memo: object) -> ChatSession:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.endpoint, self._max_retries, self._requests_per_second)

    def authorization(self) -> dict[str, str]:
        """Return the header with the key.

        Raises:
            ConfigurationError: There is no key, as in an object from a pickle.
        """
        key = self.endpoint.key
        return {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}

    def seconds(self, timeout: Any) -> float:
        """Return how long an attempt may take, given the ``timeout`` of a single call, or of none."""
        timeout = getattr(timeout, "read", timeout)
        usable = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and timeout > 0
        return float(timeout) if usable else self.endpoint.timeout

    def steps(self) -> Steps:
        """Run one call: waits and attempts.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        return send_with_retries(
            _attempt, limiter=self._rate_limit.limiter, max_retries=self._max_retries, limits=CallLimits()
        )

    def heed(self, error: NanoGPTError, failed: int = 0, began: Reservation | None = None) -> float | None:
        """Let everybody with this key wait where ``error`` asks for it.

        Args:
            error: What an attempt failed with.
            failed: Attempts that failed before that one.
            began: Its confirmed reservation; None for a stream that failed in its middle.

        Returns:
            The seconds to wait before the next attempt; None where there should be none.
        """
        seconds = backoff_delay(failed, error)
        if seconds is not None:
            self._rate_limit.limiter().on_error(error, seconds, began)
        return seconds

    def failure(self, error: Exception, seconds: float) -> NanoGPTError:
        """Return our error for what an attempt failed with."""
        if isinstance(error, _CUT_SHORT):
            failure: NanoGPTError = ReplyError(
                "The answer was cut short, so that it does not fit the schema asked for.",
                remedy="Raise max_tokens, or ask for less.",
            )
        else:
            failure = _for_chat(map_error(error, self.endpoint.host, seconds))
        if failure not in causes(error):
            truncate_sdk_error(error)
            failure.__cause__ = error
        return failure

    def lost(self, error: Exception, seconds: float, request: Any) -> NanoGPTError:
        """Return our error for what ended a stream in its middle."""
        if isinstance(error, (http.TimeoutException, TimeoutError)):
            late = openai.APITimeoutError(request=request)
            late.__cause__ = error
            return self.failure(late, seconds)
        failure = self.failure(error, seconds)
        if type(failure) is errors.ConnectionFailedError:
            what = f"{excerpt(str(error)) or 'no reason given'} ({type(error).__name__})"
            failure = errors.ConnectionFailedError(
                f"The answer of {self.endpoint.host} broke off: {what}.", remedy="Try again."
            )
            failure.__cause__ = error
        return failure

    def check(self, response: Any, *, form: bool = False) -> NanoGPTError | None:
        """Return what is wrong with a reply that was read to its end; None for an answer.

        Args:
            response: The HTTP response.
            form: Whether a form was asked for, as :func:`~nanogpt_core.chat.truncation.wants_structured_output` tells.
        """
        try:
            complaint = check_whole(response.content, response.headers.get("x-request-id"), form=form)
        except NanoGPTError as error:
            return bare(error)
        return None if complaint is None else self.refusal(complaint, response)

    def refusal(self, complaint: ErrorBody, response: Any) -> NanoGPTError:
        """Return our error for one that the service put into a reply of status 200."""
        words = error_message(complaint.document) or "no words with it"
        if complaint.status is None:
            return ReplyError(
                f"The service ended its answer with an error: {words}.".replace("..", "."),
                remedy="Try again, or with another model.",
                request_id=response.headers.get("x-request-id"),
            )
        kept = {name: response.headers[name] for name in ("x-request-id", "retry-after") if name in response.headers}
        stand_in = http.Response(complaint.status, json=complaint.document, headers=kept, request=response.request)
        return self.failure(openai.APIStatusError(words, response=stand_in, body=complaint.document), 0.0)


def _attempt() -> Steps:
    error = yield None
    if error is not None:
        raise error


def _restore(endpoint: Endpoint, max_retries: int, requests_per_second: float | None) -> ChatSession:
    return ChatSession(endpoint, max_retries=max_retries, requests_per_second=requests_per_second)


def _for_chat(error: NanoGPTError) -> NanoGPTError:
    if isinstance(error, errors.ModelNotFoundError):
        error.remedy = "Check the model's name, with its suffixes, and base_url; GET /models lists what there is."
    elif isinstance(error, errors.RequestTooLargeError):
        error.remedy = "Send shorter messages, ask for fewer tokens, or take a model with a larger context window."
    return error

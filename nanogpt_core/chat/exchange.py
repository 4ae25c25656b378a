"""One chat request: the limits of its attempts, the checks of its reply, and its errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import openai

from nanogpt_core._runtime.clock import attempt_limits
from nanogpt_core.chat.response import ChatRequest, ReportedError
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.chat.whole_reply import first_event, parse_reply
from nanogpt_core.errors import ConnectionFailedError, NanoGPTError, ReplyError
from nanogpt_core.http.error_body import as_sentence, error_message, excerpt
from nanogpt_core.http.error_mapping import status_error
from nanogpt_core.http.retry import may_be_billed
from nanogpt_core.http.sdk import httpx
from nanogpt_core.http.secrets import redacted
from nanogpt_core.observability.observer import RequestTimer
from nanogpt_core.observability.records import CANCELLED

if TYPE_CHECKING:
    from nanogpt_core.chat.client import ChatSession

READ_ERRORS: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.StreamError)
"""Errors of reading a response. A signal handler may raise an OSError, such as TimeoutError, which ends the call."""

# A broken or hostile server must not fill the memory. No real reply comes near these.
_MAX_REPLY_BYTES = 64 << 20
_MAX_STREAM_BYTES = 256 << 20


class ChatExchange:
    """One request of the SDK, which has been read and holds no key: the checks of its reply, and its errors.

    Attributes:
        timeout: Seconds that an attempt may take, and then each event of a stream.
        has_begun: True if a stream has begun; it reports its end itself.
    """

    def __init__(self, session: ChatSession, request: Any) -> None:
        self._session = session
        self._request = request
        # The SDK's clients can also list models, for example.
        self._is_chat = request.url.path.endswith("/completions")
        chat = self._chat_request = ChatRequest.parse(request.content) if self._is_chat else ChatRequest()
        self._max_bytes = _MAX_STREAM_BYTES if chat.streams else _MAX_REPLY_BYTES
        self._observer = session.observer.call(chat.model, streams=chat.streams) if self._is_chat else None
        self._timer = RequestTimer()
        self._usage: dict[str, Any] | None = None
        self._headers: Mapping[str, str] = {}  # of the response
        self.has_begun = False
        self.timeout: float = request.extensions.get("timeout", {}).get("read") or session.endpoint.timeout

    @property
    def model(self) -> str:
        """Name of the model that was asked for; empty if the request is no chat request."""
        return self._chat_request.model

    def attempt_limits(self, seconds: float | None = None) -> contextlib.AbstractContextManager[None]:
        """Let an attempt in a block take ``seconds``, by default :attr:`timeout`."""
        return attempt_limits(self.timeout if seconds is None else seconds, self._max_bytes)

    @contextlib.contextmanager
    def observed(self) -> Iterator[None]:
        """Report the request at the end of the block that makes its attempts; a stream reports its end itself."""
        try:
            yield
        except BaseException as error:
            self.end(error)
            raise
        if not self.has_begun:
            self.end()

    def end(self, error: BaseException | str | None = None) -> None:
        """Report the request, once."""
        observer, self._observer = self._observer, None
        if observer is None:
            return
        usage = self._usage or {}
        try:
            observer.report(
                self._timer,
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
                cost_usd=usage.get("cost_usd"),
                request_id=self._headers.get("x-request-id"),
                error=error,
            )
        finally:
            observer.end(error if isinstance(error, BaseException) else None)

    def end_stream(self, reader: StreamReader) -> None:
        """Report a stream that has ended, or was left; nothing if it never began."""
        if not self.has_begun:
            return
        self._usage = reader.usage
        if not reader.has_ended and not (reader.is_complete and self._usage):
            self._timer.uncertain += 1
            self.end(CANCELLED)
        else:
            self.end()

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep an attempt to its limits, and raise this project's errors."""
        self._timer.attempts += 1
        sending = self._observer.sending() if self._observer else contextlib.nullcontext()
        try:
            with self._as_nanogpt_errors(self._map_read_error), self.attempt_limits(), sending:
                yield
        except BaseException as error:
            self._timer.uncertain += may_be_billed(error)
            raise

    @contextlib.contextmanager
    def mapped_stream_errors(self) -> Iterator[None]:
        """Raise this project's errors for those of reading an event; if the stream has begun, they end the exchange."""
        try:
            with redacted(self._session.endpoint), self._as_nanogpt_errors(self._map_stream_error):
                yield
        except NanoGPTError as error:
            if self.has_begun:
                self._session.on_stream_error(error)
                self._timer.uncertain += 1
                self.end(error)
            raise

    @contextlib.contextmanager
    def _as_nanogpt_errors(self, map_error: Callable[[Exception], NanoGPTError]) -> Iterator[None]:
        """Raise this project's errors for those of the network and for those that a reply reports."""
        try:
            yield
        except READ_ERRORS as error:
            failure = map_error(error)
        except ReportedError as error:
            failure = self._map_reported(error)
        except ReplyError as error:
            error.request_id = self._headers.get("x-request-id")
            raise
        else:
            return
        raise failure

    def streams(self, response: Any) -> bool:
        """Return whether ``response`` is to be read as a stream; its content type may be wrong."""
        return self._is_chat and self._chat_request.streams and response.is_success

    def checked_response(self, response: Any) -> Any:
        """Return the response for the SDK, made from the service's response, which has been read.

        Raises:
            NanoGPTError: The service sent an error, or no answer.
            ReportedError: The reply reports an error; :meth:`attempt` maps it.
        """
        # No local variable holds the body: it may repeat the key, and crash reports show local variables.
        self._headers = response.headers
        if not response.is_success:
            location = response.extensions.get("location")
            raise self._map_status(response.status_code, first_event(response.content), location)
        if not self._is_chat:
            return make_response(response, response.headers.get("content-type"), content=response.content)
        reply = parse_reply(response.content, self._chat_request)
        self._usage = reply.get("usage")
        return make_response(response, "application/json", content=json.dumps(reply).encode())

    def reader(self, response: Any) -> StreamReader:
        """Return a reader for the stream of ``response``."""
        self._headers = response.headers
        return StreamReader(self._chat_request)

    def _map_read_error(self, error: Exception) -> NanoGPTError:
        # Callers know the SDK's errors as causes.
        is_late = isinstance(error, httpx.TimeoutException)
        kind = openai.APITimeoutError if is_late else openai.APIConnectionError
        wrapped: Exception = kind(request=self._request)
        wrapped.__cause__ = error
        return self._session.map_error(wrapped, self.timeout)

    def _map_stream_error(self, error: Exception) -> NanoGPTError:
        failure = self._map_read_error(error)
        if type(failure) is ConnectionFailedError:
            reason = f"{excerpt(str(error)) or 'no reason given'} ({type(error).__name__})"
            failure = ConnectionFailedError(
                f"The answer of {self._session.endpoint.host} broke off: {reason}.", remedy="Try again."
            )
            failure.__cause__ = error
        return failure

    def _map_status(self, status: int, body: bytes, location: str | None = None) -> NanoGPTError:
        error = status_error(status, body, self._headers, self._request, location)
        return self._session.map_error(error, self.timeout)

    def _map_reported(self, error: ReportedError) -> NanoGPTError:
        if error.status is not None:
            return self._map_status(error.status, json.dumps(error.document).encode())
        words = error_message(error.document) or "no words with it"
        return ReplyError(
            as_sentence(f"The service ended its answer with an error: {words}"),
            remedy="Try again, or with another model.",
            request_id=self._headers.get("x-request-id"),
        )


def make_response(response: Any, content_type: str | None, **content: Any) -> Any:
    """Return the service's response for the SDK, with other content."""
    # These describe the body as it came.
    left_out = ("content-encoding", "content-length", "transfer-encoding", "content-type")
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in left_out]
    if content_type is not None:
        headers.append(("content-type", content_type))
    return httpx.Response(response.status_code, headers=headers, extensions=response.extensions, **content)

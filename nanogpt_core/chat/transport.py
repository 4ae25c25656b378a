"""Transports between the SDK and the service: rate limit, retries, limits, checks and errors of chat requests.

The SDK reads a chat stream from the byte stream of a response. An :class:`EventStream` or :class:`AsyncEventStream`
stands in front of the service's own byte stream: it bounds the wait for each event and passes on clean ones. The SDK's
own stream classes read it, also in programs that instrument these.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio  # a dependency of the SDK
import openai
from jiter import from_json

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.workers import run_in_thread
from nanogpt_core.chat.response import ChatRequest, ErrorBody, check_whole
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.errors import ConnectionFailedError, NanoGPTError, ReplyError
from nanogpt_core.http.deadline import request_limits
from nanogpt_core.http.error_body import as_sentence, error_message, excerpt
from nanogpt_core.http.library import httpx
from nanogpt_core.http.redaction import redacted
from nanogpt_core.http.retry import Wait
from nanogpt_core.http.transport import AsyncTransport, Transport

if TYPE_CHECKING:
    from nanogpt_core.chat.client import ChatSession

__all__ = ["AsyncChatTransport", "AsyncEventStream", "ChatTransport", "EventStream", "recorded"]

# A broken or hostile server must not fill the memory. No real reply comes near these.
_MAX_REPLY_BYTES = 64 << 20
_MAX_STREAM_BYTES = 256 << 20

_FIRST_ERROR_STATUS = 300
# A connection can be used again only if its body was read to the end: after the last event, a few bytes.
_DRAIN_SECONDS = 0.2

_READ_ERRORS: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.StreamError, OSError, TimeoutError)


class _Call:
    """One request of the SDK: how its reply is checked, and its errors.

    Args:
        session: The session.
        request: The SDK's request, which has been read and holds no key.

    Attributes:
        timeout: Seconds that an attempt may take, and then each event of a stream.
    """

    def __init__(self, session: ChatSession, request: Any) -> None:
        self._session = session
        self._request = request
        # The SDK's clients can also list models, for example.
        self._is_chat = request.url.path.endswith("/completions")
        self._asked = ChatRequest.parse(request.content) if self._is_chat else ChatRequest()
        self._max_bytes = _MAX_STREAM_BYTES if self._asked.streams else _MAX_REPLY_BYTES
        self.timeout: float = request.extensions.get("timeout", {}).get("read") or session.endpoint.timeout

    def limits(self, seconds: float | None = None) -> contextlib.AbstractContextManager[None]:
        """Let an attempt in a block take ``seconds``, by default :attr:`timeout`."""
        return request_limits(self.timeout if seconds is None else seconds, self._max_bytes)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """Keep an attempt to its limits, and raise this project's errors for those of HTTP and the network."""
        try:
            with self.limits():
                yield
        except _READ_ERRORS as error:
            failure = self._map_error(error)
        else:
            return
        raise failure

    @contextlib.contextmanager
    def event(self, *, begun: bool) -> Iterator[None]:
        """Raise this project's errors for those of an event; with a pause of all calls if the stream has begun."""
        with redacted(self._session.endpoint):
            try:
                yield
            except NanoGPTError as error:
                failure = error
            except _READ_ERRORS as error:
                failure = self._map_stream_error(error)
            else:
                return
            if begun:
                self._session.on_stream_error(failure)
            raise failure

    def streams(self, response: Any) -> bool:
        """Return whether ``response`` is the stream that was asked for."""
        content_type = response.headers.get("content-type", "").lower()
        is_whole = "json" in content_type or "html" in content_type
        return self._is_chat and self._asked.streams and not is_whole and response.status_code < _FIRST_ERROR_STATUS

    def check(self, response: Any) -> Any:
        """Return the response for the SDK, made from the service's response, which has been read.

        Raises:
            NanoGPTError: The service sent an error, or no answer.
        """
        # No local variable holds the body: it may repeat the key, and crash reports show local variables.
        if response.status_code >= _FIRST_ERROR_STATUS:
            raise self._map_status(response.status_code, response.content, response)
        if not self._is_chat:
            return _response(response, response.headers.get("content-type"), content=response.content)
        request_id = response.headers.get("x-request-id")
        reply = check_whole(response.content, self._asked, request_id)
        if isinstance(reply, ErrorBody):
            raise self._map_error_body(reply, response)
        if self._asked.streams:
            raise ReplyError(
                "A stream was asked for, and the service sent its answer whole.",
                remedy="Ask without streaming.",
                request_id=request_id,
            )
        return _response(response, "application/json", content=json.dumps(reply).encode())

    def reader(self, response: Any) -> StreamReader:
        """Return a reader for the stream of ``response``."""
        request_id = response.headers.get("x-request-id")
        return StreamReader(self._asked, lambda error: self._map_error_body(error, response), request_id)

    def _map_error(self, error: Exception) -> NanoGPTError:
        # Callers know the SDK's errors as causes.
        is_late = isinstance(error, (httpx.TimeoutException, TimeoutError))
        kind = openai.APITimeoutError if is_late else openai.APIConnectionError
        wrapped: Exception = kind(request=self._request)
        wrapped.__cause__ = error
        return self._session.map_error(wrapped, self.timeout)

    def _map_stream_error(self, error: Exception) -> NanoGPTError:
        failure = self._map_error(error)
        if type(failure) is ConnectionFailedError:
            reason = f"{excerpt(str(error)) or 'no reason given'} ({type(error).__name__})"
            failure = ConnectionFailedError(
                f"The answer of {self._session.endpoint.host} broke off: {reason}.", remedy="Try again."
            )
            failure.__cause__ = error
        return failure

    def _map_status(self, status: int, body: bytes, response: Any) -> NanoGPTError:
        names = ("x-request-id", "retry-after", "retry-after-ms")
        headers = {name: response.headers[name] for name in names if name in response.headers}
        document: Any = None
        with contextlib.suppress(ValueError):
            document = from_json(body)
        stand_in = httpx.Response(status, content=body, headers=headers, request=self._request)
        error = openai.APIStatusError(f"Error code: {status}", response=stand_in, body=document)
        return self._session.map_error(error, self.timeout)

    def _map_error_body(self, error: ErrorBody, response: Any) -> NanoGPTError:
        if error.status is not None:
            return self._map_status(error.status, json.dumps(error.document).encode(), response)
        detail = error_message(error.document) or "no words with it"
        return ReplyError(
            as_sentence(f"The service ended its answer with an error: {detail}"),
            remedy="Try again, or with another model.",
            request_id=response.headers.get("x-request-id"),
        )


def _response(response: Any, content_type: str | None, **content: Any) -> Any:
    """Return the service's response for the SDK, with other content."""
    # These describe the body as it came.
    left_out = ("content-encoding", "content-length", "transfer-encoding", "content-type")
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in left_out]
    if content_type is not None:
        headers.append(("content-type", content_type))
    return httpx.Response(response.status_code, headers=headers, extensions=response.extensions, **content)


class ChatTransport(httpx.BaseTransport):  # type: ignore[misc] # the library is known only at run time
    """Sends the SDK's chat requests.

    Args:
        session: The session.
        http_client: A client of the caller's own to send with, or None for the connections of this process.
    """

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._has_deadline = http_client is None
        self._inner = Transport(session.endpoint, http_client)

    def handle_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        request.read()
        call = _Call(self._session, request)
        response, failure = None, None
        with redacted(self._session.endpoint), contextlib.closing(self._session.attempts()) as attempts:
            while True:
                try:
                    step = attempts.send(failure)
                except StopIteration:
                    return response
                failure = None
                if isinstance(step, Wait):
                    clock.sleep(step.seconds)
                    continue
                try:
                    if step is not None:
                        step.function()
                        continue
                    with call.attempt():
                        response = self._send(call, request)
                except NanoGPTError as error:
                    failure = error

    def _send(self, call: _Call, request: Any) -> Any:
        response = self._inner.handle_request(request)
        try:
            if call.streams(response):
                stream = EventStream(call, response, self._has_deadline)
                stream.begin()
                return _response(response, "text/event-stream; charset=utf-8", stream=stream)
            response.read()
            return call.check(response)
        except BaseException:
            response.close()
            raise


class AsyncChatTransport(httpx.AsyncBaseTransport):  # type: ignore[misc] # the library is known only at run time
    """Sends the SDK's async chat requests; see :class:`ChatTransport`."""

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._inner = AsyncTransport(session.endpoint, http_client)

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        await request.aread()
        call = _Call(self._session, request)
        response, failure = None, None
        with redacted(self._session.endpoint), contextlib.closing(self._session.attempts()) as attempts:
            while True:
                try:
                    step = attempts.send(failure)
                except StopIteration:
                    return response
                failure = None
                if isinstance(step, Wait):
                    await clock.async_sleep(step.seconds)
                    continue
                try:
                    if step is not None:
                        await run_in_thread(step.function)
                        continue
                    with call.attempt():
                        response = await self._send(call, request)
                except NanoGPTError as error:
                    failure = error

    async def _send(self, call: _Call, request: Any) -> Any:
        response = await self._inner.handle_async_request(request)
        try:
            if call.streams(response):
                stream = AsyncEventStream(call, response)
                await stream.begin()
                return _response(response, "text/event-stream; charset=utf-8", stream=stream)
            await response.aread()
            return call.check(response)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await response.aclose()
            raise


class _EventStream:
    """The parts of an event stream that need no I/O."""

    def __init__(self, call: _Call, response: Any) -> None:
        self._call, self._response = call, response
        self._reader = call.reader(response)
        self._first: bytes | None = None
        self._begun = False
        streams = _recording.get()
        if streams is not None:
            streams.append(self)

    def _seconds_left(self, started: float) -> float:
        seconds = started + self._reader.wait_seconds(self._call.timeout) - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("no further event in time")
        return seconds


class EventStream(_EventStream, httpx.SyncByteStream):  # type: ignore[misc] # the library is known only at run time
    """A sync byte stream of checked events.

    Args:
        call: The call.
        response: The service's response.
        has_deadline: Whether reads keep to their time limit. A client of the caller's own knows only its own limits;
            a stream over it ends with the last event that is needed.
    """

    def __init__(self, call: _Call, response: Any, has_deadline: bool) -> None:
        super().__init__(call, response)
        self._source = response.iter_bytes()
        self._has_deadline = has_deadline

    def begin(self) -> None:
        """Wait for the first event.

        Raises:
            NanoGPTError: The service sent an error instead, or nothing in time.
        """
        self._first = self._advance()
        self._begun = True

    def __iter__(self) -> Iterator[bytes]:
        """Return an iterator over the events."""
        return iter(self._next, None)

    def _next(self) -> bytes | None:
        first, self._first = self._first, None
        return first or self._advance()

    def _advance(self) -> bytes | None:
        with self._call.event(begun=self._begun):
            started = time.monotonic()
            while (event := self._reader.pop()) is None and not self._reader.has_ended:
                self._reader.push(self._read(started))
            if self._reader.has_ended and self._has_deadline:
                # Before the last event is passed on: the SDK closes the response as soon as it has it.
                with contextlib.suppress(Exception), self._call.limits(_DRAIN_SECONDS):
                    deque(self._source, maxlen=0)
            return event

    def _read(self, started: float) -> bytes | None:
        if self._reader.needs_nothing and not self._has_deadline:
            return None
        try:
            with self._call.limits(self._seconds_left(started)):
                return next(self._source, None)
        except _READ_ERRORS:
            if not self._reader.is_complete:
                raise
            return None

    def close(self) -> None:
        """Close the response. Its connection is closed too unless the body was read to the end."""
        self._response.close()


class AsyncEventStream(_EventStream, httpx.AsyncByteStream):  # type: ignore[misc] # see above
    """An async byte stream of checked events; see :class:`EventStream`.

    It is an iterator and not an async generator: when an event loop ends, it closes all generators at once, and one of
    them closing another is an error.
    """

    def __init__(self, call: _Call, response: Any) -> None:
        super().__init__(call, response)
        self._source = response.aiter_bytes()

    async def begin(self) -> None:
        """Wait for the first event; see :meth:`EventStream.begin`."""
        self._first = await self._advance()
        self._begun = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return an iterator over the events."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next event."""
        first, self._first = self._first, None
        event = first or await self._advance()
        if event is None:
            raise StopAsyncIteration
        return event

    async def _advance(self) -> bytes | None:
        with self._call.event(begun=self._begun):
            started = time.monotonic()
            while (event := self._reader.pop()) is None and not self._reader.has_ended:
                self._reader.push(await self._read(started))
            if self._reader.has_ended:
                with contextlib.suppress(Exception), anyio.move_on_after(_DRAIN_SECONDS):
                    async for _ in self._source:
                        pass
            return event

    async def _read(self, started: float) -> bytes | None:
        try:
            seconds = self._seconds_left(started)
            with self._call.limits(seconds), anyio.fail_after(seconds):
                return await anext(self._source, None)
        except _READ_ERRORS:
            if not self._reader.is_complete:
                raise
            return None

    async def aclose(self) -> None:
        """Close the response; see :meth:`EventStream.close`."""
        await self._response.aclose()


_recording: ContextVar[list[Any] | None] = ContextVar("nanogpt_recorded_streams", default=None)


@contextlib.contextmanager
def recorded(streams: list[Any]) -> Iterator[None]:
    """Append every stream that is opened in this block to ``streams``.

    The SDK's stream object is part of a reference cycle, so a stream that is left in the middle keeps its connection
    until the garbage collector runs. A caller that cannot reach the SDK's object closes these instead.
    """
    token = _recording.set(streams)
    try:
        yield
    finally:
        _recording.reset(token)

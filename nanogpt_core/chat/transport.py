"""The transport below the SDK's chat clients: rate limit, retries, limits, checks and errors of each request.

A stream is a byte stream of checked events between the service's response and the SDK: it bounds the wait for each
event and passes on clean ones. The SDK's own stream classes read it, also in programs that instrument these.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import anyio  # a dependency of the SDK
import openai

from nanogpt_core._runtime.clock import Cancellation, attempt_limits
from nanogpt_core._runtime.fork import check_process
from nanogpt_core._runtime.task_cancellation import raise_held_back
from nanogpt_core._runtime.workers import require_event_loop
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.response import ReportedError
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.chat.whole_reply import first_event, parse_reply
from nanogpt_core.errors import ConnectionFailedError, NanoGPTError, ReplyError
from nanogpt_core.http.error_body import as_sentence, error_message, excerpt
from nanogpt_core.http.error_mapping import status_error
from nanogpt_core.http.limits import Admission, Cost
from nanogpt_core.http.network import cancel_after
from nanogpt_core.http.retry import backoff_delay, may_be_billed, send_with_retries
from nanogpt_core.http.runner import run_async, run_sync
from nanogpt_core.http.sdk import httpx
from nanogpt_core.http.secrets import SecretHeaders, redacted
from nanogpt_core.http.transport import Transport
from nanogpt_core.observability.observer import RequestTimer
from nanogpt_core.observability.records import CANCELLED

# A broken or hostile server must not fill the memory. No real reply comes near these.
_MAX_REPLY_BYTES = 64 << 20
_MAX_STREAM_BYTES = 256 << 20
_STREAM_TYPE = "text/event-stream; charset=utf-8"
# Errors of reading a response. A signal handler may raise an OSError, such as TimeoutError, which ends the call.
_READ_ERRORS: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.StreamError)
# They do not matter if the answer is complete.
_ERRORS_AFTER_THE_END: tuple[type[Exception], ...] = (*_READ_ERRORS, ReplyError)


class ChatTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):  # type: ignore[misc] # known only when this runs
    """Sends the SDK's chat requests, sync and async."""

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._can_interrupt_reads = http_client is None
        self._inner = Transport(session.endpoint, http_client, session.lifetime)

    def handle_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response."""
        request.read()
        exchange = ChatExchange(self._session, request)
        with exchange.observed():
            return run_sync(exchange.attempts(), send=partial(self._attempt, exchange))

    async def handle_async_request(self, request: Any) -> Any:
        """Do the same as :meth:`handle_request`, without blocking the event loop."""
        require_event_loop()
        await request.aread()
        exchange = ChatExchange(self._session, request)
        with exchange.observed():
            return await run_async(exchange.attempts(), send=partial(self._attempt_async, exchange))

    def _attempt(self, exchange: ChatExchange, request: Any) -> Any:
        with exchange.within_limits():
            response = self._inner.handle_request(request)
            try:
                reader = exchange.open_reader(response)
                if reader is not None:
                    stream = EventStream(exchange, reader, response, can_interrupt_reads=self._can_interrupt_reads)
                    stream.begin()
                    return _make_response(response, _STREAM_TYPE, stream=stream)
                response.read()
                return exchange.checked_response(response)
            except BaseException:
                response.close()
                raise

    async def _attempt_async(self, exchange: ChatExchange, request: Any) -> Any:
        with exchange.within_limits():
            response = await self._inner.handle_async_request(request)
            try:
                reader = exchange.open_reader(response)
                if reader is not None:
                    stream = EventStream(exchange, reader, response)
                    await stream.abegin()
                    raise_held_back()
                    return _make_response(response, _STREAM_TYPE, stream=stream)
                await response.aread()
                raise_held_back()
                return exchange.checked_response(response)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
                raise


class ChatExchange:
    """One request of the SDK, which has been read and lacks the endpoint's key: attempts, checks, errors and report.

    Attributes:
        timeout: Seconds that an attempt may take, and then each event of a stream.
        has_begun: True if a stream has begun; it reports its end itself.
    """

    def __init__(self, session: ChatSession, request: Any) -> None:
        session.lifetime.check_open()
        self._session = session
        # Headers of this one call may be secrets too.
        headers = SecretHeaders({**session.endpoint.headers, **request.headers})
        self._endpoint = replace(session.endpoint, headers=headers)
        self._request = request
        # The SDK's clients can also list models or stored answers, for example.
        self._is_chat = request.method == "POST" and request.url.path.endswith("/completions")
        self._chat_request = ChatRequest.parse(request.content) if self._is_chat else ChatRequest()
        model, parameters = self._chat_request.model, self._chat_request.parameters
        self._observer = session.observer.begin_call(model, parameters) if self._is_chat else None
        self._timer = RequestTimer()
        self._usage: dict[str, Any] | None = None
        self._headers: Mapping[str, str] = {}  # of the response
        self._reader: StreamReader | None = None  # of a stream, once it is answered
        self.has_begun = False
        self.timeout: float = request.extensions.get("timeout", {}).get("read") or session.endpoint.timeout

    def attempts(self) -> Generator[Any, Any, Any]:
        """Return the steps of all attempts: the request for each of them, and the waits in between."""

        def send(_admission: Admission) -> Generator[Any, Any, Any]:
            # The price of a chat request is not known before, so no cost is reserved, and there is none to settle.
            return (yield self._request)

        return send_with_retries(
            send,
            limits=self._session.limits,
            max_retries=self._session.max_retries,
            cancellation=Cancellation(),
            cost=Cost(self._chat_request.model),
        )

    @contextlib.contextmanager
    def observed(self) -> Iterator[None]:
        """Report the request at the end of the block that makes its attempts; a stream reports its end itself."""
        try:
            with redacted(self._endpoint):
                yield
        except BaseException as error:
            self._end(error)
            raise
        if not self.has_begun:
            self._end()

    def _end(self, error: BaseException | str | None = None) -> None:
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

    def _add_answer(self, model: str, finish_reasons: list[str]) -> None:
        if self._observer is not None:
            self._observer.response_model, self._observer.finish_reasons = model, finish_reasons

    def end_stream(self) -> None:
        """Report a stream that has ended, or was left; nothing if it never began."""
        if self._reader is None or not self.has_begun:
            return
        self._usage = self._reader.usage
        self._add_answer(self._reader.model, self._reader.finish_reasons)
        if self._reader.has_ended or (self._reader.is_complete and self._usage):
            self._end()
        else:
            self._timer.uncertain += 1
            self._end(CANCELLED)

    @contextlib.contextmanager
    def within_limits(self) -> Iterator[None]:
        """Keep an attempt to its limits, and raise this project's errors."""
        self._timer.attempts += 1
        self._reader = None
        max_bytes = _MAX_STREAM_BYTES if self._chat_request.streams else _MAX_REPLY_BYTES
        sending = self._observer.sending() if self._observer else contextlib.nullcontext()
        try:
            with self._as_nanogpt_errors(), attempt_limits(self.timeout, max_bytes), sending:
                yield
        except BaseException as error:
            self._timer.uncertain += may_be_billed(error)
            raise

    @contextlib.contextmanager
    def reading_event(self) -> Iterator[None]:
        """Raise this project's errors for those of reading an event; after the first event, they end the exchange."""
        try:
            with redacted(self._endpoint), self._as_nanogpt_errors():
                yield
        except NanoGPTError as error:
            if self.has_begun:
                delay = backoff_delay(0, error)
                if delay is not None:
                    self._session.limits.on_error(error, delay)  # pauses all calls with this key
                self._timer.uncertain += 1
                self._end(error)
            raise

    @contextlib.contextmanager
    def _as_nanogpt_errors(self) -> Iterator[None]:
        """Raise this project's errors for those of the network and for those that a reply reports."""
        try:
            yield
        except _READ_ERRORS as error:
            failure = self._map_read_error(error)
        except ReportedError as error:
            failure = self._map_reported(error)
        except ReplyError as error:
            error.request_id = self._headers.get("x-request-id")
            raise
        else:
            return
        raise failure

    def open_reader(self, response: Any) -> StreamReader | None:
        """Return a reader of the events of a response; None if it is not to be read as a stream.

        The content type does not matter: it may be wrong.
        """
        self._headers = response.headers
        if self._chat_request.streams and response.is_success:
            self._reader = StreamReader(self._chat_request)
        return self._reader

    def checked_response(self, response: Any) -> Any:
        """Return the response for the SDK, made from the service's response, which has been read.

        Raises:
            NanoGPTError: The service sent an error, or no answer.
            ReportedError: The reply reports an error; :meth:`within_limits` maps it.
        """
        # No local variable holds the body: it may repeat the key, and crash reports show local variables.
        if not response.is_success:
            location = response.extensions.get("location")
            raise self._map_status(response.status_code, first_event(response.content), location)
        if not self._is_chat:
            return _make_response(response, response.headers.get("content-type"), content=response.content)
        reply = parse_reply(response.content, self._chat_request)
        self._usage = reply.get("usage")
        reasons = [choice["finish_reason"] for choice in reply["choices"]]
        self._add_answer(reply["model"], [reason for reason in reasons if reason])
        return _make_response(response, "application/json", content=json.dumps(reply).encode())

    def _map_read_error(self, error: Exception) -> NanoGPTError:
        # Callers know the SDK's errors as causes.
        is_late = isinstance(error, httpx.TimeoutException)
        kind = openai.APITimeoutError if is_late else openai.APIConnectionError
        wrapped: Exception = kind(request=self._request)
        wrapped.__cause__ = error
        failure = self._session.map_error(wrapped, self.timeout)
        if self._reader is not None and type(failure) is ConnectionFailedError:
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


class EventStream(httpx.SyncByteStream, httpx.AsyncByteStream):  # type: ignore[misc] # known only when this runs
    """A sync or async byte stream of checked events, over the response that an exchange reads as a stream.

    As an async one it is an iterator and not an async generator: when an event loop ends, it closes all generators at
    once, and one of them closing another is an error.

    A client of the caller's own knows only its own limits, and ``can_interrupt_reads`` is False: a sync stream over it
    ends with the last event that is needed.
    """

    def __init__(
        self, exchange: ChatExchange, reader: StreamReader, response: Any, *, can_interrupt_reads: bool = True
    ) -> None:
        self._exchange, self._reader, self._response = exchange, reader, response
        self._can_interrupt_reads = can_interrupt_reads
        self._source: Any = None
        self._first: bytes | None = None
        self._process = os.getpid()
        streams = _recording.get()
        if streams is not None:
            streams.append(self)

    def _seconds_left(self, started: float) -> float:
        seconds = started + self._reader.wait_seconds(self._exchange.timeout) - time.monotonic()
        if seconds <= 0:
            raise httpx.ReadTimeout("no further event in time")
        return seconds

    # --- sync ---

    def begin(self) -> None:
        """Wait for the first event."""
        self._source = self._response.iter_bytes()
        self._first = self._advance()
        self._exchange.has_begun = True

    def __iter__(self) -> Iterator[bytes]:
        """Return an iterator over the events."""
        return iter(self._next, None)

    def _next(self) -> bytes | None:
        first, self._first = self._first, None
        return first or self._advance()

    def _advance(self) -> bytes | None:
        with self._exchange.reading_event():
            started = time.monotonic()
            check_process(self._process)
            while (event := self._reader.pop()) is None and not self._reader.has_ended:
                self._reader.push(self._read(started))
            if self._reader.has_ended:
                self._exchange.end_stream()
            return event

    def _read(self, started: float) -> bytes | None:
        if not self._can_interrupt_reads and self._reader.has_everything:
            return None
        try:
            with attempt_limits(self._seconds_left(started)):
                return next(self._source, None)
        except _ERRORS_AFTER_THE_END:
            if not self._reader.is_complete:
                raise
            return None

    def close(self) -> None:
        """Close the response. Its connection is closed too unless the body was read to the end."""
        try:
            self._exchange.end_stream()
        finally:
            self._response.close()

    # --- async ---

    async def abegin(self) -> None:
        """Wait for the first event; see :meth:`begin`."""
        self._source = self._response.aiter_bytes()
        self._first = await self._aadvance()
        self._exchange.has_begun = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return an iterator over the events."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next event."""
        first, self._first = self._first, None
        event = first or await self._aadvance()
        if event is None:
            raise StopAsyncIteration
        return event

    async def _aadvance(self) -> bytes | None:
        with self._exchange.reading_event():
            started = time.monotonic()
            while (event := self._reader.pop()) is None and not self._reader.has_ended:
                self._reader.push(await self._aread(started))
            if self._reader.has_ended:
                self._exchange.end_stream()
            return event

    async def _aread(self, started: float) -> bytes | None:
        try:
            seconds = self._seconds_left(started)
            with attempt_limits(seconds), cancel_after(seconds, httpx.ReadTimeout):
                return await anext(self._source, None)
        except _ERRORS_AFTER_THE_END:
            if not self._reader.is_complete:
                raise
            return None

    async def aclose(self) -> None:
        """Close the response; see :meth:`close`."""
        try:
            self._exchange.end_stream()
        finally:
            await self._response.aclose()
            raise_held_back()


def _make_response(response: Any, content_type: str | None, **content: Any) -> Any:
    """Return the service's response for the SDK, with other content."""
    # These describe the body as it came.
    left_out = ("content-encoding", "content-length", "transfer-encoding", "content-type")
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in left_out]
    if content_type is not None:
        headers.append(("content-type", content_type))
    return httpx.Response(response.status_code, headers=headers, extensions=response.extensions, **content)


_recording: ContextVar[list[EventStream] | None] = ContextVar("nanogpt_recorded_streams", default=None)


@contextlib.contextmanager
def recorded(streams: list[EventStream]) -> Iterator[None]:
    """Append every stream that is opened in this block to ``streams``.

    The SDK's stream object is part of a reference cycle, so a stream that is left in the middle keeps its connection
    until the garbage collector runs. A caller that cannot reach the SDK's object closes these instead.
    """
    token = _recording.set(streams)
    try:
        yield
    finally:
        _recording.reset(token)

"""Byte streams of checked events, between the service's response and the SDK.

The SDK reads a chat stream from the byte stream of a response. An :class:`EventStream` stands in front of the service's
own byte stream: it bounds the wait for each event and passes on clean ones. The SDK's own stream classes read it, also
in programs that instrument these.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

from nanogpt_core._runtime.fork import check_process
from nanogpt_core.chat.exchange import READ_ERRORS, ChatExchange
from nanogpt_core.errors import ReplyError
from nanogpt_core.http.network import cancel_after
from nanogpt_core.http.sdk import httpx

# They do not matter if the answer is complete.
_ERRORS_AFTER_THE_END: tuple[type[Exception], ...] = (*READ_ERRORS, ReplyError)


class EventStream(httpx.SyncByteStream, httpx.AsyncByteStream):  # type: ignore[misc] # known only when this runs
    """A sync or async byte stream of checked events.

    As an async one it is an iterator and not an async generator: when an event loop ends, it closes all generators at
    once, and one of them closing another is an error.

    Args:
        exchange: The request and its checks.
        response: The service's response.
        source: The bytes of its body, as they come.
        can_interrupt_reads: Whether a read ends when its time limit is over. A sync client of the caller's own knows
            only its own limits; a stream over it ends with the last event that is needed.
    """

    def __init__(self, exchange: ChatExchange, response: Any, source: Any, *, can_interrupt_reads: bool = True) -> None:
        self._exchange, self._response, self._source = exchange, response, source
        self._can_interrupt_reads = can_interrupt_reads
        self._reader = exchange.reader(response)
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
        self._first = self._advance()
        self._exchange.has_begun = True

    def __iter__(self) -> Iterator[bytes]:
        """Return an iterator over the events."""
        return iter(self._next, None)

    def _next(self) -> bytes | None:
        first, self._first = self._first, None
        return first or self._advance()

    def _advance(self) -> bytes | None:
        with self._exchange.mapped_stream_errors():
            started = time.monotonic()
            check_process(self._process)
            while (event := self._reader.pop()) is None and not self._reader.has_ended:
                self._reader.push(self._read(started))
            if self._reader.has_ended:
                self._exchange.end_stream(self._reader)
            return event

    def _read(self, started: float) -> bytes | None:
        if not self._can_interrupt_reads and self._reader.needs_nothing:
            return None
        try:
            with self._exchange.attempt_limits(self._seconds_left(started)):
                return next(self._source, None)
        except _ERRORS_AFTER_THE_END:
            if not self._reader.is_complete:
                raise
            return None

    def close(self) -> None:
        """Close the response. Its connection is closed too unless the body was read to the end."""
        try:
            self._exchange.end_stream(self._reader)
        finally:
            self._response.close()

    # --- async ---

    async def abegin(self) -> None:
        """Wait for the first event; see :meth:`begin`."""
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
        with self._exchange.mapped_stream_errors():
            started = time.monotonic()
            while (event := self._reader.pop()) is None and not self._reader.has_ended:
                self._reader.push(await self._aread(started))
            if self._reader.has_ended:
                self._exchange.end_stream(self._reader)
            return event

    async def _aread(self, started: float) -> bytes | None:
        try:
            seconds = self._seconds_left(started)
            with self._exchange.attempt_limits(seconds), cancel_after(seconds, httpx.ReadTimeout):
                return await anext(self._source, None)
        except _ERRORS_AFTER_THE_END:
            if not self._reader.is_complete:
                raise
            return None

    async def aclose(self) -> None:
        """Close the response; see :meth:`close`."""
        try:
            self._exchange.end_stream(self._reader)
        finally:
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

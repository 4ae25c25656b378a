"""A transport between the SDK and the service: rate limit, retries, limits, checks and errors of chat requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio  # a dependency of the SDK

from nanogpt_core.chat.event_stream import EventStream
from nanogpt_core.chat.exchange import ChatExchange, make_response
from nanogpt_core.http.runner import run_async, run_sync
from nanogpt_core.http.sdk import httpx
from nanogpt_core.http.secrets import redacted
from nanogpt_core.http.transport import Transport

if TYPE_CHECKING:
    from nanogpt_core.chat.client import ChatSession

_STREAM_TYPE = "text/event-stream; charset=utf-8"


class ChatTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):  # type: ignore[misc] # known only when this runs
    """Sends the SDK's chat requests, sync and async."""

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._can_interrupt_reads = http_client is None
        self._inner = Transport(session.endpoint, http_client, session.lifetime)

    def handle_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response."""
        self._session.lifetime.check_open()
        request.read()
        exchange = ChatExchange(self._session, request)
        with exchange.observed(), redacted(self._session.endpoint):
            steps = self._session.attempts(request, exchange.model)
            return run_sync(steps, send=partial(self._attempt, exchange))

    async def handle_async_request(self, request: Any) -> Any:
        """Do the same as :meth:`handle_request`, without blocking the event loop."""
        self._session.lifetime.check_open()
        await request.aread()
        exchange = ChatExchange(self._session, request)
        with exchange.observed(), redacted(self._session.endpoint):
            steps = self._session.attempts(request, exchange.model)
            return await run_async(steps, send=partial(self._attempt_async, exchange))

    def _attempt(self, exchange: ChatExchange, request: Any) -> Any:
        with exchange.attempt():
            response = self._inner.handle_request(request)
            try:
                if exchange.streams(response):
                    source, can_interrupt = response.iter_bytes(), self._can_interrupt_reads
                    stream = EventStream(exchange, response, source, can_interrupt_reads=can_interrupt)
                    stream.begin()
                    return make_response(response, _STREAM_TYPE, stream=stream)
                response.read()
                return exchange.checked_response(response)
            except BaseException:
                response.close()
                raise

    async def _attempt_async(self, exchange: ChatExchange, request: Any) -> Any:
        with exchange.attempt():
            response = await self._inner.handle_async_request(request)
            try:
                if exchange.streams(response):
                    stream = EventStream(exchange, response, response.aiter_bytes())
                    await stream.abegin()
                    return make_response(response, _STREAM_TYPE, stream=stream)
                await response.aread()
                return exchange.checked_response(response)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
                raise

"""Transports between the SDK and the service: rate limit, retries, limits, checks and errors of chat requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import anyio  # a dependency of the SDK

from nanogpt_core.chat.event_stream import AsyncEventStream, EventStream
from nanogpt_core.chat.exchange import ChatExchange, make_response
from nanogpt_core.http.runner import run_async, run_sync
from nanogpt_core.http.sdk import httpx
from nanogpt_core.http.secrets import redacted
from nanogpt_core.http.transport import Transport

if TYPE_CHECKING:
    from nanogpt_core.chat.client import ChatSession


class ChatTransport(httpx.BaseTransport):  # type: ignore[misc] # the library is known only at run time
    """Sends the SDK's chat requests.

    Args:
        session: The session.
        http_client: A client of the caller's own to send with, or None for the connections of this process.
    """

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._can_interrupt_reads = http_client is None
        self._inner = Transport(session.endpoint, http_client, session.lifetime)

    def handle_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        self._session.lifetime.check_open()
        request.read()
        exchange = ChatExchange(self._session, request)
        with exchange.observed(), redacted(self._session.endpoint):
            steps = self._session.attempts(request, exchange.model)
            return run_sync(steps, send=partial(self._attempt, exchange))

    def _attempt(self, exchange: ChatExchange, request: Any) -> Any:
        with exchange.attempt():
            response = self._inner.handle_request(request)
            try:
                if exchange.streams(response):
                    stream = EventStream(exchange, response, self._can_interrupt_reads)
                    stream.begin()
                    return make_response(response, "text/event-stream; charset=utf-8", stream=stream)
                response.read()
                return exchange.checked_response(response)
            except BaseException:
                response.close()
                raise


class AsyncChatTransport(httpx.AsyncBaseTransport):  # type: ignore[misc] # the library is known only at run time
    """Sends the SDK's async chat requests; see :class:`ChatTransport`."""

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._inner = Transport(session.endpoint, http_client, session.lifetime)

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        self._session.lifetime.check_open()
        await request.aread()
        exchange = ChatExchange(self._session, request)
        with exchange.observed(), redacted(self._session.endpoint):
            steps = self._session.attempts(request, exchange.model)
            return await run_async(steps, send=partial(self._attempt, exchange))

    async def _attempt(self, exchange: ChatExchange, request: Any) -> Any:
        with exchange.attempt():
            response = await self._inner.handle_async_request(request)
            try:
                if exchange.streams(response):
                    stream = AsyncEventStream(exchange, response)
                    await stream.begin()
                    return make_response(response, "text/event-stream; charset=utf-8", stream=stream)
                await response.aread()
                return exchange.checked_response(response)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
                raise

"""One request to the service through the OpenAI SDK: the right client for this process and event loop, one attempt.

Whatever goes wrong comes out as one of our errors, with the SDK's as its cause.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from nanogpt_core.connection import Connection
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.guard import bounds

if TYPE_CHECKING:
    from nanogpt_core.sdk import AsyncClient, Client

__all__ = ["Transport"]


class Transport:
    """Sends single requests, sync and async. Safe in threads, after a fork, and in one event loop after another.

    Args:
        connection: Where to and with which key.
        http_client: The caller's own ``httpx`` client for sync requests, or None.
        http_async_client: The caller's own ``httpx`` client for async requests, or None. It belongs to one event loop.
    """

    def __init__(self, connection: Connection, http_client: Any = None, http_async_client: Any = None) -> None:
        self.connection = connection
        self._http_client = http_client
        self._http_async_client = http_async_client
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()
        self._lifetimes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    def _settle_in_process(self) -> None:
        # A fork copies the parent's sockets; two processes that talk over one socket get each other's replies.
        if self._process != os.getpid():
            self._forget()

    def send(self, path: str, body: bytes | None, seconds: float, most_bytes: int) -> bytes:
        """POST ``body`` to ``path``, or GET it where there is no body; return the reply's bytes.

        Args:
            path: Where to, below the base URL.
            body: JSON, or None.
            seconds: How long it may take, from the first byte sent to the last received.
            most_bytes: How many bytes the reply may have.

        Raises:
            NanoGPTError: The one of its subclasses that fits.
        """
        from nanogpt_core.sdk import call  # see sdk

        client = self._sync_client()
        try:
            with bounds(seconds, most_bytes):
                return _content(call(client, self.connection, path, body))
        except Exception as error:
            raise self._translate(error, seconds) from error

    async def asend(self, path: str, body: bytes | None, seconds: float, most_bytes: int) -> bytes:
        """Do what :meth:`send` does, without blocking the event loop."""
        import anyio  # comes with the SDK

        from nanogpt_core.sdk import call  # see sdk

        client = await self._async_client()
        try:
            with bounds(seconds, most_bytes), anyio.fail_after(_with_grace(seconds)):
                return _content(await call(client, self.connection, path, body))
        except Exception as error:
            raise self._translate(error, seconds) from error

    def _translate(self, error: Exception, seconds: float) -> NanoGPTError:
        from nanogpt_core.translation import translate  # needs the SDK

        return translate(error, self.connection.host, seconds)

    def _sync_client(self) -> Client:
        self._settle_in_process()
        with self._lock:
            if self._client is None:
                from nanogpt_core.sdk import make_client  # see sdk

                self._client = make_client(self.connection, self._http_client)
            return self._client

    def _forgetting(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        # The tables' values lead back to their keys, so that weak keys alone would never let an ended loop go.
        clients, lifetimes, name = self._clients, self._lifetimes, weakref.ref(loop)

        def forget() -> None:
            ended = name()
            if ended is not None:
                clients.pop(ended, None)
                lifetimes.pop(ended, None)

        return forget

    async def _async_client(self) -> AsyncClient:
        self._settle_in_process()
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            from nanogpt_core.sdk import make_async_client  # see sdk

            client = self._clients[loop] = make_async_client(self.connection, self._http_async_client)
            if self._http_async_client is None:
                lifetime = self._lifetimes[loop] = _lifetime(client, self._forgetting(loop))
                await anext(lifetime)
        return client


async def _lifetime(client: AsyncClient, forget: Callable[[], None]) -> AsyncGenerator[None, None]:
    # An event loop that shuts down closes its async generators, and this one then closes the client's connections.
    try:
        yield
    finally:
        forget()
        await client.close()


def _with_grace(seconds: float) -> float:
    # The HTTP client's own limits and the guard come first, since they say more; this one catches what they do not.
    return seconds * 1.1 + 0.5


def _content(response: Any) -> bytes:
    content: bytes = response.content
    return content

"""Connections that are shared by all objects of a process, and of an event loop: reused, and closed when it ends.

A connection belongs to the process that opened it, and an async one to its event loop. The transports made here look up
the right pool for each request, so that a client may be used after a fork and in one event loop after another.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cache
from typing import Any

import openai

from nanogpt_core.http.deadline import protect_pool
from nanogpt_core.http.endpoint import is_loopback
from nanogpt_core.http.wire import Wire

__all__ = ["AsyncSharedTransport", "SharedTransport", "http"]

# The SDK re-exports names under its own; the class that its default client extends still tells the library.
http: Any = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
"""The HTTP library below the SDK: ``httpx`` or ``httpx2``."""

_KEPT = 64
_PART = 1 << 18


def _limits() -> Any:
    # How many are open at once is for the callers to bound; so many are kept for the next request.
    return http.Limits(max_connections=None, max_keepalive_connections=_KEPT)


@cache
def _tls() -> Any:
    # Reading all of the web's authorities takes 30 ms; once is enough for all event loops.
    return http.create_ssl_context()


def _transport_for(client: Any, url: Any) -> Any:
    # Plain HTTP is for this machine; by a proxy it would leave it.
    return client._transport if is_loopback(url.host) else client._transport_for_url(url)


class _ProcessPool:
    """The one pool of this process for sync requests. A fork starts without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: Any = None
        self._wire: Wire | None = None
        # A copied connection must not be closed here either: that would end a TLS session of the parent's.
        self._strays: list[Any] = []

    def send(self, request: Any) -> Any:
        with self._lock:
            if self._client is None or self._wire is None:
                # A whole client, for its choice of proxies by the environment.
                self._client = http.Client(limits=_limits(), follow_redirects=False, verify=_tls())
                protect_pool(self._client)
                self._wire = Wire(http, _tls())
                weakref.finalize(self, self._client.close)
                weakref.finalize(self, self._wire.close)
            transport, wire = _transport_for(self._client, request.url), self._wire
        # By a proxy where there is one; the way over plain sockets knows none.
        return wire.send(request) if transport is self._client._transport else transport.handle_request(request)

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._strays += [self._client, self._wire]
        self._client = self._wire = None


_process_pool = _ProcessPool()


class SharedTransport(http.BaseTransport):  # type: ignore[misc] # the library is known only when this runs
    """Sends sync requests over the process's connections."""

    def handle_request(self, request: Any) -> Any:
        """Send one request."""
        return _process_pool.send(request)


@dataclass(frozen=True)
class _LoopPool:
    client: Any
    lifetime: AsyncGenerator[None, None]


_loop_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = weakref.WeakKeyDictionary()


class AsyncSharedTransport(http.AsyncBaseTransport):  # type: ignore[misc] # see above
    """Sends async requests over the running event loop's connections."""

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request."""
        client = await _client_of_loop()
        return await _transport_for(client, request.url).handle_async_request(request)


async def _client_of_loop() -> Any:
    loop = asyncio.get_running_loop()
    pool = _loop_pools.get(loop)
    if pool is None:
        client = http.AsyncClient(limits=_limits(), follow_redirects=False, verify=_tls())
        _read_in_large_parts(client)
        pool = _loop_pools[loop] = _LoopPool(client, _lifetime(client, weakref.ref(loop)))
        _forget_closed_loops()
        await anext(pool.lifetime)
    return pool.client


def _read_in_large_parts(client: Any) -> None:
    # Left alone, each part is 64 KiB; vectors come in megabytes, and each part costs a turn of the event loop.
    for transport in (client._transport, *client._mounts.values()):
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if backend is not None:
            pool._network_backend = _backend_class(type(pool).__module__.partition(".")[0])(backend)  # type: ignore[union-attr]


@cache
def _backend_class(library: str) -> type[Any]:
    core: Any = importlib.import_module(library)

    class Stream(core.AsyncNetworkStream):  # type: ignore[misc] # known only when this runs
        def __init__(self, inner: Any) -> None:
            self._inner = inner
            self.write = inner.write
            self.aclose = inner.aclose
            self.get_extra_info = inner.get_extra_info

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            data: bytes = await self._inner.read(max(max_bytes, _PART), timeout)
            return data

        async def start_tls(self, *args: Any, **kwargs: Any) -> Any:
            return Stream(await self._inner.start_tls(*args, **kwargs))

    class Backend(core.AsyncNetworkBackend):  # type: ignore[misc] # see above
        def __init__(self, inner: Any) -> None:
            self._inner = inner
            self.sleep = inner.sleep

        async def connect_tcp(self, *args: Any, **kwargs: Any) -> Any:
            return Stream(await self._inner.connect_tcp(*args, **kwargs))

        async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> Any:
            return Stream(await self._inner.connect_unix_socket(*args, **kwargs))

    return Backend


async def _lifetime(client: Any, loop: weakref.ref[asyncio.AbstractEventLoop]) -> AsyncGenerator[None, None]:
    # An event loop that shuts down closes its async generators, and this one then closes the loop's connections.
    try:
        yield
    finally:
        ending = loop()
        if ending is not None:
            _loop_pools.pop(ending, None)
        await client.aclose()


def _forget_closed_loops() -> None:
    # A pool leads back to its loop, so that weak keys alone would never let go of a loop that was closed abruptly.
    for loop in list(_loop_pools):
        if loop.is_closed():
            _loop_pools.pop(loop, None)


def _start_afresh() -> None:
    _process_pool.forget()
    _loop_pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)

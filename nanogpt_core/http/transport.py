"""Transports of ``httpx``: connections shared per process and per event loop, limits, and a caller's own client.

A connection belongs to the process that opened it, and an async one to its event loop. :func:`shared_transport` looks
up the right pool for each request, so a client may be used after a fork, and in one event loop after another.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio  # comes with the SDK
import openai

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.deadline import BodyReader, RequestLimits, current_limits, remaining
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.environment import proxy_for, tls_context
from nanogpt_core.http.library import httpcore, httpx
from nanogpt_core.http.network import AsyncBackend, Backend

__all__ = [
    "AsyncEndpointTransport",
    "EndpointTransport",
    "shared_async_transport",
    "shared_transport",
]

_MOST_IDLE_CONNECTIONS = 64
_IDLE_SECONDS = 5.0  # as httpx does; servers close connections that idle for longer


def _pool_options(proxy: str | None, tls: ssl.SSLContext) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ssl_context": tls,
        "max_connections": None,  # for the callers to limit
        "max_keepalive_connections": _MOST_IDLE_CONNECTIONS,
        "keepalive_expiry": _IDLE_SECONDS,
    }
    if proxy is not None:
        parsed = httpx.Proxy(proxy)
        url = parsed.url
        options["proxy"] = httpcore.Proxy(
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            auth=parsed.raw_auth,
            ssl_context=tls if url.scheme == "https" else None,
        )
    return options


# Tools that record or trace requests patch the handle methods of these two base classes. They have no option for a
# network backend, so the pool is replaced: docs/adr/0001-pool-with-own-network-backend.md.


class _DirectTransport(httpx.HTTPTransport):  # type: ignore[misc] # the library is known only when this runs
    """Sends sync requests, all through one proxy or all directly."""

    def __init__(self, proxy: str | None, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._pool = httpcore.ConnectionPool(network_backend=Backend(), **_pool_options(proxy, tls))


class _AsyncDirectTransport(httpx.AsyncHTTPTransport):  # type: ignore[misc] # see above
    """Sends async requests, all through one proxy or all directly."""

    def __init__(self, proxy: str | None, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(network_backend=AsyncBackend(), **_pool_options(proxy, tls))


TransportT = TypeVar("TransportT", _DirectTransport, _AsyncDirectTransport)


class _Pool(Generic[TransportT]):
    """Transports by origin. The environment is read when an origin is used for the first time."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._by_origin: dict[tuple[str, str, int | None], TransportT] = {}
        self._by_proxy: dict[tuple[str | None, bool], TransportT] = {}

    def transport(self, url: Any) -> TransportT:
        """Return the transport for a URL.

        Raises:
            ConfigurationError: The environment's proxy or certificates cannot be used.
        """
        origin = (url.scheme, url.host, url.port)
        found = self._by_origin.get(origin)
        if found is None:
            proxy = proxy_for(*origin)
            needs_tls = url.scheme == "https" or (proxy or "").startswith("https")
            found = self._by_proxy.get((proxy, needs_tls))
            if found is None:
                tls = tls_context() if needs_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                found = self._by_proxy[proxy, needs_tls] = self._kind(proxy, tls)
            self._by_origin[origin] = found
        return found

    def transports(self) -> list[TransportT]:
        return list(self._by_proxy.values())


class _ProcessPool:
    """The pool of this process for sync requests. A forked child starts without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: _Pool[_DirectTransport] = _Pool(_DirectTransport)
        # A child keeps its parent's connections, unused: threads of the parent may have been in the middle of them.
        self._inherited: list[Any] = []

    def transport(self, url: Any) -> _DirectTransport:
        with self._lock:
            return self._pool.transport(url)

    def close(self) -> None:
        for transport in self._pool.transports():
            transport.close()

    def forget(self) -> None:
        self._inherited.append(self._pool)
        self._lock = threading.Lock()
        self._pool = _Pool(_DirectTransport)


_process_pool = _ProcessPool()
atexit.register(_process_pool.close)


@dataclass(frozen=True)
class _LoopPool:
    pool: _Pool[_AsyncDirectTransport]
    lifetime: AsyncGenerator[None, None]


_loop_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = weakref.WeakKeyDictionary()


async def _pool_of_loop() -> _Pool[_AsyncDirectTransport]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "Async calls need an event loop of asyncio's; another one is running.",
            remedy="Run them with asyncio.run(), or use the sync methods.",
        ) from None
    found = _loop_pools.get(loop)
    if found is None:
        pool = _Pool(_AsyncDirectTransport)
        found = _loop_pools[loop] = _LoopPool(pool, _lifetime(pool, weakref.ref(loop)))
        _forget_closed_loops()
        await anext(found.lifetime)
    return found.pool


async def _lifetime(
    pool: _Pool[_AsyncDirectTransport], loop: weakref.ref[asyncio.AbstractEventLoop]
) -> AsyncGenerator[None, None]:
    # An event loop that shuts down closes its async generators, and this one then closes the loop's connections.
    try:
        yield
    finally:
        ending = loop()
        if ending is not None:
            _loop_pools.pop(ending, None)
        for transport in pool.transports():
            await transport.aclose()


def _forget_closed_loops() -> None:
    # A pool refers to its loop, so weak keys do not free a loop that was closed abruptly.
    for loop in list(_loop_pools):
        if loop.is_closed():
            _loop_pools.pop(loop, None)


def _start_afresh() -> None:
    _process_pool.forget()
    _loop_pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


class _Shared(httpx.BaseTransport):  # type: ignore[misc] # see above
    """Sends sync requests over the process's connections."""

    def handle_request(self, request: Any) -> Any:
        return _process_pool.transport(request.url).handle_request(request)


class _AsyncShared(httpx.AsyncBaseTransport):  # type: ignore[misc] # see above
    """Sends async requests over the running event loop's connections."""

    async def handle_async_request(self, request: Any) -> Any:
        pool = await _pool_of_loop()
        if request.url.scheme == "https" and not tls_context.cache_info().currsize:
            await asyncio.to_thread(tls_context)  # reads files
        return await pool.transport(request.url).handle_async_request(request)


# --- a caller's own client ---


class _OfClient(httpx.BaseTransport):  # type: ignore[misc] # see above
    """Sends requests through a caller's own client, with its headers, cookies, authentication and event hooks."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def handle_request(self, request: Any) -> Any:
        with _client_errors(self._client):
            own = _request_of(self._client, request, request.read())
            response = self._client.send(own, stream=True, follow_redirects=False)
        return _response_of(response, _OfClientStream(response, self._client))


class _AsyncOfClient(httpx.AsyncBaseTransport):  # type: ignore[misc] # see above
    """The async twin of :class:`_OfClient`. The client belongs to one event loop."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def handle_async_request(self, request: Any) -> Any:
        with _client_errors(self._client), _time_limit():
            own = _request_of(self._client, request, await request.aread())
            response = await self._client.send(own, stream=True, follow_redirects=False)
        return _response_of(response, _AsyncOfClientStream(response, self._client))


def _request_of(client: Any, request: Any, body: bytes) -> Any:
    headers, extensions = request.headers.raw, request.extensions
    return client.build_request(request.method, str(request.url), headers=headers, content=body, extensions=extensions)


def _response_of(response: Any, stream: Any) -> Any:
    kept = {name: value for name, value in response.extensions.items() if name in ("http_version", "reason_phrase")}
    return httpx.Response(response.status_code, headers=response.headers.raw, stream=stream, extensions=kept)


@contextlib.contextmanager
def _client_errors(client: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if client.is_closed:
            raise ConfigurationError(
                "The HTTP client that was passed is closed.", remedy="Pass an open one."
            ) from error
        # A client of httpx may be used with an SDK on httpx2, and the other way round: same names, other classes.
        same = getattr(httpx, type(error).__name__, None)
        if same is None or isinstance(error, same) or not issubclass(same, httpx.TransportError):
            raise
        raise same(str(error)) from error


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Keep to the deadline of the attempt, which a caller's own client does not know."""
    with anyio.move_on_after(remaining(None)) as scope:
        yield
    if scope.cancelled_caught:
        raise httpx.ReadTimeout("the attempt's time is over")


def _check_time() -> None:
    seconds = remaining(None)
    if seconds is not None and seconds <= 0:
        raise httpx.ReadTimeout("the reply did not end in time")


class _OfClientStream(httpx.SyncByteStream):  # type: ignore[misc] # see above
    def __init__(self, response: Any, client: Any) -> None:
        self._response, self._client = response, client

    def __iter__(self) -> Iterator[bytes]:
        with _client_errors(self._client):
            for chunk in self._response.iter_raw():
                yield chunk
                _check_time()

    def close(self) -> None:
        self._response.close()


class _AsyncOfClientStream(httpx.AsyncByteStream):  # type: ignore[misc] # see above
    def __init__(self, response: Any, client: Any) -> None:
        self._response, self._client = response, client

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._response.aiter_raw()
        while True:
            with _client_errors(self._client), _time_limit():
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


# --- limits on replies ---


class _Limited(httpx.BaseTransport):  # type: ignore[misc] # see above
    """Unpacks replies, and keeps them to the size limit of the attempt."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def handle_request(self, request: Any) -> Any:
        response, limits = self._inner.handle_request(request), current_limits()
        try:
            _limit(response, limits, _LimitedStream)
        except BaseException:
            response.close()
            raise
        return response


class _AsyncLimited(httpx.AsyncBaseTransport):  # type: ignore[misc] # see above
    """The async twin of :class:`_Limited`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def handle_async_request(self, request: Any) -> Any:
        response, limits = await self._inner.handle_async_request(request), current_limits()
        try:
            _limit(response, limits, _AsyncLimitedStream)
        except BaseException:
            await response.aclose()
            raise
        return response


def _limit(response: Any, limits: RequestLimits | None, stream: Any) -> None:
    response.encoding = "utf-8"  # as JSON is, whatever the service says: the SDK would decode by that
    if limits is not None:
        reader = BodyReader(response.headers, limits.most_bytes)
        if reader.is_compressed:
            del response.headers["content-encoding"]  # unpacked here, and no longer by the HTTP client
        response.stream = stream(response.stream, reader)


class _LimitedStream(httpx.SyncByteStream):  # type: ignore[misc] # see above
    def __init__(self, inner: Any, reader: BodyReader) -> None:
        self._inner, self._reader = inner, reader

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:
            yield self._reader.feed(chunk)
        self._reader.finish()

    def close(self) -> None:
        self._inner.close()


class _AsyncLimitedStream(httpx.AsyncByteStream):  # type: ignore[misc] # see above
    def __init__(self, inner: Any, reader: BodyReader) -> None:
        self._inner, self._reader = inner, reader

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield self._reader.feed(chunk)
        self._reader.finish()

    async def aclose(self) -> None:
        await self._inner.aclose()


def shared_transport(http_client: Any = None) -> Any:
    """Return a transport that keeps to the limits of :func:`~nanogpt_core.http.deadline.request_limits`.

    Args:
        http_client: The caller's own client of ``httpx`` or ``httpx2`` to send with. Default: the connections that all
            objects of this process share. That transport may be used in any thread, and after a fork.
    """
    return _Limited(_Shared() if http_client is None else _OfClient(http_client))


def shared_async_transport(http_client: Any = None) -> Any:
    """Return an async transport; see :func:`shared_transport`.

    Args:
        http_client: The caller's own async client, which belongs to one event loop. Default: the connections that all
            objects share in the running event loop. That transport may be used in any event loop of asyncio's.
    """
    return _AsyncLimited(_AsyncShared() if http_client is None else _AsyncOfClient(http_client))


# --- key and headers ---

# Vectors in base64 hardly shrink, and a compressed reply costs both ends more than it saves.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"nanogpt-rag openai-python/{openai.__version__}"}


def _with_headers(request: Any, endpoint: Endpoint) -> Any:
    # A copy: the SDK reads its own request again, and its errors, which show it, must not hold the key.
    headers = httpx.Headers([(name, value) for name, value in request.headers.raw if not _is_of_sdk(name)])
    headers.update(_HEADERS)
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key.get_secret_value()}"
    headers.update(endpoint.headers)
    return httpx.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )


def _is_of_sdk(name: bytes) -> bool:
    # Its stand-in for the key, and its notes on the machine and the Python version.
    name = name.lower()
    return name == b"authorization" or name.startswith(b"x-stainless-")


class EndpointTransport(httpx.BaseTransport):  # type: ignore[misc] # see above
    """Adds an endpoint's key and headers to each request; no client has to hold them.

    Args:
        endpoint: Key and headers.
        inner: The transport to send with, as of :func:`shared_transport`.
    """

    def __init__(self, endpoint: Endpoint, inner: Any) -> None:
        self._endpoint, self._inner = endpoint, inner

    def handle_request(self, request: Any) -> Any:
        """Send one request."""
        return self._inner.handle_request(_with_headers(request, self._endpoint))


class AsyncEndpointTransport(httpx.AsyncBaseTransport):  # type: ignore[misc] # see above
    """Adds an endpoint's key and headers to each request; see :class:`EndpointTransport`."""

    def __init__(self, endpoint: Endpoint, inner: Any) -> None:
        self._endpoint, self._inner = endpoint, inner

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request."""
        return await self._inner.handle_async_request(_with_headers(request, self._endpoint))

"""Transports of ``httpx``: connections shared per process and per event loop, limits, and a caller's own client.

A connection belongs to the process that opened it, and an async one to its event loop. :class:`Transport` looks up the
right pool for each request, so a client may be used after a fork, and in one event loop after another.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import os
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio  # comes with the SDK
import openai

from nanogpt_core._runtime.fork import delay_forks
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.deadline import BodyReader, remaining
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.environment import proxy_for, tls_context
from nanogpt_core.http.library import httpcore, httpx
from nanogpt_core.http.network import AsyncBackend, Backend

__all__ = ["SDK_HEADERS", "SDK_KEY", "AsyncTransport", "Transport"]

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

    def transport(self, url: Any) -> TransportT:
        """Return the transport for a URL.

        Raises:
            ConfigurationError: The environment's proxy or certificates cannot be used.
        """
        origin = (url.scheme, url.host, url.port)
        found = self._by_origin.get(origin)
        if found is None:
            with delay_forks():  # OpenSSL sets itself up under locks
                proxy = proxy_for(*origin)
                needs_tls = url.scheme == "https" or (proxy or "").startswith("https")
                tls = tls_context() if needs_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                found = self._by_origin[origin] = self._kind(proxy, tls)
        return found

    def transports(self) -> list[TransportT]:
        return list(self._by_origin.values())


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


class Transport(httpx.BaseTransport):  # type: ignore[misc] # see above
    """Sends sync requests with an endpoint's key and headers, within the limits of the attempt.

    Any thread may use it, and a forked process too. No client above has to hold the key.

    Args:
        endpoint: Key and headers.
        http_client: The caller's own client of ``httpx`` or ``httpx2`` to send with, with its headers, cookies,
            authentication and event hooks. Default: the connections that all objects of this process share.
    """

    def __init__(self, endpoint: Endpoint, http_client: Any = None) -> None:
        self._endpoint, self._client = endpoint, http_client

    def handle_request(self, request: Any) -> Any:
        """Send one request."""
        request, client = _with_headers(request, self._endpoint), self._client
        if client is None:
            response = _process_pool.transport(request.url).handle_request(request)
            chunks, close = response.stream, response.stream.close
        else:
            with _client_errors(client):
                own = _request_of(client, request, request.read())
                theirs = client.send(own, stream=True, follow_redirects=False)
            response, close = _response_of(theirs), theirs.close
            # A client that tests replies with, such as MockTransport, may have read the body already.
            chunks = theirs.stream if theirs.is_stream_consumed else theirs.iter_raw()
        try:
            response.stream = _Body(chunks, _reader(response), close, client)
        except BaseException:
            close()
            raise
        return response


class AsyncTransport(httpx.AsyncBaseTransport):  # type: ignore[misc] # see above
    """Sends async requests; see :class:`Transport`.

    Any event loop of asyncio's may use it; a caller's own client belongs to one event loop.
    """

    def __init__(self, endpoint: Endpoint, http_client: Any = None) -> None:
        self._endpoint, self._client = endpoint, http_client

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request."""
        request, client = _with_headers(request, self._endpoint), self._client
        if client is None:
            pool = await _pool_of_loop()
            if request.url.scheme == "https" and not tls_context.cache_info().currsize:
                await asyncio.to_thread(tls_context)  # reads files
            response = await pool.transport(request.url).handle_async_request(request)
            chunks, close = response.stream, response.stream.aclose
        else:
            with _client_errors(client), _time_limit():
                own = _request_of(client, request, await request.aread())
                theirs = await client.send(own, stream=True, follow_redirects=False)
            response, close = _response_of(theirs), theirs.aclose
            chunks = theirs.stream if theirs.is_stream_consumed else theirs.aiter_raw()
        try:
            response.stream = _AsyncBody(chunks, _reader(response), close, client)
        except BaseException:
            await close()
            raise
        return response


# --- bodies of replies ---


def _reader(response: Any) -> BodyReader:
    response.encoding = "utf-8"  # as JSON is, whatever the service says: the SDK would decode by that
    reader = BodyReader(response.headers)
    if reader.is_compressed:
        del response.headers["content-encoding"]  # unpacked here, and no longer by the HTTP client
    return reader


class _Body(httpx.SyncByteStream):  # type: ignore[misc] # see above
    """A body, unpacked and counted. The time limit of a caller's own client is checked between its chunks."""

    def __init__(self, chunks: Iterable[bytes], reader: BodyReader, close: Callable[[], None], client: Any) -> None:
        self._chunks, self._reader, self._close, self._client = chunks, reader, close, client

    def __iter__(self) -> Iterator[bytes]:
        with _client_errors(self._client):
            for chunk in self._chunks:
                yield self._reader.feed(chunk)
                if self._client is not None and (remaining(math.inf) or 0.0) <= 0:
                    raise httpx.ReadTimeout("the reply did not end in time")
        self._reader.finish()

    def close(self) -> None:
        self._close()


class _AsyncBody(httpx.AsyncByteStream):  # type: ignore[misc] # see above
    """The async twin of :class:`_Body`. A caller's own client is stopped at the time limit."""

    def __init__(
        self, chunks: AsyncIterable[bytes], reader: BodyReader, close: Callable[[], Awaitable[None]], client: Any
    ) -> None:
        self._chunks, self._reader, self._close, self._client = chunks, reader, close, client

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._chunks)
        limit = contextlib.nullcontext if self._client is None else _time_limit
        while True:
            with _client_errors(self._client), limit():
                chunk = await anext(chunks, None)
            if chunk is None:
                break
            yield self._reader.feed(chunk)
        self._reader.finish()

    async def aclose(self) -> None:
        await self._close()


# --- a caller's own client ---


def _request_of(client: Any, request: Any, body: bytes) -> Any:
    headers, extensions = request.headers.raw, request.extensions
    return client.build_request(request.method, str(request.url), headers=headers, content=body, extensions=extensions)


def _response_of(response: Any) -> Any:
    kept = {name: value for name, value in response.extensions.items() if name in ("http_version", "reason_phrase")}
    return httpx.Response(response.status_code, headers=response.headers.raw, stream=response.stream, extensions=kept)


@contextlib.contextmanager
def _client_errors(client: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if client is None:
            raise
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


# --- key and headers ---

SDK_KEY = "in-the-transport"
"""The SDK requires a key; the transports replace this one."""

# Vectors in base64 hardly shrink, and a compressed reply costs both ends more than it saves.
SDK_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"nanogpt-rag openai-python/{openai.__version__}",
}
"""Headers of every request, for the SDK's clients. The endpoint's headers replace them."""

_REPLACEABLE = {
    **{name.lower().encode(): value.encode() for name, value in SDK_HEADERS.items()},
    b"authorization": f"Bearer {SDK_KEY}".encode(),
    b"content-type": b"application/json",
    b"connection": b"keep-alive",
}
_DROPPED_PREFIXES = (b"x-stainless-", b"openai-")  # the SDK's notes on the machine and on OpenAI's account


def _with_headers(request: Any, endpoint: Endpoint) -> Any:
    # A copy: the SDK reads its own request again, and its errors, which show it, must not hold the key.
    added = {name.lower().encode(): value.encode() for name, value in endpoint.headers.items()}
    if endpoint.key is not None:
        added.setdefault(b"authorization", f"Bearer {endpoint.key.get_secret_value()}".encode())
    headers = []
    for name, value in request.headers.raw:
        lower = name.lower()
        if lower.startswith(_DROPPED_PREFIXES):
            continue
        replacement = added.pop(lower, None)
        # A header that was given with this one call comes first.
        if value == (request.url.netloc if lower == b"host" else _REPLACEABLE.get(lower)):
            if replacement is None and lower == b"authorization":
                continue
            headers.append((name, value if replacement is None else replacement))
        else:
            headers.append((name, value))
    return httpx.Request(
        request.method,
        request.url,
        headers=[*headers, *added.items()],
        stream=request.stream,
        extensions=request.extensions,
    )

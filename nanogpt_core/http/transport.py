"""Transports of ``httpx``: connections shared per process and per event loop, key and headers.

A connection belongs to the process that opened it, and an async one to its event loop. :class:`Transport` looks up the
right pool for each request, so a client may be used after a fork, and in one event loop after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import weakref
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import openai

from nanogpt_core._runtime.fork import delay_forks
from nanogpt_core._runtime.workers import call_after_workers
from nanogpt_core.errors import ConfigurationError, causes
from nanogpt_core.http.body import AsyncBody, Body, BodyReader
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.environment import Proxy, proxy_for, tls_context
from nanogpt_core.http.library import httpcore, httpx
from nanogpt_core.http.network import AsyncBackend, Backend
from nanogpt_core.http.own_client import asend_with, send_with

__all__ = ["SDK_HEADERS", "SDK_KEY", "AsyncTransport", "Transport"]

_MOST_IDLE_CONNECTIONS = 64
_IDLE_SECONDS = 5.0  # as httpx does; servers close connections that idle for longer


# Tools that record or trace requests patch the handle methods of these two base classes. They have no option for a
# network backend, so the pool is replaced: docs/adr/0001-pool-with-own-network-backend.md.


class _SharedTransport(httpx.HTTPTransport):  # type: ignore[misc] # the library is known only when this runs
    """Sends sync requests, all through one proxy or all directly."""

    def __init__(self, proxy: Proxy | None, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._proxy = proxy
        self._pool = httpcore.ConnectionPool(network_backend=Backend(), **_pool_options(proxy, tls))

    def handle_request(self, request: Any) -> Any:
        with _naming(self._proxy):
            return super().handle_request(request)


class _AsyncSharedTransport(httpx.AsyncHTTPTransport):  # type: ignore[misc]
    """Sends async requests, all through one proxy or all directly."""

    def __init__(self, proxy: Proxy | None, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._proxy = proxy
        self._pool = httpcore.AsyncConnectionPool(network_backend=AsyncBackend(), **_pool_options(proxy, tls))

    async def handle_async_request(self, request: Any) -> Any:
        with _naming(self._proxy):
            return await super().handle_async_request(request)


def _pool_options(proxy: Proxy | None, tls: ssl.SSLContext) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ssl_context": tls,
        "max_connections": None,  # for the callers to limit
        "max_keepalive_connections": _MOST_IDLE_CONNECTIONS,
        "keepalive_expiry": _IDLE_SECONDS,
    }
    if proxy is not None:
        parsed = httpx.Proxy(proxy.url)
        url = parsed.url
        options["proxy"] = httpcore.Proxy(
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            auth=parsed.raw_auth,
            ssl_context=tls if url.scheme == "https" else None,
        )
    return options


@contextlib.contextmanager
def _naming(proxy: Proxy | None) -> Iterator[None]:
    """Name the proxy, and the variable that it comes from, in errors between here and the proxy."""
    try:
        yield
    except (httpx.ProxyError, httpx.ConnectError, httpx.ConnectTimeout) as error:
        # TLS is between here and the host.
        if proxy is None or any(isinstance(cause, ssl.SSLError) for cause in causes(error)):
            raise
        raise httpx.ProxyError(f"{proxy}: {error}") from error


class _Transports:
    """The transports of one process or one event loop, by origin.

    The environment is read when an origin is used for the first time.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._by_origin: dict[tuple[str, str, int | None], Any] = {}

    def of(self, url: Any) -> Any:
        """Return the transport for a URL.

        Raises:
            ConfigurationError: The environment's proxy or certificates cannot be used.
        """
        origin = (url.scheme, url.host, url.port)
        if origin not in self._by_origin:
            with delay_forks():  # OpenSSL sets itself up under locks
                proxy = proxy_for(*origin)
                needs_tls = url.scheme == "https" or (proxy is not None and proxy.url.startswith("https"))
                tls = tls_context() if needs_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                self._by_origin.setdefault(origin, self._kind(proxy, tls))
        return self._by_origin[origin]

    def all(self) -> list[Any]:
        return list(self._by_origin.values())


_of_process = _Transports(_SharedTransport)
# A child keeps its parent's connections, unused: threads of the parent may have been in the middle of them.
_inherited: list[_Transports] = []

# The async generator closes the connections; see _lifetime().
_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Transports, AsyncGenerator[None, None]]]
_of_loops = weakref.WeakKeyDictionary()


def _close_all() -> None:
    for transport in _of_process.all():
        transport.close()


call_after_workers(_close_all)


def _start_afresh() -> None:
    global _of_process  # noqa: PLW0603 - there is one for each process
    _inherited.append(_of_process)
    _of_process = _Transports(_SharedTransport)
    _of_loops.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


async def _of_running_loop() -> _Transports:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "Async calls need an event loop of asyncio's; another one is running.",
            remedy="Run them with asyncio.run(), or use the sync methods.",
        ) from None
    found = _of_loops.get(loop)
    if found is None:
        # Connections refer to their loop, so weak keys do not free a loop that was closed abruptly.
        for closed in [each for each in _of_loops if each.is_closed()]:
            _of_loops.pop(closed, None)
        transports = _Transports(_AsyncSharedTransport)
        found = _of_loops[loop] = transports, _lifetime(transports, weakref.ref(loop))
        await anext(found[1])
    return found[0]


async def _lifetime(
    transports: _Transports, loop: weakref.ref[asyncio.AbstractEventLoop]
) -> AsyncGenerator[None, None]:
    # An event loop that shuts down closes its async generators, and this one then closes the loop's connections.
    try:
        yield
    finally:
        ending = loop()
        if ending is not None:
            _of_loops.pop(ending, None)
        for transport in transports.all():
            await transport.aclose()


class Transport(httpx.BaseTransport):  # type: ignore[misc]
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
        request = _with_headers(request, self._endpoint)
        if self._client is None:
            response = _of_process.of(request.url).handle_request(request)
        else:
            response = send_with(self._client, request)
        try:
            response.stream = Body(response.stream, _reader(response))
        except BaseException:
            response.stream.close()
            raise
        return response


class AsyncTransport(httpx.AsyncBaseTransport):  # type: ignore[misc]
    """Sends async requests; see :class:`Transport`.

    Any event loop of asyncio's may use it; a caller's own client belongs to one event loop.
    """

    def __init__(self, endpoint: Endpoint, http_client: Any = None) -> None:
        self._endpoint, self._client = endpoint, http_client

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request."""
        request = _with_headers(request, self._endpoint)
        if self._client is None:
            transports = await _of_running_loop()
            if request.url.scheme == "https" and not tls_context.cache_info().currsize:
                await asyncio.to_thread(tls_context)  # reads files
            response = await transports.of(request.url).handle_async_request(request)
        else:
            response = await asend_with(self._client, request)
        try:
            response.stream = AsyncBody(response.stream, _reader(response))
        except BaseException:
            await response.stream.aclose()
            raise
        return response


def _reader(response: Any) -> BodyReader:
    response.encoding = "utf-8"  # as JSON is, whatever the service says: the SDK would decode by that
    reader = BodyReader(response.headers)
    if reader.is_compressed:
        del response.headers["content-encoding"]  # unpacked here, and no longer by the HTTP client
    return reader


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

"""Connections, shared per process and per event loop.

A connection belongs to the process that opened it, and an async one to its event loop. The connections to an origin
are closed with the last open object that has used them; at the latest when the process exits, or the event loop shuts
down.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.fork import ForkSafe, delay_forks
from nanogpt_core._runtime.threads import call_after_workers
from nanogpt_core._runtime.workers import call_in_thread, require_event_loop
from nanogpt_core.http.environment import Proxy, tls_context
from nanogpt_core.http.network import AsyncBackend, Backend
from nanogpt_core.http.sdk import httpcore, httpx

if TYPE_CHECKING:
    from nanogpt_core.http.client import Lifetime

_MAX_IDLE_CONNECTIONS = 64
_IDLE_SECONDS = 5.0  # as httpx does; servers close connections that idle for longer


# Tools that record or trace requests patch the handle methods of the classes of these transports. The classes have no
# option for a network backend, so the pool is replaced: docs/adr/0001-pool-with-own-network-backend.md.


def _make_transport(proxy: Proxy | None, tls: ssl.SSLContext) -> Any:
    transport = httpx.HTTPTransport(verify=tls, trust_env=False)
    transport._pool = httpcore.ConnectionPool(network_backend=Backend(), **_pool_options(proxy, tls))
    return transport


def _make_async_transport(proxy: Proxy | None, tls: ssl.SSLContext) -> Any:
    transport = httpx.AsyncHTTPTransport(verify=tls, trust_env=False)
    transport._pool = httpcore.AsyncConnectionPool(network_backend=AsyncBackend(), **_pool_options(proxy, tls))
    return transport


def _pool_options(proxy: Proxy | None, tls: ssl.SSLContext) -> dict[str, Any]:
    options: dict[str, Any] = {
        "ssl_context": tls,
        "max_connections": None,  # for the callers to limit
        "max_keepalive_connections": _MAX_IDLE_CONNECTIONS,
        "keepalive_expiry": _IDLE_SECONDS,
    }
    if proxy is not None:
        parsed = httpx.Proxy(proxy.url)
        proxy_tls = tls if parsed.url.scheme == "https" else None
        options["proxy"] = httpcore.Proxy(str(parsed.url), auth=parsed.raw_auth, ssl_context=proxy_tls)
    return options


_Origin = tuple[str, str, int | None]


class _Pool:
    """The connections to one origin, through one proxy or directly.

    Attributes:
        origin: Scheme, host and port.
        transport: Holds and uses the connections, all through one proxy or all directly.
        proxy: That proxy, or None.
        owners: The objects that have used them.
        in_flight: Number of requests in flight.
        is_new: True until a request has ended.
    """

    def __init__(self, origin: _Origin, transport: Any, proxy: Proxy | None) -> None:
        self.origin, self.transport, self.proxy = origin, transport, proxy
        self.owners: weakref.WeakSet[Lifetime] = weakref.WeakSet()
        self.in_flight = 0
        self.is_new = True

    def is_unused(self) -> bool:
        """Return whether no request is in flight and no owner is open."""
        return not self.in_flight and all(owner.is_closed for owner in self.owners)


class _Pools(ForkSafe):
    """The pools of one process or one event loop, by origin and proxy."""

    def __init__(self, make_transport: Callable[[Proxy | None, ssl.SSLContext], Any]) -> None:
        super().__init__()
        self._make_transport = make_transport
        self._by_origin: dict[tuple[_Origin, Proxy | None], _Pool] = {}

    def _in_child(self) -> None:
        # A child keeps its parent's connections, unused: threads of the parent may have been in the middle of them.
        _inherited.append(self._by_origin)
        self._by_origin = {}

    def take_lease(self, url: Any, owner: Lifetime | None, proxy: Proxy | None) -> Lease:
        """Return the use of connections by one request, through the proxy if there is one.

        A request without an ``owner`` neither keeps connections open nor closes them.

        Raises:
            ConfigurationError: The environment's certificates cannot be used.
        """
        origin: _Origin = (url.scheme, url.host, url.port)
        made = None if (origin, proxy) in self._by_origin else self._make(origin, proxy)
        with self._lock:
            # Looked up again: another thread may have made one, or removed and closed the one that was there.
            pool = self._by_origin.get((origin, proxy)) or made or self._make(origin, proxy)
            self._by_origin[origin, proxy] = pool
            pool.in_flight += 1
            if owner is not None and not owner.is_closed:
                pool.owners.add(owner)
        return Lease(self, pool, owner)

    def _make(self, origin: _Origin, proxy: Proxy | None) -> _Pool:
        with delay_forks():  # OpenSSL sets itself up under locks
            needs_tls = origin[0] == "https" or (proxy is not None and proxy.url.lower().startswith("https"))
            tls = tls_context() if needs_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            return _Pool(origin, self._make_transport(proxy, tls), proxy)

    def give_back(self, pool: _Pool, owner: Lifetime | None) -> list[Any]:
        """End the use of a pool by one request; return the transports that its caller must close."""
        with self._lock:
            pool.in_flight -= 1
            is_first, pool.is_new = pool.is_new, False
        if owner is None:
            return []
        if owner.is_closed:  # the last request of an object that was closed meanwhile
            return self.remove_unused()
        # Objects that were dropped, and not closed, have left connections through an earlier proxy.
        return self.remove_unused(pool.origin) if is_first else []

    def remove_unused(self, origin: _Origin | None = None) -> list[Any]:
        """Remove the pools, of one origin or of all, that no open object uses.

        Return their transports, which the caller must close.
        """
        with self._lock:
            unused = [(key, pool) for key, pool in self._by_origin.items() if pool.is_unused()]
            unused = [(key, pool) for key, pool in unused if origin in (None, pool.origin)]
            for key, _ in unused:
                del self._by_origin[key]
        return [pool.transport for _, pool in unused]

    @property
    def transports(self) -> list[Any]:
        """The transports of all pools."""
        return [pool.transport for pool in self._by_origin.values()]


_inherited: list[object] = []
_process_pools = _Pools(_make_transport)

# The async generator closes the connections; see _close_at_end().
_pools_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Pools, AsyncGenerator[None, None]]]
_pools_by_loop = weakref.WeakKeyDictionary()


def _close_all() -> None:
    for transport in _process_pools.transports:
        transport.close()


call_after_workers(_close_all)


async def _running_loop_pools() -> _Pools:
    loop = require_event_loop()
    found = _pools_by_loop.get(loop)
    if found is None:
        # Connections refer to their loop, so weak keys do not free a loop that was closed abruptly.
        # Not the mapping itself: loops of other threads come and go meanwhile.
        for other in [reference() for reference in _pools_by_loop.keyrefs()]:
            if other is not None and other.is_closed():
                _pools_by_loop.pop(other, None)
        pools = _Pools(_make_async_transport)
        found = _pools_by_loop[loop] = pools, _close_at_end(pools, weakref.ref(loop))
        await anext(found[1])
    return found[0]


async def _close_at_end(pools: _Pools, loop: weakref.ref[asyncio.AbstractEventLoop]) -> AsyncGenerator[None, None]:
    # An event loop that shuts down closes its async generators, and this one then closes the loop's connections.
    try:
        yield
    finally:
        ending = loop()
        # Loops of nest_asyncio do not shut down. The interpreter ends this generator then, when no loop runs any more.
        if ending is not None and ending.is_running():
            _pools_by_loop.pop(ending, None)
            for transport in pools.transports:
                await transport.aclose()


class Lease:
    """The use of connections by one request; it ends with :meth:`close` or :meth:`aclose`, and only once."""

    def __init__(self, pools: _Pools, pool: _Pool, owner: Lifetime | None) -> None:
        self._pools, self._owner = pools, owner
        self._pool: _Pool | None = pool
        self.transport, self._proxy = pool.transport, pool.proxy

    def add_proxy_to(self, error: Any) -> None:
        """Put the proxy into an error as ``error.proxy``, since it may be the reason: map_error() names it.

        Raises:
            httpx.ProxyError: In place of an error of the SOCKS library.
        """
        if type(error).__module__.startswith("socksio"):  # httpcore passes this on as it is
            failure = httpx.ProxyError(f"no SOCKS proxy answers there: {error}")
            failure.proxy = self._proxy
            raise failure from error
        if self._proxy is not None and isinstance(error, httpx.TransportError):
            error.proxy = self._proxy

    def close(self) -> None:
        """End the use of this process's connections."""
        for transport in self._end():
            transport.close()

    async def aclose(self) -> None:
        """End the use of the event loop's connections."""
        for transport in self._end():
            await transport.aclose()

    def _end(self) -> list[Any]:
        pool, self._pool = self._pool, None
        return [] if pool is None else self._pools.give_back(pool, self._owner)


take_lease = _process_pools.take_lease


async def take_async_lease(url: Any, owner: Lifetime | None, proxy: Proxy | None) -> Lease:
    """Do the same as :data:`take_lease` with the connections of the running event loop.

    Raises:
        ConfigurationError: No event loop of asyncio's is running, or as for :data:`take_lease`.
    """
    pools = await _running_loop_pools()
    if url.scheme == "https" and not tls_context.cache_info().currsize:
        await call_in_thread(tls_context)  # reads files
    return pools.take_lease(url, owner, proxy)


def close_connections() -> None:
    """Close the connections of this process that no open object uses."""
    for transport in _process_pools.remove_unused():
        transport.close()


async def aclose_connections() -> None:
    """Close the connections of this process and of the running event loop that no open object uses.

    Raises:
        ConfigurationError: No event loop of asyncio's is running.
    """
    close_connections()
    found = _pools_by_loop.get(require_event_loop())
    for transport in found[0].remove_unused() if found else ():
        await transport.aclose()

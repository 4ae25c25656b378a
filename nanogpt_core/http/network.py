"""Network backends for ``httpcore``, sync and async, over plain sockets.

They differ from those of ``httpcore`` in four points:

* A read takes up to 1 MiB instead of 64 KiB. Vectors come in megabytes, and each read costs a turn of the HTTP parser.
* All reads, writes, connects and TLS handshakes of an attempt share its deadline, for proxied connections too.
* A host's second address is tried after 0.25 s without an answer from the first ("happy eyeballs", RFC 8305).
* A connection that holds bytes after the end of a reply is never used again; see :meth:`_Channel.hold_back`.

TLS is done in memory (``SSLContext.wrap_bio``), as asyncio does. So it works with any kind of ``SSLContext``
(``truststore``'s, gevent's, eventlet's) and inside another TLS connection (an ``https`` proxy), sync and async.
"""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401 - looking up a host would import it, which fails without free files
import errno
import itertools
import math
import os
import select
import selectors
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import anyio  # comes with the SDK

from nanogpt_core.http.deadline import remaining
from nanogpt_core.http.library import httpcore

__all__ = ["AsyncBackend", "Backend"]

# CPU ms per 1,000 vectors of 1,536 dimensions on a quiet machine: 24.6; with 256 KiB 25.9, with 64 KiB 35.2.
_READ_BYTES = 1 << 20
# HTTP is read by at least so many bytes. A smaller read is a step of a proxy's handshake, which takes its reply whole.
_LEAST_HTTP_READ_BYTES = 1 << 14
# After so many bytes, other tasks of the event loop have a turn.
_BYTES_PER_TURN = 1 << 16
_NEXT_ADDRESS_SECONDS = 0.25

_Address = tuple[Any, ...]


def _is_from_network(error: OSError) -> bool:
    """Return whether a socket raised ``error``, and not a signal handler that ran meanwhile."""
    return error.errno is not None or (isinstance(error, TimeoutError) and str(error) == "timed out")


@contextlib.contextmanager
def _mapped(timeout_error: type[Exception], other_error: type[Exception]) -> Iterator[None]:
    """Raise errors of sockets and TLS as those of ``httpcore``; let all others pass."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: the host's name cannot be looked up
        if isinstance(error, OSError) and not _is_from_network(error):
            raise
        is_timeout = isinstance(error, (TimeoutError, BlockingIOError))
        kind = timeout_error if is_timeout else other_error
        raise kind("timed out" if is_timeout else str(error)) from error


class _Tls:
    """One TLS session in memory. Decrypts and encrypts, without I/O."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    @property
    def pending(self) -> int:
        """Bytes that have come in and were not read."""
        return self._incoming.pending + self.object.pending()

    def handshake(self) -> bool:
        """Go on with the handshake; False if it needs bytes from the server."""
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def outgoing(self) -> bytes:
        """Return the bytes to send."""
        return self._outgoing.read()

    def feed(self, data: bytes) -> None:
        """Take bytes from the server; none mean that it has closed the connection."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` as bytes to send."""
        view = memoryview(data)
        while view:
            view = view[self.object.write(view) :]
        return self.outgoing()

    def decrypt(self, data: bytes) -> bytes:
        """Return the bytes that ``data`` completes; none if it completes none, or at the end."""
        self.feed(data)
        parts = []
        try:
            while part := self.object.read(_READ_BYTES):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass  # all was read; if too little came, the HTTP parser notices
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Channel:
    """A socket with any number of TLS sessions inside one another, and the last byte of each read held back."""

    def __init__(self, sock: socket.socket, sessions: tuple[_Tls, ...] = ()) -> None:
        self.sock = sock
        self.sessions = sessions
        self.held = b""
        self.answered = False
        self.failure: Exception | None = None

    @property
    def is_readable(self) -> bool:
        """True if there are unread bytes, or the end. An idle connection that has any must not be used again."""
        return bool(self.held) or any(tls.pending for tls in self.sessions) or _has_bytes(self.sock)

    def decrypt(self, data: bytes) -> bytes:
        for tls in self.sessions:
            data = tls.decrypt(data)
        return data

    def encrypt(self, data: bytes) -> bytes:
        for tls in reversed(self.sessions):
            data = tls.encrypt(data)
        return data

    def take_held(self) -> bytes:
        held, self.held = self.held, b""
        return held

    def hold_back(self, data: bytes) -> bytes | memoryview:
        """Return all of ``data`` but its last byte, which the next read returns.

        The parser asks for that byte if it is part of the reply. If the reply has ended before it, the byte stays, and
        ``httpcore`` closes the connection instead of using it again, as it does with every idle one that is readable.
        """
        self.answered = True
        if len(data) < 2:  # noqa: PLR2004
            return data
        self.held = data[-1:]
        return memoryview(data)[:-1]

    def begin_write(self) -> None:
        """Check before the first write of a request that the connection is idle."""
        if self.answered and self.is_readable:
            # Kept for the next read: httpcore reads after a failed write, since a server may have answered early.
            self.failure = httpcore.ReadError("the server closed the connection, or sent an unexpected reply")
            raise httpcore.WriteError(str(self.failure))
        self.answered = False

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self.is_readable
        if info == "ssl_object":
            return self.sessions[-1].object if self.sessions else None
        if info == "socket":
            return self.sock
        if info == "client_addr":
            return self.sock.getsockname()
        if info == "server_addr":
            return self.sock.getpeername()
        return None


def _has_bytes(sock: socket.socket) -> bool:
    if sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()  # select() knows only the first 1,024 files
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class _Stream(httpcore.NetworkStream):  # type: ignore[misc] # the library is known only when this runs
    """A sync connection."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes | memoryview:
        channel = self._channel
        channel.check()
        if channel.held:
            return channel.take_held()
        with _mapped(httpcore.ReadTimeout, httpcore.ReadError):
            if max_bytes < _LEAST_HTTP_READ_BYTES:
                return self._receive(max_bytes, timeout)
            return channel.hold_back(self._receive(_READ_BYTES, timeout))

    def _receive(self, max_bytes: int, timeout: float | None) -> bytes:
        while True:
            # After the deadline, bytes that have come in time are still read: this process may have been stopped.
            seconds = remaining(timeout)
            self._channel.sock.settimeout(None if seconds is None else max(0.0, seconds))
            data = self._channel.sock.recv(max_bytes)
            plain = self._channel.decrypt(data)
            if plain or not data:
                return plain

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        self._channel.begin_write()
        try:
            with _mapped(httpcore.WriteTimeout, httpcore.WriteError):
                self._send(self._channel.encrypt(buffer), timeout)
        except httpcore.WriteTimeout as error:
            raise httpcore.WriteError("timed out") from error  # the server may have answered; see begin_write()

    def _send(self, data: bytes, timeout: float | None) -> None:
        seconds = remaining(timeout)
        self._channel.sock.settimeout(None if seconds is None else max(0.0, seconds))
        self._channel.sock.sendall(data)

    def close(self) -> None:
        self._channel.sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        outer = self._channel
        try:
            with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
                tls = _Tls(ssl_context, server_hostname)
                while not tls.handshake():
                    self._send(outer.encrypt(tls.outgoing()), timeout)
                    tls.feed(self._receive(_READ_BYTES, timeout))
                self._send(outer.encrypt(tls.outgoing()), timeout)
        except BaseException:
            self.close()
            raise
        return _Stream(_Channel(outer.sock, (*outer.sessions, tls)))

    def get_extra_info(self, info: str) -> Any:
        return self._channel.get_extra_info(info)


class Backend(httpcore.NetworkBackend):  # type: ignore[misc] # see above
    """Opens sync connections."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        """Connect to the first of the host's addresses that answers."""
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
            addresses = _alternating(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            seconds = remaining(timeout)
            sock = _connect_any(addresses, seconds, local_address)
            _set_options(sock, socket_options)
        return _Stream(_Channel(sock))


def _alternating(addresses: list[_Address]) -> list[_Address]:
    """Order addresses so that their families alternate, beginning with the system's first choice."""
    families = list(dict.fromkeys(address[0] for address in addresses))
    columns = [[address for address in addresses if address[0] == family] for family in families]
    return [one for row in itertools.zip_longest(*columns) for one in row if one is not None]


def _set_options(sock: socket.socket, options: Iterable[Any] | None) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in options or ():
        sock.setsockopt(*option)


def _open(address: _Address, local_address: str | None) -> socket.socket:
    sock = socket.socket(*address[:3])
    if local_address is not None:
        sock.bind((local_address, 0))
    return sock


def _connect_any(addresses: list[_Address], seconds: float | None, local_address: str | None) -> socket.socket:
    """Connect to the first address that answers; each has a head start of 0.25 s over the next."""
    if len(addresses) == 1:
        sock = _open(addresses[0], local_address)
        try:
            sock.settimeout(None if seconds is None else max(0.0, seconds))
            sock.connect(addresses[0][4])
        except BaseException:
            sock.close()
            raise
        return sock
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    failure = OSError(errno.EADDRNOTAVAIL, "the host has no address")
    opened: list[socket.socket] = []
    winner = None
    try:
        with selectors.DefaultSelector() as selector:
            for address in (*addresses, None):
                if address is not None:
                    try:
                        opened.append(_open(address, local_address))
                        opened[-1].setblocking(False)
                        _begin_connect(opened[-1], address)
                    except OSError as error:
                        failure = error
                        continue
                    selector.register(opened[-1], selectors.EVENT_WRITE)
                pause = math.inf if address is None else _NEXT_ADDRESS_SECONDS
                while selector.get_map() and (ready := _first_ready(selector, min(pause, deadline - time.monotonic()))):
                    selector.unregister(ready)
                    code = ready.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        winner = ready
                        return ready
                    failure = OSError(code, os.strerror(code))
                    if address is not None:
                        break
                if time.monotonic() >= deadline:
                    raise TimeoutError("timed out")
            raise failure
    finally:
        for sock in opened:
            if sock is not winner:
                sock.close()


def _begin_connect(sock: socket.socket, address: _Address) -> None:
    code = sock.connect_ex(address[4])
    if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY):
        raise OSError(code, os.strerror(code))


def _first_ready(selector: selectors.BaseSelector, seconds: float) -> socket.socket | None:
    ready = selector.select(None if seconds == math.inf else max(0.0, seconds))
    if not ready:
        return None
    sock: Any = ready[0][0].fileobj
    return sock  # type: ignore[no-any-return]


class _AsyncStream(httpcore.AsyncNetworkStream):  # type: ignore[misc] # see above
    """An async connection, of one event loop of asyncio's."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes | memoryview:
        channel = self._channel
        channel.check()
        if channel.held:
            return channel.take_held()
        with _mapped(httpcore.ReadTimeout, httpcore.ReadError):
            if max_bytes < _LEAST_HTTP_READ_BYTES:
                return await self._receive(max_bytes, timeout)
            data = await self._receive(_READ_BYTES, timeout)
        if len(data) > _BYTES_PER_TURN:
            await asyncio.sleep(0)
        return channel.hold_back(data)

    async def _receive(self, max_bytes: int, timeout: float | None) -> bytes:
        while True:
            data = await _receive_some(self._channel.sock, max_bytes, remaining(timeout))
            plain = self._channel.decrypt(data)
            if plain or not data:
                return plain

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        self._channel.begin_write()
        try:
            with _mapped(httpcore.WriteTimeout, httpcore.WriteError):
                await self._send(self._channel.encrypt(buffer), timeout)
        except httpcore.WriteTimeout as error:
            raise httpcore.WriteError("timed out") from error  # the server may have answered; see begin_write()

    async def _send(self, data: bytes, timeout: float | None) -> None:
        with _time_limit(remaining(timeout)):
            await asyncio.get_running_loop().sock_sendall(self._channel.sock, data)

    async def aclose(self) -> None:
        self._channel.sock.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _AsyncStream:
        outer = self._channel
        try:
            with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
                tls = _Tls(ssl_context, server_hostname)
                while not tls.handshake():
                    await self._send(outer.encrypt(tls.outgoing()), timeout)
                    tls.feed(await self._receive(_READ_BYTES, timeout))
                await self._send(outer.encrypt(tls.outgoing()), timeout)
        except BaseException:
            await self.aclose()
            raise
        return _AsyncStream(_Channel(outer.sock, (*outer.sessions, tls)))

    def get_extra_info(self, info: str) -> Any:
        return self._channel.get_extra_info(info)


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise the error of a socket whose time is over."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError("timed out")


async def _receive_some(sock: socket.socket, max_bytes: int, seconds: float | None) -> bytes:
    try:
        return sock.recv(max_bytes)
    except BlockingIOError:
        pass
    with anyio.move_on_after(seconds):
        return await asyncio.get_running_loop().sock_recv(sock, max_bytes)
    # Bytes that have come in time are still read: this process may have been stopped.
    return sock.recv(max_bytes)


class AsyncBackend(httpcore.AsyncNetworkBackend):  # type: ignore[misc] # see above
    """Opens async connections, of the running event loop."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _AsyncStream:
        """Connect to the first of the host's addresses that answers."""
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError), _time_limit(remaining(timeout)):
            addresses = _alternating(await _look_up(host, port))
            sock = await _aconnect_any(addresses, local_address)
            _set_options(sock, socket_options)
        return _AsyncStream(_Channel(sock))


async def _look_up(host: str, port: int) -> list[_Address]:
    with contextlib.suppress(socket.gaierror):  # a numeric address needs no thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _aconnect(address: _Address, local_address: str | None) -> socket.socket:
    sock = _open(address, local_address)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address[4])
    except BaseException:
        sock.close()
        raise
    return sock


async def _aconnect_any(addresses: list[_Address], local_address: str | None) -> socket.socket:
    if len(addresses) == 1:
        return await _aconnect(addresses[0], local_address)
    failure: BaseException = OSError(errno.EADDRNOTAVAIL, "the host has no address")
    tasks = set[asyncio.Task[socket.socket]]()
    try:
        for address in (*addresses, None):
            if address is not None:
                tasks.add(asyncio.ensure_future(_aconnect(address, local_address)))
            pause = None if address is None else _NEXT_ADDRESS_SECONDS
            while tasks:
                done, _ = await asyncio.wait(tasks, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    tasks.discard(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    failure = error
                if address is not None:
                    break
        raise failure
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, socket.socket):
                outcome.close()

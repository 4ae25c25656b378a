"""Network backends for ``httpcore``, sync and async, over plain sockets.

They differ from those of ``httpcore`` in five points:

* A read takes up to 1 MiB, on an event loop 512 KiB, instead of 64 KiB, once a reply is known to be long. Vectors come
  in megabytes, and each read costs a turn of the HTTP parser.
* All reads, writes, connects and TLS handshakes of an attempt share its deadline, for proxied connections too.
* A host's second address is tried after 0.25 s without an answer from the first: :mod:`~nanogpt_core.http.addresses`.
* A connection that holds bytes after the end of a reply is never used again; see :meth:`_Connection._read_steps`.
* Async connects, reads and writes are the only parts of a request that a cancellation may interrupt:
  :mod:`~nanogpt_core._runtime.task_cancellation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
import time
from collections.abc import Generator, Iterator
from functools import partial
from typing import Any, TypeVar

import anyio  # comes with the SDK

from nanogpt_core._runtime.clock import current_attempt
from nanogpt_core._runtime.task_cancellation import interruptible
from nanogpt_core._runtime.threads import LateError
from nanogpt_core.http.addresses import TIMED_OUT, aconnect, connect
from nanogpt_core.http.sdk import httpcore

# Most bytes of a read. CPU ms per 1,000 vectors of 1,536 dimensions on a quiet machine: 24.6; with 256 KiB 25.9, with
# 64 KiB 35.2. On an event loop less: all connections of a call can have bytes in the same turn, and 1 MiB takes 4 ms.
_READ_BYTES = 1 << 20
_ASYNC_READ_BYTES = 1 << 19
# The first read of a reply: most queries fit. The memory for a larger one is mapped anew for each read, which takes
# 40 microseconds, 4 % of a query.
_FIRST_READ_BYTES = 1 << 16
# HTTP is read by at least so many bytes. A smaller read is a step of a proxy's handshake, which takes its reply whole.
_MIN_HTTP_READ_BYTES = 1 << 14
# After so many bytes, other tasks of the event loop have a turn.
_BYTES_PER_TURN = 1 << 16
# Bytes that have come in time are read after the deadline too: this process may have been stopped. The time for it is
# limited, since a server may send for ever, faster than its bytes are parsed.
_LATE_SECONDS = 1.0

T = TypeVar("T")
# Steps of I/O: a number is the most bytes to receive, bytes are to be sent.
_Steps = Generator[int | bytes, bytes, T]


def seconds_left(timeout: float | None) -> float | None:
    """Return ``timeout`` in seconds, or the time left of the attempt if that is less: 0 or less after its deadline."""
    seconds = min(current_attempt.get().deadline - time.monotonic(), math.inf if timeout is None else timeout)
    return None if seconds == math.inf else seconds


@contextlib.contextmanager
def _as_httpcore_errors(timeout_error: type[Exception], other_error: type[Exception]) -> Iterator[None]:
    """Raise errors of sockets and TLS in this block as those of ``httpcore``; all others pass.

    ``timeout_error`` is raised if the time limit has passed. A socket that does not block raises ``BlockingIOError``
    then.
    """
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: the host's name cannot be looked up
        is_known = isinstance(error, (UnicodeError, ssl.SSLError, LateError)) or error.errno is not None
        if not is_known and str(error) != TIMED_OUT:
            raise  # of a signal handler that ran meanwhile
        if isinstance(error, (TimeoutError, BlockingIOError)):
            raise timeout_error(TIMED_OUT) from error
        raise other_error(str(error)) from error


_connect_errors = partial(_as_httpcore_errors, httpcore.ConnectTimeout, httpcore.ConnectError)
_read_errors = partial(_as_httpcore_errors, httpcore.ReadTimeout, httpcore.ReadError)
# After a WriteError, httpcore reads: the server may have answered before it had the whole request.
_write_errors = partial(_as_httpcore_errors, httpcore.WriteError, httpcore.WriteError)


class _TlsSession:
    """One TLS session in memory, without I/O. Several can be inside one another, as through an ``https`` proxy.

    It uses ``SSLContext.wrap_bio``, as asyncio does. So any kind of ``SSLContext`` works, such as truststore's,
    gevent's and eventlet's.

    Attributes:
        object: The session's ``SSLObject``.
        has_ended: True after the other side has said that it sends no more.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self.has_ended = False

    @property
    def pending(self) -> int:
        """Bytes that have come in and were not read."""
        return self._incoming.pending + self.object.pending()

    def handshake(self, data: bytes | None) -> tuple[bool, bytes]:
        """Go on with the handshake, after ``data`` from the server; return whether it is done, and bytes to send."""
        if data:
            self._incoming.write(data)
        elif data is not None:
            self._incoming.write_eof()
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._outgoing.read()
        return True, self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """Return ``data`` as bytes to send."""
        view = memoryview(data)
        while view:
            view = view[self.object.write(view) :]
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        """Return the bytes that ``data`` completes; there may be none."""
        self._incoming.write(data)
        parts = []
        with contextlib.suppress(ssl.SSLWantReadError):
            while part := self.object.read(_READ_BYTES):
                parts.append(part)
            self.has_ended = True
        return b"".join(parts)


class _Connection:
    """A socket with any number of TLS sessions inside one another: the common part of the sync and the async stream.

    Methods named ``..._steps`` are generators of I/O steps, which the streams perform.
    """

    _long_read_bytes = _READ_BYTES

    def __init__(self, sock: socket.socket, sessions: tuple[_TlsSession, ...] = ()) -> None:
        self._sock = sock
        self._sessions = sessions
        self._held_byte = b""
        self._answered = False
        self._read_bytes = _FIRST_READ_BYTES
        self._late_since: float | None = None

    def _time_to_receive(self, timeout: float | None) -> float | None:
        """Return the seconds to wait for bytes, or None for ever.

        Raises:
            TimeoutError: The deadline passed a while ago.
        """
        seconds = seconds_left(timeout)
        if seconds is None or seconds > 0:
            self._late_since = None
            return seconds
        now = time.monotonic()
        if self._late_since is None:
            self._late_since = now
        if now - self._late_since > _LATE_SECONDS:
            raise TimeoutError(TIMED_OUT)
        return 0.0

    def _read_steps(self, max_bytes: int) -> _Steps[bytes | memoryview]:
        """Read all bytes that are there but the last one, which the next read returns.

        The parser asks for that byte if it is part of the reply. If the reply has ended before it, the byte stays, and
        the connection is closed instead of used again: docs/adr/0002-own-network-streams.md.
        """
        if self._held_byte:
            held, self._held_byte = self._held_byte, b""
            return held
        if max_bytes < _MIN_HTTP_READ_BYTES:
            return (yield from self._receive_steps(max_bytes))
        data = yield from self._receive_steps(self._read_bytes)
        self._answered = True
        if len(data) > _FIRST_READ_BYTES // 2:
            self._read_bytes = self._long_read_bytes
        if len(data) < 2:  # noqa: PLR2004
            return data
        self._held_byte = data[-1:]
        return memoryview(data)[:-1]

    def _receive_steps(self, max_bytes: int) -> _Steps[bytes]:
        """Receive bytes; none at the end of the connection or a TLS session: the HTTP parser notices missing ones."""
        while not any(tls.has_ended for tls in self._sessions):
            data = yield max_bytes
            if not data:
                break
            for tls in self._sessions:
                data = tls.decrypt(data)
            if data:
                return data
        return b""

    def _write_steps(self, data: bytes) -> _Steps[None]:
        """Write ``data``. The first write of a further request checks that the connection is idle.

        Raises:
            httpcore.ConnectionNotAvailable: The server has closed the connection or sent more than its reply. The pool
                then takes another connection for the request, of which nothing was sent.
        """
        if self._answered and not self._is_idle():
            raise httpcore.ConnectionNotAvailable
        self._answered, self._read_bytes = False, _FIRST_READ_BYTES
        yield self._encrypt(data)

    def _is_idle(self) -> bool:
        if self._held_byte or any(tls.pending or tls.has_ended for tls in self._sessions):
            return False
        try:
            self._sock.setblocking(False)
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _encrypt(self, data: bytes) -> bytes:
        for tls in reversed(self._sessions):
            data = tls.encrypt(data)
        return data

    def _tls_steps(self, context: ssl.SSLContext, server_hostname: str | None) -> _Steps[tuple[_TlsSession, ...]]:
        """Return the sessions with a further one inside them."""
        tls = _TlsSession(context, server_hostname)
        done, data = tls.handshake(None)
        while not done:
            yield self._encrypt(data)
            done, data = tls.handshake((yield from self._receive_steps(_READ_BYTES)))
        yield self._encrypt(data)
        return *self._sessions, tls

    def get_extra_info(self, info: str) -> Any:
        # Asked of each idle connection at each request. write() looks at the socket:
        # docs/adr/0002-own-network-streams.md.
        if info == "is_readable":
            return bool(self._held_byte) or self._sock.fileno() < 0
        if info == "ssl_object":
            return self._sessions[-1].object if self._sessions else None
        if info == "socket":
            return self._sock
        return None


# --- sync ---


class _Stream(_Connection, httpcore.NetworkStream):  # type: ignore[misc] # the library is known only when this runs
    """A sync connection."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes | memoryview:
        with _read_errors():
            return self._perform(self._read_steps(max_bytes), timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            with _write_errors():
                self._perform(self._write_steps(buffer), timeout)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        try:
            with _connect_errors():
                sessions = self._perform(self._tls_steps(ssl_context, server_hostname), timeout)
                return _Stream(self._sock, sessions)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._sock.close()

    def _perform(self, steps: _Steps[T], timeout: float | None) -> T:
        result: Any = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            if isinstance(step, int):
                self._sock.settimeout(self._time_to_receive(timeout))
                result = self._sock.recv(step)
            else:
                self._send(step, timeout)
                result = None

    def _send(self, data: bytes, timeout: float | None) -> None:
        view = memoryview(data)
        while view:
            seconds = seconds_left(timeout)
            self._sock.settimeout(None if seconds is None else max(0.0, seconds))
            view = view[self._sock.send(view) :]


class Backend(httpcore.NetworkBackend):  # type: ignore[misc]
    """Opens sync connections."""

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **_: Any) -> _Stream:
        """Connect to the first of the host's addresses that answers. Our pools set no further options."""
        with _connect_errors():
            return _Stream(connect(host, port, seconds_left(timeout)))


# --- async ---


class _AsyncStream(_Connection, httpcore.AsyncNetworkStream):  # type: ignore[misc]
    """An async connection, of one event loop of asyncio's."""

    _long_read_bytes = _ASYNC_READ_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes | memoryview:
        with _read_errors():
            data = await self._perform(self._read_steps(max_bytes), timeout)
        if len(data) > _BYTES_PER_TURN:
            await asyncio.sleep(0)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            with _write_errors():
                await self._perform(self._write_steps(buffer), timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _AsyncStream:
        try:
            with _connect_errors():
                sessions = await self._perform(self._tls_steps(ssl_context, server_hostname), timeout)
                return _AsyncStream(self._sock, sessions)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        self._sock.close()

    async def _perform(self, steps: _Steps[T], timeout: float | None) -> T:
        result: Any = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            if isinstance(step, int):
                result = await self._receive(step, timeout)
            else:
                await self._send(step, timeout)
                result = None

    async def _receive(self, max_bytes: int, timeout: float | None) -> bytes:
        sock, seconds = self._sock, self._time_to_receive(timeout)
        with contextlib.suppress(BlockingIOError):
            return sock.recv(max_bytes)
        with anyio.move_on_after(seconds), interruptible():
            return await asyncio.get_running_loop().sock_recv(sock, max_bytes)
        return sock.recv(max_bytes)  # after the deadline, as in the sync stream

    async def _send(self, data: bytes, timeout: float | None) -> None:
        sock, view = self._sock, memoryview(data)
        with interruptible():
            with contextlib.suppress(BlockingIOError):
                view = view[sock.send(view) :]
            if view:
                with cancel_after(seconds_left(timeout)):
                    await asyncio.get_running_loop().sock_sendall(sock, view)


@contextlib.contextmanager
def cancel_after(seconds: float | None, error: type[Exception] = TimeoutError) -> Iterator[None]:
    """Cancel the block after ``seconds``, and raise ``error``."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise error(TIMED_OUT)


class AsyncBackend(httpcore.AsyncNetworkBackend):  # type: ignore[misc]
    """Opens async connections, of the running event loop."""

    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, **_: Any) -> _AsyncStream:
        """Connect to the first of the host's addresses that answers. Our pools set no further options."""
        with _connect_errors(), cancel_after(seconds_left(timeout)), interruptible():
            return _AsyncStream(await aconnect(host, port))

"""HTTP/1.1 over plain sockets, by the standard library, below the SDK's HTTP client.

``httpx`` reads a reply in parts of 64 KiB, which are copied four times; for vectors that takes five times as long as
``http.client``, which has the kernel put the whole body where it stays. Only the way over the wire is another one: URL,
headers, limits and errors are the HTTP client's.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

from nanogpt_core.http.deadline import shortened

__all__ = ["Wire"]

_KEPT = 64
_KEPT_SECONDS = 5.0  # as httpx does; servers hang up on those that idle for longer
_PART = 1 << 18


class Wire:
    """Connections to any number of servers, kept for the next request. Thread-safe.

    Args:
        library: ``httpx`` or ``httpx2``: its errors and responses are used.
        tls: The settings for ``https``.
    """

    def __init__(self, library: ModuleType, tls: ssl.SSLContext) -> None:
        self._library = library
        tls.sslsocket_class = _TlsSocket
        self._tls = tls
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []

    def send(self, request: Any) -> Any:
        """Send a request, and return the response when its headers are there."""
        connection = self._connection(request)
        limits = request.extensions.get("timeout", {})
        try:
            with self._errors("Write"):
                connection.open(limits.get("connect"))
                connection.begin(request, limits)
            with self._errors("Read"):
                response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]
        stream = _stream_class(self._library)(self._body(connection, response), connection, response)
        return self._library.Response(response.status, headers=headers, stream=stream)

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connection(self, request: Any) -> _Connection:
        url = request.url
        tls = self._tls if url.scheme == "https" else None
        # As it goes on the wire: the socket module would turn letters outside ASCII into another name.
        origin = (url.scheme, url.raw_host.decode("ascii"), url.port or (443 if tls else 80))
        with self._lock:
            now = time.monotonic()
            stale = [one for one in self._idle if one.idle_since < now - _KEPT_SECONDS]
            fitting = [one for one in self._idle if one.origin == origin and one not in stale]
            chosen = fitting[-1] if fitting else None
            self._idle = [one for one in self._idle if one is not chosen and one not in stale]
        for one in stale:
            one.close()
        if chosen is None:
            return _Connection(origin, tls, self._connect_errors)
        if chosen.hung_up:
            chosen.close()
            return self._connection(request)
        return chosen

    def _keep(self, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(connection)
            # The newest is the likeliest to be wanted again.
            oldest = self._idle.pop(0) if len(self._idle) > _KEPT else None
        if oldest is not None:
            oldest.close()

    def _body(self, connection: _Connection, response: http.client.HTTPResponse) -> Iterator[bytes]:
        with self._errors("Read"):
            # Events are handed on as they come, whether or not it is known how many bytes they will be.
            if response.length is None:
                while part := response.read1(_PART):
                    yield part
            elif "event-stream" in response.getheader("content-type", ""):
                yield from _counted(response)
            else:
                yield response.read()
        response.close()
        if response.will_close or connection.sock.leftover:
            connection.close()
        else:
            self._keep(connection)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        library: Any = self._library
        try:
            yield
        # Without the frames below, whose variables hold the request's headers, and the key in them.
        except TimeoutError as error:
            raise getattr(library, f"{what}Timeout")(str(error) or "timed out") from error.with_traceback(None)
        except OSError as error:
            raise getattr(library, f"{what}Error")(str(error)) from error.with_traceback(None)
        except (http.client.HTTPException, ValueError) as error:
            words = f"{error or 'no whole HTTP reply'}"
            raise library.RemoteProtocolError(words) from error.with_traceback(None)

    def _connect_errors(self) -> contextlib.AbstractContextManager[None]:
        return self._errors("Connect")


def _counted(response: http.client.HTTPResponse) -> Iterator[bytes]:
    # HTTPResponse.read1() does not count in all versions of Python.
    fp: Any = response.fp
    left = response.length or 0
    while left:
        part: bytes = fp.read1(min(left, _PART))
        if not part:
            raise http.client.IncompleteRead(b"", left)
        left -= len(part)
        yield part


@cache
def _stream_class(library: Any) -> type[Any]:
    class Stream(library.SyncByteStream):  # type: ignore[misc] # known only when this runs
        """The body: read once, or closed unread."""

        def __init__(self, body: Iterator[bytes], connection: _Connection, response: Any) -> None:
            self._body, self._connection, self._response = body, connection, response
            self._read = False

        def __iter__(self) -> Iterator[bytes]:
            yield from self._body
            self._read = True

        def close(self) -> None:
            if not self._read:
                self._response.close()
                self._connection.close()

    return Stream


class _Bounded:
    """What both kinds of socket have: reads that together keep to the bounds of the attempt.

    Attributes:
        limit: Seconds that one read may take, or None.
        leftover: Whether more was read than the reply had.
    """

    limit: float | None = None
    leftover = False
    _dry = False

    def recv_into(self, *args: Any) -> int:
        if self._dry:
            raise BlockingIOError(errno.EAGAIN, "nothing more is to be read")
        sock: Any = super()
        sock.settimeout(shortened(self.limit, TimeoutError))
        count: int = sock.recv_into(*args)
        return count

    def makefile(self, *_: Any) -> io.BufferedReader:
        sock: Any = super()
        return _Reader(sock.makefile("rb", buffering=0), self)

    def look_for_leftover(self, reader: io.BufferedReader) -> None:
        """Note whether there is anything left in the reader's memory."""
        self._dry = True
        with contextlib.suppress(OSError):  # raised again, where the reading itself has failed
            self.leftover = self.leftover or bool(reader.peek(1))
        self._dry = False


class _Reader(io.BufferedReader):
    """Reads one reply."""

    def __init__(self, raw: io.RawIOBase, sock: _Bounded) -> None:
        super().__init__(raw)
        self._sock = sock

    def close(self) -> None:
        if not self.closed:
            self._sock.look_for_leftover(self)
        super().close()


class _Socket(_Bounded, socket.socket):  # type: ignore[misc] # makefile is for http.client alone
    pass


class _TlsSocket(_Bounded, ssl.SSLSocket):  # type: ignore[misc] # see above
    pass


class _Response(http.client.HTTPResponse):
    """A response that comes after any number of informational ones."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        # Of these, the base class passes over 100 alone.
        passing = 100 < status < 200 and status != http.client.SWITCHING_PROTOCOLS  # noqa: PLR2004
        return version, http.client.CONTINUE if passing else status, reason


class _Connection(http.client.HTTPConnection):
    """A connection to one server."""

    sock: Any
    idle_since = 0.0
    debuglevel = 0  # whoever sets the base class's gets to see every header
    response_class = _Response

    def __init__(
        self,
        origin: tuple[str, str, int],
        tls: ssl.SSLContext | None,
        errors: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        super().__init__(*origin[1:])
        self.origin = origin
        self._tls = tls
        self._errors = errors

    @property
    def hung_up(self) -> bool:
        """Whether the server has closed it, or sent what nobody asked for."""
        if self.sock is None:
            return True
        if not hasattr(select, "poll"):
            return bool(select.select([self.sock], [], [], 0)[0])
        poll = select.poll()  # select() knows the first 1,024 files alone
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def open(self, seconds: float | None) -> None:
        """Connect, where that is not done yet."""
        if self.sock is not None:
            return
        with self._errors():
            plain = _connected(self.origin[1:], seconds)
            try:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.settimeout(shortened(seconds, TimeoutError))
                self.sock = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=self.origin[1])
            except BaseException:
                plain.close()
                raise

    def begin(self, request: Any, limits: dict[str, float | None]) -> None:
        """Send a request."""
        self.sock.limit = limits.get("read")
        self.sock.settimeout(shortened(limits.get("write"), TimeoutError))
        self.putrequest(request.method, request.url.raw_path.decode("ascii"), skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.raw:
            self.putheader(name, value)
        self.endheaders(request.read())


def _connected(address: tuple[str, int], seconds: float | None) -> _Socket:
    """Connect to the first of a host's addresses that answers; ``seconds`` are for all of them."""
    until = None if seconds is None else time.monotonic() + seconds
    failure: OSError = OSError("the host has no address")
    for family, kind, protocol, _, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        sock = _Socket(family, kind, protocol)
        try:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(shortened(left, TimeoutError))
            sock.connect(place)
        except OSError as error:
            failure = error
            sock.close()
        else:
            return sock
    raise failure

"""A server on loopback that sends exactly the bytes it is told to, when it is told to."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.faults.vectors import MODEL, WIDTH, document

if TYPE_CHECKING:
    from typing_extensions import Self

_TLS_HELLO = b"\x16"


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds before the next bytes."""

    seconds: float


@dataclass(frozen=True)
class End:
    """End the connection; with a reset, bytes under way are lost."""

    reset: bool = False


Step = bytes | Pause | End


@dataclass(frozen=True)
class Request:
    """One request as it came in; ``number`` counts the embedding requests of one measurement from 1."""

    method: str
    path: str
    head: str
    body: bytes
    number: int

    @property
    def asked(self) -> dict[str, Any]:
        """Return the request's body."""
        return json.loads(self.body)

    @property
    def texts(self) -> list[str]:
        """The texts to embed."""
        texts = self.asked["input"]
        return [texts] if isinstance(texts, str) else texts

    @property
    def encoding(self) -> str:
        """Return the encoding that the request asks for."""
        return self.asked.get("encoding_format", "float")


Reply = Callable[[Request], Iterable[Step]]


def response(body: Any, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """Return the bytes of a whole response. Neither bytes nor text goes out as JSON."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(data)}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def right_document(request: Request) -> dict[str, Any]:
    """Return the right answer to a request, as it goes into JSON."""
    return document(request.texts, request.encoding)


def good(request: Request) -> list[Step]:
    """Answer a request rightly."""
    return [response(right_document(request))]


class Server:
    """Serves on loopback while in its ``with`` block, a thread for each connection.

    Args:
        reply: Answers the embedding requests.
        address: A loopback address.
        tls: Makes connections secure; None for plain HTTP.
        other: Replacement for ``{other}`` in a reply.
    """

    def __init__(
        self, reply: Reply, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None, other: str = ""
    ) -> None:
        self.requests: list[Request] = []
        self.broken: Exception | None = None
        self._reply = reply
        self._tls = tls
        self._other = other.encode()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((address, 0), backlog=128)
        self.host = f"{address}:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def embedding_requests(self) -> list[Request]:
        """The requests for vectors."""
        return [request for request in self.requests if request.method == "POST"]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        with contextlib.suppress(OSError), plain:
            if self._tls is not None:
                plain.settimeout(10)
                connection = self._tls.wrap_socket(plain, server_side=True)
            with self._lock:
                self._open.add(connection)
            try:
                with connection:
                    while (request := self._read(connection)) and self._answer(connection, request):
                        pass
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                self.broken = error
            finally:
                with self._lock:
                    self._open.discard(connection)

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        for step in self._steps(request):
            if isinstance(step, Pause):
                if self._stop.wait(step.seconds):
                    return False
            elif isinstance(step, End):
                if step.reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            else:
                connection.sendall(step.replace(b"{other}", self._other))
        return True

    def _steps(self, request: Request) -> Iterable[Step]:
        if request.method == "POST":
            return self._reply(request) if _is_json(request.body) else [response("no JSON", 400)]
        if request.path.endswith("/seen"):
            return [response(str(len(self.embedding_requests)))]
        if request.path.endswith("/embedding-models"):
            return [response({"object": "list", "data": [{"id": MODEL, "dimensions": WIDTH}]})]
        return [response({"error": {"message": "no such path"}}, 404)]

    def _read(self, connection: socket.socket) -> Request | None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
            if data[:1] == _TLS_HELLO:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return None
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(fields.get("content-length", 0))
        while len(body) < size:
            more = connection.recv(65536)
            if not more:
                return None
            body += more
        with self._lock:
            number = 1 + len(self.embedding_requests)
            request = Request(method, path, head.decode("latin-1"), body, number)
            self.requests.append(request)
        return request


def _is_json(body: bytes) -> bool:
    # Two processes that write to one socket mix their requests.
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def trickle(data: bytes, every: float) -> Iterator[Step]:
    """Yield ``data`` a byte at a time, then blanks for ever."""
    for byte in data:
        yield bytes([byte])
        yield Pause(every)
    while True:
        yield b" "
        yield Pause(every)

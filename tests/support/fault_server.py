"""HTTP server on raw sockets, for responses that a proper server would not send: any bytes, resets, delays."""

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import Self

RESET = object()
"""Return value of a handler that resets the connection."""

WIDTH = 6
"""Floats in the vectors of :func:`vector_of`."""


@dataclass
class Seen:
    """One request, as received."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    raw_head: bytes
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def texts(self) -> list[str]:
        return self.json["input"]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Closing(bytes):
    """Bytes after which the server closes the connection."""


def vector_of(text: str, width: int = WIDTH) -> np.ndarray:
    """Return the vector that :func:`good` gives ``text``: different for each text, and never zero."""
    digest = hashlib.sha256(text.encode()).digest() * (width // 16 + 1)
    numbers = np.frombuffer(digest, dtype="<u2")[:width].astype(np.float32) / np.float32(65536)
    numbers[0] += 1
    return numbers


def response(body: bytes | str | object = b"", status: int = 200, **headers: str) -> bytes:
    """Return the bytes of an HTTP response; a body that is neither bytes nor text is sent as JSON."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def document(texts: list[str], encoding: str = "base64", width: int = WIDTH, tokens: int | None = None) -> dict:
    """Return the correct embeddings document for ``texts``."""
    rows = [vector_of(text, width) for text in texts]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(row.tobytes()).decode() if encoding == "base64" else row.tolist(),
        }
        for index, row in enumerate(rows)
    ]
    count = tokens if tokens is not None else sum(map(len, texts))
    return {"object": "list", "data": data, "usage": {"prompt_tokens": count, "total_tokens": count}}


def good(seen: Seen) -> bytes:
    """Answer an embeddings request correctly."""
    asked = seen.json
    return response(document(asked["input"], asked.get("encoding_format", "float"), asked.get("dimensions", WIDTH)))


def secured(authority: Any, name: str = "127.0.0.1") -> ssl.SSLContext:
    """Return the settings of a server with a certificate of trustme's ``authority`` for ``name``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


class FaultServer:
    """Serves on loopback while in its ``with`` block; a thread a connection.

    Args:
        answer: Gets each request, in the connection's own thread so that it may wait for an event, and returns the
            bytes to send, an iterable of such, or RESET. The connection is kept, unless they are :class:`Closing`.
        tls: The server's certificate, if connections are to be secured.
        reads_body: False to answer as soon as the head of a request is there, and then to close the connection.
    """

    def __init__(
        self, answer: Callable[[Seen], Any] = good, tls: ssl.SSLContext | None = None, *, reads_body: bool = True
    ) -> None:
        self.answer = answer
        self._reads_body = reads_body
        self._tls = tls
        self.requests: list[Seen] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}/api/v1"
        self.api_key = "sk-nano-fault"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            open_ones = list(self._sockets)
        for connection in open_ones:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a handler of the fault server hangs"
        if self.errors:
            raise self.errors[0]

    @property
    def open_connections(self) -> int:
        return len(self._sockets)

    def clear(self) -> None:
        self.requests.clear()
        self.most_in_flight = 0

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; it is checked when a request begins or ends."""
        with self._changed:
            assert self._changed.wait_for(condition, 60), "what was waited for did not come"

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._sockets.add(connection)
            self._start(self._serve, connection, self.connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(connection)
                stack.enter_context(contextlib.suppress(OSError))
                if self._tls is not None:
                    plain, connection = connection, self._tls.wrap_socket(connection, server_side=True)
                    stack.enter_context(connection)
                    with self._changed:
                        self._sockets.remove(plain)
                        self._sockets.add(connection)
                while seen := self._read(connection, number):
                    self._reply(connection, seen)
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread, at the end of the block
            self.errors.append(error)
        finally:
            with self._changed:
                self._sockets.discard(connection)
                self._changed.notify_all()

    def _reply(self, connection: socket.socket, seen: Seen) -> None:
        with self._changed:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self._changed.notify_all()
        try:
            answer = self.answer(seen)
        finally:
            with self._changed:
                self.in_flight -= 1
                self._changed.notify_all()
        if answer is RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            raise OSError("reset on purpose")
        for part in [answer] if isinstance(answer, bytes) else answer:
            connection.sendall(part)
            if isinstance(part, Closing):
                raise OSError("closed on purpose")
        if not self._reads_body:
            raise OSError("closed on purpose")

    def _read(self, connection: socket.socket, number: int) -> Seen | None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            if not more:
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        size = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        while len(body) < size and self._reads_body:
            more = connection.recv(1 << 20)
            if not more:
                return None
            body += more
        with self._changed:
            seen = Seen(method, path, headers, head, body, number)
            self.requests.append(seen)
        return seen

"""Programs on bare sockets: an upper bound for Python clients."""

import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import orjson
from jiter import from_json
from numpy.typing import NDArray
from pybase64 import b64decode

from benchmarks.speed.setup import Setup
from benchmarks.speed.vectors import MODEL, WIDTH, in_turn

REQUEST = 64  # measured best: a reply of half a megabyte stays in the processor's own memory
_ROOM = 8300  # bytes of a reply for each text, and so many times around them


class Connection:
    """A connection that sends requests one after another and reads each reply into the same memory."""

    def __init__(self, setup: Setup, most: int = REQUEST) -> None:
        self._socket = socket.create_connection(("127.0.0.1", setup.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if setup.authority:
            context = ssl.create_default_context(cafile=setup.authority)
            self._socket = context.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._memory = memoryview(bytearray(_ROOM * (most + 10)))

    def ask(self, texts: Any) -> memoryview:
        """Send one request; return the reply's body, which holds until the next one."""
        body = orjson.dumps({"input": texts, "model": MODEL, "encoding_format": "base64"})
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        have = start = end = 0
        while not end or have < end:
            count = self._socket.recv_into(self._memory[have:])
            assert count, "the server hung up"
            have += count
            if not end:
                head_end = bytes(self._memory[:1000]).find(b"\r\n\r\n")
                if head_end >= 0:
                    head_bytes = bytes(self._memory[:head_end]).lower()
                    start = head_end + 4
                    end = start + int(head_bytes.split(b"content-length:")[1].split(b"\r\n")[0])
        return self._memory[start:end]


def discard(setup: Setup) -> Callable[[list[str]], None]:
    """Read the bytes and do nothing."""
    connection = Connection(setup)

    def run(texts: list[str]) -> None:
        for part in in_turn(texts, REQUEST):
            connection.ask(part)

    return run


def parse(setup: Setup) -> Callable[[list[str]], None]:
    """Read the bytes and parse the JSON."""
    connection, items = Connection(setup), _reader()

    def run(texts: list[str]) -> None:
        for part in in_turn(texts, REQUEST):
            items(connection.ask(part))

    return run


class Item(msgspec.Struct, gc=False):
    """A vector in a reply."""

    index: int
    embedding: str


class Reply(msgspec.Struct, gc=False):
    """A reply."""

    data: list[Item]


def _reader() -> Callable[[memoryview], list[Item]]:
    decode = msgspec.json.Decoder(Reply).decode
    return lambda body: decode(body).data


def matrix(setup: Setup, most: int = 1, request: int = REQUEST) -> Callable[[list[str]], NDArray[np.float32]]:
    """Make one float32 matrix."""
    here = threading.local()

    def run(texts: list[str]) -> NDArray[np.float32]:
        answer = np.empty((len(texts), WIDTH), dtype=np.float32)

        def one(start: int) -> None:
            if not hasattr(here, "connection"):
                here.connection = Connection(setup, request)
            part = texts[start : start + request]
            data = from_json(bytes(here.connection.ask(part)), cache_mode="keys")["data"]
            rows = b64decode("".join([item["embedding"] for item in data]), validate=True)
            answer[start : start + len(part)] = np.frombuffer(rows, dtype="<f4").reshape(len(part), WIDTH)

        each(one, range(0, len(texts), request))
        return answer

    each = _each(most)
    return run


def _each(most: int) -> Callable[[Callable[[int], None], range], None]:
    if most == 1:
        return lambda work, starts: [work(start) for start in starts] and None
    executor = ThreadPoolExecutor(most)
    return lambda work, starts: list(executor.map(work, starts)) and None


def lists(setup: Setup, most: int = 1, request: int = REQUEST) -> Callable[[list[str]], list[list[float]]]:
    """Make lists of floats, naively: each vector by itself, with the garbage collector as it is."""
    items = _reader()
    here = threading.local()

    def run(texts: list[str]) -> list[list[float]]:
        answer: list[list[float]] = [[]] * len(texts)

        def one(start: int) -> None:
            if not hasattr(here, "connection"):
                here.connection = Connection(setup, request)
            for place, item in enumerate(items(here.connection.ask(texts[start : start + request])), start):
                answer[place] = np.frombuffer(b64decode(item.embedding), dtype="<f4").tolist()

        each(one, range(0, len(texts), request))
        return answer

    each = _each(most)
    return run


def query(setup: Setup) -> Callable[[str], Any]:
    """Embed one text."""
    items, connection = _reader(), Connection(setup, 1)
    return lambda text: np.frombuffer(b64decode(items(connection.ask([text]))[0].embedding), dtype="<f4")

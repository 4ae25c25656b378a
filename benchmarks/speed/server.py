"""A server for embeddings that does nothing but send bytes: one thread, epoll, prepared replies.

It reads of a request only how many texts it has and whether it asks for base64. Text number i of a request gets vector
number i of :mod:`~benchmarks.speed.vectors`. Its maximum throughput is a line of the results.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import selectors
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.speed import vectors

_MOST_SENT = 1 << 20  # bytes for one connection before the others have their turn
_RECEIVED = 1 << 20


class Replies:
    """Prepared bodies: any number of items is a prefix of one long row of them."""

    def __init__(self) -> None:
        self._rows: dict[bool, tuple[memoryview, list[int]]] = {}

    def body(self, count: int, base64: bool) -> list[memoryview]:
        """Return the parts of a reply to ``count`` texts."""
        if base64 not in self._rows:
            self._rows[base64] = _joined(vectors.items_in_base64() if base64 else vectors.items_in_floats())
        row, ends = self._rows[base64]
        return _around(row[: ends[count]], count)


def _around(items: memoryview, count: int) -> list[memoryview]:
    usage = json.dumps({"prompt_tokens": count * 120, "total_tokens": count * 120})
    tail = f'],"model":"{vectors.MODEL}","usage":{usage}}}'.encode()
    return [memoryview(b'{"object":"list","data":['), items, memoryview(tail)]


class DistinctReplies:
    """Bodies in base64 with vectors in turn, so that a vector store gets hardly any vector twice.

    An index of a vector store would take its time for many equal vectors, and each client would give it others.

    Args:
        count: How many vectors there are.
    """

    def __init__(self, count: int) -> None:
        self._vectors = [vectors.in_base64(row).encode() for row in vectors.distinct(count)]
        self._next = 0

    def body(self, count: int, base64: bool) -> list[memoryview]:
        """Return the parts of a reply to ``count`` texts."""
        assert base64 or count == 0, "not prepared"
        places = ((self._next + index) % len(self._vectors) for index in range(count))
        items = [
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, self._vectors[place])
            for index, place in enumerate(places)
        ]
        self._next += count
        return _around(memoryview(b",".join(items)), count)


def _joined(items: list[bytes]) -> tuple[memoryview, list[int]]:
    ends, end = [0], -1
    for item in items:
        end += len(item) + 1
        ends.append(end)
    return memoryview(b",".join(items)), ends


def texts_in(body: bytes | bytearray | memoryview) -> int:
    """Return how many texts a request's body holds; quotes and brackets do not occur within the texts."""
    body = bytes(body)
    start = body.index(b'"input"') + len(b'"input"')
    while body[start] in b" :":
        start += 1
    if body[start : start + 1] == b'"':
        return 1
    if body[start + 1 : start + 16].lstrip()[:1] == b"[":  # lists of tokens
        return body.count(b"[", start) - 1
    return body.count(b'"', start, body.index(b"]", start)) // 2


class Limiter:
    """Grants so many requests in any second, and counts them."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._granted: deque[float] = deque()
        self.refused = 0

    def grants(self) -> bool:
        """Return True if the request that is there now is granted."""
        now = time.monotonic()
        while self._granted and self._granted[0] <= now - 1:
            self._granted.popleft()
        if self._rate and len(self._granted) >= self._rate:
            self.refused += 1
            return False
        if self._rate:
            self._granted.append(now)
        return True


@dataclass(eq=False)
class Peer:
    """One connection."""

    socket: socket.socket
    shaking: bool
    received: bytearray = field(default_factory=bytearray)
    needed: int = 0
    head: int = 0
    sending: deque[memoryview] = field(default_factory=deque)
    writing: bool = False


class Server:
    """Serves until it is killed.

    Args:
        options: As :func:`main` parses them.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._replies = DistinctReplies(options.distinct) if options.distinct else Replies()
        self._limiter = Limiter(options.rate)
        self._waiting: list[tuple[float, int, Peer, list[memoryview]]] = []
        self._number = self._requests = 0
        self._events = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self._context: ssl.SSLContext | None = None
        if options.certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(options.certificate)
        self._events.register(self._listener, selectors.EVENT_READ, None)
        self._replies.body(0, base64=True)  # made now; those of numbers, four times as long, when they are asked for

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    def serve(self) -> None:
        """Answer requests."""
        while True:
            wait = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            for key, mask in self._events.select(wait):
                if key.data is None:
                    self._accept()
                else:
                    self._guarded(self._turn, key.data, mask)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, peer, parts = heapq.heappop(self._waiting)
                self._guarded(self._start_sending, peer, parts)

    def _guarded(self, work: Callable[..., None], peer: Peer, *args: object) -> None:
        try:
            work(peer, *args)
        except (ssl.SSLWantReadError, BlockingIOError):
            self._watch(peer, writing=False)
        except ssl.SSLWantWriteError:
            self._watch(peer, writing=True)
        except (OSError, ValueError):  # gone, or talking another protocol
            self._drop(peer)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context:
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._events.register(connection, selectors.EVENT_READ, Peer(connection, shaking=self._context is not None))

    def _watch(self, peer: Peer, *, writing: bool) -> None:
        if peer.writing != writing:
            peer.writing = writing
            self._events.modify(peer.socket, selectors.EVENT_WRITE if writing else selectors.EVENT_READ, peer)

    def _drop(self, peer: Peer) -> None:
        self._waiting = [entry for entry in self._waiting if entry[2] is not peer]
        heapq.heapify(self._waiting)
        self._events.unregister(peer.socket)
        peer.socket.close()

    def _turn(self, peer: Peer, mask: int) -> None:
        if peer.shaking:
            peer.socket.do_handshake()  # type: ignore[attr-defined]
            peer.shaking = False
            self._watch(peer, writing=False)
        elif peer.sending:
            self._send(peer)
        elif mask:
            self._receive(peer)

    def _receive(self, peer: Peer) -> None:
        while True:
            data = peer.socket.recv(_RECEIVED)
            if not data:
                raise ConnectionResetError
            peer.received += data
            if not peer.needed:
                self._read_head(peer)
            if peer.needed and len(peer.received) >= peer.needed:
                body = peer.received[peer.head : peer.needed]
                target = bytes(peer.received[:64])
                peer.received = peer.received[peer.needed :]
                peer.needed = 0
                self._answer(peer, target, body)
                return

    @staticmethod
    def _read_head(peer: Peer) -> None:
        end = peer.received.find(b"\r\n\r\n")
        if end < 0:
            return
        peer.head = end + 4
        head = bytes(peer.received[:end]).lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        peer.needed = peer.head + length

    def _answer(self, peer: Peer, target: bytes, body: bytearray) -> None:
        if target.startswith(b"GET /statistics"):
            self._start_sending(peer, _response(200, [memoryview(json.dumps(self._statistics()).encode())]))
            return
        if not self._limiter.grants():
            error = b'{"error":{"message":"Too many requests.","code":"rate_limited"}}'
            self._start_sending(peer, _response(429, [memoryview(error)], "Retry-After: 1\r\n"))
            return
        count = texts_in(body)
        self._requests += 1
        parts = _response(200, self._replies.body(count, b"base64" in body[:300] or b"base64" in body[-300:]))
        delay = (self._options.latency + self._options.per_text * count) / 1000
        if delay:
            self._number += 1
            heapq.heappush(self._waiting, (time.monotonic() + delay, self._number, peer, parts))
        else:
            self._start_sending(peer, parts)

    def _statistics(self) -> dict[str, object]:
        counts: dict[str, object] = {"requests": self._requests, "refused": self._limiter.refused}
        self._requests = self._limiter.refused = 0
        return counts

    def _start_sending(self, peer: Peer, parts: list[memoryview]) -> None:
        peer.sending.extend(parts)
        self._send(peer)

    def _send(self, peer: Peer) -> None:
        sent = 0
        while peer.sending:
            part = peer.sending[0]
            try:
                count = peer.socket.send(part[:_MOST_SENT])
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._watch(peer, writing=True)
                return
            sent += count
            if count == len(part):
                peer.sending.popleft()
            else:
                peer.sending[0] = part[count:]
            if sent >= _MOST_SENT and peer.sending:
                self._watch(peer, writing=True)
                return
        self._watch(peer, writing=False)


def _response(status: int, parts: list[memoryview], headers: str = "") -> list[memoryview]:
    length = sum(map(len, parts))
    words = "OK" if status == 200 else "Too Many Requests"
    head = f"HTTP/1.1 {status} {words}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n"
    return [memoryview(head.encode()), *parts]


def main() -> None:
    """Print the port and serve."""
    parser = argparse.ArgumentParser(description="A server for embeddings that sends prepared bytes.")
    parser.add_argument("--core", type=int, help="the core to run on")
    parser.add_argument("--latency", type=float, default=0, help="milliseconds before each reply")
    parser.add_argument("--per-text", type=float, default=0, help="milliseconds more for each text of a request")
    parser.add_argument("--rate", type=int, default=0, help="requests granted a second")
    parser.add_argument("--distinct", type=int, default=0, help="so many different vectors in turn, in base64 only")
    parser.add_argument("--certificate", help="file with key and certificate, for TLS")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    server = Server(options)
    print(server.port, flush=True)
    sys.stdout.close()
    server.serve()


if __name__ == "__main__":
    main()

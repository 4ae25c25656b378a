"""Faults on the way: connections, certificates, redirects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from benchmarks.faults.fault import ERROR, OURS_RETRY, RIGHT, Fault, always, once
from benchmarks.faults.server import End, Pause, Reply, Request, Step, good, response, right_document, trickle
from benchmarks.faults.vectors import KEY

TIMEOUT = 1.5
"""Seconds; the time limit of every client for faults about time."""

_EVERY = 0.25
_FOR_EVER = 600.0


def _right_bytes(request: Request) -> bytes:
    return response(right_document(request))


def _half(*then: Step) -> Reply:
    """Return a reply of half the right bytes, and then these steps."""

    def reply(request: Request) -> list[Step]:
        whole = _right_bytes(request)
        return [whole[: len(whole) // 2], Pause(0.1), *then]

    return reply


def _trickling_body(_: Request) -> Iterator[Step]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90000\r\n\r\n"
    yield from trickle(b'{"data": [', _EVERY)


def _trickling_head(_: Request) -> Iterator[Step]:
    yield from trickle(b"HTTP/1.1 200 OK\r\nX-Filler: ", _EVERY)


def _chunked(whole: bool) -> Reply:
    def reply(request: Request) -> Iterable[Step]:
        body = json.dumps(right_document(request)).encode()
        yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        for start in range(0, len(body) if whole else len(body) // 2, 5000):
            part = body[start : start + 5000]
            yield b"%x\r\n%s\r\n" % (len(part), part)
        yield b"0\r\n\r\n" if whole else End()

    return reply


def _closing(request: Request) -> Iterable[Step]:
    # Closed without a word, right after a whole reply that promised to keep the connection.
    return [*good(request), End()]


def _redirect(status: int) -> Reply:
    return always(response(b"", status, Location="{other}/embeddings"))


_LOST = [
    ("reset before the reply", always(End(reset=True))),
    ("closed before the reply", always(End())),
    ("reset in mid-body", _half(End(reset=True))),
    ("closed in mid-body", _half(End())),
    ("closed in mid-chunks", _chunked(whole=False)),
    ("the response is not HTTP", always(b"220 mail.invalid ESMTP\r\n", End())),
]
LOST = [
    fault
    for name, reply in _LOST
    for fault in (
        Fault("Connections", f"{name}, once", once(reply), RIGHT, 2),
        Fault("Connections", f"{name}, always", reply, most=OURS_RETRY),
    )
]

_STOPPED = _half(Pause(_FOR_EVER))
_SILENT = always(Pause(_FOR_EVER))
SLOW = [
    Fault("Time", name, reply, want, most, task=task, settings={"timeout": TIMEOUT})
    for name, reply, want, most, task in (
        ("a body that trickles for ever", _trickling_body, ERROR, OURS_RETRY, "embed"),
        ("headers that trickle for ever", _trickling_head, ERROR, OURS_RETRY, "embed"),
        ("a body that stops in its middle", _STOPPED, ERROR, OURS_RETRY, "embed"),
        ("no answer at all", _SILENT, ERROR, OURS_RETRY, "embed"),
        ("no answer once", once(_SILENT), RIGHT, 2, "embed"),
        ("a body that trickles, in asyncio", _trickling_body, ERROR, OURS_RETRY, "in_loop"),
        ("headers that trickle, in asyncio", _trickling_head, ERROR, OURS_RETRY, "in_loop"),
        ("no answer at all, in asyncio", _SILENT, ERROR, OURS_RETRY, "in_loop"),
    )
]

UNREACHABLE = [
    Fault("Connections", "right, in chunks", _chunked(whole=True), RIGHT),
    Fault("Connections", "closed while idle", _closing, RIGHT, 3, task="twice"),
    Fault("Connections", "refused", place="refused", most=OURS_RETRY, words=("refused",)),
    Fault("Connections", "unknown host", place="unknown", most=OURS_RETRY, words=("faults.invalid",)),
    Fault("Connections", "certificate of an unknown issuer", place="unknown issuer", words=("certificate",)),
    Fault("Connections", "certificate for another host", place="other host", words=("certificate",)),
    Fault("Connections", "certificate that has expired", place="expired", words=("certificate",)),
    Fault("Connections", "https:// to a plain HTTP server", place="no TLS", words=("ssl",)),
    Fault("Connections", "a good certificate", place="trusted", want=RIGHT),
]

_HEADERS = {"default_headers": {"x-api-key": KEY}}
REDIRECTS = [
    Fault("Redirects", f"{status} to another host", _redirect(status), words=(str(status),), settings=_HEADERS)
    for status in (301, 302, 303, 307, 308)
] + [
    Fault("Redirects", "308 to the same place, for ever", always(response(b"", 308, Location="/v1/embeddings"))),
    Fault("Redirects", "http:// to another machine", place="remote", task="construct", most=0, words=("unencrypted",)),
]

FAULTS = [*LOST, *UNREACHABLE, *SLOW, *REDIRECTS]

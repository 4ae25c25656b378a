"""Limits of one attempt: timeout, deadline and size of the reply."""

import gzip
import resource
import threading
import zlib

import pytest

from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import DamagedReplyError, NanoGPTError, ReplyError, RequestTimeoutError

MIB = 1 << 20


def answer(body, **headers):
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body


@pytest.mark.parametrize(
    ("name", "packing"),
    [
        *(("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP, identity", gzip.compress)),
        *(("utf-8", bytes), ("none", bytes)),  # mistakes of servers
    ],
)
def test_compressed_reply_is_decompressed(embed, serve, faults, name, packing):
    def packed(seen):
        return answer(packing(faults.good(seen).partition(b"\r\n\r\n")[2]), Content_Encoding=name)

    right = [faults.vector_of(text).tolist() for text in ("a", "b")]
    assert embed(serve(packed).embedder(), ["a", "b"]).tolist() == right


def test_decompression_bomb_is_refused_in_bounded_memory(embed, serve):
    bomb = answer(gzip.compress(b" " * (128 * MIB), 1), Content_Encoding="gzip")
    server = serve(lambda _: bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ReplyError, match="larger than"):
        embed(server.embedder(max_retries=3), ["a"])
    assert len(server.requests) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


@pytest.mark.parametrize("length", [True, False], ids=["announced", "unannounced"])
def test_too_large_reply_is_refused(embed, serve, length):
    body = b'{"data": "' + b"x" * (4 * MIB) + b'"}'
    whole = answer(body) if length else b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    with pytest.raises(ReplyError, match="larger than"):
        embed(serve(lambda _: whole).embedder(), ["a"])


def test_too_large_error_body_is_refused(embed, serve):
    whole = answer(b"x" * (4 * MIB)).replace(b"200 OK", b"400 Bad Request")
    with pytest.raises(NanoGPTError, match="larger than"):
        embed(serve(lambda _: whole).embedder(), ["a"])


@pytest.mark.parametrize("cut", [5, 40, -4])
def test_truncated_compressed_reply_is_retried_and_then_refused(embed, serve, faults, cut):
    def packed(seen):
        return answer(gzip.compress(faults.good(seen).partition(b"\r\n\r\n")[2])[:cut], Content_Encoding="gzip")

    server = serve(packed)
    with pytest.raises(DamagedReplyError):
        embed(server.embedder(max_retries=1), ["a"])
    assert len(server.requests) == 2


def test_error_names_a_compression_that_was_not_requested(embed, serve):
    with pytest.raises(ReplyError, match="'br'"):
        embed(serve(lambda _: answer(b"...", Content_Encoding="br")).embedder(), ["a"])


@pytest.fixture
def trickle():
    """An iterator of single bytes that ends with the test."""
    over = threading.Event()

    def drops(first):
        yield first
        while not over.wait(0.02):
            yield b" "

    yield drops
    over.set()


@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 2"],
    ids=["body", "header", "status line"],
)
def test_endless_trickling_reply_is_a_timeout(embed, serve, trickle, first):
    server = serve(lambda _: trickle(first))
    with pytest.raises(RequestTimeoutError):
        embed(server.embedder(timeout=0.3), ["a"])


def test_deadline_is_for_the_whole_call(embed, serve, faults):
    server = serve(lambda _: faults.response("asleep", 503))
    with fake_clock() as waits, pytest.raises(NanoGPTError) as caught:
        embed(server.embedder(max_retries=50, deadline=30.0), ["a"])
    assert waits.seconds <= 30
    assert len(server.requests) < 51
    assert caught.value.failed_positions == (0,)

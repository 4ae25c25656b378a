"""Limits of one attempt: timeout, deadline and size of the reply."""

import contextvars
import gzip
import itertools
import re
import resource
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fresh_process
from fault_server import Closing
from nanogpt_core._runtime.clock import attempt_limits, fake_clock
from nanogpt_core.errors import AuthenticationError, DamagedReplyError, NanoGPTError, ReplyError, RequestTimeoutError
from nanogpt_core.http import network
from nanogpt_core.http.inflater import Inflater
from nanogpt_core.http.network import seconds_left
from nanogpt_core.http.transport import BodyReader

MIB = 1 << 20
HOUR = 3600.0


def answer(body, **headers):
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + body


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def in_members(data):
    return b"".join(gzip.compress(data[start : start + 40]) for start in range(0, len(data) or 1, 40)) + b"\0\0\0"


@pytest.mark.parametrize(
    ("name", "packing"),
    [
        *(("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP, identity", gzip.compress)),
        *(("deflate", raw_deflate), ("gzip", in_members)),
        *(("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),),
        *(("deflate, gzip", lambda data: gzip.compress(raw_deflate(data))),),
        # Mistakes of servers, and of proxies that have unpacked or packed a reply.
        *(("utf-8", bytes), ("none", bytes), ("gzip", bytes), ("gzip", zlib.compress)),
        *(("deflate", bytes), ("identity", gzip.compress), ("gzip, gzip", gzip.compress), ("gzip", raw_deflate)),
    ],
)
def test_compressed_reply_is_decompressed(embed, serve, faults, name, packing):
    def packed(seen):
        return answer(packing(faults.good(seen).partition(b"\r\n\r\n")[2]), Content_Encoding=name)

    right = [faults.vector_of(text).tolist() for text in ("a", "b")]
    server = serve(packed)
    assert embed(server.embedder(), ["a", "b"]).tolist() == right
    assert len(server.requests) == 1


@settings(max_examples=50)
@given(st.binary(max_size=300), st.sampled_from([zlib.compress, gzip.compress, raw_deflate, in_members]), st.data())
def test_body_is_unpacked_in_any_chunks(body, packing, data):
    packed, unpacked = packing(body), b""
    assume(packing is not raw_deflate or packed[:1] not in (b"{", b"["))  # no JSON begins so when it is packed
    inflater = Inflater("deflate" if packing is raw_deflate else "gzip")
    while packed:
        size = data.draw(st.integers(1, len(packed)))
        unpacked, packed = unpacked + inflater.feed(packed[:size], 1000), packed[size:]
    inflater.finish()
    assert unpacked == body


@settings(max_examples=30)
@given(st.binary(max_size=9).filter(lambda body: body[:2] != b"\x1f\x8b"), st.data())
def test_body_that_is_not_compressed_is_unchanged_in_any_chunks(body, data):
    reader, left, unpacked = BodyReader({}), body, b""
    while left:
        size = data.draw(st.integers(1, len(left)))
        unpacked, left = unpacked + reader.feed(left[:size]), left[size:]
    if body != b"\x1f":
        reader.finish()
        assert unpacked == body


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


@pytest.mark.parametrize("more", [0, 1])
def test_limit_of_a_reply_is_the_one_on_the_security_page(embed, serve, faults, more):
    page = Path(__file__).parents[3].joinpath("SECURITY.md").read_text(encoding="utf-8")
    mebibytes, bytes_per_number = re.search(r"(\d+) MiB plus (\d+) bytes per number", page).groups()
    most = int(mebibytes) * MIB + int(bytes_per_number) * 64 * 2

    def padded(seen):
        return answer(faults.good(seen).partition(b"\r\n\r\n")[2].ljust(most + more))

    embedder = serve(padded).embedder(dimensions=64)
    if more:
        with pytest.raises(ReplyError, match=f"larger than {most:,} bytes"):
            embed(embedder, ["a", "b"])
    else:
        assert len(embed(embedder, ["a", "b"])) == 2


UNREADABLE = {
    "too large": answer(b"x" * (4 * MIB)),
    "longer than it came": Closing(b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"error": "cut'),
    "without the last chunk": Closing(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwords\r\n"),
    "nothing called gzip": answer(b"", Content_Encoding="gzip"),
    "truncated gzip": answer(gzip.compress(b"words" * 99)[:-9], Content_Encoding="gzip"),
    "an unknown compression": answer(b"\x8b\x02\x80...\x03", Content_Encoding="br"),
}


@pytest.mark.parametrize("form", UNREADABLE)
def test_unreadable_error_body_leaves_the_status(embed, serve, form):
    server = serve(lambda _: replaced(UNREADABLE[form], b"200 OK", b"401 No"))
    with pytest.raises(AuthenticationError, match="401"):
        embed(server.embedder(max_retries=3), ["a"])
    assert len(server.requests) == 1


def replaced(whole, old, new):
    return type(whole)(whole.replace(old, new))


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


def test_endless_interim_responses_are_a_timeout_even_if_they_never_pause(embed, serve, monkeypatch):
    monkeypatch.setattr(network, "_LATE_SECONDS", 0.0)
    server = serve(lambda _: itertools.repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9))
    with pytest.raises(RequestTimeoutError):
        embed(server.embedder(timeout=0.2, max_retries=0), ["a"])


def test_deadline_is_for_the_whole_call(embed, serve, faults):
    server = serve(lambda _: faults.response("asleep", 503))
    with fake_clock() as waits, pytest.raises(NanoGPTError) as caught:
        embed(server.embedder(max_retries=50, deadline=30.0), ["a"])
    assert waits.seconds <= 30
    assert len(server.requests) < 51
    assert caught.value.failed_positions == (0,)


SLOW_IMPORT = """
import asyncio, sys
from nanogpt_core import Embedder
from nanogpt_core._runtime import clock

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "openai":
            clock.sleep(60)

sys.meta_path.insert(0, Finder())
with clock.fake_clock() as skipped:
    embedder = Embedder("lab/unlisted", deadline=10)
    print(len({call}), skipped.seconds)
"""


@pytest.mark.parametrize("call", ["embedder.embed(['a'])", "asyncio.run(embedder.aembed(['a']))"])
def test_deadline_begins_after_the_sdk_was_imported(serve, call):
    server = serve()
    environment = {"NANOGPT_API_KEY": server.api_key, "NANOGPT_BASE_URL": server.base_url}
    done = fresh_process.run(SLOW_IMPORT.format(call=call), environment=environment)
    assert (done.stdout, done.stderr) == ("1 60.0\n", "")


def test_timeout_that_the_deadline_causes_names_the_deadline(embed, serve):
    over = threading.Event()
    server = serve(lambda _: (over.wait(60), b"")[1])
    try:
        with pytest.raises(RequestTimeoutError, match=r"The call's deadline has passed\. .*Raise deadline") as caught:
            embed(server.embedder(deadline=0.3), ["a"])
        assert "raise timeout" not in str(caught.value)
        with pytest.raises(RequestTimeoutError, match=r"^No .* within 0\.3 s") as caught:
            embed(server.embedder(deadline=60, timeout=0.3), ["a"])
        assert "deadline" not in str(caught.value)
    finally:
        over.set()


def test_attempt_limits_bound_the_timeouts_in_their_block():
    assert seconds_left(HOUR) == HOUR
    assert seconds_left(None) is None
    with attempt_limits(10):
        assert seconds_left(HOUR) <= 10
        assert seconds_left(None) <= 10
        assert seconds_left(1) == 1
        with attempt_limits(HOUR):
            assert seconds_left(60) == 60
        assert seconds_left(60) <= 10
    assert seconds_left(HOUR) == HOUR


def test_attempt_limits_end_with_an_error():
    with pytest.raises(ZeroDivisionError), attempt_limits(10):
        raise ZeroDivisionError
    assert seconds_left(HOUR) == HOUR


def test_no_time_remains_after_the_deadline_of_an_attempt():
    with attempt_limits(0):
        assert seconds_left(HOUR) <= 0


def test_attempt_limits_are_not_seen_by_other_contexts():
    other = contextvars.copy_context()
    with attempt_limits(10):
        assert other.run(seconds_left, HOUR) == HOUR

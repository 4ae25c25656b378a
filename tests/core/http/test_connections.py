"""Replies in every form of HTTP/1.1, reuse of connections, and TLS; sync and async."""

import asyncio
import contextlib
import gc
import http.client
import os
import queue
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import anyio
import pytest
import trustme
from pytest_socket import SocketConnectBlockedError

import fresh_process
from fault_server import Closing, secured
from nanogpt_core import Embedder, MemoryCache
from nanogpt_core._runtime.clock import attempt_limits, fake_clock
from nanogpt_core._runtime.threads import run_within
from nanogpt_core.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    DamagedReplyError,
    NanoGPTError,
    RateLimitError,
    RequestTimeoutError,
    RequestTooLargeError,
)
from nanogpt_core.http import addresses, sdk
from nanogpt_core.http.client import HttpClient, HttpRequest
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.network import AsyncBackend, Backend, _Connection
from nanogpt_core.http.sdk import httpcore

MIB = 1 << 20


def chunked(body, size=100):
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def head_and_body(reply):
    head, _, body = reply.partition(b"\r\n\r\n")
    return head, body


def in_chunks(reply, end=b"0\r\n\r\n"):
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(head_and_body(reply)[1]) + end


def with_many_headers(reply):
    head, body = head_and_body(reply)
    return head + b"\r\nX-Word: caf\xe9\r\nX-Empty:\r\nX-Fold: a\r\n b\r\n\r\n" + body


FORMS = {
    "plain": lambda reply: reply,
    "chunked": in_chunks,
    "chunked with extensions": lambda reply: in_chunks(reply).replace(b"\r\n64\r\n", b"\r\n64;a=b\r\n"),
    "chunked with a trailer": lambda reply: in_chunks(reply, b"0\r\nX-Sum: 1\r\n\r\n"),
    "until closed": lambda reply: Closing(b"HTTP/1.1 200 OK\r\n\r\n" + head_and_body(reply)[1]),
    "in pieces": lambda reply: [reply[start : start + 7] for start in range(0, len(reply), 7)],
    "odd headers": with_many_headers,
    "after 100 Continue": lambda reply: b"HTTP/1.1 100 Continue\r\n\r\n" + reply,
    "after 103 Early Hints, twice": lambda reply: b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + reply,
    "after 102 Processing": lambda reply: b"HTTP/1.1 102 Processing\r\n\r\n" + reply,
    "HTTP/1.0": lambda reply: reply.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("form", FORMS)
def test_reply_is_read_in_each_form_of_http(embed, serve, faults, form):
    server = serve(lambda seen: FORMS[form](faults.good(seen)))
    embedder = server.embedder()
    for texts in (["a", "b"], ["c"]):
        assert embed(embedder, texts).tolist() == [faults.vector_of(text).tolist() for text in texts]
    assert len(server.requests) == 2


BROKEN = {
    "truncated": lambda reply: reply[:-5],
    "truncated in a chunk": lambda reply: in_chunks(reply)[:-20],
    "without the last chunk": lambda reply: in_chunks(reply, b""),
    "chunk without a size": lambda reply: in_chunks(reply).replace(b"64\r\n", b"zz\r\n", 1),
    "chunk with too small a size": lambda reply: in_chunks(reply).replace(b"64\r\n", b"54\r\n", 1),
    "no HTTP": lambda _: b"hello\r\n\r\n",
    "nothing": lambda _: b"",
    "bad status": lambda _: b"HTTP/1.1 abc OK\r\n\r\n",
    "endless header": lambda _: b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "thousands of headers": lambda _: b"HTTP/1.1 200 OK\r\n" + b"X-Name: value\r\n" * 10_000 + b"\r\n",
}


@pytest.mark.parametrize("form", BROKEN)
def test_broken_reply_is_a_typed_error(embed, serve, faults, form):
    server = serve(lambda seen: Closing(BROKEN[form](faults.good(seen))))
    with pytest.raises((ConnectionFailedError, DamagedReplyError)):
        embed(server.embedder(timeout=5), ["a", "b"])


@pytest.mark.parametrize("header", [b"no colon here", b"Content-Length: 5"], ids=["no colon", "two lengths"])
def test_illegal_header_is_refused_at_once(embed, serve, faults, header):
    # The connection stays open: waiting for more bytes would end at the timeout.
    server = serve(lambda seen: faults.good(seen).replace(b"\r\n", b"\r\n" + header + b"\r\n", 1))
    with pytest.raises((ConnectionFailedError, DamagedReplyError)) as caught:
        embed(server.embedder(timeout=60), ["a"])
    assert not isinstance(caught.value, RequestTimeoutError)
    assert len(server.requests) == 1


def with_length(reply, *values):
    """Return the reply with another Content-Length, of several values; ``n`` is the right one."""
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    lines += [b"Content-Length: " + value.replace(b"n", b"%d" % len(body)) for value in values]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize("values", [[b"n, n"], [b"n,n,n"], [b"n", b"n"]], ids=str)
def test_length_that_is_repeated_counts_once(way, serve, faults, values):
    # As RFC 9112, section 6.3, has it.
    server = serve(lambda seen: with_length(faults.good(seen), *values))
    assert calls(way, server.embedder(timeout=60), "ab") == [faults.vector_of(text).tolist() for text in "ab"]
    assert (server.connections, len(server.requests)) == (1, 2)


@pytest.mark.parametrize("values", [[b"n, 5"], [b"5, n"], [b"n", b"5"], [b"n, "], [b"-n"], [b"n n"]], ids=str)
def test_length_of_different_values_is_refused_at_once(embed, serve, faults, values):
    # Waiting for more bytes would end at the timeout, and the attempt would be made again.
    server = serve(lambda seen: with_length(faults.good(seen), *values))
    with pytest.raises((ConnectionFailedError, DamagedReplyError)) as caught:
        embed(server.embedder(timeout=60, max_retries=0), ["a"])
    assert not isinstance(caught.value, RequestTimeoutError)
    assert len(server.requests) == 1


def calls(way, embedder, texts):
    """Embed each text by a separate call, all on one event loop if async."""
    if way.name == "sync":
        return [embedder.embed([text])[0].tolist() for text in texts]

    async def run():
        return [(await embedder.aembed([text]))[0].tolist() for text in texts]

    return asyncio.run(run())


def test_connection_serves_one_request_after_another(way, serve, faults):
    server = serve(lambda seen: in_chunks(faults.good(seen)) if "b" in seen.texts else faults.good(seen))
    calls(way, server.embedder(), "abc")
    assert server.connections == 1


def test_connection_that_the_server_closed_is_not_used_again(way, serve, faults):
    server = serve(lambda seen: Closing(faults.good(seen)))
    calls(way, server.embedder(max_retries=1), "abc")
    assert len(server.requests) == server.connections == 3


def test_idle_connection_that_the_server_closed_costs_no_attempt(way, serve, faults):
    server = serve(lambda seen: Closing(faults.good(seen)))
    embedder = server.embedder(max_retries=0)

    def wait_until_closed():
        server.wait_for(lambda: not server.open_connections)

    async def run():
        for text in "abc":
            await embedder.aembed([text])
            await asyncio.to_thread(wait_until_closed)

    if way.name == "async":
        asyncio.run(run())
    else:
        for text in "abc":
            embedder.embed([text])
            wait_until_closed()
    assert len(server.requests) == server.connections == 3


STALE = {
    "in one segment": lambda reply, stale: reply + stale,
    "chunked": lambda reply, stale: in_chunks(reply) + in_chunks(stale),
    # A record of TLS has at most 16 KiB.
    "in two records": lambda reply, stale: (
        reply.replace(b"\r\n", b"\r\nX-Padding: " + b"p" * 16_384 + b"\r\n", 1) + stale
    ),
    "half a reply": lambda reply, stale: reply + stale[:-9],
    "one byte": lambda reply, _: reply + b"\n",
}


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("form", STALE)
def test_connection_with_bytes_after_a_reply_is_never_used_again(way, serve, faults, authority, trust, form, secure):
    trust(authority)
    stale = faults.response(faults.document(["another text"]))
    server = serve(lambda seen: STALE[form](faults.good(seen), stale), secured(authority.ca) if secure else None)
    assert calls(way, server.embedder(max_retries=1), "abcdef") == [
        faults.vector_of(text).tolist() for text in "abcdef"
    ]
    assert server.connections > 1


def test_reply_that_was_refused_unread_is_not_mixed_up_with_the_next(way, serve, faults):
    huge = faults.response(b"x" * (4 << 20))
    server = serve(lambda seen: huge if "a" in seen.texts else faults.good(seen))
    embedder = server.embedder()
    with pytest.raises(NanoGPTError, match="larger than"):
        way.embed(embedder, ["a"])
    assert way.embed(embedder, ["b"])[0].tolist() == faults.vector_of("b").tolist()


def test_many_threads_share_connections(serve, faults):
    server = serve()
    embedder = server.embedder(batch_size=1, max_concurrency=8, requests_per_second=1e6)
    texts = [f"text {number}" for number in range(200)]
    assert embedder.embed(texts).tolist() == [faults.vector_of(text).tolist() for text in texts]
    assert server.connections <= 8


def test_requests_work_with_more_than_a_thousand_open_files(way, serve):
    server = serve()
    held = [os.dup(0) for _ in range(1100)]
    try:
        calls(way, server.embedder(), "abc")
    finally:
        for number in held:
            os.close(number)
    assert server.connections == 1


# --- early replies, deadlines, signals ---


@pytest.fixture
def send(way):
    """``send(client, body, seconds)``, once sync and once async."""

    def send(client, body, seconds=30.0):
        if way.name == "sync":
            return client.send(HttpRequest("/embeddings", body, seconds, MIB))
        return asyncio.run(client.asend(HttpRequest("/embeddings", body, seconds, MIB)))

    return send


def client_of(server, **more):
    return HttpClient(Endpoint.resolve(api_key="k", base_url=server.base_url), **more)


@pytest.mark.parametrize(
    ("status", "error"), [(401, AuthenticationError), (413, RequestTooLargeError), (429, RateLimitError)]
)
def test_early_error_reply_during_an_upload_is_read(send, serve, faults, status, error):
    server = serve(lambda _: faults.response({"error": {"message": "early"}}, status), reads_body=False)
    with pytest.raises(error, match="early"):
        send(client_of(server), b"x" * (32 * MIB))


def test_upload_that_fills_the_socket_arrives_whole(send, serve, faults):
    server = serve(lambda _: faults.response({}))
    body = bytes(range(256)) * (16 * MIB // 256)
    send(client_of(server), body)
    assert server.requests[0].body == body


def test_bytes_that_came_in_time_are_read_after_the_deadline_sync():
    # As if the process was stopped in between.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = Backend().connect_tcp("127.0.0.1", listener.getsockname()[1], 60.0)
        with contextlib.closing(stream), listener.accept()[0] as peer, attempt_limits(-1.0, MIB):
            peer.sendall(b"reply")
            assert select.select([stream.get_extra_info("socket")], [], [], 60)[0]
            assert bytes(stream.read(MIB)) + bytes(stream.read(MIB)) == b"reply"
            with pytest.raises(httpcore.ReadTimeout):
                stream.read(MIB)


def test_bytes_that_came_in_time_are_read_after_the_deadline_async():
    async def run(listener):
        stream = await AsyncBackend().connect_tcp("127.0.0.1", listener.getsockname()[1], 60.0)
        with listener.accept()[0] as peer, attempt_limits(-1.0, MIB):
            reading = asyncio.ensure_future(stream.read(MIB))
            await asyncio.sleep(0)  # now it waits, and is cancelled as soon as the event loop goes on
            peer.sendall(b"reply")
            assert select.select([stream.get_extra_info("socket")], [], [], 60)[0]
            assert bytes(await reading) + bytes(await stream.read(MIB)) == b"reply"
            with pytest.raises(httpcore.ReadTimeout):
                await stream.read(MIB)
        await stream.aclose()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(run(listener))


SIGNAL_CHILD = """
import signal, sys
from nanogpt_core import Embedder
for kind in (Exception, BaseException, TimeoutError, OSError, ConnectionError):
    class Limit(kind): pass
    def handler(*_):
        if calling:  # Python itself drops the exception if the signal comes in a callback of a weak reference
            raise Limit("time limit of a task")
    calling = True
    signal.signal(signal.SIGALRM, handler)
    try:
        Embedder("lab/unlisted", max_retries=3, timeout=60).embed(["a"])
    except Limit as error:
        calling = False
        print(kind.__name__, error, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.xdist_group("processes")
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM on this system")
def test_exception_of_a_signal_handler_passes_through(serve, warm, tmp_path):
    over, lines = threading.Event(), queue.SimpleQueue()
    server = serve(lambda _: (over.wait(60), b"")[1])
    environment = {"NANOGPT_API_KEY": "k", "NANOGPT_BASE_URL": server.base_url}
    with warm.start(SIGNAL_CHILD, tmp_path, environment=environment, ends=True) as child:
        reader = threading.Thread(target=lambda: [lines.put(line) for line in child.stdout])
        reader.start()
        try:
            for number, kind in enumerate(
                ("Exception", "BaseException", "TimeoutError", "OSError", "ConnectionError"), 1
            ):
                server.wait_for(lambda number=number: len(server.requests) == server.in_flight == number)
                said = None
                for _ in range(60):
                    # More than once: Python runs no handler for a signal just before a system call that blocks.
                    child.send_signal(signal.SIGALRM)
                    with contextlib.suppress(queue.Empty):
                        said = lines.get(timeout=1)
                        break
                assert said == f"{kind} time limit of a task\n"
                child.stdin.write("\n")
                child.stdin.flush()
            child.stdin.close()
            assert child.stderr.read() == ""
            assert child.wait() == 0
        finally:
            over.set()
            child.kill()
            reader.join()
    assert len(server.requests) == 5


def test_error_of_our_own_code_is_neither_a_network_failure_nor_retried(embed, serve, monkeypatch):
    from nanogpt_core.http import transport

    made = []
    monkeypatch.setattr(transport, "BodyReader", lambda *_, **__: made.append(1) or None.no_such_attribute)
    server = serve()
    with pytest.raises(AttributeError, match="no_such_attribute"):
        embed(server.embedder(max_retries=3), ["a"])
    assert len(made) == len(server.requests) == 1


# --- addresses ---


@pytest.fixture
def dead_address():
    """An address that never answers: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_tests_connect_to_this_machine_only(method):
    with socket.socket() as sock, pytest.raises(SocketConnectBlockedError):
        getattr(sock, method)(("192.0.2.1", 9))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer when a backlog is full")
def test_second_address_is_tried_while_the_first_does_not_answer(embed, serve, monkeypatch, dead_address):
    server = serve()
    port = int(server.base_url.split(":")[2].partition("/")[0])
    look_up = socket.getaddrinfo

    def two_addresses(host, *more, **options):
        if host != "two.localhost":
            return look_up(host, *more, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, dead_address), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    embed(server.embedder(base_url=f"http://two.localhost:{port}/api/v1", timeout=30, max_retries=0), ["a"])
    assert len(server.requests) == 1


def test_refused_address_is_left_for_the_next(embed, serve, monkeypatch):
    server = serve()
    port = int(server.base_url.split(":")[2].partition("/")[0])
    look_up = socket.getaddrinfo
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        found = [(*kind, unused.getsockname()), (*kind, ("127.0.0.1", port))]

        def two_addresses(host, *more, **options):
            if host != "two.localhost":
                return look_up(host, *more, **options)
            if options.get("flags", 0) & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "not numeric")
            return found

        monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
        embedder = server.embedder(base_url=f"http://two.localhost:{port}/api/v1", timeout=20)
        embed(embedder, ["a"])
        found.pop()
        with pytest.raises(ConnectionFailedError, match="No answer"):
            embed(server.embedder(base_url="http://two.localhost:9/api/v1", timeout=20), ["a"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer when a backlog is full")
def test_host_that_does_not_answer_is_named_with_the_time_for_connecting(embed, monkeypatch, dead_address):
    monkeypatch.setattr(sdk, "_CONNECT_SECONDS", 0.1)
    url = f"http://127.0.0.1:{dead_address[1]}/v1"
    with pytest.raises(RequestTimeoutError, match=r"No connection to 127\.0\.0\.1:\d+ within 0\.1 s\."):
        embed(Embedder("lab/unlisted", api_key="k", base_url=url, max_retries=0, timeout=30), ["a"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer when a backlog is full")
def test_host_that_does_not_answer_is_given_up_even_if_the_clock_stands_still(monkeypatch, dead_address):
    monkeypatch.setattr(addresses, "time", SimpleNamespace(monotonic=lambda: 5.0))

    def connect():
        with pytest.raises(TimeoutError, match="timed out"):
            addresses.connect("127.0.0.1", dead_address[1], 0.1)

    run_within(20, connect, "connect")


def test_look_up_of_a_host_keeps_to_the_time_limit(way, monkeypatch):
    over, look_up = threading.Event(), socket.getaddrinfo

    def unanswered(host, *more, **options):
        if host != "slow.localhost" or options.get("flags", 0) & socket.AI_NUMERICHOST:
            return look_up(host, *more, **options)
        over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", unanswered)
    embedder = Embedder("m", api_key="k", base_url="http://slow.localhost:9/v1", max_retries=0, timeout=0.1)

    async def aembed():
        try:
            await embedder.aembed(["a"])
        finally:
            over.set()  # an event loop waits for its threads before it ends

    try:
        with pytest.raises(RequestTimeoutError, match=r"No connection to slow\.localhost:9"):
            embedder.embed(["a"]) if way.name == "sync" else asyncio.run(aembed())
    finally:
        over.set()


@pytest.mark.parametrize("cancels_once", [True, False])
def test_connecting_that_is_cancelled_at_any_time_leaves_no_socket_open(cancels_once):
    async def connect(port, scope):
        with scope:
            stream = await AsyncBackend().connect_tcp("127.0.0.1", port, 60.0)
            await stream.aclose()

    async def run(port, turns):
        scope = anyio.CancelScope()  # unlike Task.cancel(), it cancels everything that is awaited in it
        task = asyncio.ensure_future(connect(port, scope))
        for _ in range(turns):
            await asyncio.sleep(0)
        if cancels_once:
            task.cancel()
        else:
            scope.cancel()
        await asyncio.wait([task])

    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        for turns in range(10):
            asyncio.run(run(listener.getsockname()[1], turns))
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always")
        gc.collect()
    assert not left_open


class CancelledAt:
    """Awaits a coroutine, and cancels the task when it is suspended for the ``number``-th time."""

    def __init__(self, coroutine, number):
        self.suspensions, self._number, self._steps = 0, number, coroutine.__await__()
        self.throw, self.close = self._steps.throw, self._steps.close

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        waits_for = self._steps.send(value)
        self.suspensions += 1
        if self.suspensions == self._number:
            asyncio.current_task().cancel()
        return waits_for


@pytest.mark.parametrize("stores", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("dimensions", [6, 60_000], ids=["small reply", "large reply"])
@pytest.mark.parametrize("keeps_alive", [True, False], ids=["kept connection", "new connection"])
def test_call_cancelled_at_any_time_leaves_no_connection_in_use_and_loses_no_reply(
    serve, faults, keeps_alive, dimensions, stores
):
    loops = []

    def answer(seen):
        is_awaited = threading.Event()
        loops[0].call_soon_threadsafe(is_awaited.set)  # at the next turn of the loop, so each call is suspended once
        is_awaited.wait(10)
        reply = faults.good(seen)
        return reply if keeps_alive else Closing(reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    server = serve(answer)

    async def run_cancelled(embedder, number):
        async def run():
            call, is_cancelled = CancelledAt(embedder.aembed([f"text {number}"], batch_size=1), number), False
            try:
                await call
            except asyncio.CancelledError:
                is_cancelled = True
            suspensions.append(call.suspensions)
            await asyncio.sleep(0)  # raises a cancellation that the call has left behind
            return is_cancelled

        suspensions = []
        before = server.connections
        task = asyncio.ensure_future(run())
        await asyncio.wait([task])
        assert task.result() == (suspensions[0] >= number)
        await embedder.aembed([f"text {number}"], batch_size=1)
        sent = [texts for request in server.requests if f"text {number}" in (texts := request.texts)]
        # A connection that was kept has read its reply to the end.
        assert not (keeps_alive and stores) or len(sent) == 1 or server.connections > before
        return suspensions[0] >= number

    async def main():
        loops.append(asyncio.get_running_loop())
        # One thread: what a call stores is there when the next one looks it up.
        loops[0].set_default_executor(ThreadPoolExecutor(1))
        async with server.embedder(cache=MemoryCache() if stores else None, dimensions=dimensions) as embedder:
            await embedder.aembed(["first"], batch_size=1)
            number = 1
            while await run_cancelled(embedder, number):
                number += 1
            assert number >= 2
            server.wait_for(lambda: server.open_connections <= keeps_alive)

    asyncio.run(main())


def test_host_that_is_looked_up_is_the_one_on_the_wire(embed, monkeypatch):
    asked = []

    def look_up(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(ConnectionFailedError):
        embed(Embedder("lab/unlisted", api_key="k", base_url="https://faß.example/v1", max_retries=0), ["a"])
    assert set(asked) == {"xn--fa-hia.example"}


# --- TLS ---

TRUSTSTORE_CHILD = """
import truststore
truststore.inject_into_ssl()
import asyncio
from nanogpt_core import Embedder
embedder = Embedder("lab/unlisted", max_retries=3)
print(embedder.embed(["a"]).tolist())
print(asyncio.run(embedder.aembed(["a"])).tolist())
"""


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_tls_with_an_own_authority_takes_one_request(embed, serve, authority, trust, variable):
    trust(authority, variable)
    server = serve(tls=secured(authority.ca))
    embed(server.embedder(max_retries=3), ["a"])
    assert len(server.requests) == 1


def test_tls_with_truststore_takes_one_request_sync_and_async(serve, faults, authority):
    server = serve(tls=secured(authority.ca))
    environment = {
        "NANOGPT_API_KEY": "k",
        "NANOGPT_BASE_URL": server.base_url,
        "SSL_CERT_FILE": authority.variables["SSL_CERT_FILE"],
    }
    done = fresh_process.run(TRUSTSTORE_CHILD, environment=environment)
    assert (done.stdout, done.stderr) == (f"{[faults.vector_of('a').tolist()]}\n" * 2, "")
    assert len(server.requests) == 2


def test_tls_connection_is_used_again(embed, serve, authority, trust):
    trust(authority)
    server = serve(tls=secured(authority.ca))
    embedder = server.embedder(batch_size=1, max_concurrency=4, requests_per_second=1e6)
    embed(embedder, [f"text {number}" for number in range(100)])
    assert server.connections <= 4
    assert len(server.requests) == 100


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.invalid"])
def test_certificate_that_cannot_be_verified_is_final(embed, serve, authority, trust, name):
    trust(authority)
    server = serve(tls=secured(trustme.CA() if name == "127.0.0.1" else authority.ca, name))
    with pytest.raises(ConnectionFailedError, match=r"No secure connection.*certificate"):
        embed(server.embedder(max_retries=3), ["a"])
    assert server.connections == 1
    assert not server.requests


def test_tls_handshake_that_was_broken_off_is_retried(embed, serve, authority, trust):
    trust(authority)
    server = serve(tls=secured(authority.ca))
    target = int(server.base_url.split(":")[2].partition("/")[0])
    opened = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def break_off_then_forward():
            connection, _ = listener.accept()
            connection.recv(100)
            connection.close()
            connection, _ = listener.accept()
            opened.append(connection)
            with connection, socket.create_connection(("127.0.0.1", target)) as onward:
                back = threading.Thread(target=forward, args=(onward, connection), daemon=True)
                back.start()
                forward(connection, onward)
                back.join(60)

        thread = threading.Thread(target=break_off_then_forward, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/api/v1"
        embed(server.embedder(base_url=url, max_retries=3), ["a"])
        with contextlib.suppress(OSError):
            opened[0].shutdown(socket.SHUT_RDWR)
        thread.join(60)
    assert len(server.requests) == 1


def test_server_without_tls_is_named_as_such(embed):
    def answer():
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        with pytest.raises(ConnectionFailedError, match="No secure connection") as caught:
            embed(Embedder("lab/unlisted", api_key="k", base_url=url, max_retries=0, timeout=30), ["a"])
        thread.join(60)
    assert "speaks no TLS" in caught.value.remedy
    assert "http://" in caught.value.remedy


def test_end_of_a_tls_session_ends_a_reply_before_the_connection_closes(embed, authority, trust, faults):
    trust(authority)
    context, over = secured(authority.ca), threading.Event()

    def answer():
        with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + head_and_body(faults.response(faults.document(["a"])))[1])
            connection.settimeout(0)
            with contextlib.suppress(ssl.SSLError):
                connection.unwrap()  # says that no more comes
            over.wait(60)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        try:
            vectors = embed(Embedder("lab/unlisted", api_key="k", base_url=url, max_retries=0, timeout=30), ["a"])
        finally:
            over.set()
        thread.join(60)
    assert vectors.tolist() == [faults.vector_of("a").tolist()]


def forward(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


# --- no key is shown ---

KEY = "sk-nano-in-no-frame"


def locals_of(error):
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def test_no_frame_of_a_failed_request_shows_the_key(embed):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up():
            for _ in range(2):
                connection, _ = listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        embedder = Embedder("lab/unlisted", api_key=KEY, base_url=url, max_retries=1)
        with fake_clock(), pytest.raises(ConnectionFailedError) as caught:
            embed(embedder, ["a" * 100])
        thread.join(60)
    shown = locals_of(caught.value)  # before a variable of this frame has the key
    assert KEY not in shown
    assert "embedder = " in shown


def test_debugging_switch_of_the_standard_library_shows_no_key(serve, capsys, monkeypatch):
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    server = serve()
    server.embedder().embed(["a"])
    shown = capsys.readouterr()
    assert server.api_key not in shown.out + shown.err


def test_calls_that_begin_at_once_share_the_async_client():
    client = HttpClient(Endpoint.resolve(api_key="k"))

    async def begin():
        return await asyncio.gather(*(client.aget_ready() for _ in range(64)))

    clients = asyncio.run(begin())
    assert len(set(map(id, clients))) < 64  # one, but for those of threads that began in the same moment


def test_event_loops_of_other_threads_may_begin_while_a_new_one_looks_for_closed_ones(serve):
    client = client_of(serve())

    async def ask():
        assert (await client.asend(HttpRequest("/embeddings", b'{"input": ["a"]}', 5.0, MIB))).body

    class Loop(asyncio.SelectorEventLoop):
        def is_closed(self):
            if others and not is_open.is_set():
                is_open.set()
                others[0].start()
                others[0].join()
            return super().is_closed()

    loops, others, is_open = [Loop(), asyncio.new_event_loop()], [], threading.Event()
    loops[0].run_until_complete(ask())
    others.append(threading.Thread(target=loops[1].run_until_complete, args=[ask()]))
    asyncio.run(ask())
    assert is_open.is_set()
    for loop in loops:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_async_request_outside_asyncio_is_a_clear_error(serve):
    trio = pytest.importorskip("trio")
    client = client_of(serve())
    client._async_client = asyncio.run(client.aget_ready())

    async def main():
        await client.asend(HttpRequest("/embeddings", b"{}", 5.0, MIB))

    with pytest.raises(ConfigurationError, match="asyncio"):
        trio.run(main)


def test_reads_of_a_long_reply_grow_and_those_of_the_next_reply_begin_small():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        connection = _Connection(ours)

        def read(part):
            steps = connection._read_steps(1 << 16)
            size = next(steps)
            with pytest.raises(StopIteration) as done:
                steps.send(part)
            assert bytes(done.value.value) == part[:-1]
            with pytest.raises(StopIteration) as done:
                next(connection._read_steps(1 << 16))
            assert done.value.value == part[-1:]
            return size

        assert read(b"query" * 1000) == 1 << 16
        assert read(b"long" * 15_000) == 1 << 16
        assert read(b"long" * 100_000) == MIB
        assert list(connection._write_steps(b"next request")) == [b"next request"]
        assert read(b"query" * 1000) == 1 << 16

"""HTTP over plain sockets: each form of a reply, connections that are kept, and those that must not be."""

import http.client
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import traceback

import pytest
import trustme

from nanogpt_core import Embedder
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import ConnectionFailedError, DamagedReplyError, NanoGPTError
from nanogpt_core.http import wire


def chunked(body, size=100):
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def head_and_body(reply):
    head, _, body = reply.partition(b"\r\n\r\n")
    return head, body


def in_chunks(reply, end=b"0\r\n\r\n"):
    _, body = head_and_body(reply)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body) + end


def until_closed(reply):
    class Closing(bytes):
        close = True

    return Closing(b"HTTP/1.1 200 OK\r\n\r\n" + head_and_body(reply)[1])


def with_many_headers(reply):
    head, body = head_and_body(reply)
    return head + b"\r\nX-Word: caf\xe9\r\nX-Empty:\r\nX-Fold: a\r\n b\r\n\r\n" + body


FORMS = {
    "plain": lambda reply: reply,
    "chunked": in_chunks,
    "chunked with a trailer": lambda reply: in_chunks(reply, b"0\r\nX-Sum: 1\r\n\r\n"),
    "until closed": until_closed,
    "in pieces": lambda reply: [reply[start : start + 7] for start in range(0, len(reply), 7)],
    "odd headers": with_many_headers,
    "after 100 Continue": lambda reply: b"HTTP/1.1 100 Continue\r\n\r\n" + reply,
    "HTTP/1.0": lambda reply: reply.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_reply_is_read(embed, serve, faults, form):
    server = serve(lambda seen: FORMS[form](faults.good(seen)))
    embedder = server.embedder()
    for texts in (["a", "b"], ["c"]):
        assert embed(embedder, texts).tolist() == [faults.vector_of(text).tolist() for text in texts]


BROKEN = {
    "cut": lambda reply: reply[:-5],
    "cut in a chunk": lambda reply: in_chunks(reply)[:-20],
    "without the last chunk": lambda reply: in_chunks(reply, b""),
    "a chunk of no size": lambda reply: in_chunks(reply).replace(b"64\r\n", b"zz\r\n", 1),
    "a chunk of too little size": lambda reply: in_chunks(reply).replace(b"64\r\n", b"54\r\n", 1),
    "no HTTP": lambda _: b"hello\r\n\r\n",
    "nothing": lambda _: b"",
    "a status that is none": lambda _: b"HTTP/1.1 abc OK\r\n\r\n",
    "a header that never ends": lambda _: b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    "a thousand headers": lambda _: b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
}


@pytest.mark.parametrize("form", BROKEN)
def test_a_broken_reply_is_an_error_of_ours(embed, serve, faults, form):
    class Closing(bytes):
        close = True

    server = serve(lambda seen: Closing(BROKEN[form](faults.good(seen))))
    with pytest.raises((ConnectionFailedError, DamagedReplyError)):
        embed(server.embedder(timeout=5), ["a", "b"])


def test_a_connection_serves_one_request_after_another(serve, faults):
    server = serve(lambda seen: in_chunks(faults.good(seen)) if "b" in seen.texts else faults.good(seen))
    for text in "abc":
        server.embedder().embed([text])
    assert server.connections == 1


def test_a_connection_that_the_server_closed_is_not_used_again(serve, faults):
    def answer(seen):
        class Closing(bytes):
            close = True

        return Closing(faults.good(seen))

    server = serve(answer)
    embedder = server.embedder()
    for text in "abc":
        server.wait_for(lambda: not server.open_connections)
        embedder.embed([text])
    assert len(server.requests) == server.connections == 3


def test_a_connection_with_bytes_that_nobody_asked_for_is_not_used_again(serve, faults):
    server = serve(lambda seen: faults.good(seen) + faults.good(seen))
    embedder = server.embedder()
    for text in "abc":
        assert embedder.embed([text])[0].tolist() == faults.vector_of(text).tolist()
    assert server.connections == 3


def test_a_connection_that_idled_for_long_is_not_used_again(serve, monkeypatch):
    server = serve()
    server.embedder().embed(["a"])
    monkeypatch.setattr(wire, "_KEPT_SECONDS", -1.0)
    server.embedder().embed(["b"])
    assert server.connections == 2


def test_a_reply_that_was_refused_unread_is_not_mixed_up_with_the_next(serve, faults):
    huge = faults.response(b"x" * (4 << 20))
    server = serve(lambda seen: huge if "a" in seen.texts else faults.good(seen))
    embedder = server.embedder()
    with pytest.raises(NanoGPTError, match="larger than"):
        embedder.embed(["a"])
    assert embedder.embed(["b"])[0].tolist() == faults.vector_of("b").tolist()


def test_many_threads_share_connections(serve, faults):
    server = serve()
    embedder = server.embedder(batch_size=1, max_concurrency=8, requests_per_second=1e6)
    texts = [f"text {number}" for number in range(200)]
    assert embedder.embed(texts).tolist() == [faults.vector_of(text).tolist() for text in texts]
    assert server.connections <= 8


# Proxies and authorities are read once by each process.
CHILD = """
from nanogpt_core import Embedder
embedder = Embedder("lab/unlisted", api_key="k", max_retries=0, batch_size=100, allow_insecure_http=True)
texts = [f"text {number}" for number in range(500)]
print(len(embedder.embed(texts)), len(embedder.embed(texts)), end="")
"""


def run(code, **variables):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_proxy_of_the_environment_is_used(serve):
    proxy = serve()
    address = proxy.base_url.removesuffix("/api/v1")
    assert run(CHILD, NANOGPT_BASE_URL="http://service.example/v1", HTTP_PROXY=address, NO_PROXY="") == "500 500"
    assert {seen.path for seen in proxy.requests} == {"http://service.example/v1/embeddings"}


@pytest.fixture
def authority(tmp_path):
    """An authority, and the file with its certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    return authority, str(tmp_path / "authority.pem")


def secured(authority, name="127.0.0.1"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_a_secured_connection_is_kept_too(serve, authority):
    server = serve(tls=secured(authority[0]))
    assert run(CHILD, NANOGPT_BASE_URL=server.base_url, SSL_CERT_FILE=authority[1]) == "500 500"
    assert server.connections <= 8


REFUSED = """
from nanogpt_core import Embedder, NanoGPTError
try:
    Embedder("lab/unlisted", api_key="k", max_retries=3).embed(["a"])
except NanoGPTError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.invalid"])
def test_a_certificate_that_cannot_be_trusted_is_refused_at_once(serve, authority, name):
    server = serve(tls=secured(trustme.CA() if name == "127.0.0.1" else authority[0], name))
    words = run(REFUSED, NANOGPT_BASE_URL=server.base_url, SSL_CERT_FILE=authority[1])
    assert words.startswith("ConnectionFailedError No secure connection")
    assert "certificate" in words
    assert server.connections == 1
    assert not server.requests


KEY = "sk-nano-in-no-frame"


def locals_of(error):
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(shown.format())


@pytest.mark.parametrize("status", [b"103 Early Hints", b"102 Processing", b"100 Continue"])
def test_informational_replies_are_passed_over(embed, serve, faults, status):
    before = b"HTTP/1.1 " + status + b"\r\nLink: </a>\r\n\r\n"
    server = serve(lambda seen: before + before + faults.good(seen))
    embedder = server.embedder()
    for text in "ab":
        assert embed(embedder, [text])[0].tolist() == faults.vector_of(text).tolist()
    assert len(server.requests) == 2


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
        thread.join(20)
    shown = locals_of(caught.value)  # before the key stands in a variable of this frame
    assert KEY not in shown
    assert "embedder = " in shown


def test_the_debugging_switch_of_the_standard_library_shows_no_key(serve, capsys, monkeypatch):
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    server = serve()
    server.embedder().embed(["a"])
    shown = capsys.readouterr()
    assert server.api_key not in shown.out + shown.err


def test_this_machine_is_never_asked_by_a_proxy(serve):
    proxy, server = serve(), serve()
    address = proxy.base_url.removesuffix("/api/v1")
    assert run(CHILD, NANOGPT_BASE_URL=server.base_url, HTTP_PROXY=address, NO_PROXY="") == "500 500"
    assert not proxy.requests


def test_the_host_that_is_looked_up_is_the_one_on_the_wire(monkeypatch):
    asked = []

    def look_up(host, *_, **__):
        asked.append(host)
        raise socket.gaierror("nobody is asked")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(ConnectionFailedError):
        Embedder("lab/unlisted", api_key="k", base_url="https://faß.example/v1", max_retries=0).embed(["a"])
    assert asked == ["xn--fa-hia.example"]


def test_more_than_a_thousand_open_files_are_no_trouble(serve):
    server = serve()
    embedder = server.embedder()
    held = [os.dup(0) for _ in range(1100)]
    try:
        for text in "abc":
            embedder.embed([text])
    finally:
        for number in held:
            os.close(number)
    assert server.connections == 1

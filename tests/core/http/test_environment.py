"""Proxies and certificates of the environment: used, refused with a clear error, or ignored."""

import asyncio
import base64
import contextlib
import gc
import os
import select
import socket
import threading
import traceback

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fault_server import secured
from nanogpt_core import Embedder
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import ConfigurationError, ConnectionFailedError, RequestTimeoutError, causes
from nanogpt_core.http import environment, network
from nanogpt_core.http.environment import is_in_no_proxy, proxy_for, tls_context


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def set_variables(monkeypatch):
    """Set environment variables, and read the variables of certificates anew."""

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        tls_context.cache_clear()

    yield set_variables
    tls_context.cache_clear()


def embedder_for(base_url, max_retries=0):
    return Embedder("lab/unlisted", api_key="k", base_url=base_url, max_retries=max_retries, allow_insecure_http=True)


def port_of(server):
    return int(server.base_url.split(":")[2].partition("/")[0])


@pytest.mark.parametrize("login", ["", "me:s3%20cret@"], ids=["no login", "login"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_http_proxy_is_used(embed, serve, set_variables, variable, login):
    proxy = serve()
    set_variables(**{variable: f"http://{login}127.0.0.1:{port_of(proxy)}"})
    base_url = f"http://behind-{port_of(proxy)}.example/v1"
    embed(embedder_for(base_url), ["a"])
    assert [seen.path for seen in proxy.requests] == [f"{base_url}/embeddings"]
    expected = f"Basic {base64.b64encode(b'me:s3 cret').decode()}" if login else None
    assert proxy.requests[0].header("proxy-authorization") == expected


def test_proxy_that_is_set_later_is_used_by_a_new_object(embed, serve, set_variables, faults):
    first, second = serve(), serve()
    base_url = "http://behind-proxies.example/v1"
    for proxy in (first, second, first):
        set_variables(HTTP_PROXY=f"http://127.0.0.1:{port_of(proxy)}")
        embedder = embedder_for(base_url)
        assert embed(embedder, ["a"]).tolist() == [faults.vector_of("a").tolist()]
        set_variables(HTTP_PROXY="http://127.0.0.1:9")
        embed(embedder, ["b"])  # an object keeps to its proxy
    assert (len(first.requests), len(second.requests)) == (4, 2)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_connections_through_an_earlier_proxy_are_closed_with_objects_that_were_dropped(serve, set_variables, is_async):
    proxies = [serve() for _ in range(3)]

    async def use(proxy):
        set_variables(HTTP_PROXY=f"http://127.0.0.1:{port_of(proxy)}")
        embedder = embedder_for("http://behind-proxies.example/v1")
        _ = await embedder.aembed(["a"]) if is_async else embedder.embed(["a"])

    async def use_all():
        for proxy in proxies:
            await use(proxy)
            gc.collect()
        for earlier in proxies[:2]:
            await asyncio.to_thread(earlier.wait_for, lambda earlier=earlier: not earlier.open_connections)
        assert proxies[2].open_connections == 1

    asyncio.run(use_all())


FORK = """
import faulthandler, os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
from nanogpt_core import Embedder

def embed(text):
    return Embedder("lab/unlisted", api_key="k", max_retries=0, allow_insecure_http=True).embed([text]).shape == (1, 6)

def wait_there(frame, *_):
    if frame.f_code.co_name == "proxy_for":
        there.set()
        forked.wait(60)

def look():
    sys.settrace(wait_there)
    embed("thread")

assert embed("before")
there, forked = threading.Event(), threading.Event()
thread = threading.Thread(target=look)
thread.start()
there.wait(60)
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(60, exit=True)  # of a deadlock
    try:
        os.write(1, b"child ok\\n" if embed("child") else b"wrong\\n")
    finally:
        os._exit(0)
os.waitpid(child, 0)
forked.set()
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.xdist_group("processes")
def test_fork_while_another_thread_looks_for_the_proxy(serve, warm, tmp_path):
    variables = {"HTTP_PROXY": f"http://127.0.0.1:{port_of(serve())}", "NANOGPT_BASE_URL": "http://behind.example/v1"}
    assert warm.run(FORK, tmp_path, environment=variables, ends=True) == (0, "child ok\n", "")


def test_login_of_a_proxy_is_in_no_variable_of_the_connections(embed, set_variables):
    set_variables(HTTPS_PROXY="http://me:s3cret@127.0.0.1:9", SSL_CERT_FILE="/no/such/file")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE") as caught:
        embed(embedder_for("https://behind.example/v1"), ["a"])
    frames = [frame for each in causes(caught.value) for frame, _ in traceback.walk_tb(each.__traceback__)]
    assert any(frame.f_code.co_name.startswith("take_") for frame in frames)
    assert "s3cret" not in repr([frame.f_locals for frame in frames[1:]])


def test_proxy_that_refuses_connections_is_named_with_its_variable(embed, set_variables):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        set_variables(ALL_PROXY=f"http://me:hunter2@127.0.0.1:{port}")
        with pytest.raises(ConnectionFailedError) as caught:
            embed(embedder_for(f"https://behind-{port}.example/v1"), ["a"])
    assert f"behind-{port}.example through the proxy ALL_PROXY=http://**********@127.0.0.1:{port}:" in str(caught.value)
    assert "NO_PROXY" in caught.value.remedy
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_silent_proxy_is_named_with_its_variable(embed, set_variables, scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts the connection, and nobody reads
        port = silent.getsockname()[1]
        set_variables(ALL_PROXY=f"http://me:hunter2@127.0.0.1:{port}")
        base_url = f"{scheme}://behind-{port}.example/v1"
        embedder = Embedder("m", api_key="k", base_url=base_url, max_retries=0, timeout=0.1, allow_insecure_http=True)
        # On a busy machine even the connection may take too long.
        kinds, words = (
            (RequestTimeoutError, ConnectionFailedError),
            rf" through the proxy ALL_PROXY=http://\*+@127.*:{port}",
        )
        with pytest.raises(kinds, match=words) as caught:
            embed(embedder, ["a"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("status", "attempts"), [(407, 1), (403, 1), (408, 3), (429, 3), (502, 3)])
def test_refusal_of_a_proxy_names_the_proxy(embed, serve, faults, set_variables, status, attempts):
    proxy = serve(lambda _: faults.response("who are you?", status))
    set_variables(ALL_PROXY=f"http://127.0.0.1:{port_of(proxy)}")
    embedder = embedder_for(f"https://behind-{port_of(proxy)}.example/v1", max_retries=2)
    with fake_clock(), pytest.raises(ConnectionFailedError, match=rf"example through the proxy ALL_PROXY=.*: {status}"):
        embed(embedder, ["a"])
    assert len(proxy.requests) == attempts


@contextlib.contextmanager
def tunnel(handshake, target=None, tls=None):
    """Serve one proxy connection: ``handshake(connection)``, then bytes both ways to the port ``target``."""
    opened = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work():
            connection, _ = listener.accept()
            opened.append(connection)
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                stack.enter_context(connection)
                if tls is not None:
                    connection = stack.enter_context(tls.wrap_socket(connection, server_side=True))
                    opened.append(connection)
                handshake(connection)
                if target is not None:
                    relay(connection, stack.enter_context(socket.create_connection(("127.0.0.1", target))))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        for connection in opened:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        thread.join(60)


def relay(one, other):
    while True:
        for source in select.select([one, other], [], [], 60)[0]:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("read_bytes", [1 << 16, 1000], ids=["whole", "in parts"])
def test_host_with_tls_is_reached_through_a_proxy(
    embed, serve, faults, set_variables, authority, monkeypatch, scheme, read_bytes
):
    for name in ("_FIRST_READ_BYTES", "_READ_BYTES"):  # of a network: less than a record of TLS
        monkeypatch.setattr(network, name, read_bytes)
    texts = list(map(str, range(20)))  # one request
    asked = []

    def handshake(connection):
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")

    server = serve(tls=secured(authority.ca, "service.example"))
    tls = secured(authority.ca) if scheme == "https" else None
    with tunnel(handshake, port_of(server), tls) as port:
        set_variables(HTTPS_PROXY=f"{scheme}://me:s3cret@127.0.0.1:{port}", **authority.variables)
        vectors = embed(embedder_for(f"https://service.example:{port}/v1"), texts)
    assert vectors.tolist() == [faults.vector_of(text).tolist() for text in texts]
    assert asked[0].startswith(b"CONNECT service.example:%d HTTP/1.1\r\n" % port)
    assert base64.b64encode(b"me:s3cret") in asked[0]


# The package for SOCKS leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\xff"], ids=["nothing", "http", "no"])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
def test_proxy_of_another_kind_is_named_with_its_variable(embed, set_variables, scheme, said):
    pytest.importorskip("socksio")

    def handshake(connection):
        connection.recv(65536)
        connection.sendall(said)

    with tunnel(handshake) as port:
        set_variables(ALL_PROXY=f"{scheme}://me:s3cret@127.0.0.1:{port}")
        shown = rf"through the proxy ALL_PROXY={scheme}://\*+@127.0.0.1:{port}: "
        with pytest.raises(ConnectionFailedError, match=shown) as caught:
            embed(embedder_for(f"https://behind-{port}.example/v1"), ["a"])
    assert "s3cret" not in str(caught.value)
    del caught
    gc.collect()


def test_socks_proxy_is_used(embed, serve, set_variables):
    pytest.importorskip("socksio")
    server = serve()
    asked = []

    def handshake(connection):
        connection.recv(100)
        connection.sendall(b"\x05\x00")
        asked.append(connection.recv(100))
        connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")

    with tunnel(handshake, port_of(server)) as port:
        set_variables(ALL_PROXY=f"socks5://127.0.0.1:{port}")
        embed(embedder_for(f"http://behind-{port}.example/v1"), ["a"])
    assert f"behind-{port}.example".encode() in asked[0]
    assert len(server.requests) == 1


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "socks://127.0.0.1:1080", "garbage://"])
def test_loopback_ignores_the_proxies_of_the_environment(embed, serve, set_variables, variable, value):
    set_variables(**{"NO_PROXY": "", variable: value})
    server = serve()
    embed(server.embedder(), ["a"])
    assert len(server.requests) == 1


BROKEN = {
    "socks://127.0.0.1:1080": "socks5://127.0.0.1:1080",
    "socks4://127.0.0.1:1080": "socks4",
    "ftp://127.0.0.1:21": "ftp",
    "http://": "not the URL of a proxy",
    "http://:8080": "not the URL of a proxy",
    "http://127.0.0.1:": "not the URL of a proxy",
    "http://127.0.0.1:port": "not the URL of a proxy",
    "http://127.0.0.1:99999": "not the URL of a proxy",
    "http://[::1": "not the URL of a proxy",
    "http://xn--invalid-.com:8080": "not the URL of a proxy",
    "http://bad host:80": "not the URL of a proxy",
    "://": "",
    "%%%": "",
}


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", BROKEN)
def test_broken_proxy_is_a_configuration_error_that_names_the_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        proxy_for("https", "nano-gpt.com", None)
    assert BROKEN[value] in str(caught.value)
    assert value.partition("://")[2] in str(caught.value)


@pytest.mark.parametrize("password", ["s3cret", "\ns3cret", "s3cret\nand more"])
def test_broken_proxy_fails_at_once(embed, set_variables, password):
    set_variables(ALL_PROXY=f"socks://me:{password}@127.0.0.1:1080")
    with pytest.raises(ConfigurationError) as caught:
        embed(embedder_for("https://service.example/v1"), ["a"])
    assert str(caught.value).startswith("ALL_PROXY=socks://**********@127.0.0.1:1080 has the unknown scheme")
    assert "s3cret" not in str(caught.value)


def test_socks_without_its_package_is_a_configuration_error(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://me:s3cret@127.0.0.1:1080")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"ALL_PROXY.*socksio") as caught:
        proxy_for("https", "nano-gpt.com", None)
    assert "s3cret" not in str(caught.value)


def test_variable_of_the_scheme_takes_precedence_over_all_proxy(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks://broken")
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert proxy_for("https", "nano-gpt.com", None) == ("http://proxy.example:3128", "HTTPS_PROXY")
    with pytest.raises(ConfigurationError, match="ALL_PROXY"):
        proxy_for("http", "nano-gpt.com", None)


EXEMPT = [
    "*",
    "nano-gpt.com",
    "api.nano-gpt.com",
    ".nano-gpt.com",
    "*.nano-gpt.com",
    "API.NANO-GPT.COM",
    "api.nano-gpt.com:443",
    "https://api.nano-gpt.com",
    "a.example, nano-gpt.com ,b.example",
    "a.example nano-gpt.com",
]
NOT_EXEMPT = [
    "",
    " , ",
    "gpt.com",
    "o-gpt.com",
    "api.nano-gpt.com:8443",
    "nano-gpt.com.evil.example",
    "10.0.0.0/8",
    "[:",
]


@pytest.mark.parametrize("value", EXEMPT)
def test_no_proxy_exempts_a_host(monkeypatch, value):
    assert is_in_no_proxy(value, "api.nano-gpt.com", 443)
    monkeypatch.setenv("ALL_PROXY", "socks://broken")
    monkeypatch.setenv("NO_PROXY", value)
    assert proxy_for("https", "api.nano-gpt.com", None) is None


@pytest.mark.parametrize("value", NOT_EXEMPT)
def test_no_proxy_does_not_exempt_other_hosts(value):
    assert not is_in_no_proxy(value, "api.nano-gpt.com", 443)


@pytest.mark.parametrize(
    ("value", "host", "exempt"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3:8443", "10.1.2.3", False),
        ("2001:db8::1", "2001:db8::1", True),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("[2001:db8::1]:443", "2001:db8::1", True),
        ("[2001:DB8:0::1]:443", "2001:db8::1", True),
        ("[2001:db8::1]:8443", "2001:db8::1", False),
        ("https://api.example/", "api.example", True),
        ("https://api.example:443/api/v1", "api.example", True),
        ("api.example:8443/", "api.example", False),
        ("m\u00fcnchen.example", "xn--mnchen-3ya.example", True),
        (".xn--mnchen-3ya.example", "api.m\u00fcnchen.example", True),
        ("10.1.2.3/", "10.1.2.3", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2.3", "10.1.2.3", False),
    ],
)
def test_no_proxy_accepts_addresses_and_ranges(value, host, exempt):
    assert is_in_no_proxy(value, host, 443) is exempt


@given(st.text(max_size=30), st.sampled_from(["nano-gpt.com", "10.0.0.1", "2001:db8::1"]))
def test_any_no_proxy_is_read_without_an_error(value, host):
    assert is_in_no_proxy(value, host, 443) in (True, False)


@given(st.from_regex(r"(https?|socks5h?|socks|[a-z]{1,5})?(://)?.{0,20}", fullmatch=True))
def test_any_proxy_is_used_or_refused(value):
    assume("\0" not in value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALL_PROXY", value)
        try:
            proxy, refusal = proxy_for("https", "nano-gpt.com", None), None
        except ConfigurationError as error:
            proxy, refusal = None, error
    if refusal is None:
        assert (proxy is not None) == bool(value.strip())
    else:
        assert "ALL_PROXY" in str(refusal)


@pytest.mark.parametrize(
    "variables",
    [
        {"SSL_CERT_FILE": "/nowhere/at-all.pem"},
        {"SSL_CERT_FILE": "/"},
        {"SSL_CERT_FILE": __file__},
        {"SSL_CERT_FILE": "", "SSL_CERT_DIR": "/nowhere/at-all"},
        {"SSLKEYLOGFILE": "/nowhere/at-all/keys.log"},
    ],
    ids=lambda variables: str(list(variables)[-1]),
)
def test_broken_certificate_variable_is_a_configuration_error_at_once(embed, serve, set_variables, variables):
    set_variables(**variables)
    name = list(variables)[-1]
    with pytest.raises(ConfigurationError) as caught:
        embed(embedder_for("https://127.0.0.1:9/v1"), ["a"])
    assert str(caught.value).startswith(f"{name}={variables[name]}")
    embed(serve().embedder(), ["a"])  # plain HTTP to this machine needs no certificates


def test_tls_context_is_made_once():
    assert tls_context() is tls_context()


def test_environment_is_read_in_successive_event_loops(serve):
    server = serve()
    embedder = server.embedder()
    for _ in range(3):
        assert len(asyncio.run(embedder.aembed(["a"]))) == 1

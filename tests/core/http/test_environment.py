"""Proxies and certificates of the environment: used, refused with a clear error, or ignored."""

import asyncio
import base64
import contextlib
import os
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http import environment
from nanogpt_core.http.environment import is_in_no_proxy, proxy_for, tls_context


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


CHILD = """
import asyncio, itertools, sys
from nanogpt_core import Embedder, NanoGPTError
for url, way in itertools.product(sys.argv[2:], sys.argv[1].split()):
    embedder = Embedder("lab/unlisted", api_key="k", base_url=url, max_retries=3, allow_insecure_http=True)
    try:
        rows = embedder.embed(["a"]) if way == "sync" else asyncio.run(embedder.aembed(["a"]))
        print(len(rows))
    except NanoGPTError as error:
        print(type(error).__name__, error)
"""


def run(*base_urls, ways="sync async", **variables):
    """Embed a text at each base URL, sync and async, in one new process; return a line for each."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, ways, *base_urls],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


SERVICE = "http://service.example/v1"


@pytest.mark.parametrize("login", ["", "me:s3%20cret@"], ids=["no login", "login"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_http_proxy_is_used(serve, variable, login):
    proxy = serve()
    address = proxy.base_url.removesuffix("/api/v1").replace("://", f"://{login}")
    assert run(SERVICE, **{variable: address}) == ["1", "1"]
    assert {seen.path for seen in proxy.requests} == {"http://service.example/v1/embeddings"}
    expected = f"Basic {base64.b64encode(b'me:s3 cret').decode()}" if login else None
    assert [seen.header("proxy-authorization") for seen in proxy.requests] == [expected, expected]


@contextlib.contextmanager
def tunnel(handshake, target):
    """Serve one proxy connection: ``handshake(connection)``, then bytes both ways to ``target``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def forward(source, sink):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)

        def work():
            connection, _ = listener.accept()
            with connection:
                handshake(connection)
                with socket.create_connection(("127.0.0.1", target)) as onward:
                    threading.Thread(target=forward, args=(onward, connection), daemon=True).start()
                    forward(connection, onward)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(20)


def test_socks_proxy_is_used(way, serve):
    pytest.importorskip("socksio")
    server = serve()
    asked = []

    def handshake(connection):
        connection.recv(100)
        connection.sendall(b"\x05\x00")
        asked.append(connection.recv(100))
        connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")

    with tunnel(handshake, int(server.base_url.split(":")[2].partition("/")[0])) as port:
        assert run(SERVICE, ways=way.name, ALL_PROXY=f"socks5://127.0.0.1:{port}") == ["1"]
    assert b"service.example" in asked[0]
    assert len(server.requests) == 1


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "socks://127.0.0.1:1080", "garbage://"])
def test_loopback_ignores_the_proxies_of_the_environment(serve, variable, value):
    server = serve()
    assert run(server.base_url, NO_PROXY="", **{variable: value}) == ["1", "1"]


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


def test_broken_proxy_fails_at_once():
    lines = run("https://service.example/v1", ALL_PROXY="socks://me:s3cret@127.0.0.1:1080")
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("ConfigurationError ALL_PROXY=socks://**********@127.0.0.1:1080 has the unknown scheme")
        assert "s3cret" not in line


def test_socks_without_its_package_is_a_configuration_error(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://me:s3cret@127.0.0.1:1080")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"ALL_PROXY.*socksio") as caught:
        proxy_for("https", "nano-gpt.com", None)
    assert "s3cret" not in str(caught.value)


def test_variable_of_the_scheme_takes_precedence_over_all_proxy(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks://broken")
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    assert proxy_for("https", "nano-gpt.com", None) == "http://proxy.example:3128"
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
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ConfigurationError, ValueError):
        try:
            patch.setenv("ALL_PROXY", value)
        except ValueError:
            return
        assert proxy_for("https", "nano-gpt.com", None) is None or value.strip()


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
def test_broken_certificate_variable_is_a_configuration_error_at_once(serve, variables):
    name = list(variables)[-1]
    *refused, sync, asynchronous = run("https://127.0.0.1:9/v1", serve().base_url, **variables)
    assert len(refused) == 2
    assert all(line.startswith(f"ConfigurationError {name}={variables[name]}") for line in refused)
    # Plain HTTP to this machine needs no certificates.
    assert sync == asynchronous == "1"


def test_tls_context_is_made_once():
    assert tls_context() is tls_context()


def test_environment_is_read_in_successive_event_loops(serve):
    server = serve()
    embedder = server.embedder()
    for _ in range(3):
        assert len(asyncio.run(embedder.aembed(["a"]))) == 1

"""Endpoint: sources and checks of base URL, headers and timeout."""

import contextlib
import copy
import pickle
import traceback
from dataclasses import FrozenInstanceError, asdict
from multiprocessing.reduction import ForkingPickler

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.errors import ConfigurationError, InvalidTypeError, NanoGPTError
from nanogpt_core.http.endpoint import DEFAULT_BASE_URL, Endpoint, resolve_base_url
from nanogpt_core.http.sdk import httpx as http
from nanogpt_core.http.sdk import make_client
from nanogpt_core.http.secrets import Secret
from nanogpt_core.http.transport import Transport

CLIENT = http.Client()
KEY = "sk-nano-0d9f6c5e-very-secret"


def told(error):
    """Return the traceback of an error as text."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error)) + str(error.args)


def test_repr_of_endpoint_shows_neither_key_nor_headers():
    endpoint = Endpoint.resolve(api_key=KEY, headers={"X-Tenant": "header-secret"})
    shown = repr(endpoint) + str(endpoint) + repr(asdict(endpoint)["key"])
    assert KEY not in shown
    assert "header-secret" not in shown
    with pytest.raises(FrozenInstanceError):
        endpoint.timeout = 1.0  # type: ignore[misc]


def test_pickle_has_no_header_values_but_copies_do():
    endpoint = Endpoint.resolve(api_key=KEY, headers={"X-Gateway-Key": "header-secret"})
    assert b"header-secret" not in pickle.dumps(endpoint)
    assert copy.deepcopy(endpoint).headers == copy.copy(endpoint).headers == endpoint.headers
    assert pickle.loads(ForkingPickler.dumps(endpoint)).headers == endpoint.headers  # to a worker, through a pipe


def test_call_without_required_key_sends_the_key_if_set(monkeypatch):
    assert Endpoint.resolve(key_required=False).key is None
    assert Endpoint.resolve(api_key=KEY, key_required=False).key == Secret(KEY)
    monkeypatch.setenv("NANO_GPT_API_KEY", KEY)
    assert Endpoint.resolve(key_required=False).key == Secret(KEY)


# --- base URL ---


@pytest.mark.parametrize(
    "value", ["nano-gpt.com/api/v1", "https://nano gpt.com", "http://nano-gpt.com", "https://[::1"]
)
def test_broken_base_url_of_the_environment_is_named_with_its_variable(monkeypatch, value):
    monkeypatch.setenv("NANOGPT_BASE_URL", value)
    with pytest.raises(ConfigurationError, match="NANOGPT_BASE_URL: base_url"):
        resolve_base_url(None)


def test_base_url_precedence_is_argument_variable_default(monkeypatch):
    assert resolve_base_url(None) == DEFAULT_BASE_URL == "https://nano-gpt.com/api/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    assert resolve_base_url(None) == DEFAULT_BASE_URL
    monkeypatch.setenv("NANOGPT_BASE_URL", " https://api.nano-gpt.com/api/paid/v1/ ")
    assert resolve_base_url(None) == "https://api.nano-gpt.com/api/paid/v1"
    assert resolve_base_url("https://nano-gpt.com/api/subscription/v1//") == "https://nano-gpt.com/api/subscription/v1"
    monkeypatch.setenv("NANOGPT_BASE_URL", "  ")
    assert resolve_base_url(None) == DEFAULT_BASE_URL


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "/", "nano-gpt.com/api/v1", "ftp://nano-gpt.com", "file:///etc/passwd", "https://", "https:///v1"),
        *("https://host:99999999/v1", "https://host:x/v1", "https://[::1", "https://nano-gpt.com/api/v1?a=b"),
        *("https://nano-gpt.com/api/v1#a", "https://nano-gpt.com/api/v1/embeddings", "https://a/v1/chat/completions/"),
        *("https://a/v1/completions", "https://a/api/v1/embedding-models"),
        *("https://@a/v1", "https://a..b/v1", f"https://{'a' * 64}.com/v1"),
        *("https://xn--invalid-.com/v1", "https://xn--/v1", "https://XN--99999999.com/v1"),
        *("javascript:alert(1)", "https://exa\nmple.com/v1", "https://a/\x7f", "https://h\x00/", "https://a b.com/v1"),
    ],
)
def test_invalid_base_url_is_refused(url):
    with pytest.raises(ConfigurationError) as caught:
        resolve_base_url(url)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("end", ["?", "/?", "#", "?a=b", "#a"])
def test_query_and_fragment_of_a_base_url_are_named(end):
    with pytest.raises(ConfigurationError, match=r"must not have a query or a fragment\. Leave out"):
        resolve_base_url(f"https://nano-gpt.com/api/v1{end}")


@pytest.mark.parametrize("url", [5, b"https://nano-gpt.com", ["https://nano-gpt.com"], True])
def test_base_url_of_wrong_type_is_refused(url):
    with pytest.raises(InvalidTypeError):
        resolve_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@nano-gpt.com/v1",
        "https://hunter2@nano-gpt.com/v1",
        "https://x.com/v1?key=hunter2",
        "hunter2",
    ],
)
def test_secrets_in_a_base_url_are_not_shown(url):
    with pytest.raises(ConfigurationError) as caught:
        resolve_base_url(url)
    assert "hunter2" not in told(caught.value)


LOOPBACK = [
    "http://localhost:8000/v1",
    "http://127.0.0.1/v1",
    "http://127.9.9.9/v1",
    "http://[::1]:80/v1",
    "http://a.localhost",
]
REMOTE = [
    *(
        "http://nano-gpt.com/api/v1",
        "http://10.0.0.1/v1",
        "http://127.0.0.1.example.com/v1",
        "http://localhost.example.com",
    ),
    *("http://[2001:db8::1]/v1", "http://0.0.0.0/v1", "http://128.0.0.1", "http://notlocalhost", "HTTP://nano-gpt.com"),
]


@pytest.mark.parametrize("url", LOOPBACK)
def test_plain_http_to_loopback_is_accepted(url):
    assert resolve_base_url(url) == url


@pytest.mark.parametrize("url", REMOTE)
def test_plain_http_to_another_machine_is_refused_unless_allowed(url):
    with pytest.raises(ConfigurationError, match="unencrypted"):
        resolve_base_url(url)
    assert resolve_base_url(url, allow_insecure_http=True) == url


@pytest.mark.parametrize("host", ["xn--bcher-kva.example", "XN--wgv71a.example", "bücher.example", "a-xn--b.example"])
def test_international_name_in_both_forms_is_accepted(host):
    assert resolve_base_url(f"https://{host}/v1") == f"https://{host}/v1"


@given(st.text(max_size=30) | st.from_regex(r"https?://(xn--)?[^/]{0,12}(/.{0,8})?", fullmatch=True))
def test_any_text_is_a_usable_base_url_or_refused(url):
    with contextlib.suppress(NanoGPTError):
        endpoint = Endpoint.resolve(api_key=KEY, base_url=url, allow_insecure_http=True)
        assert make_client(openai.OpenAI, endpoint, Transport(endpoint, CLIENT)).base_url.host


# --- timeout and headers ---


@pytest.mark.parametrize("timeout", [1, 0.5, 3600.0])
def test_timeout_is_in_seconds(timeout):
    assert Endpoint.resolve(api_key=KEY, timeout=timeout).timeout == timeout


@pytest.mark.parametrize(
    "timeout", [0, -1, -0.5, float("nan"), float("inf"), 10**400], ids=lambda value: f"{value!r:.8}"
)
def test_invalid_timeout_is_refused(timeout):
    with pytest.raises(ConfigurationError, match="timeout"):
        Endpoint.resolve(api_key=KEY, timeout=timeout)


@pytest.mark.parametrize("timeout", ["60", None, True, [1], b"1"])
def test_timeout_of_wrong_type_is_refused(timeout):
    with pytest.raises(InvalidTypeError, match="timeout"):
        Endpoint.resolve(api_key=KEY, timeout=timeout)


@pytest.mark.parametrize(
    "headers",
    [
        *({"X": "a\nb"}, {"X": "a\rb"}, {"X": "a\0b"}, {"": "a"}, {" ": "a"}, {"X\n": "a"}, {"\u00e9": "a"}),
        *({"X Y": "a"}, {"X:": "a"}, {"X": "hunter2 \u00e9"}, {"X": "\ud800"}, {"X": " hunter2"}),
    ],
    ids=ascii,
)
def test_invalid_headers_are_refused_and_not_shown(headers):
    with pytest.raises(ConfigurationError, match="default_headers") as caught:
        Endpoint.resolve(api_key=KEY, headers=headers)
    assert "hunter2" not in told(caught.value)


@pytest.mark.parametrize("headers", ["X: a", [("X", "a")], {"X": 5}, {5: "a"}, {"X": None}, {b"X": "a"}], ids=repr)
def test_headers_of_wrong_type_are_refused(headers):
    with pytest.raises(InvalidTypeError, match="default_headers"):
        Endpoint.resolve(api_key=KEY, headers=headers)


def test_endpoint_copies_its_headers():
    headers = {"X": "before"}
    endpoint = Endpoint.resolve(api_key=KEY, headers=headers)
    headers["X"] = "after"
    assert endpoint.headers == {"X": "before"}
    assert endpoint.host == "nano-gpt.com"

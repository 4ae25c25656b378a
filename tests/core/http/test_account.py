"""Balance and usage of a key, over HTTP."""

import codecs
import datetime
import json
import traceback

import pytest

from nanogpt_core import Embedder
from nanogpt_core.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidTypeError,
    ModelNotFoundError,
    NanoGPTError,
    ReplyError,
)
from nanogpt_core.http.account import _api_root, fetch_balance, fetch_usage
from nanogpt_core.models.listing import list_models

LIST = b'{"data": [{"id": "lab/new", "pricing": {"per_million_tokens": 1.5}}]}'
VECTOR = b'{"data": [{"index": 0, "embedding": [1.5, 2.0]}]}'
TODAY = datetime.datetime.now(datetime.timezone.utc).date


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        ("https://nano-gpt.com/api/v1", "https://nano-gpt.com/api"),
        ("https://nano-gpt.com/api/subscription/v1", "https://nano-gpt.com/api"),
        ("https://proxy.example/nano/api/v1", "https://proxy.example/nano/api"),
        ("http://localhost:4000/v1", "http://localhost:4000"),
        ("http://localhost:4000", "http://localhost:4000"),
    ],
)
def test_balance_is_asked_outside_of_v1(base_url, root):
    assert _api_root(base_url) == root


def test_balance_is_read_with_both_key_headers(sandbox, options):
    found = fetch_balance(**options)
    assert (found.usd, found.nano) == (10.0, 0.0)
    assert found.reply["usd_balance"] == "10.00000000"
    (request,) = sandbox.requests
    assert (request.method, request.path) == ("POST", "/api/check-balance")
    assert request.headers["x-api-key"] == sandbox.api_key


def test_wrong_key_is_an_authentication_error_that_does_not_show_it(sandbox):
    for fetch in (fetch_balance, fetch_usage):
        with pytest.raises(AuthenticationError) as caught:
            fetch("sk-nano-wrong", sandbox.base_url)
        assert "sk-nano-wrong" not in repr(caught.value)


@pytest.mark.parametrize("fetch", [fetch_balance, fetch_usage, list_models])
@pytest.mark.parametrize("is_sent", [True, False], ids=["refused", "wrong URL"])
def test_key_is_in_no_local_variable_of_an_error(scripted, faults, fetch, is_sent):
    server = scripted(faults.response({"error": {"message": "no"}}, 401))
    with pytest.raises(NanoGPTError) as caught:
        fetch("sk-nano-wrong", server.base_url if is_sent else "no URL")
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert len(frames) > 1
    assert "sk-nano-wrong" not in "".join(repr(frame.f_locals) for frame in frames[1:])


def test_usage_is_summed_by_model_and_by_day(fresh_sandbox):
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    spent = 0.0
    for model, texts in (("BAAI/bge-m3", ["one text", "another one"]), ("text-embedding-3-small", ["a third text"])):
        embedder = Embedder(model, **options)
        embedder.embed(texts)
        spent += embedder.usage.cost_usd
    found = fetch_usage(**options)
    assert {row.model: row.requests for row in found.by_model} == {"BAAI/bge-m3": 1, "text-embedding-3-small": 1}
    assert sum(row.requests for row in found.by_day) == found.total.requests == 2
    assert found.total.usd == pytest.approx(spent)
    assert found.total.input_tokens > 0
    assert (found.total.date, found.total.model) == (None, None)


def test_usage_of_a_range_of_days_is_asked_for(fresh_sandbox):
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    last = TODAY() - datetime.timedelta(days=1)
    found = fetch_usage(**options, first=last - datetime.timedelta(days=6), last=last)
    assert (found.first, found.last) == (str(last - datetime.timedelta(days=6)), str(last))
    assert found.total.requests == 0


@pytest.mark.parametrize(
    ("days", "message"),
    [
        ({"first": datetime.date(2026, 1, 2)}, "first and its last day"),
        ({"first": datetime.date(2026, 1, 2), "last": datetime.date(2026, 1, 1)}, "is before the first"),
        ({"first": datetime.date(2024, 1, 1), "last": datetime.date(2026, 1, 1)}, "more than 366 days"),
    ],
)
def test_impossible_range_of_days_is_refused_before_a_request(sandbox, options, days, message):
    with pytest.raises(ConfigurationError, match=message):
        fetch_usage(**options, **days)
    assert sandbox.requests == []


@pytest.mark.parametrize("first", ["2026-01-01", datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)])
def test_day_that_is_no_date_is_refused(options, first):
    with pytest.raises(InvalidTypeError, match="first must be a date"):
        fetch_usage(**options, first=first, last=datetime.date(2026, 1, 1))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"other": 1}', b"null"])
@pytest.mark.parametrize("fetch", [fetch_balance, fetch_usage])
def test_reply_of_another_form_is_a_reply_error(httpserver_of, fetch, body):
    with pytest.raises(ReplyError):
        fetch("sk-nano-test", httpserver_of(body))


@pytest.mark.parametrize(
    ("ask", "body"),
    [
        (lambda **options: fetch_balance(**options).usd, b'{"usd_balance": "1.5"}'),
        (lambda **options: fetch_usage(**options).total.usd, b'{"totals": {"costUsd": 1.5}}'),
        (lambda **options: list_models(**options)["lab/new"].usd_per_million_tokens, LIST),
        (lambda **options: Embedder(**options, model="lab/new").embed_query("a").tolist()[0], VECTOR),
    ],
    ids=["balance", "usage", "models", "embeddings"],
)
def test_byte_order_mark_before_a_reply_is_ignored(httpserver_of, ask, body):
    assert ask(api_key="sk-nano-test", base_url=httpserver_of(codecs.BOM_UTF8 + body)) == 1.5


@pytest.mark.parametrize("number", ['"NaN"', "NaN", "1e999", "1" + "0" * 400, "true", '"much"', "null"])
def test_amount_that_is_no_finite_number_is_unknown(httpserver_of, number):
    found = fetch_balance("sk-nano-test", httpserver_of(f'{{"usd_balance": {number}}}'.encode()))
    assert found.usd is None


@pytest.fixture
def httpserver_of():
    """Return a function that starts a server which gives one body to every request, and returns its base URL."""
    import http.server
    import threading

    servers = []

    def start(body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815 - http.server's names

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/api/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("row", "usd"),
    [({"costUsd": 2, "netCostUsd": 1.5}, 1.5), ({"costUsd": 2}, 2.0), ({"costUsd": "x"}, None), ({}, None)],
)
def test_net_cost_goes_before_gross_cost(httpserver_of, row, usd):
    body = json.dumps({"from": "a", "to": "b", "totals": row, "byDay": [row, 1], "byModel": None}).encode()
    found = fetch_usage("sk-nano-test", httpserver_of(body))
    assert found.total.usd == usd
    assert (len(found.by_day), found.by_model) == (1, ())


@pytest.mark.parametrize("fetch", [fetch_balance, fetch_usage])
def test_error_in_a_reply_of_status_200_is_told(httpserver_of, fetch):
    with pytest.raises(ReplyError, match=r"^The service answered 200 with an error: No such account\. Try again"):
        fetch("sk-nano-test", httpserver_of(b'{"error": {"message": "No such account"}}'))


@pytest.mark.parametrize(
    ("fetch", "path", "words"),
    [
        (fetch_balance, "/api/v1", "Check base_url, as {host}/api/check-balance may not be there."),
        (fetch_usage, "/api/v1", "Check base_url, as {host}/api/v1 may have no /usage, "),
        (fetch_usage, "/api", "The base URL looks wrong: {host}/api. It should end in "),
    ],
)
def test_missing_path_points_at_the_base_url(fetch, path, words, scripted, faults):
    host = (server := scripted(faults.response("", 404))).base_url.removesuffix("/api/v1")
    with pytest.raises(ModelNotFoundError) as caught:
        fetch(server.api_key, f"{host}{path}")
    assert caught.value.remedy.startswith(words.format(host=host))

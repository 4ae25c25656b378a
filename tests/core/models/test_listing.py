"""Live list of models: over HTTP, and its parser without I/O."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core import MODELS, ModelInfo, list_models
from nanogpt_core.errors import AuthenticationError, ConfigurationError, ReplyError, ServerError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.models.listing import fetch_chat_price, live_model_info, parse_model_list

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["id", "dimensions", "max_dimensions", "supports_dimensions", "max_tokens", "pricing", "name"]
NUMBERS = st.integers(-(10**400), 10**400) | st.integers(-2, 5000) | st.floats()
PRICING = st.fixed_dictionaries(
    {}, optional={"per_million_tokens": NUMBERS | JSON, "currency": st.sampled_from(["USD", "usd", "EUR"]) | JSON}
)
ROWS = st.dictionaries(st.sampled_from(FIELDS), JSON | NUMBERS | PRICING | st.sampled_from(list(MODELS)), max_size=7)


def read(*rows):
    return parse_model_list(json.dumps({"object": "list", "data": list(rows)}).encode())


def test_list_is_merged_with_the_catalog(sandbox, options):
    listed = list_models(**options)
    assert set(MODELS) < set(listed)
    assert listed["text-embedding-3-small"] == MODELS["text-embedding-3-small"]
    assert listed["BAAI/bge-large-en-v1.5"].query_instruction == MODELS["BAAI/bge-large-en-v1.5"].query_instruction
    newer = listed["sandbox-embedding-new"]
    assert (newer.dimensions, newer.min_dimensions, newer.max_dimensions) == (1024, 1, 1024)
    assert newer.max_tokens == 8192
    assert newer.source == "live list"
    (request,) = sandbox.requests
    assert (request.method, request.path) == ("GET", "/api/v1/embedding-models")
    assert request.headers["authorization"] == f"Bearer {sandbox.api_key}"


def test_list_needs_no_key(sandbox):
    assert "BAAI/bge-m3" in list_models(base_url=sandbox.base_url)
    assert "authorization" not in sandbox.requests[0].headers
    assert "x-api-key" not in sandbox.requests[0].headers


def test_list_uses_key_and_base_url_of_the_environment(sandbox, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    assert list_models()
    assert sandbox.requests[0].headers["authorization"] == f"Bearer {sandbox.api_key}"


def test_list_refuses_an_invalid_key(sandbox):
    with pytest.raises(ConfigurationError):
        list_models(api_key="", base_url=sandbox.base_url)
    assert sandbox.requests == []


def test_live_values_override_the_catalog():
    (row,) = read(
        {
            "id": "BAAI/bge-m3",
            "dimensions": 512,
            "max_tokens": 99,
            "supports_dimensions": False,
            "pricing": {"per_million_tokens": 0.5, "currency": "USD"},
        }
    ).values()
    assert (row.dimensions, row.max_tokens, row.usd_per_million_tokens) == (512, 99, 0.5)
    assert row.widths == {512, 1024}
    assert row.tokenizer == "xlm-roberta"


def test_unlisted_model_is_left_out():
    assert list(read({"id": "BAAI/bge-m3"})) == ["BAAI/bge-m3"]


def test_list_decides_support_of_dimensions():
    rows = read(
        {"id": "text-embedding-3-small", "dimensions": 1536, "supports_dimensions": False},
        {"id": "lab/new", "dimensions": 640, "supports_dimensions": True},
        {"id": "BAAI/bge-m3", "dimensions": 1024, "supports_dimensions": True, "max_dimensions": 900},
        {"id": "Qwen/Qwen3-Embedding-0.6B"},
    )
    assert not rows["text-embedding-3-small"].reduces
    assert (rows["lab/new"].min_dimensions, rows["lab/new"].max_dimensions) == (1, 640)
    assert (rows["BAAI/bge-m3"].min_dimensions, rows["BAAI/bge-m3"].max_dimensions) == (1, 900)
    assert rows["Qwen/Qwen3-Embedding-0.6B"] == MODELS["Qwen/Qwen3-Embedding-0.6B"]


@pytest.mark.parametrize("bad", [None, True, "1024", 0, -1, 1.5, [1], {"a": 1}])
def test_fields_of_wrong_type_are_ignored(bad):
    row = read({"id": "BAAI/bge-m3", "dimensions": bad, "max_tokens": bad, "pricing": bad})["BAAI/bge-m3"]
    assert row == MODELS["BAAI/bge-m3"]


@pytest.mark.parametrize(
    "pricing",
    [
        {"per_million_tokens": 3, "currency": "EUR"},
        {"per_million_tokens": -1, "currency": "USD"},
        {"per_million_tokens": True},
        {"per_million_tokens": "3"},
        {"per_million_tokens": float("nan")},
        {"per_million_tokens": float("inf")},
        {"per_million_tokens": 10**400},
    ],
)
def test_invalid_price_is_ignored(pricing):
    assert read({"id": "lab/new", "pricing": pricing})["lab/new"].usd_per_million_tokens is None


@pytest.mark.parametrize("dimensions", [10**15, 10**30, 0, -1, 1.5, "6", True])
def test_impossible_dimensions_are_ignored(dimensions):
    row = {"id": "lab/new", "dimensions": dimensions, "supports_dimensions": True, "max_dimensions": dimensions}
    found = read(row)["lab/new"]
    assert (found.dimensions, found.max_dimensions) == (None, None)


def test_bare_list_is_accepted_and_rows_without_name_ignored():
    body = json.dumps([{"id": "a/b"}, {"name": "x"}, {"id": 5}, None, "c", {"id": "d", "extra": {}}]).encode()
    assert list(parse_model_list(body)) == ["a/b", "d"]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00", "\ud83d"])
def test_row_with_a_name_that_no_request_can_have_is_ignored(name):
    assert list(read({"id": name}, {"id": "lab/new"})) == ["lab/new"]


def test_list_with_half_of_a_character_is_read():
    row = read({"id": "lab/new", "dimensions": 64, "description": "Fast \ud83d"})["lab/new"]
    assert row.dimensions == 64


def test_list_with_line_breaks_in_its_texts_is_read():
    assert list(parse_model_list(b'[{"id": "lab/new", "description": "one\ntwo"}]')) == ["lab/new"]


@pytest.mark.parametrize("currency", [{}, {"currency": None}, {"currency": ""}, {"currency": "usd"}])
def test_price_is_in_us_dollars_unless_the_list_says_otherwise(currency):
    row = read({"id": "lab/new", "pricing": {"per_million_tokens": 3, **currency}})["lab/new"]
    assert row.usd_per_million_tokens == 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"null",
        b'"x"',
        b"{}",
        b'{"data": null}',
        b'{"data": {"a": 1}}',
        b'{"data": [',
        b"[" * 9999,
    ],
    ids=["nothing", "html", "null", "string", "no data", "null data", "object", "cut", "deep"],
)
def test_other_documents_are_a_reply_error(body):
    with pytest.raises(ReplyError, match="list of models"):
        parse_model_list(body)


@given(st.lists(ROWS | JSON, max_size=5))
def test_any_rows_give_valid_model_infos(rows):
    found = read(*rows)
    for name, row in found.items():
        assert isinstance(row, ModelInfo)
        assert row.id == name
        assert row.dimensions is None or row.dimensions > 0
        price = row.usd_per_million_tokens
        assert price is None or 0 <= price < float("inf")


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_a_reply_error(body):
    try:
        rows = parse_model_list(body)
    except ReplyError:
        return
    assert isinstance(rows, dict)


def test_list_failures_are_nanogpt_errors(scripted, faults):
    server = scripted(
        faults.response({"error": {"message": "who are you"}}, 401), faults.response("<html>down</html>", 503)
    )
    with pytest.raises(AuthenticationError, match="who are you") as caught:
        list_models("some-key", server.base_url)
    assert caught.value.status == 401
    with pytest.raises(ServerError, match="down"):
        list_models("some-key", server.base_url)


def test_failure_to_fetch_live_model_info_is_not_kept(scripted, faults):
    rows = {"data": [{"id": "lab/new", "dimensions": 24}]}
    server = scripted(faults.response("<html>down</html>", 503), faults.response(rows))
    endpoint = Endpoint.resolve(api_key="some-key", base_url=server.base_url)
    with pytest.raises(ServerError, match="down"):
        live_model_info(endpoint, "lab/new")
    assert [live_model_info(endpoint, "lab/new").dimensions for _ in range(2)] == [24, 24]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("more", "price"),
    [
        ({}, (1.0, 2.0)),
        ({"currency": None, "unit": None}, (1.0, 2.0)),
        ({"unit": "per_token"}, None),
        ({"currency": "EUR"}, None),
    ],
)
def test_price_of_a_chat_model_needs_the_unit_and_the_currency(scripted, faults, more, price):
    rows = {"data": [{"id": "lab/chat", "pricing": {"prompt": 1, "completion": 2, **more}}]}
    server = scripted(faults.response(rows))
    endpoint = Endpoint.resolve(api_key="some-key", base_url=server.base_url)
    assert fetch_chat_price(endpoint, "lab/chat") == price

"""Embedder over real HTTP: options, input checks, requests, results, and the hidden key."""

import asyncio
import contextlib
import copy
import enum
import functools
import gc
import inspect
import itertools
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from nanogpt_core import MODELS, Embedder, Estimate, Usage, list_models
from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    InvalidInputError,
    InvalidTypeError,
    NanoGPTError,
    TextTooLongError,
)
from nanogpt_core.http.sdk import httpx as http
from nanogpt_core.models.tokens import TokenCounter, load_encoding
from nanogpt_core.scale.request_log import RequestLog

KEY = "sk-nano-5ecre7-never-shown"
ODD_TEXTS = [
    *(
        "plain",
        "line\nbreak\r\n\ttab",
        "𝄞 clef",
        "👩🏽‍🚀",
        "e\u0301 and \u00e9",
        "\x00",
        "a\x00b",
        "\x01\x1b[31m\x7f",
        '"quoted"\\',
    ),
    *(
        "a\u2028\u2029b",
        "\ufeffmark",
        "\u202eright to left",
        "مرحبا",
        "日本語",
        "\U0010ffff",
        " padded ",
        "</script>",
        "{query}",
    ),
]


@pytest.fixture
def right(faults):
    return lambda texts: np.array([faults.vector_of(text) for text in texts])


# --- construction ---


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"batch_size": 2049}, ValueError, "2,048"),
        ({"batch_size": True}, TypeError, "batch_size"),
        ({"batch_size": "5"}, TypeError, "batch_size"),
        ({"batch_size": 5.0}, TypeError, "batch_size"),
        ({"batch_size": 10**5000}, ValueError, "batch_size"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency"),
        ({"max_concurrency": None}, TypeError, "max_concurrency"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"max_retries": "2"}, TypeError, "max_retries"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": "60"}, TypeError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"dimensions": 0}, ValueError, "dimensions"),
        ({"dimensions": 1537}, ValueError, "1,536"),
        ({"dimensions": "256"}, TypeError, "dimensions"),
        ({"dimensions": True}, TypeError, "dimensions"),
        ({"dimensions": np.int64(6)}, TypeError, "whole number (int), not int64. Pass int(dimensions)."),
        ({"budget_usd": Decimal("0.5")}, TypeError, "(int or float), not Decimal. Pass float(budget_usd)."),
        ({"timeout": np.float32(5)}, TypeError, "not float32. Pass float(timeout)."),
        ({"coalesce": np.True_}, TypeError, "Pass bool(coalesce)."),
        ({"cache": "redis://127.0.0.1:6379"}, ValueError, "RedisCache(url)"),
        ({"cache": "file:vectors.db?mode=memory"}, ValueError, "must not be a URL"),
        ({"model": "BAAI/bge-m3", "dimensions": 512}, ValueError, "does not take"),
        ({"model": "BAAI/bge-m3", "dimensions": 1024}, ValueError, "does not take"),
        ({"model": "Qwen/Qwen3-Embedding-0.6B", "dimensions": 31}, ValueError, "from 32 to 1,024"),
        ({"model": "lab/new", "dimensions": 0}, ValueError, "dimensions"),
        ({"model": "lab/new", "dimensions": 10**30}, ValueError, "dimensions"),
        ({"model": ""}, ValueError, "model"),
        ({"model": " "}, ValueError, "model"),
        ({"model": None}, TypeError, "model"),
        ({"model": 5}, TypeError, "model"),
        ({"model": "\ud800"}, ValueError, "model"),
        ({"user": 5}, TypeError, "user"),
        ({"user": "\ud800"}, ValueError, "user"),
        ({"query_instruction": 5}, TypeError, "query_instruction"),
        ({"query_instruction": "\udfff: "}, ValueError, "query_instruction"),
        ({"on_overflow": "cut"}, ValueError, "error, truncate, split"),
        ({"on_overflow": None}, ValueError, "on_overflow"),
        ({"on_overflow": ["split"]}, ValueError, "on_overflow"),
        ({"on_overflow": np.zeros(2)}, ValueError, "on_overflow must be"),
        ({"model_info": np.zeros(2)}, TypeError, "model_info must be"),
        ({"progress": 5}, TypeError, "progress"),
        ({"progress": "yes"}, TypeError, "progress"),
        ({"api_key": ""}, ValueError, "api_key"),
        ({"api_key": 5}, TypeError, "api_key"),
        ({"api_key": "sk-nano-hidden\nhidden"}, ValueError, "api_key"),
        ({"base_url": "http://nano-gpt.com/api/v1"}, ValueError, "https://"),
        ({"base_url": "nano-gpt.com"}, ValueError, "base_url"),
        ({"base_url": 5}, TypeError, "base_url"),
        ({"default_headers": {"X": 5}}, TypeError, "default_headers"),
        ({"default_headers": {"X": "a\nb"}}, ValueError, "default_headers"),
        ({"http_client": "client"}, TypeError, "http_client"),
        ({"http_async_client": "client"}, TypeError, "http_async_client"),
        ({"batchsize": 5}, TypeError, "'batch_size'"),
        ({"dimension": 5}, TypeError, "'dimensions'"),
        ({"apikey": "x"}, TypeError, "'api_key'"),
        ({"async_http_client": None}, TypeError, "'http_async_client'"),
        ({"on_overflows": "error"}, TypeError, "'on_overflow'"),
        ({"xyzzy": 5}, TypeError, "The options are: model, api_key"),
    ],
    ids=lambda value: f"{value!r:.45}" if isinstance(value, dict) and "batch_size" not in value else "",
)
def test_invalid_options_are_refused_by_the_constructor(options, kind, words):
    with pytest.raises(NanoGPTError) as caught:
        Embedder(**{"api_key": KEY, **options})
    assert isinstance(caught.value, kind)
    assert isinstance(caught.value, (ConfigurationError, InvalidTypeError))
    assert words in str(caught.value)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))
    assert KEY not in str(caught.value)


async def yields_in_async_code(*_values):
    yield


def yields(*_values):
    yield


@pytest.mark.parametrize("name", ["progress", "on_request"])
@pytest.mark.parametrize("function", [asyncio.sleep, yields, yields_in_async_code])
@pytest.mark.parametrize("change", [lambda function: function, functools.partial], ids=["function", "partial"])
def test_function_that_a_call_would_not_run_is_refused_by_the_constructor(name, function, change):
    with pytest.raises(InvalidTypeError, match=f"{name} must be a plain function"):
        Embedder(api_key=KEY, **{name: change(function)})


def test_cache_with_async_methods_is_refused_by_the_constructor():
    class AsyncCache:
        async def get_many(self, _keys):
            return {}

        async def put_many(self, _entries):
            pass

    with pytest.raises(InvalidTypeError, match="AsyncCache with async methods"):
        Embedder(api_key=KEY, cache=AsyncCache())


def test_missing_key_error_names_the_environment_variable():
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        Embedder()


def test_defaults_are_as_documented(monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", KEY)
    embedder = Embedder()
    assert embedder.model == "text-embedding-3-small"
    assert embedder.base_url == "https://nano-gpt.com/api/v1"
    assert embedder.model_info is MODELS["text-embedding-3-small"]
    assert embedder.api_key.get_secret_value() == KEY
    assert embedder.usage == Usage(0, 0, 0, 0.0, 0, 0)


@pytest.mark.parametrize("batch_size", [0, 2049, True, "5", -1])
def test_batch_size_of_a_call_is_checked_before_anything_is_sent(embed, make, sandbox, batch_size):
    with pytest.raises(NanoGPTError, match="batch_size") as caught:
        embed(make(), ["a"], batch_size=batch_size)
    assert isinstance(caught.value, (ValueError, TypeError))
    assert sandbox.requests == []


# --- input ---


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        *(("text", TypeError), (b"text", TypeError), (None, TypeError), (5, TypeError), ({"a": "b"}, TypeError)),
        *(
            ([5], TypeError),
            (["a", None], TypeError),
            ([["a"]], TypeError),
            ([b"a"], TypeError),
            (np.array("a"), TypeError),
        ),
        *(([""], ValueError), (["a", " \n"], ValueError), (["\ud800"], ValueError), ([1, 2, 3], TypeError)),
        (["a", "word " * 9000], ValueError),
    ],
    ids=lambda value: f"{value!r:.20}",
)
def test_bad_input_is_refused_before_anything_is_sent(embed, make, sandbox, texts, kind):
    embedder = make()
    for call in (lambda: embed(embedder, texts), lambda: embedder.estimate(texts)):
        with pytest.raises(NanoGPTError) as caught:
            call()
        assert isinstance(caught.value, kind)
    assert sandbox.requests == []
    assert embedder.usage == Usage(0, 0, 0, 0.0, 0, 0)


@pytest.mark.parametrize("text", [None, 5, b"a", ["a"], "", " ", "\ud800", "word " * 9000], ids=lambda v: f"{v!r:.12}")
def test_bad_query_is_refused_before_anything_is_sent(query, make, sandbox, text):
    with pytest.raises(NanoGPTError) as caught:
        query(make(), text)
    assert isinstance(caught.value, (ValueError, TypeError))
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("model", "more", "width"),
    [
        *(("text-embedding-3-small", {}, 1536), ("text-embedding-3-large", {"dimensions": 5}, 5), ("lab/new", {}, 0)),
        *(("lab/new", {"dimensions": 7}, 7), ("BAAI/bge-m3", {}, 1024), ("BAAI/bge-large-en-v1.5", {}, 0)),
    ],
)
def test_no_texts_give_no_rows_and_no_request(embed, make, sandbox, *, model, more, width):
    vectors = embed(make(model, **more), [])
    assert vectors.shape == (0, width)
    assert vectors.dtype == np.float32
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "container",
    [
        list,
        tuple,
        iter,
        lambda texts: (text for text in texts if text),
        np.array,
        lambda texts: map(np.str_, texts),
    ],
    ids=["list", "tuple", "iterator", "generator", "array", "numpy strings"],
)
def test_any_iterable_of_texts_is_accepted(embed, serve, right, container):
    texts = ["one", "two", "three"]
    assert (embed(serve().embedder(), container(texts)) == right(texts)).all()


def test_unusual_texts_are_sent_unchanged(embed, serve, right):
    server = serve()
    assert (embed(server.embedder(), ODD_TEXTS) == right(ODD_TEXTS)).all()
    assert server.requests[0].texts == ODD_TEXTS


def test_huge_text_is_sent_unchanged_to_an_unknown_model(embed, serve, right):
    # An unknown model has no known limit: the service decides.
    text = "word 你好 𝄞 " * 400_000
    server = serve()
    assert (embed(server.embedder(), [text, "small"]) == right([text, "small"])).all()
    assert server.requests[0].texts[0] == text


# --- requests and results ---


def test_request_has_only_documented_fields_and_headers(way, serve):
    server = serve()
    way.embed(server.embedder(), ["one"])
    way.embed(server.embedder(dimensions=4, user="me"), ["one"])
    way.query(server.embedder(), "one")
    plain = {"input": ["one"], "model": "lab/unlisted", "encoding_format": "base64"}
    assert [seen.json for seen in server.requests] == [plain, {**plain, "dimensions": 4, "user": "me"}, plain]
    for seen in server.requests:
        assert (seen.method, seen.path) == ("POST", "/api/v1/embeddings")
        names = {name.lower() for name, _ in seen.headers}
        assert names == {
            *("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent"),
            "authorization",
        }
        assert seen.header("authorization") == f"Bearer {server.api_key}"
        assert seen.header("content-type") == "application/json"
        assert seen.header("user-agent").startswith("nanogpt-rag")


def test_authorization_header_replaces_the_key(embed, serve):
    server = serve()
    embed(server.embedder(default_headers={"authorization": "Basic abc"}), ["one"])
    assert [value for name, value in server.requests[0].headers if name.lower() == "authorization"] == ["Basic abc"]


def test_default_headers_are_sent_beside_the_key(embed, serve):
    server = serve()
    embed(server.embedder(default_headers={"X-Tenant": "seven", "user-agent": "mine"}), ["one"])
    assert {("X-Tenant", "seven"), ("Authorization", f"Bearer {server.api_key}")} < set(server.requests[0].headers)
    assert [value for name, value in server.requests[0].headers if name.lower() == "user-agent"] == ["mine"]


def test_cookie_of_the_service_is_sent_back(embed, scripted, faults):
    server = scripted(
        lambda seen: faults.response(faults.document(seen.json["input"]), Set_Cookie="place=seven; Path=/")
    )
    embedder = server.embedder()
    embed(embedder, ["one"])
    embed(embedder, ["two"])
    assert [seen.header("cookie") for seen in server.requests] == [None, "place=seven"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.sampled_from(ODD_TEXTS), max_size=40), batch_size=st.integers(1, 7))
def test_vectors_are_in_input_order_and_repeated_texts_are_sent_once(texts, batch_size, shared_raw):
    server, embedder, right = shared_raw
    server.clear()
    vectors = embedder.embed(texts, batch_size=batch_size)
    assert vectors.shape == (len(texts), right(["x"]).shape[1] if texts or embedder.width else 0)
    assert not texts or (vectors == right(texts)).all()
    sent = [text for seen in server.requests for text in seen.texts]
    assert sorted(sent) == sorted(set(texts))
    assert all(len(seen.texts) <= batch_size for seen in server.requests)
    assert len(server.requests) == -(-len(set(texts)) // batch_size)


@pytest.fixture(scope="module")
def shared_raw(faults):
    with faults.FaultServer() as server:
        embedder = Embedder("lab/unlisted", api_key="k", base_url=server.base_url, max_retries=0)
        yield server, embedder, lambda texts: np.array([faults.vector_of(text) for text in texts])


def test_result_array_is_writable_and_not_shared(embed, make):
    embedder = make()
    vectors = embed(embedder, ["one", "two"])
    assert (vectors.dtype, vectors.flags.writeable, vectors.flags.c_contiguous) == (np.float32, True, True)
    before = vectors.copy()
    vectors[:] = 0
    assert (embed(embedder, ["one", "two"]) == before).all()


@pytest.mark.parametrize(
    ("count", "more", "sizes"),
    [
        (100, {}, [100]),
        (600, {}, [88, 128, 128, 128, 128]),
        (600, {"max_concurrency": 3}, [200, 200, 200]),
        (900, {"max_concurrency": 1}, [100, 800]),
        (600, {"batch_size": 300}, [300, 300]),
    ],
    ids=str,
)
def test_texts_are_spread_over_concurrent_requests(embed, make, sandbox, *, count, more, sizes):
    texts = [f"text {number}" for number in range(count)]
    embedder = make(dimensions=8, **more)
    assert embedder.estimate(texts).requests == len(sizes)
    assert embed(embedder, texts).shape == (count, 8)
    assert sorted(request.items for request in sandbox.requests) == sizes


def test_max_request_tokens_is_respected(embed, sandbox_with):
    sandbox = sandbox_with()
    embedder = Embedder("BAAI/bge-m3", api_key=sandbox.api_key, base_url=sandbox.base_url, batch_size=64, max_retries=0)
    texts = [f"{i} " + "several plain words " * 300 for i in range(12)]
    assert embed(embedder, texts).shape == (12, 1024)
    assert {request.status for request in sandbox.requests} == {200}
    counter = TokenCounter(MODELS["BAAI/bge-m3"])
    for request in sandbox.requests:
        assert len(request.inputs) == 1 or sum(map(counter.count, request.inputs)) <= 8192
    assert 1 < len(sandbox.requests) < 12


def test_batch_of_more_tokens_than_estimated_is_divided(embed, sandbox_with):
    sandbox = sandbox_with()  # what is learned of it concerns no other test
    texts = [f"{number} " + "a b " * 220 for number in range(790)]  # a token in 2 bytes; the estimate is one in 3
    embedder = Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url, dimensions=8, max_concurrency=1)
    assert embed(embedder, texts).shape == (790, 8)
    assert [request.status for request in sandbox.requests] == [400, 200, 200]
    embed(embedder, texts)
    assert {request.status for request in sandbox.requests[3:]} == {200}  # learned


@pytest.mark.parametrize("dimensions", [1, 256, 1536])
def test_dimensions_reduces_the_vectors(way, make, sandbox, dimensions):
    embedder = make(dimensions=dimensions)
    assert way.embed(embedder, ["one"]).shape == (1, dimensions)
    assert way.query(embedder, "one").shape == (dimensions,)
    assert {request.body["dimensions"] for request in sandbox.requests} == {dimensions}


def test_width_of_an_unknown_model_is_learned_from_the_first_response(way, make):
    embedder = make("sandbox-embedding-new")
    assert embedder.width is None
    assert way.embed(embedder, []).shape == (0, 0)
    assert way.query(embedder, "one").shape == (1024,)
    assert embedder.width == 1024
    assert way.embed(embedder, []).shape == (0, 1024)


# --- queries ---


@pytest.mark.parametrize(
    ("model", "instruction", "sent"),
    [
        ("BAAI/bge-large-en-v1.5", None, "cats"),
        ("BAAI/bge-large-en-v1.5", "", "cats"),
        ("BAAI/bge-large-en-v1.5", "recommended", "Represent this sentence for searching relevant passages: cats"),
        ("BAAI/bge-large-zh-v1.5", "recommended", "为这个句子生成表示以用于检索相关文章：cats"),
        (
            "Qwen/Qwen3-Embedding-0.6B",
            "recommended",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:cats",
        ),
        ("text-embedding-3-small", "recommended", "cats"),
        ("sandbox-embedding-new", "recommended", "cats"),
        ("text-embedding-3-small", "prefix ", "prefix cats"),
        ("text-embedding-3-small", "before {query} after", "before cats after"),
        ("text-embedding-3-small", "{query} {query} {other} %s", "cats cats {other} %s"),
    ],
)
def test_query_instruction_is_applied_to_queries_only(way, make, sandbox, *, model, instruction, sent):
    embedder = make(model, query_instruction=instruction)
    way.query(embedder, "cats")
    way.embed(embedder, ["cats"])
    assert [request.inputs for request in sandbox.requests] == [(sent,), ("cats",)]


def test_query_with_braces_is_not_a_template(query, make, sandbox):
    query(make(query_instruction="find {query}!"), "{query} {0} \\1")
    assert sandbox.requests[0].inputs == ("find {query} {0} \\1!",)


# --- long texts ---

LONG = "An ordinary sentence about nothing in particular. " * 150 + "The end."


def test_too_long_texts_raise_with_their_positions(embed, make, sandbox):
    with pytest.raises(TextTooLongError) as caught:
        embed(make("BAAI/bge-large-en-v1.5"), ["a", LONG, "b", LONG, LONG + "!"])
    assert caught.value.positions == (1, 4)
    assert "on_overflow" in caught.value.remedy
    assert sandbox.requests == []


@pytest.mark.parametrize("method", ["embed", "embed_lists"])
def test_errors_give_the_positions_in_a_longer_list(method, way, serve, faults):
    def answer(seen):
        return faults.response("", status=401) if seen.texts == ["bad"] else faults.good(seen)

    embedder = serve(answer).embedder(batch_size=1, max_concurrency=1)

    def call(texts, first):
        if way.name == "sync":
            getattr(embedder, method)(texts, first=first)
        else:
            asyncio.run(getattr(embedder, f"a{method}")(texts, first=first))

    def positions(texts, first, error):
        with pytest.raises(error) as caught:
            call(texts, first)
        found = caught.value
        return getattr(found, "positions", ()), sorted(found.completed), found.failed_positions

    assert positions(["a", " ", "b"], 7, InvalidInputError) == ((8,), [], ())
    assert positions(["a", " ", "\ud800"], [9, 4, 6], InvalidInputError) == ((4,), [], ())
    assert positions(["a", "\ud800"], [9, 4], InvalidInputError) == ((4,), [], ())
    assert positions(["a", 5], [9, 4], InvalidTypeError) == ((4,), [], ())
    assert positions(["a", "b", "a", "bad"], 7, AuthenticationError) == ((), [7, 8, 9], (10,))
    assert positions(["a", "b", "a", "bad"], [9, 4, 6, 2], AuthenticationError) == ((), [4, 6, 9], (2,))
    with pytest.raises(InvalidInputError, match=r"^first has 1 positions for 2 texts\.$"):
        embedder.embed(["a", "b"], first=[3])
    with pytest.raises(ConfigurationError, match=r"^first must be at least 0, not -1\.$"):
        embedder.embed(["a", "b"], first=-1)
    for wrong in (1.5, "01", [0.5, 1.5], [None, None]):
        with pytest.raises(InvalidTypeError, match=r"^first must be a whole number, or a list of them\.$"):
            embedder.embed(["a", "b"], first=wrong)
    for wrong in (False, True):
        with pytest.raises(InvalidTypeError, match="first must be a whole number"):
            embedder.embed(["a", "b"], first=wrong)


def test_on_overflow_applies_to_queries(query, make, sandbox):
    with pytest.raises(TextTooLongError, match="Shorten or split it") as caught:
        query(make("BAAI/bge-large-en-v1.5"), LONG)
    assert "position" not in str(caught.value)  # there is only one text
    assert sandbox.requests == []
    vector = query(make("BAAI/bge-large-en-v1.5", on_overflow="truncate"), LONG)
    (sent,) = sandbox.requests[0].inputs
    assert LONG.startswith(sent)
    assert vector.shape == (1024,)


def test_truncate_embeds_the_beginning_of_a_long_text(embed, make, sandbox):
    embedder = make("BAAI/bge-large-en-v1.5", on_overflow="truncate")
    vectors = embed(embedder, ["a", LONG])
    (_, sent) = sandbox.requests[0].inputs
    assert LONG.startswith(sent)
    assert 0 < TokenCounter(embedder.model_info).count(sent) <= 512
    np.testing.assert_array_equal(vectors[1], embed(embedder, [sent])[0])


def test_split_embeds_a_long_text_as_weighted_mean(embed, make, sandbox):
    embedder = make("BAAI/bge-large-en-v1.5", on_overflow="split")
    vectors = embed(embedder, ["a", LONG, "b"])
    pieces = [text for request in sandbox.requests for text in request.inputs if text not in ("a", "b")]
    assert "".join(dict.fromkeys(pieces)) == LONG
    counter = TokenCounter(embedder.model_info)
    weights = np.array([counter.count(piece) for piece in pieces], dtype=float)
    assert (weights <= 512).all()
    # The same, computed from the vectors of the pieces.
    alone = make("BAAI/bge-large-en-v1.5").embed(pieces).astype(float)
    mean = (weights[:, None] * alone).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(vectors[[0, 2]], make("BAAI/bge-large-en-v1.5").embed(["a", "b"]))


# --- usage and estimate ---


def test_usage_is_exact_with_threads(serve):
    server = serve()
    embedder = server.embedder(batch_size=3)
    texts = [[f"thread {t} text {i}" for i in range(10)] for t in range(8)]
    threads = [threading.Thread(target=embedder.embed, args=(own,)) for own in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    usage = embedder.usage
    assert (usage.requests, usage.retries, usage.texts_sent, usage.texts_cached) == (8 * 4, 0, 80, 0)
    assert usage.prompt_tokens == sum(len(text) for own in texts for text in own)
    assert usage.cost_usd is None


def test_usage_is_exact_with_asyncio_tasks(serve):
    server = serve()
    embedder = server.embedder(batch_size=3)
    texts = [[f"task {t} text {i}" for i in range(10)] for t in range(8)]

    async def main():
        return await asyncio.gather(*[embedder.aembed(own) for own in texts])

    asyncio.run(main())
    assert (embedder.usage.requests, embedder.usage.texts_sent) == (8 * 4, 80)
    assert embedder.usage.prompt_tokens == sum(len(text) for own in texts for text in own)


def test_cost_is_tokens_times_the_catalog_price(embed, make):
    embedder = make("text-embedding-3-large")
    embed(embedder, ["one two three", "four"])
    tokens = embedder.usage.prompt_tokens
    assert tokens > 0
    assert embedder.usage.cost_usd == pytest.approx(tokens * 0.13 / 1e6)


def test_usage_stays_unknown_after_a_response_without_usage(embed, scripted, faults):
    server = scripted(lambda seen: faults.response({**faults.document(seen.texts), "usage": None}))
    embedder = server.embedder()
    embed(embedder, ["one"])
    embed(embedder, ["two"])
    assert embedder.usage.requests == 2
    assert embedder.usage.prompt_tokens is None
    assert embedder.usage.cost_usd is None


def test_absurd_token_count_makes_the_cost_unknown(embed, scripted, faults):
    server = scripted(
        lambda seen: faults.response({**faults.document(seen.texts, width=1536), "usage": {"prompt_tokens": 10**400}})
    )
    embedder = server.embedder("text-embedding-3-small")
    embed(embedder, ["one"])
    assert embedder.usage.cost_usd is None


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("text-embedding-3-small", {"batch_size": 4}),
        ("text-embedding-3-small", {}),
        ("BAAI/bge-large-en-v1.5", {"on_overflow": "split"}),
        ("BAAI/bge-large-en-v1.5", {"on_overflow": "truncate", "batch_size": 2}),
        ("BAAI/bge-m3", {}),
        ("sandbox-embedding-new", {}),
    ],
)
def test_estimate_equals_the_requests_and_tokens_sent(embed, make, sandbox, model, more):
    embedder = make(model, **more)
    texts = ["one", "two", "one", *[f"text {i} " * (i + 1) for i in range(40)], "two"]
    if more.get("on_overflow"):
        texts += [LONG, LONG]
    estimate = embedder.estimate(texts)
    assert sandbox.requests == []
    assert isinstance(estimate, Estimate)
    assert (estimate.texts, estimate.unique, estimate.cached) == (len(texts), len(set(texts)), 0)
    embed(embedder, texts)
    assert {request.status for request in sandbox.requests} == {200}
    assert estimate.requests == len(sandbox.requests) == embedder.usage.requests
    sent = [text for request in sandbox.requests for text in request.inputs]
    assert embedder.usage.texts_sent == len(sent) == len(set(sent))
    assert estimate.tokens == sum(map(TokenCounter(embedder.model_info).count, sent))
    price = embedder.model_info.usd_per_million_tokens
    assert estimate.cost_usd == (None if price is None else pytest.approx(estimate.tokens * price / 1e6))


def test_estimate_is_exact_for_openai_models(make):
    if load_encoding() is None:
        pytest.skip("cl100k_base is not at hand without a download")
    estimate = make().estimate(["tiktoken is great!", "tiktoken is great!"])
    assert (estimate.tokens, estimate.counting) == (6, "exact")
    assert make("BAAI/bge-m3").estimate(["a"]).counting == "scaled"
    assert make().estimate([]) == Estimate(0, 0, 0, 0, 0.0, 0, "exact")


# --- other services' variables ---

FOREIGN = {
    "OPENAI_API_KEY": "foreign-key",
    "OPENAI_ADMIN_KEY": "foreign-admin",
    "OPENAI_ORG_ID": "foreign-org",
    "OPENAI_ORGANIZATION": "foreign-organization",
    "OPENAI_PROJECT_ID": "foreign-project",
    "OPENAI_WEBHOOK_SECRET": "foreign-webhook",
    "OPENAI_CUSTOM_HEADERS": "X-Foreign: foreign-header\nAuthorization: Bearer foreign-bearer",
}


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_openai_variables_are_never_sent(way, serve, monkeypatch, name):
    other, server = serve(), serve()
    for variable, value in FOREIGN.items():
        monkeypatch.setenv(variable, value.replace("Authorization", name))
    monkeypatch.setenv("OPENAI_BASE_URL", other.base_url)
    embedder = server.embedder()
    way.embed(embedder, ["one"])
    way.query(embedder, "two")
    monkeypatch.setenv("NANOGPT_API_KEY", "ours")
    monkeypatch.setenv("NANOGPT_BASE_URL", server.base_url)
    way.embed(Embedder("lab/unlisted"), ["three"])
    server.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    list_models()
    monkeypatch.delenv("NANOGPT_API_KEY")
    list_models()
    assert len(server.requests) == 5
    assert other.connections == 0
    for seen in server.requests:
        assert b"foreign" not in seen.raw_head.lower() + seen.body.lower()
    keys = [seen.header("authorization") for seen in server.requests]
    assert keys == [f"Bearer {server.api_key}"] * 2 + ["Bearer ours"] * 2 + [None]


def test_key_argument_takes_precedence_over_variables(way, serve, monkeypatch):
    server = serve()
    monkeypatch.setenv("NANOGPT_BASE_URL", server.base_url)
    monkeypatch.setenv("NANO_GPT_API_KEY", "second-variable")
    way.embed(Embedder("lab/unlisted"), ["one"])
    monkeypatch.setenv("NANOGPT_API_KEY", "first-variable")
    way.embed(Embedder("lab/unlisted"), ["one"])
    way.embed(Embedder("lab/unlisted", api_key="argument"), ["one"])
    way.embed(Embedder("lab/unlisted", api_key=SecretStr("in a secret".replace(" ", "-"))), ["one"])
    keys = [seen.header("authorization").removeprefix("Bearer ") for seen in server.requests]
    assert keys == ["second-variable", "first-variable", "argument", "in-a-secret"]


# --- the key stays hidden ---


def test_key_is_in_no_repr_traceback_or_log(way, scripted, faults, caplog):
    caplog.set_level(logging.DEBUG)
    server = scripted(None, faults.response({"error": {"message": "no"}}, 401))
    embedder = server.embedder(api_key=KEY, default_headers={"X-Other": "header-5ecre7"})
    way.embed(embedder, ["one"])
    with pytest.raises(NanoGPTError) as caught:
        way.embed(embedder, ["two"])
    shown = [
        *(
            repr(embedder),
            str(embedder),
            f"{embedder}",
            repr(vars(embedder)),
            repr(embedder.api_key),
            str(dir(embedder)),
        ),
        *(repr(vars(embedder._pipeline.client)), repr(embedder.usage), repr(embedder.model_info)),
        "".join(traceback.format_exception(caught.value)),
        "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()),
        caplog.text,
    ]
    for text in shown:
        assert KEY not in text
    assert not any("header-5ecre7" in text for text in shown[:9])


def test_pickle_has_no_key_and_reads_it_from_the_environment(way, serve, monkeypatch):
    server = serve()
    embedder = server.embedder(api_key=KEY, dimensions=4, query_instruction="q: ", batch_size=2)
    way.embed(embedder, ["one"])
    data = pickle.dumps(embedder)
    assert KEY.encode() not in data
    monkeypatch.setenv("NANOGPT_API_KEY", "of-the-environment")
    twin = pickle.loads(data)
    assert (twin.model, twin.base_url, twin.width) == (embedder.model, embedder.base_url, 4)
    assert twin.usage.requests == 0
    assert way.query(twin, "two").shape == (4,)
    assert server.requests[1].texts == ["q: two"]
    assert server.requests[1].header("authorization") == "Bearer of-the-environment"


def test_unpickled_embedder_without_a_key_is_refused_when_used(way, serve):
    twin = pickle.loads(pickle.dumps(serve().embedder()))
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        way.embed(twin, ["one"])


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda embedder: copy.deepcopy([embedder])[0]])
def test_copies_keep_the_key_and_the_learned_width(way, serve, right, duplicate):
    server = serve()
    embedder = server.embedder(user="me", progress=print)
    way.embed(embedder, ["one"])
    twin = duplicate(embedder)
    assert type(twin) is Embedder
    assert twin.width == embedder.width == right(["x"]).shape[1]
    assert (twin.usage.requests, embedder.usage.requests) == (0, 1)
    assert (way.embed(twin, ["two"]) == right(["two"])).all()
    assert (way.embed(embedder, ["three"]) == right(["three"])).all()
    assert {seen.header("authorization") for seen in server.requests} == {f"Bearer {server.api_key}"}
    assert {seen.json["user"] for seen in server.requests} == {"me"}


def test_embedder_with_own_http_client_can_be_copied_but_not_pickled(serve, right):
    server = serve()
    with http.Client() as client:
        embedder = server.embedder(http_client=client)
        with pytest.raises(InvalidTypeError, match="http_client"):
            pickle.dumps(embedder)
        assert (copy.deepcopy(embedder).embed(["one"]) == right(["one"])).all()
        del embedder
        gc.collect()
        assert not client.is_closed


def test_own_http_clients_are_used(serve, right):
    server = serve()
    used = []
    with http.Client(event_hooks={"request": [lambda _: used.append("sync")]}) as client:
        assert (server.embedder(http_client=client).embed(["one"]) == right(["one"])).all()

    async def note(_):
        used.append("async")

    async def main():
        async with http.AsyncClient(event_hooks={"request": [note]}) as client:
            return await server.embedder(http_async_client=client).aembed(["two"])

    assert (asyncio.run(main()) == right(["two"])).all()
    assert used == ["sync", "async"]


def test_own_http_client_does_not_follow_redirects(serve, scripted, faults):
    elsewhere = serve()
    server = scripted(faults.response("", 307, Location=elsewhere.base_url + "/embeddings"))
    with http.Client(follow_redirects=True) as client, pytest.raises(BadRequestError):
        server.embedder(http_client=client).embed(["one"])
    assert elsewhere.connections == 0


# --- processes, threads, event loops ---


def test_spawned_workers_receive_the_key(serve, right):
    server = serve()
    embedder = server.embedder(api_key=KEY)
    assert KEY.encode() not in pickle.dumps(embedder)
    assert not any(KEY in value for value in os.environ.values())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        # An error that could not be read back would leave the pool waiting for ever.
        vectors = pool.map_async(embedder.embed, [["one", "two"], ["three"]]).get(60)
        refused = pool.apply_async(embedder.embed, (["fine", ""],))
        with pytest.raises(InvalidInputError) as caught:
            refused.get(60)
    assert caught.value.positions == (1,)
    assert (np.vstack(vectors) == right(["one", "two", "three"])).all()
    assert {seen.header("authorization") for seen in server.requests} == {f"Bearer {KEY}"}


FORK = """
import os, sys, asyncio, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
from nanogpt_core import Embedder
embedder = Embedder("lab/unlisted", api_key="k", max_retries=0)
first = embedder.embed(["before"])
asyncio.run(embedder.aembed(["before, async"]))
child = os.fork()
if child == 0:
    try:
        a = embedder.embed([f"child {i}" for i in range(3)], batch_size=1)
        b = asyncio.run(embedder.aembed(["child, async"]))
        os.write(1, b"child ok\\n" if a.shape == (3, 6) and b.shape == (1, 6) else b"wrong\\n")
    finally:
        os._exit(0)
assert embedder.embed(["parent"]).shape == (1, 6)
assert os.waitpid(child, 0)[1] == 0
assert (embedder.embed(["before"]) == first).all()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.xdist_group("processes")
def test_forked_child_opens_its_own_connections(serve, faults, warm, tmp_path):
    used = {}

    def answer(seen):
        used.setdefault(seen.connection, []).append(seen.texts[0])
        return faults.good(seen)

    server = serve(answer)
    environment = {"NANOGPT_BASE_URL": server.base_url}
    assert warm.run(FORK, tmp_path, environment=environment, ends=True) == (0, "child ok\n", "")
    # No connection served both parent and child.
    for texts in used.values():
        assert len({text.startswith("child") for text in texts}) == 1


def test_embedder_works_in_successive_event_loops(serve, right):
    server = serve()
    embedder = server.embedder()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for text in ("one", "two", "three"):
            assert (asyncio.run(embedder.aembed([text])) == right([text])).all()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    # Each loop's connections end with it.
    server.wait_for(lambda: server.open_connections == 0)


def test_closed_event_loop_is_garbage_collected(serve):
    embedder = serve().embedder()
    loops = []

    async def main():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await embedder.aembed(["one"])

    for _ in range(3):
        asyncio.run(main())
    gc.collect()
    assert [loop() for loop in loops] == [None, None, None]


def test_embedder_works_in_concurrent_event_loops(serve, right):
    server = serve()
    embedder = server.embedder(batch_size=1)
    results = {}

    def run(name):
        results[name] = asyncio.run(embedder.aembed([f"{name} {i}" for i in range(5)]))

    threads = [threading.Thread(target=run, args=(f"loop {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for name, vectors in results.items():
        assert (vectors == right([f"{name} {i}" for i in range(5)])).all()


def test_many_threads_share_one_embedder(serve, right):
    server = serve()
    embedder = server.embedder(batch_size=2)
    results = {}

    def run(name):
        texts = [f"{name} {i}" for i in range(9)]
        results[name] = (embedder.embed(texts) == right(texts)).all()

    threads = [threading.Thread(target=run, args=(f"thread {i}",)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [True] * 12


@pytest.mark.parametrize("most", [1, 3])
def test_max_concurrency_limits_the_requests_in_flight(embed, serve, faults, right, most):
    together = threading.Barrier(most)

    def answer(seen):
        # Each answer waits until the full number of requests is there.
        together.wait(60)
        return faults.good(seen)

    server = serve(answer)
    texts = [f"text {i}" for i in range(most * 5)]
    assert (embed(server.embedder(batch_size=1, max_concurrency=most), texts) == right(texts)).all()
    assert server.most_in_flight == most


def test_embedder_works_after_a_cancelled_call(serve, faults, right):
    gate = threading.Event()

    def answer(seen):
        gate.wait(60)
        return faults.good(seen)

    server = serve(answer)
    embedder = server.embedder(batch_size=1, max_concurrency=2)

    async def main():
        task = asyncio.ensure_future(embedder.aembed([f"text {i}" for i in range(6)]))
        await asyncio.to_thread(server.wait_for, lambda: server.in_flight == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        return await embedder.aembed(["after"])

    assert (asyncio.run(main()) == right(["after"])).all()
    assert len(server.requests) == 3


# --- progress ---


def is_progress(calls, total):
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {total}
    assert done == sorted(done)
    assert done[-1] == total
    assert len(calls) > 1


@pytest.mark.parametrize("concurrency", [1, 8])
def test_progress_counts_up_to_the_number_of_texts(embed, serve, concurrency):
    calls = []
    texts = [f"text {i % 17}" for i in range(40)]
    embedder = serve().embedder(progress=lambda *call: calls.append(call), batch_size=3, max_concurrency=concurrency)
    embed(embedder, texts)
    is_progress(calls, 40)
    assert len(calls) == 6


def test_progress_counts_split_texts_once(embed, make):
    calls = []
    embedder = make(
        "BAAI/bge-large-en-v1.5",
        on_overflow="split",
        batch_size=1,
        progress=lambda *call: calls.append(call),
    )
    embed(embedder, ["a", LONG, "a", LONG, "b"])
    is_progress(calls, 5)


def test_progress_is_complete_after_split_batches(embed, sandbox_with):
    calls = []
    sandbox = sandbox_with(item_limits={"BAAI/bge-m3": 3})
    embedder = Embedder(
        "BAAI/bge-m3",
        api_key=sandbox.api_key,
        base_url=sandbox.base_url,
        progress=lambda *call: calls.append(call),
    )
    embed(embedder, [f"text {i % 10}" for i in range(25)])
    is_progress(calls, 25)


def test_queries_show_no_progress(query, make):
    calls = []
    query(make(progress=lambda *call: calls.append(call)), "one")
    assert calls == []


def test_progress_bar_reaches_its_end(embed, make, capsys):
    embed(make(progress=True, batch_size=1), ["one", "two", "one"])
    assert "3/3" in capsys.readouterr().err


def test_progress_bar_is_left_out_without_standard_error(embed, make, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as in services and windowed programs on Windows
    assert len(embed(make(progress=True), ["one"])) == 1


def test_progress_bar_heeds_the_environment_variable_of_tqdm():
    # In a fresh interpreter: tqdm reads it when it is imported.
    code = (
        "from nanogpt_core.embeddings.results import track_progress\n"
        "with track_progress(True, 2) as advance: advance(2)"
    )
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_printed_without_progress(embed, make, capsys):
    embed(make(progress=False), ["one"])
    assert capsys.readouterr() == ("", "")


def test_exception_of_the_progress_function_reaches_the_caller(embed, make):
    class MineError(Exception):
        pass

    def report(*_):
        raise MineError

    with pytest.raises(MineError):
        embed(make(progress=report, batch_size=1), ["one", "two", "three"])


@pytest.mark.parametrize("method", ["embed", "aembed", "embed_query", "aembed_query", "estimate"])
def test_input_errors_are_invalid_type_errors(method):
    call = getattr(Embedder(api_key=KEY), method)
    with pytest.raises(InvalidTypeError) as caught:
        asyncio.run(call(None))
    assert isinstance(caught.value, TypeError)
    assert not isinstance(caught.value, InvalidInputError)


@pytest.mark.parametrize("name", [name for name in inspect.signature(Embedder).parameters if name != "self"])
def test_option_that_is_set_later_is_refused(make, name):
    embedder = make()
    with pytest.raises(ConfigurationError, match=f"^{name} cannot be changed after construction. Create"):
        setattr(embedder, name, None)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_retry", "max_retries"),
        ("embed_querys", "embed_query"),
        ("openai_api_base", "base_url"),
        ("request_timeout", "timeout"),
        ("model_name", "model"),
    ],
)
def test_unknown_attribute_is_refused_with_the_name_that_was_meant(make, name, meant):
    embedder = make()
    for one in (embedder, copy.copy(embedder), pickle.loads(pickle.dumps(embedder))):
        with pytest.raises(AttributeError, match=rf"^Embedder has no attribute '{name}'\. Did you mean '{meant}'\?$"):
            setattr(one, name, 3)


def test_attributes_of_a_subclass_and_replaced_methods_can_be_set(make, monkeypatch):
    class Own(Embedder):
        def __init__(self):
            self.before = 1
            super().__init__(api_key=KEY)
            self.after = 2

    assert (Own().before, Own().after) == (1, 2)
    embedder = make()
    with monkeypatch.context() as patch:
        patch.setattr(embedder, "embed", len)
        assert embedder.embed("abc") == 3
    assert embedder.embed.__func__ is Embedder.embed


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_blank_query_is_refused_as_a_query(query, make, text):
    with pytest.raises(InvalidInputError, match="The query is empty or blank"):
        query(make(), text)


@pytest.mark.parametrize("key", ["sk-nano-secret\nX: y", "sk-nano-sécret", "sk-nano-secret key"])
@pytest.mark.parametrize("more", [{}, {"base_url": "http://elsewhere.example"}], ids=["key", "key and url"])
def test_key_is_in_no_variable_of_our_frames(key, more):
    assert_not_in_variables({"api_key": key, **more})


@pytest.mark.parametrize("more", [{}, {"dimension": 1}, {"batch_size": 0}], ids=["headers", "name", "value"])
def test_headers_are_in_no_variable_of_our_frames(more):
    assert_not_in_variables({"api_key": KEY, "default_headers": {"X": "a secret" if more else "a secret\n"}, **more})


def assert_not_in_variables(options):
    with pytest.raises(NanoGPTError) as caught:
        Embedder(**options)
    traceback = caught.value.__traceback__.tb_next  # the first frame is this test's
    while traceback is not None:
        assert "secret" not in repr(traceback.tb_frame.f_locals).replace("SecretLike", ""), traceback.tb_frame
        traceback = traceback.tb_next


ODD_VALUES = [10**400, -(10**400), 1e-300, float("nan"), "\ud800", "no", b"no", [], {}, object()]
ODD_NAMES = ["huge", "-huge", "tiny", "nan", "surrogate", "word", "bytes", "list", "dict", "object"]


@pytest.mark.parametrize("value", ODD_VALUES, ids=ODD_NAMES)
@pytest.mark.parametrize("name", [name for name in inspect.signature(Embedder).parameters if name != "self"])
def test_odd_values_of_options_are_refused_or_work(options, name, value, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a word is a valid path of a cache
    # Any other error would fail the test.
    with contextlib.suppress(NanoGPTError):
        Embedder(**{**options, "max_retries": 0, name: value}).embed(["a text"])


def test_member_of_a_string_enum_stands_for_its_value(options, tmp_path):
    class Setting(str, enum.Enum):
        CACHE = str(tmp_path / "vectors.db")
        LOG = str(tmp_path / "requests.jsonl")
        OVERFLOW = "truncate"

    embedder = Embedder(**options, cache=Setting.CACHE, on_overflow=Setting.OVERFLOW)
    assert embedder.cache_namespace == Embedder(**options, on_overflow="truncate").cache_namespace
    embedder.embed(["a text"])
    assert (tmp_path / "vectors.db").exists()
    assert RequestLog(Setting.LOG).path == tmp_path / "requests.jsonl"


def test_insecure_http_is_allowed_only_by_true():
    for value in ("false", "no", 1, "True"):
        with pytest.raises(InvalidTypeError, match="allow_insecure_http must be True or False"):
            Embedder(api_key=KEY, base_url="http://example.com/v1", allow_insecure_http=value)


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Content-Type", "CONTENT-ENCODING"])
def test_headers_of_the_body_are_refused(make, name):
    with pytest.raises(ConfigurationError, match="describes the body"):
        make(default_headers={name: "0"})


def test_call_of_three_texts_enters_few_files(sandbox_with, monkeypatch):
    monkeypatch.delitem(sys.modules, "opentelemetry", raising=False)  # a call without a span
    sandbox = sandbox_with()  # its rate limiter is unused
    embedder = Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url)
    embedder.embed_lists(["first", "call", "imports"])
    package, entered = f"{Path(inspect.getfile(Embedder)).parents[1]}{os.sep}", []

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            entered.append(frame.f_code.co_filename.removeprefix(package))

    outer = sys.getprofile()
    sys.setprofile(note)
    try:
        embedder.embed_lists(["one", "two", "three"])
    finally:
        sys.setprofile(outer)
    changes = sum(one != other for one, other in itertools.pairwise(entered))
    assert len(set(entered)) <= 27, sorted(set(entered))
    assert changes <= 100, entered  # 78, and 4 more for each further read of the socket

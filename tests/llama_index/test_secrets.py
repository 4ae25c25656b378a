"""The key shows nowhere, dumps and copies work, and OpenAI's environment variables stay where they are."""

import copy
import json
import logging
import pickle
import traceback

import pytest
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from pydantic import SecretStr, ValidationError

from llama_index_nanogpt import NanoGPTEmbedding
from nanogpt_core.errors import AuthenticationError, ConfigurationError, InvalidTypeError, NanoGPTError
from nanogpt_core.http.client import http

KEY = "sk-nano-0123abcd-very-secret"
HEADER = "token-of-a-proxy"


def shown(error):
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)])
def test_key_is_in_no_output(key):
    embedding = NanoGPTEmbedding(api_key=key, default_headers={"X-Token": HEADER})
    outputs = {
        "repr": repr(embedding),
        "str": str(embedding),
        "vars": str(vars(embedding)).replace(HEADER, ""),
        "model_dump": str(embedding.model_dump()),
        "model_dump_json": embedding.model_dump_json(),
        "to_dict": str(embedding.to_dict()),
        "to_json": embedding.to_json(),
        "to_payload": str(embedding.to_payload()),
        "pickle": pickle.dumps(embedding).decode("latin1").replace(HEADER, ""),
    }
    assert [name for name, text in outputs.items() if KEY in text or HEADER in text] == []


def test_dump_holds_what_changes_a_vector():
    embedding = NanoGPTEmbedding(api_key=KEY, dimensions=64, on_overflow="split", query_instruction="find: ", timeout=5)
    assert embedding.to_dict() == {
        "class_name": "NanoGPTEmbedding",
        "model_name": "text-embedding-3-small",
        "api_base": "https://nano-gpt.com/api/v1",
        "dimensions": 64,
        "on_overflow": "split",
        "query_instruction": "find: ",
    }


async def test_dumps_read_back(options, call, sandbox, monkeypatch):
    first = NanoGPTEmbedding("BAAI/bge-large-en-v1.5", **options, query_instruction="find: ")
    expected = await call(first, "get_query_embedding", "text")
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    for twin in (NanoGPTEmbedding.from_dict(first.to_dict()), NanoGPTEmbedding.from_json(first.to_json())):
        assert await call(twin, "get_query_embedding", "text") == expected
        assert json.loads(twin.to_json()) == first.to_dict()
    monkeypatch.delenv("NANOGPT_API_KEY")
    assert NanoGPTEmbedding.from_dict(first.to_dict(), api_key=KEY).to_dict() == first.to_dict()
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        NanoGPTEmbedding.from_dict(first.to_dict())


async def test_wrong_key(sandbox, call):
    embedding = NanoGPTEmbedding(api_key=KEY, base_url=sandbox.base_url)
    with pytest.raises(AuthenticationError, match="NANOGPT_API_KEY") as caught:
        await call(embedding, "get_text_embedding", "text")
    assert KEY not in shown(caught.value)
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    "bad", [{"base_url": "ftp://x"}, {"dimension": 5}, {"timeout": "soon"}, {"embed_batch_size": 0}]
)
def test_key_is_in_no_traceback_of_the_constructor(bad):
    with pytest.raises(NanoGPTError) as caught:
        NanoGPTEmbedding(api_key=KEY, **bad)
    assert KEY not in shown(caught.value)


def test_key_is_in_no_message_of_pydantic():
    with pytest.raises(ValidationError, match="base_url") as caught:
        NanoGPTEmbedding.model_validate({"api_key": KEY, "base_url": "ftp://x"})
    assert KEY[:10] not in shown(caught.value)


def test_no_key():
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        NanoGPTEmbedding()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, NanoGPTEmbedding.model_copy])
async def test_copies_work(options, call, duplicate):
    embedding = NanoGPTEmbedding("BAAI/bge-m3", **options, batch_size=1, default_headers={"X-Team": "search"})
    before = await call(embedding, "get_text_embedding_batch", ["one", "two"])
    twin = duplicate(embedding)
    assert await call(twin, "get_text_embedding_batch", ["one", "two"]) == before
    assert twin.to_dict() == embedding.to_dict()


async def test_copies_share_the_callers_http_client_and_limiter(options):
    with http.Client() as client:
        limiter = TokenBucketRateLimiter(requests_per_minute=600)
        twin = copy.deepcopy(NanoGPTEmbedding(**options, http_client=client, rate_limiter=limiter))
        assert twin.http_client is client
        assert twin.rate_limiter is limiter
        assert len(twin.get_text_embedding("text")) == 1536
        with pytest.raises(InvalidTypeError, match="http_client"):
            pickle.dumps(twin)


async def test_pickle_reads_the_key_from_the_environment(options, sandbox, call, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    embedding = NanoGPTEmbedding(**options, dimensions=64, default_headers={"X-Team": "search"}, embed_batch_size=7)
    await call(embedding, "get_text_embedding", "text")
    written = pickle.dumps(embedding)
    sandbox.clear()

    keyless = pickle.loads(written)
    with pytest.raises(ConfigurationError, match=r"does not carry its key.*NANOGPT_API_KEY"):
        await call(keyless, "get_text_embedding", "text")
    assert sandbox.requests == []

    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    twin = pickle.loads(written)
    assert twin.embed_batch_size == 7
    assert await call(twin, "get_text_embedding", "text") == await call(embedding, "get_text_embedding", "text")
    assert [request.headers["x-team"] for request in sandbox.requests] == ["search", "search"]
    assert caplog.records == []


@pytest.mark.usefixtures("foreign_environment")
async def test_openai_variables_do_not_leak(options, call, nothing_leaked):
    embedding = NanoGPTEmbedding(**options)
    await call(embedding, "get_text_embedding_batch", ["one", "two"])
    await call(embedding, "get_query_embedding", "three")
    nothing_leaked(2)


@pytest.mark.usefixtures("foreign_environment")
def test_openai_variables_are_no_key_and_no_base_url(monkeypatch):
    with pytest.raises(ConfigurationError, match="No API key"):
        NanoGPTEmbedding()
    monkeypatch.setenv("NANO_GPT_API_KEY", KEY)
    embedding = NanoGPTEmbedding()
    assert embedding.api_base == "https://nano-gpt.com/api/v1"
    assert embedding.api_key.get_secret_value() == KEY

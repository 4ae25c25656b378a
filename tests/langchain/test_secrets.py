"""The key shows nowhere, copies work, and OpenAI's environment variables stay where they are."""

import copy
import pickle
import traceback

import pytest
from langchain_core.load import dumpd, dumps
from pydantic import SecretStr

from langchain_nanogpt import NanoGPTEmbeddings
from nanogpt_core.errors import AuthenticationError, ConfigurationError, InvalidTypeError, NanoGPTError
from nanogpt_core.http.client import http

KEY = "sk-nano-0123abcd-very-secret"


def shown(error):
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)])
def test_key_is_in_no_output(key):
    embeddings = NanoGPTEmbeddings(api_key=key)
    assert embeddings.api_key.get_secret_value() == KEY
    outputs = [repr(embeddings), str(embeddings), f"{vars(embeddings)}", dumps(embeddings), str(dumpd(embeddings))]
    outputs.append(repr(embeddings.api_key))
    assert not [output for output in outputs if KEY in output]
    assert KEY.encode() not in pickle.dumps(embeddings)


def test_repr_says_what_one_needs_to_know():
    embeddings = NanoGPTEmbeddings(api_key=KEY, dimensions=64)
    assert repr(embeddings) == (
        "NanoGPTEmbeddings(model='text-embedding-3-small', dimensions=64, base_url='https://nano-gpt.com/api/v1')"
    )


async def test_wrong_key(sandbox, call):
    embeddings = NanoGPTEmbeddings(api_key=KEY, base_url=sandbox.base_url)
    with pytest.raises(AuthenticationError, match="NANOGPT_API_KEY") as caught:
        await call(embeddings, "embed_query", "text")
    assert KEY not in shown(caught.value)
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize("bad", [{"base_url": "ftp://x"}, {"dimension": 5}, {"timeout": "soon"}])
def test_key_is_in_no_traceback_of_the_constructor(bad):
    with pytest.raises(NanoGPTError) as caught:
        NanoGPTEmbeddings(api_key=KEY, **bad)
    assert KEY not in shown(caught.value)


def test_no_key():
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        NanoGPTEmbeddings()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
async def test_copies_work(options, call, duplicate):
    embeddings = NanoGPTEmbeddings("BAAI/bge-m3", **options, batch_size=1, default_headers={"X-Team": "search"})
    before = await call(embeddings, "embed_documents", ["one", "two"])
    twin = duplicate(embeddings)
    assert await call(twin, "embed_documents", ["one", "two"]) == before
    assert repr(twin) == repr(embeddings)


async def test_copies_share_the_callers_http_client(options):
    with http.Client() as client:
        twin = copy.deepcopy(NanoGPTEmbeddings(**options, http_client=client))
        assert len(twin.embed_query("text")) == 1536
        with pytest.raises(InvalidTypeError, match="http_client"):
            pickle.dumps(twin)


async def test_pickle_reads_the_key_from_the_environment(options, sandbox, call, monkeypatch):
    embeddings = NanoGPTEmbeddings(**options, dimensions=64, default_headers={"X-Team": "search"})
    await call(embeddings, "embed_query", "text")
    written = pickle.dumps(embeddings)
    sandbox.clear()

    keyless = pickle.loads(written)
    with pytest.raises(ConfigurationError, match=r"does not carry its key.*NANOGPT_API_KEY"):
        await call(keyless, "embed_query", "text")
    assert sandbox.requests == []

    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    assert await call(pickle.loads(written), "embed_query", "text") == await call(embeddings, "embed_query", "text")
    assert [request.headers["x-team"] for request in sandbox.requests] == ["search", "search"]


@pytest.mark.usefixtures("foreign_environment")
async def test_openai_variables_do_not_leak(options, call, nothing_leaked):
    embeddings = NanoGPTEmbeddings(**options)
    await call(embeddings, "embed_documents", ["one", "two"])
    await call(embeddings, "embed_query", "three")
    nothing_leaked(2)


@pytest.mark.usefixtures("foreign_environment")
def test_openai_variables_are_no_key_and_no_base_url(monkeypatch):
    with pytest.raises(ConfigurationError, match="No API key"):
        NanoGPTEmbeddings()
    monkeypatch.setenv("NANO_GPT_API_KEY", KEY)
    embeddings = NanoGPTEmbeddings()
    assert embeddings.base_url == "https://nano-gpt.com/api/v1"
    assert embeddings.api_key.get_secret_value() == KEY

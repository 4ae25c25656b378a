"""Options and methods that only the LangChain embeddings class has; the shared contract is in tests/plugins."""

import pytest
from langchain_core.load import dumpd, dumps

from langchain_nanogpt import NanoGPTEmbeddings
from nanogpt_core import NanoGPTError
from nanogpt_core.errors import ConfigurationError, InvalidTypeError

TEXTS = [f"Text number {i}." for i in range(7)]
KEY = "sk-nano-0123abcd-very-secret"


@pytest.fixture
def make(options):
    return lambda **more: NanoGPTEmbeddings(**options, **more)


async def test_chunk_size_of_one_call_limits_texts_per_request(make, call, sandbox):
    await call(make(max_concurrency=1, chunk_size=5), "embed_documents", TEXTS, chunk_size=4)
    assert [request.items for request in sandbox.requests] == [4, 3]


@pytest.mark.parametrize("size", [0, 2049, "3"])
async def test_invalid_chunk_size_of_one_call_is_refused(make, call, sandbox, size):
    with pytest.raises(NanoGPTError, match="batch_size"):
        await call(make(), "embed_documents", TEXTS, chunk_size=size)
    assert sandbox.requests == []


def test_batch_size_is_an_alias_of_chunk_size(make):
    assert make(batch_size=3).chunk_size == make(chunk_size=3).chunk_size == 3
    assert make(chunk_size=3).model_copy(update={"batch_size": 5}).chunk_size == 5
    with pytest.raises(ConfigurationError, match="same option"):
        make(chunk_size=8, batch_size=9)
    with pytest.raises(ConfigurationError, match="cannot be changed"):
        make().batch_size = 3


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"show_progress_bar": True}, True),
        ({"show_progress_bar": True, "progress": None}, True),
        ({"progress": True}, True),
        ({"show_progress_bar": False}, False),
        ({}, False),
    ],
)
async def test_show_progress_bar_shows_or_hides_the_bar(make, call, capsys, given, shown):
    await call(make(**given), "embed_documents", TEXTS)
    shown_text = capsys.readouterr().err
    assert ("7/7" in shown_text) is shown
    assert bool(shown_text) is shown


@pytest.mark.parametrize(
    ("before", "update", "shown"),
    [
        ({"show_progress_bar": False}, {"show_progress_bar": True}, True),
        ({"show_progress_bar": True}, {"show_progress_bar": False}, False),
        ({"progress": True}, {"show_progress_bar": False}, False),
        ({"show_progress_bar": True}, {"progress": None}, False),
        ({"show_progress_bar": True}, {"user": "someone"}, True),
    ],
    ids=str,
)
async def test_copy_update_shows_or_hides_the_progress_bar(make, call, capsys, before, update, shown):
    await call(make(**before).model_copy(update=update), "embed_documents", TEXTS)
    assert ("7/7" in capsys.readouterr().err) is shown


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("api_base", "base_url"),
        ("chunksize", "chunk_size"),
        ("embed_batch_size", "chunk_size"),
        ("model_name", "model"),
    ],
)
def test_unknown_option_error_suggests_the_langchain_name(options, given, meant):
    with pytest.raises(InvalidTypeError, match=f"Did you mean '{meant}'"):
        NanoGPTEmbeddings(**options, **{given: 1})


@pytest.mark.parametrize("value", ["yes", 5])
def test_progress_bar_of_the_wrong_type_is_refused(options, value):
    with pytest.raises(InvalidTypeError, match="show_progress_bar must be True or False"):
        NanoGPTEmbeddings(**options, show_progress_bar=value)


def test_array_has_the_same_vectors(make):
    embeddings = make()
    array = embeddings.embed_documents_array(text for text in ("one", "two", "one"))
    assert (array.shape, str(array.dtype)) == ((3, 1536), "float32")
    assert array.tolist() == embeddings.embed_documents(["one", "two", "one"])
    assert (embeddings.usage.requests, embeddings.usage.texts_sent) == (2, 4)


def test_key_is_in_no_dump_of_langchain():
    embeddings = NanoGPTEmbeddings(api_key=KEY, default_headers={"X-Token": KEY})
    assert KEY not in f"{dumps(embeddings)} {dumpd(embeddings)}"


async def test_filter_skips_blank_documents(make, call):
    documents = ["first page", " \n", "third page"]
    embeddings = make()
    with pytest.raises(NanoGPTError):
        await call(embeddings, "embed_documents", documents)
    assert len(await call(embeddings, "embed_documents", [text for text in documents if text.strip()])) == 2

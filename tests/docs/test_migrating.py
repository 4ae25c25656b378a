"""Migration page: its options and defaults agree with the code."""

import inspect
import re
from pathlib import Path

import pytest

from nanogpt_core import Embedder
from nanogpt_core.embeddings.config import EmbedderOptions
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.endpoint import CHAT_TIMEOUT

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "migrating.md").read_text(encoding="utf-8")
# Of llama-index-embeddings-openai 0.7, which nothing here needs.
LLAMA_INDEX_EMBEDDING = {
    *("mode", "model", "model_name", "embed_batch_size", "dimensions", "additional_kwargs", "api_key", "api_base"),
    *("api_version", "max_retries", "timeout", "reuse_client", "callback_manager", "default_headers", "http_client"),
    *("async_http_client", "num_workers", "embeddings_cache", "rate_limiter"),
}


def rows(name):
    table = PAGE.split(f"<!-- options: {name} -->")[1].split("<!-- end -->")[0].strip().splitlines()[2:]
    for line in table:
        old, new = re.split(r"(?<!\\)\|", line)[1:3]
        yield re.findall(r"`(\w+)`", old), re.findall(r"`(\w+)`", new)


def default_of(option):
    if option == "embed_batch_size":
        pytest.importorskip("llama_index.core", exc_type=ImportError)
        from llama_index_nanogpt import NanoGPTEmbedding

        return NanoGPTEmbedding.model_fields[option].default
    return inspect.signature(Embedder).parameters[option].default


def langchain_embeddings():
    old = pytest.importorskip("langchain_openai", exc_type=ImportError).OpenAIEmbeddings
    from langchain_nanogpt import NanoGPTEmbeddings

    return fields(old), NanoGPTEmbeddings, {*inspect.signature(NanoGPTEmbeddings).parameters} | shared()


def langchain_chat():
    old = pytest.importorskip("langchain_openai", exc_type=ImportError).ChatOpenAI
    from langchain_nanogpt import ChatNanoGPT

    return fields(old), ChatNanoGPT, fields(ChatNanoGPT)


def llama_index_embedding():
    pytest.importorskip("llama_index.core", exc_type=ImportError)
    from llama_index_nanogpt import NanoGPTEmbedding

    return LLAMA_INDEX_EMBEDDING, NanoGPTEmbedding, {*inspect.signature(NanoGPTEmbedding).parameters} | shared()


def llama_index_llm():
    old = pytest.importorskip("llama_index.llms.openai", exc_type=ImportError).OpenAI
    pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)
    from llama_index_nanogpt import NanoGPT

    names = {*inspect.signature(old).parameters} - {"kwargs"}
    handed_on = {*inspect.signature(old.__init__).parameters}  # by NanoGPT's **options
    return names, NanoGPT, {*inspect.signature(NanoGPT).parameters} | fields(NanoGPT) | handed_on


def fields(model):
    return {name for key, field in model.model_fields.items() for name in (key, field.alias) if name}


def shared():
    return {*EmbedderOptions.__annotations__}


TABLES = {
    "OpenAIEmbeddings": langchain_embeddings,
    "ChatOpenAI": langchain_chat,
    "OpenAIEmbedding": llama_index_embedding,
    "OpenAI": llama_index_llm,
}


@pytest.mark.parametrize("name", TABLES)
def test_options_are_as_the_table_says(name, options):
    before, ours, after = TABLES[name]()
    named = [old for olds, _ in rows(name) for old in olds]
    assert len(named) == len(set(named)), "each once"
    assert set(named) <= before | {"embeddings_cache"}, "options that there are"
    for olds, news in rows(name):
        assert set(news) <= after
        for old in olds:
            if not news:
                with pytest.raises((NanoGPTError, TypeError)):
                    ours(**options, **{old: "x"})


def test_default_models_are_as_the_tables_say(options):
    for name in ("OpenAIEmbeddings", "ChatOpenAI"):
        _, ours, _ = TABLES[name]()
        said = re.search(r"the default was `(.+?)` and is `(.+?)`", PAGE.split(f"options: {name} -->")[1]).groups()
        import langchain_openai

        old = getattr(langchain_openai, name).model_fields
        new = ours(**options)
        assert said == (old.get("model_name", old.get("model")).default, getattr(new, "model_name", None) or new.model)


@pytest.mark.parametrize("option", ["max_retries", "timeout", "embed_batch_size", "max_concurrency"])
def test_default_numbers_are_as_the_tables_say(option):
    # The number of requests in flight is in the row of the batch size.
    row = "embed_batch_size" if option == "max_concurrency" else option
    tables = [
        PAGE.split(f"<!-- options: {name} -->")[1].split("<!-- end -->")[0]
        for name in ("OpenAIEmbeddings", "OpenAIEmbedding")
    ]
    lines = [line for table in tables for line in re.findall(rf"^\| `{row}`.*$", table, re.MULTILINE)]
    assert lines
    for line in lines:
        assert f"{default_of(option):,.0f}" in re.findall(r"\d[\d,]*\d|\d", line)


def test_chat_timeout_is_as_the_table_says():
    for name in ("ChatOpenAI", "OpenAI"):
        table = PAGE.split(f"<!-- options: {name} -->")[1].split("<!-- end -->")[0]
        (line,) = re.findall(r"^\| `timeout`.*$", table, re.MULTILINE)
        assert f"{CHAT_TIMEOUT:.0f} seconds" in line

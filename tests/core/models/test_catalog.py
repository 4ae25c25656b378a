"""Model catalog compared with the published values, which are repeated here."""

import dataclasses
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core import MODELS, Embedder, ModelInfo, get_model
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.models.catalog import MAX_ITEMS, near_names

# true width, listed width, USD per million tokens, max tokens, tokenizer, (least, most) `dimensions`, unit length
FACTS = {
    "text-embedding-3-small": (1536, 1536, 0.02, 8191, "cl100k_base", (1, 1536), True),
    "text-embedding-3-large": (3072, 3072, 0.13, 8191, "cl100k_base", (1, 3072), True),
    "text-embedding-ada-002": (1536, 1536, 0.10, 8191, "cl100k_base", None, True),
    "BAAI/bge-m3": (1024, 1024, 0.01, 8192, "xlm-roberta", None, True),
    "jina-clip-v1": (768, 768, 0.04, 8192, "bert", None, True),
    "BAAI/bge-large-en-v1.5": (1024, 768, 0.01, 512, "bert", None, True),
    "BAAI/bge-large-zh-v1.5": (1024, 1024, 0.01, 512, "bert", None, True),
    "jina-embeddings-v2-base-en": (768, 768, 0.05, 8192, "bert", None, False),
    "jina-embeddings-v2-base-de": (768, 768, 0.05, 8192, "bpe", None, None),
    "jina-embeddings-v2-base-zh": (768, 768, 0.05, 8192, "bpe", None, None),
    "jina-embeddings-v2-base-es": (768, 768, 0.05, 8192, "bpe", None, None),
    "jina-embeddings-v2-base-code": (768, 768, 0.05, 8192, "bpe", None, None),
    "Baichuan-Text-Embedding": (1024, 1024, 0.088, 512, None, None, None),
    "netease-youdao/bce-embedding-base_v1": (768, 1024, 0.02, 512, "xlm-roberta", None, True),
    "zhipu-embedding-2": (1024, 1024, 0.07, 512, None, None, None),
    "Qwen/Qwen3-Embedding-0.6B": (1024, 1024, 0.01, 32768, "qwen", (32, 1024), True),
    # Not on the reference page, but on NanoGPT's page of August 2026.
    "BAAI/bge-base-en-v1.5": (768, 768, 0.01, 512, "bert", None, True),
    "Qwen/Qwen3-Embedding-4B": (2560, 1536, 0.03, 32768, "qwen", (32, 2560), True),
    "Qwen/Qwen3-Embedding-8B": (4096, 1536, 0.05, 32768, "qwen", (32, 4096), True),
    "jina-embeddings-v3": (1024, 1024, 0.10, 8192, "xlm-roberta", None, None),
    "jina-embeddings-v4": (2048, 2048, 0.10, 32768, "qwen", None, None),
    "gemini-embedding-001": (3072, 3072, 0.15, 2048, None, None, None),
    "doubao-embedding-large-text-240915": (4096, 4096, 0.10, None, None, None, None),
}
LANGUAGES = {
    "text-embedding-3-small": ("multilingual",),
    "text-embedding-3-large": ("multilingual",),
    "text-embedding-ada-002": ("multilingual",),
    "BAAI/bge-m3": ("multilingual",),
    "jina-clip-v1": ("en",),
    "BAAI/bge-large-en-v1.5": ("en",),
    "BAAI/bge-large-zh-v1.5": ("zh",),
    "jina-embeddings-v2-base-en": ("en",),
    "jina-embeddings-v2-base-de": ("de", "en"),
    "jina-embeddings-v2-base-zh": ("zh", "en"),
    "jina-embeddings-v2-base-es": ("es", "en"),
    "jina-embeddings-v2-base-code": ("code", "en"),
    "Baichuan-Text-Embedding": ("zh",),
    "netease-youdao/bce-embedding-base_v1": ("zh", "en"),
    "zhipu-embedding-2": ("zh", "en"),
    "Qwen/Qwen3-Embedding-0.6B": ("multilingual",),
    "BAAI/bge-base-en-v1.5": ("en",),
    "Qwen/Qwen3-Embedding-4B": ("multilingual",),
    "Qwen/Qwen3-Embedding-8B": ("multilingual",),
    "jina-embeddings-v3": ("multilingual",),
    "jina-embeddings-v4": ("multilingual",),
    "gemini-embedding-001": ("multilingual",),
    "doubao-embedding-large-text-240915": ("zh", "en"),
}
QWEN3_INSTRUCTION = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:{query}"
)
INSTRUCTIONS = {
    "BAAI/bge-base-en-v1.5": "Represent this sentence for searching relevant passages: {query}",
    "BAAI/bge-large-en-v1.5": "Represent this sentence for searching relevant passages: {query}",
    "BAAI/bge-large-zh-v1.5": "为这个句子生成表示以用于检索相关文章：{query}",
    **dict.fromkeys([f"Qwen/Qwen3-Embedding-{size}" for size in ("0.6B", "4B", "8B")], QWEN3_INSTRUCTION),
}
# Largest batch that a host was seen to accept: the default batch size must not be larger.
HOSTS_TAKE = {
    "BAAI/": 64,
    "netease-youdao/": 64,
    "Qwen/": 64,
    "Baichuan": 16,
    "jina-embeddings-v4": 512,
    "gemini-": 100,
    "zhipu-": 64,
}


def test_catalog_has_the_models_of_both_pages_in_order():
    assert set(MODELS) == set(FACTS), "add the values of a new model to FACTS and LANGUAGES above"
    assert list(MODELS) == list(FACTS), "FACTS has the order of the catalog"


@pytest.mark.parametrize("name", FACTS)
def test_catalog_row_has_the_published_values(name):
    width, listed, price, tokens, tokenizer, reduces, unit = FACTS[name]
    row = MODELS[name]
    assert row.id == name
    assert row.dimensions == width
    assert row.listed_dimensions == (None if listed == width else listed)
    assert row.widths == {width, listed}
    assert row.usd_per_million_tokens == price
    assert row.max_tokens == tokens
    assert row.tokenizer == tokenizer
    assert (row.min_dimensions, row.max_dimensions) == (reduces or (None, None))
    assert row.reduces is bool(reduces)
    assert row.unit_length is unit
    assert row.languages == LANGUAGES[name]
    assert row.query_instruction == INSTRUCTIONS.get(name), "add the instruction to INSTRUCTIONS above"


@pytest.mark.parametrize("name", FACTS)
def test_default_batch_size_is_accepted_by_hosts(name):
    row = MODELS[name]
    most = next((items for start, items in HOSTS_TAKE.items() if name.startswith(start)), MAX_ITEMS)
    assert 1 <= row.batch_size <= most, "HOSTS_TAKE above has the largest batch that a host was seen to accept"


def test_max_request_tokens_is_set_if_a_limit_is_known():
    bounds = {name: row.max_request_tokens for name, row in MODELS.items() if row.max_request_tokens is not None}
    assert {name for name in bounds if name.startswith("text-embedding-")} == set(list(FACTS)[:3])
    assert all(bounds[name] == 300_000 for name in list(FACTS)[:3])
    assert 7_500 <= bounds["BAAI/bge-m3"] <= 8_192
    assert 7_500 <= bounds["zhipu-embedding-2"] <= 8_192
    assert len(bounds) == 5, f"add a check of a new max_request_tokens above: {bounds}"


def test_every_row_names_its_sources():
    for row in MODELS.values():
        said = f"{row.id}: source begins with the page that lists the model: 'reference' or 'newer page'"
        assert row.source.startswith(("reference", "newer page")), said
    assert [row.id for row in MODELS.values() if row.source.startswith("reference")] == list(FACTS)[:16]


@pytest.mark.parametrize("name", ["BAAI/bge-reranker-large", "BAAI/bge-reranker-v2-m3", "jina-reranker-v2"])
def test_rerankers_are_known_and_not_suggested(name):
    assert get_model(name).is_reranker
    assert name not in MODELS
    assert name not in near_names(name)


def test_embedding_models_are_no_rerankers():
    assert not any(row.is_reranker for row in MODELS.values())


def test_query_instructions_end_with_the_query():
    for row in MODELS.values():
        if row.query_instruction is not None:
            assert row.query_instruction.count("{query}") == 1
            assert row.query_instruction.endswith("{query}")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 0}, "batch_size must be from 1 to 2,048, not 0"),  # the plan of a call would never end
        ({"batch_size": None}, "batch_size must be a whole number"),
        ({"dimensions": -1}, "dimensions must be from 1 to 65,536, not -1"),
        ({"dimensions": 10**15}, "dimensions must be from 1 to 65,536"),
        ({"max_dimensions": "64"}, "max_dimensions must be a whole number"),
        ({"max_tokens": "8"}, "max_tokens must be a whole number"),
        ({"max_request_tokens": 0}, "max_request_tokens must be at least 1"),
        ({"usd_per_million_tokens": float("nan")}, "usd_per_million_tokens must be at least 0 and finite"),
        ({"usd_per_million_tokens": 10**400}, "usd_per_million_tokens must be at least 0 and finite"),
        ({"usd_per_million_tokens": -1}, "usd_per_million_tokens must be at least 0"),
        ({"usd_per_million_tokens": "1"}, "usd_per_million_tokens must be a number"),
        ({"query_instruction": 5}, "query_instruction must be a str"),
        ({"id": None}, "id must be a str"),
    ],
)
def test_wrong_facts_are_refused(wrong, words):
    with pytest.raises((ConfigurationError, InvalidTypeError), match=words):
        ModelInfo(**{"id": "lab/own", **wrong})
    with pytest.raises((ConfigurationError, InvalidTypeError), match=words):
        dataclasses.replace(get_model("BAAI/bge-m3"), **wrong)


def test_own_model_may_cost_nothing():
    assert ModelInfo("lab/own", usd_per_million_tokens=0).usd_per_million_tokens == 0


@pytest.mark.parametrize("name", ["", " ", "\ud800"])
def test_row_without_a_usable_name_is_refused(name):
    with pytest.raises(ConfigurationError, match="model"):
        Embedder(ModelInfo(name), api_key="sk-nano-test")


def test_catalog_is_read_only():
    with pytest.raises(TypeError):
        MODELS["new"] = ModelInfo(id="new")  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODELS["BAAI/bge-m3"].dimensions = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", [None, 5, b"lab/new"])
def test_name_of_another_type_is_refused(name):
    with pytest.raises(InvalidTypeError, match="model"):
        get_model(name)


def test_unknown_model_has_only_a_name():
    row = get_model("lab/brand-new")
    assert row.id == "lab/brand-new"
    guessed = {
        name: getattr(row, name)
        for name, kind in typing.get_type_hints(ModelInfo).items()
        if type(None) in typing.get_args(kind) and getattr(row, name) is not None
    }
    assert guessed == {}
    assert row.languages == ()
    assert not row.reduces
    assert 1 <= row.batch_size <= 32


@given(st.integers(1, 10_000))
def test_unknown_model_allows_any_width(width):
    assert get_model("lab/brand-new").allows_width(width)


@given(st.sampled_from(list(FACTS)), st.integers(1, 5_000))
def test_known_model_allows_only_widths_of_its_sources(name, width):
    assert MODELS[name].allows_width(width) is (width in FACTS[name][:2])


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("text-embedding-3-smal", "text-embedding-3-small"),
        ("TEXT-EMBEDDING-3-LARGE", "text-embedding-3-large"),
        ("bge-m3", "BAAI/bge-m3"),
        ("baai/bge-m3", "BAAI/bge-m3"),
        ("qwen3-embedding-0.6b", "Qwen/Qwen3-Embedding-0.6B"),
        ("bce-embedding-base_v1", "netease-youdao/bce-embedding-base_v1"),
        ("zhipu-embedding", "zhipu-embedding-2"),
    ],
)
def test_near_names_finds_misspelled_models(slip, meant):
    assert near_names(slip)[0] == meant


def test_near_names_of_other_lists_need_no_vendor():
    assert near_names("gpt-4o-mni", ["openai/gpt-4o-mini", "mistral/large"]) == ["openai/gpt-4o-mini"]


def test_near_names_of_unrelated_names_is_empty():
    assert near_names("gpt-4o") == []
    assert near_names("") == []


@given(st.text(max_size=60))
def test_near_names_are_at_most_three_known_models(name):
    found = near_names(name)
    assert len(found) <= 3
    assert len(set(found)) == len(found)
    assert set(found) <= set(FACTS)

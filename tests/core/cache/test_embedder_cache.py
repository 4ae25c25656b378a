"""The cache as users meet it: through Embedder and both plugins."""

import asyncio
import base64
import gc
import importlib
import sqlite3
import warnings
from collections import Counter

import numpy as np
import pytest

from nanogpt_core import Embedder, ModelInfo
from nanogpt_core.cache.admin import inspect_cache
from nanogpt_core.cache.base import MemoryCache
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.errors import NanoGPTError, RateLimitError, ServerError
from nanogpt_core.sandbox import Fault

TEXTS = [f"document {number}" for number in range(30)]
MODEL = "text-embedding-3-small"


class EmbedderClass:
    make = Embedder

    @staticmethod
    def documents(it, texts, way):
        return it.embed(texts) if way == "sync" else asyncio.run(it.aembed(texts))

    @staticmethod
    def query(it, text, way):
        return it.embed_query(text) if way == "sync" else asyncio.run(it.aembed_query(text))


class LangChainClass:
    @staticmethod
    def make(model, **options):
        pytest.importorskip("langchain_openai")
        return importlib.import_module("langchain_nanogpt").NanoGPTEmbeddings(model, **options)

    @staticmethod
    def documents(it, texts, way):
        return it.embed_documents(texts) if way == "sync" else asyncio.run(it.aembed_documents(texts))

    query = staticmethod(EmbedderClass.query)


class LlamaIndexClass:
    @staticmethod
    def make(model, **options):
        pytest.importorskip("llama_index.core")
        return importlib.import_module("llama_index_nanogpt").NanoGPTEmbedding(model, **options)

    @staticmethod
    def documents(it, texts, way):
        if way == "sync":
            return it.get_text_embedding_batch(texts)
        return asyncio.run(it.aget_text_embedding_batch(texts))

    @staticmethod
    def query(it, text, way):
        return it.get_query_embedding(text) if way == "sync" else asyncio.run(it.aget_query_embedding(text))


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("kind", [EmbedderClass, LangChainClass, LlamaIndexClass])
def test_second_run_sends_nothing(kind, way, options, sandbox, tmp_path):
    first = kind.make(MODEL, cache=tmp_path / "c.db", **options)
    vectors, query = kind.documents(first, TEXTS, way), kind.query(first, "a query", way)
    assert sandbox.requests
    sandbox.clear()
    for cache in (str(tmp_path / "c.db"), SQLiteCache(tmp_path / "c.db")):
        again = kind.make(MODEL, cache=cache, **options)
        assert np.array_equal(kind.documents(again, TEXTS, way), vectors)
        assert np.array_equal(kind.query(again, "a query", way), query)
        assert not sandbox.requests
        assert again.usage.texts_cached == len(TEXTS) + 1
        assert again.usage.cost_usd == 0


def test_core_and_plugins_share_one_file(options, sandbox, tmp_path):
    made = [
        kind.make(MODEL, cache=tmp_path / "c.db", **options)
        for kind in (EmbedderClass, LangChainClass, LlamaIndexClass)
    ]
    rows = [
        kind.documents(it, TEXTS, way)
        for kind, it, way in zip(
            (EmbedderClass, LangChainClass, LlamaIndexClass), made, ("sync", "async", "sync"), strict=True
        )
    ]
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])
    assert len(sandbox.requests) == 1


# --- partial work ---


@pytest.fixture(params=["matrix", "lists"])
def embed_in_any_form(request, embed):
    """As ``embed``, once into a matrix and once into lists, which are returned as a matrix."""
    if request.param == "matrix":
        return embed
    return lambda embedder, texts: np.array(embed(_InLists(embedder), texts), dtype=np.float32)


class _InLists:
    def __init__(self, embedder):
        self.embed, self.aembed = embedder.embed_lists, embedder.aembed_lists


def test_retry_after_failure_sends_only_missing_texts(embed_in_any_form, make, sandbox, tmp_path):
    right = make(MODEL).embed(TEXTS)
    sandbox.clear()
    embedder = make(MODEL, cache=tmp_path / "c.db", batch_size=5, max_concurrency=1)
    sandbox.add_faults(None, None, Fault(500), None)
    with pytest.raises(ServerError) as caught:
        embed_in_any_form(embedder, TEXTS)
    error = caught.value
    assert error.failed_positions == tuple(range(10, 30))
    assert sorted(error.completed) == list(range(10))
    assert all(np.array_equal(error.completed[position], right[position]) for position in range(10))
    assert inspect_cache(tmp_path / "c.db").entries == 10
    sandbox.clear()
    assert np.array_equal(embed_in_any_form(embedder, TEXTS), right)
    assert [request.inputs[0] for request in sandbox.requests] == [TEXTS[at] for at in (10, 15, 20, 25)]
    assert embedder.usage.texts_cached == 10


def test_concurrent_batches_are_answered_once_despite_failure(embed_in_any_form, make, sandbox, tmp_path):
    embedder = make(MODEL, cache=tmp_path / "c.db", batch_size=2)
    sandbox.add_faults(*[None] * 6, Fault(500))
    with pytest.raises(ServerError) as caught:
        embed_in_any_form(embedder, TEXTS)
    done, failed = set(caught.value.completed), set(caught.value.failed_positions)
    assert done | failed == set(range(30))
    assert not done & failed
    assert inspect_cache(tmp_path / "c.db").entries == len(done)
    embed_in_any_form(embedder, TEXTS)
    answered = Counter(text for request in sandbox.requests if request.status == 200 for text in request.inputs)
    assert answered == Counter(TEXTS)


def test_error_positions_with_repeated_cached_and_split_texts(embed_in_any_form, sandbox, options, tmp_path):
    model = "text-embedding-3-small"
    long = "many words " * 5000  # over the model's limit of 8,191 tokens: two pieces
    texts = ["b", "a", "cached", "a", long, "b", "cached"]
    told = {**options, "cache": tmp_path / "c.db", "on_overflow": "split", "batch_size": 1, "max_concurrency": 1}
    right = Embedder(model, **{**told, "cache": None}).embed(texts)
    Embedder(model, **told).embed(["cached"])
    sandbox.clear()
    embedder = Embedder(model, max_retries=0, **told)
    # On the wire: b, a, the two pieces.
    sandbox.add_faults(None, None, None, Fault(500))
    with pytest.raises(ServerError) as caught:
        embed_in_any_form(embedder, texts)
    assert caught.value.failed_positions == (4,)
    assert sorted(caught.value.completed) == [0, 1, 2, 3, 5, 6]
    assert all(np.array_equal(vector, right[at]) for at, vector in caught.value.completed.items())
    sandbox.clear()
    assert np.allclose(embed_in_any_form(embedder, texts), right, atol=1e-7)
    assert len(sandbox.requests) == 1  # the second piece


def test_error_contains_cached_vectors_as_completed(embed_in_any_form, make, sandbox):
    cache = MemoryCache()
    vectors = make(MODEL, cache=cache).embed(TEXTS[:3])
    sandbox.add_faults(Fault(500))
    with pytest.raises(ServerError) as caught:
        embed_in_any_form(make(MODEL, cache=cache), TEXTS[:5])
    assert caught.value.failed_positions == (3, 4)
    assert [caught.value.completed[at].tolist() for at in range(3)] == vectors.tolist()


def test_failed_stream_resumes_from_the_cache(make, sandbox, tmp_path):
    embedder = make(MODEL, cache=tmp_path / "c.db", batch_size=5, max_concurrency=1)
    sandbox.add_faults(None, None, Fault(500))
    with pytest.raises(ServerError) as caught:
        list(embedder.stream(iter(TEXTS)))
    assert caught.value.failed_positions == (10, 11, 12, 13, 14)
    sandbox.clear()
    assert np.array_equal(
        np.concatenate([batch.vectors for batch in embedder.stream(iter(TEXTS))]), make(MODEL).embed(TEXTS)
    )
    assert [request.inputs[0] for request in sandbox.requests[:4]] == [TEXTS[at] for at in (10, 15, 20, 25)]


# --- replies that must not be cached ---


def changed(faults, seen, change):
    document = faults.document(seen.texts)
    change(document)
    return faults.response(document)


def _set(number, value):
    def change(document):
        row = np.frombuffer(base64.b64decode(document["data"][-1]["embedding"]), np.float32).copy()
        row[number] = value
        document["data"][-1]["embedding"] = base64.b64encode(row.tobytes()).decode()

    return change


def _zero(document):
    document["data"][-1]["embedding"] = base64.b64encode(bytes(24)).decode()


def _narrow(document):
    document["data"][-1]["embedding"] = base64.b64encode(np.ones(5, np.float32).tobytes()).decode()


def _all_narrow(document):
    for item in document["data"]:
        item["embedding"] = base64.b64encode(np.ones(5, np.float32).tobytes()).decode()


def _repeat(document):
    document["data"][-1]["index"] = 0


BAD = {
    "not finite": _set(2, np.nan),
    "infinite": _set(0, np.inf),
    "all zeros": _zero,
    "one of another width": _narrow,
    "all of another width": _all_narrow,
    "an index twice": _repeat,
    "one missing": lambda document: document["data"].pop(),
    "one too many": lambda document: document["data"].append(document["data"][0]),
    "null": lambda document: document["data"][0].update(embedding=None),
    "no data": lambda document: document.pop("data"),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_invalid_reply_is_not_cached(embed, serve, faults, change):
    spoiled = iter([True])
    cache = MemoryCache()
    server = serve(lambda seen: changed(faults, seen, change) if next(spoiled, False) else faults.good(seen))
    told = {"model": "lab/model", "cache": cache, "dimensions": 6}
    with pytest.raises(NanoGPTError):
        embed(server.embedder(**told), TEXTS[:3])
    assert len(cache) == 0
    assert np.array_equal(embed(server.embedder(**told), TEXTS[:3]), [faults.vector_of(text) for text in TEXTS[:3]])
    assert len(cache) == 4  # and the note of the width


@pytest.mark.parametrize("answered", ["another/thing", "another/thing " * 10_000], ids=["short", "long"])
def test_reply_of_another_model_warns_and_is_not_cached(embed, serve, faults, answered):
    cache = MemoryCache()
    server = serve(lambda seen: changed(faults, seen, lambda document: document.update(model=answered)))
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=r"answered as 'another/thing.*not cached") as given:
            vectors = embed(server.embedder("lab/model", cache=cache), TEXTS[:3])
        assert len(str(given[0].message)) < 1000
        assert np.array_equal(vectors, [faults.vector_of(text) for text in TEXTS[:3]])
    assert len(cache) == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize("answered", ["", " ", None, "models/big-model:0.6b", "Big_Model-0.6B-v1", "BigModel 0.6b"])
def test_reply_with_another_spelling_of_the_model_or_none_is_cached_without_a_warning(embed, serve, faults, answered):
    cache = MemoryCache()
    server = serve(lambda seen: changed(faults, seen, lambda document: document.update(model=answered)))
    for _ in range(2):
        embed(server.embedder("lab/Big-Model-0.6B", cache=cache), TEXTS[:3])
    assert len(cache) == 4  # and the note of the width
    assert len(server.requests) == 1


def test_batches_are_cached_as_they_arrive(embed, serve, faults):
    cache = MemoryCache()
    seen_in_cache = []

    def answer(seen):
        seen_in_cache.append(len(cache))
        return faults.response({**faults.document(seen.texts), "model": "lab/model"})

    embed(serve(answer).embedder("lab/model", cache=cache, batch_size=2, max_concurrency=1), TEXTS[:8])
    assert seen_in_cache == [0, 3, 5, 7]  # with the note of the width


# --- counting ---


def test_estimate_and_usage_count_cached_texts(embed, make, sandbox, tmp_path):
    embedder = make(MODEL, cache=tmp_path / "c.db")
    embed(embedder, TEXTS[:10])
    sandbox.clear()
    estimate = embedder.estimate([*TEXTS, TEXTS[0], TEXTS[29]])
    assert (estimate.texts, estimate.unique, estimate.cached, estimate.requests) == (32, 30, 10, 1)
    assert estimate.tokens == make(MODEL).estimate(TEXTS[10:]).tokens
    assert embedder.estimate(TEXTS[:10]).tokens == embedder.estimate(TEXTS[:10]).requests == 0
    assert embedder.estimate(TEXTS[:10]).cost_usd == 0
    assert not sandbox.requests
    assert embedder.usage.texts_cached == 0
    embed(embedder, [*TEXTS, TEXTS[0]])
    usage = embedder.usage
    assert (usage.texts_cached, usage.texts_sent, usage.requests) == (10, 30, 2)


def test_cached_texts_do_not_count_against_the_budget(embed, make, tmp_path):
    embed(make(MODEL, cache=tmp_path / "c.db"), TEXTS)
    poor = make(MODEL, cache=tmp_path / "c.db", budget_usd=1e-12)
    assert len(embed(poor, TEXTS)) == 30
    with pytest.raises(NanoGPTError, match="budget_usd"):
        embed(poor, [*TEXTS, "and one more"])


def test_progress_counts_cached_texts(embed, make):
    cache = MemoryCache()
    make(MODEL, cache=cache).embed(TEXTS[:10])
    seen = []
    embed(make(MODEL, cache=cache, batch_size=10, progress=lambda *counts: seen.append(counts)), TEXTS)
    assert seen[-1] == (30, 30)
    assert sorted(seen) == seen
    assert (10, 30) in seen


def test_rate_limit_error_keeps_finished_batches(embed, make, sandbox):
    cache = MemoryCache()
    sandbox.add_faults(None, Fault(429, headers={"Retry-After": "3600"}))
    with pytest.raises(RateLimitError) as caught:
        embed(make(MODEL, cache=cache, batch_size=10, max_concurrency=1, max_retries=3), TEXTS)
    assert len(caught.value.completed) == 10
    assert len(cache) == 11


# --- the frameworks' own caches ---


def test_langchain_cache_backed_embeddings_work(options, sandbox, tmp_path):
    pytest.importorskip("langchain_openai")
    stores = pytest.importorskip("langchain_core.stores")
    try:
        from langchain_classic.embeddings import CacheBackedEmbeddings
    except ImportError:
        try:
            from langchain.embeddings import CacheBackedEmbeddings
        except ImportError:
            pytest.skip("no CacheBackedEmbeddings here")
    inner = LangChainClass.make(MODEL, cache=tmp_path / "c.db", **options)
    right = inner.embed_documents(TEXTS)
    store = stores.InMemoryByteStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its hash
        backed = CacheBackedEmbeddings.from_bytes_store(inner, store, namespace="test")
    sandbox.clear()
    assert backed.embed_documents(TEXTS) == right
    assert backed.embed_documents(TEXTS) == right
    assert asyncio.run(backed.aembed_documents(TEXTS)) == right
    assert not sandbox.requests
    assert len(list(store.yield_keys())) == len(TEXTS)


def test_llama_index_ingestion_cache_works(options, sandbox, tmp_path):
    pytest.importorskip("llama_index.core")
    from llama_index.core.ingestion import IngestionCache, IngestionPipeline
    from llama_index.core.schema import TextNode

    inner = LlamaIndexClass.make(MODEL, cache=tmp_path / "c.db", **options)
    cache = IngestionCache()
    pipeline = IngestionPipeline(transformations=[inner], cache=cache)
    nodes = [TextNode(text=text) for text in TEXTS]
    first = [node.embedding for node in pipeline.run(nodes=nodes)]
    assert first == inner.get_text_embedding_batch(TEXTS)
    used = inner.usage.texts_cached
    sandbox.clear()
    assert [node.embedding for node in pipeline.run(nodes=nodes)] == first
    assert inner.usage.texts_cached == used  # its own cache answered
    fresh = IngestionPipeline(transformations=[inner], cache=IngestionCache())
    assert [node.embedding for node in fresh.run(nodes=nodes)] == first
    assert inner.usage.texts_cached == used + len(TEXTS)
    assert not sandbox.requests


def test_cache_that_is_no_longer_used_closes_its_file(options, tmp_path):
    cache = SQLiteCache(tmp_path / "c.db")
    embedder = Embedder(MODEL, cache=cache, **options)
    embedder.embed(TEXTS[:3])
    connection = cache._connection
    connection.execute("SELECT 1")
    del cache, embedder
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_unlisted_model_is_cached(embed, serve, faults, tmp_path):
    assert ModelInfo  # the public name
    server = serve(lambda seen: faults.response({**faults.document(seen.texts), "model": None}))
    for _ in range(2):
        embed(server.embedder("lab/unlisted", cache=tmp_path / "c.db"), TEXTS[:3])
    assert len(server.requests) == 1

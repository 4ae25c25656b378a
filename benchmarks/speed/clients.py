"""The clients. Each is made and used as its own documentation has it; other settings are noted."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.speed import raw
from benchmarks.speed.setup import KEY, AsyncRun, Client, Run, Setup
from benchmarks.speed.vectors import MODEL, in_turn

NO_PACE = 1_000_000.0
"""Requests per second that no machine reaches."""

# Measured best without latency.
_BEST: dict[str, Any] = {"requests_per_second": NO_PACE, "max_concurrency": 1, "batch_size": 512}


def embedder(setup: Setup, **options: Any) -> Any:
    """Return an ``Embedder`` for the server."""
    from nanogpt_core import Embedder

    return Embedder(MODEL, api_key=KEY, base_url=setup.url, **options)


def langchain(setup: Setup, **options: Any) -> Any:
    """Return ``NanoGPTEmbeddings`` for the server."""
    from langchain_nanogpt import NanoGPTEmbeddings

    return NanoGPTEmbeddings(MODEL, api_key=KEY, base_url=setup.url, **options)


def llama(setup: Setup, **options: Any) -> Any:
    """Return ``NanoGPTEmbedding`` for the server."""
    from llama_index_nanogpt import NanoGPTEmbedding

    return NanoGPTEmbedding(MODEL, api_key=KEY, api_base=setup.url, **options)


def langchain_openai(setup: Setup, **options: Any) -> Any:
    """Return langchain-openai's class for the server."""
    from langchain_openai import OpenAIEmbeddings

    return OpenAIEmbeddings(model=MODEL, api_key=KEY, base_url=setup.url, **options)


def llama_openai(setup: Setup, **options: Any) -> Any:
    """Return LlamaIndex's class for OpenAI, for the server."""
    from llama_index.embeddings.openai import OpenAIEmbedding

    return OpenAIEmbedding(model=MODEL, api_key=KEY, api_base=setup.url, **options)


def _sdk_in_turn(setup: Setup) -> Run:
    from openai import OpenAI

    create = OpenAI(api_key=KEY, base_url=setup.url).embeddings.create

    def run(texts: list[str]) -> list[list[float]]:
        parts = (create(model=MODEL, input=list(part)).data for part in in_turn(texts, 2048))
        return [item.embedding for part in parts for item in part]

    return run


def _sdk_query(setup: Setup) -> Run:
    from openai import OpenAI

    create = OpenAI(api_key=KEY, base_url=setup.url).embeddings.create
    return lambda text: create(model=MODEL, input=text).data[0].embedding


def _sdk_async_query(setup: Setup) -> AsyncRun:
    from openai import AsyncOpenAI

    create = AsyncOpenAI(api_key=KEY, base_url=setup.url).embeddings.create

    async def run(text: Any) -> Any:
        return (await create(model=MODEL, input=text)).data[0].embedding

    return run


# By default it puts at most 8,000 characters into a request, for any batch_size.
_BASETEN_BEST = {"batch_size": 128, "max_concurrent_requests": 32, "max_chars_per_request": 1_000_000}


def _baseten_matrix(setup: Setup) -> Run:
    # Its own numpy() takes no base64, with which it is fastest; the strings are decoded here.
    import numpy as np
    from baseten_performance_client import PerformanceClient, RequestProcessingPreference
    from pybase64 import b64decode

    client = PerformanceClient(base_url=setup.url.removesuffix("/v1"), api_key=KEY)
    preference = RequestProcessingPreference(**_BASETEN_BEST)

    def run(texts: list[str]) -> Any:
        answer = client.embed(input=texts, model=MODEL, preference=preference, encoding_format="base64")
        rows = b"".join([b64decode(item.embedding) for item in answer.data])
        return np.frombuffer(rows, dtype="<f4").reshape(len(texts), -1)

    return run


def _llama_heard(setup: Setup) -> Run:
    """Return our class with a handler for its events."""
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler

    class Listener(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            del event, kwargs

    get_dispatcher("root").add_event_handler(Listener())
    return llama(setup).get_text_embedding_batch


def _idle_llama(setup: Setup) -> Any:
    """Return LlamaIndex's class around ready vectors: its own cost."""
    del setup
    from llama_index.core.base.embeddings.base import BaseEmbedding

    from benchmarks.speed.vectors import vectors

    rows = [row for _ in range(10) for row in vectors().tolist()]

    class Idle(BaseEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            del text
            return rows[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            start = int(texts[0].split()[0])
            return rows[start : start + len(texts)]

        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return self._get_text_embeddings(texts)

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    return Idle(model_name=MODEL, embed_batch_size=2048)


def _langchain_cached(setup: Setup) -> Run:
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import LocalFileStore

    # The embedder is only there to fill the cache, before the clock runs.
    filler = langchain(setup, requests_per_second=NO_PACE)
    store = LocalFileStore(f"{setup.cache}/langchain")
    return CacheBackedEmbeddings.from_bytes_store(filler, store, namespace=MODEL, key_encoder="sha256").embed_documents


def _paced(setup: Setup, **options: Any) -> Run:
    return embedder(setup, batch_size=32, **options).embed


_B = functools.partial

CLIENTS: dict[str, Client] = {
    "raw-discard": Client("raw socket: read and do nothing", raw.discard, "nothing"),
    "raw-json": Client("raw socket: + JSON", raw.parse, "nothing"),
    "raw-matrix": Client("raw socket: + base64, matrix", raw.matrix, "matrix"),
    "raw-lists": Client("raw socket: lists, naively", raw.lists, "lists"),
    "raw-matrix-32": Client(
        "raw sockets: matrix", _B(raw.matrix, most=32, request=128), "matrix", settings="32 threads, 128 a request"
    ),
    "embed": Client("Embedder.embed", lambda s: embedder(s).embed, "matrix"),
    "embed-best": Client(
        "Embedder.embed", lambda s: embedder(s, **_BEST).embed, "matrix", settings="one request at a time, no pacing"
    ),
    "aembed": Client("Embedder.aembed", lambda s: embedder(s).aembed, "matrix", is_async=True),
    "langchain-nanogpt": Client("NanoGPTEmbeddings.embed_documents", lambda s: langchain(s).embed_documents, "lists"),
    "langchain-nanogpt-async": Client(
        "NanoGPTEmbeddings.aembed_documents", lambda s: langchain(s).aembed_documents, "lists", is_async=True
    ),
    "llama-nanogpt": Client(
        "NanoGPTEmbedding.get_text_embedding_batch", lambda s: llama(s).get_text_embedding_batch, "lists"
    ),
    "llama-nanogpt-async": Client(
        "NanoGPTEmbedding.aget_text_embedding_batch",
        lambda s: llama(s).aget_text_embedding_batch,
        "lists",
        is_async=True,
    ),
    "llama-idle": Client(
        "LlamaIndex around vectors that are there", lambda s: _idle_llama(s).get_text_embedding_batch, "lists"
    ),
    "llama-idle-async": Client(
        "LlamaIndex around vectors that are there, async",
        lambda s: _idle_llama(s).aget_text_embedding_batch,
        "lists",
        is_async=True,
    ),
    "langchain-nanogpt-one": Client(
        "NanoGPTEmbeddings.embed_documents",
        lambda s: langchain(s, max_concurrency=1, requests_per_second=NO_PACE).embed_documents,
        "lists",
        settings="one request at a time, no pacing",
    ),
    "llama-nanogpt-heard": Client(
        "NanoGPTEmbedding.get_text_embedding_batch", _llama_heard, "lists", settings="with a handler of events"
    ),
    "sdk": Client("OpenAI SDK", _sdk_in_turn, "lists", settings="2048 a request, in turn"),
    "langchain-openai": Client("langchain-openai", lambda s: langchain_openai(s).embed_documents, "lists"),
    "langchain-openai-best": Client(
        "langchain-openai",
        lambda s: langchain_openai(s, check_embedding_ctx_length=False, chunk_size=2048).embed_documents,
        "lists",
        settings="check_embedding_ctx_length=False, chunk_size=2048",
    ),
    "langchain-openai-async": Client(
        "langchain-openai, async", lambda s: langchain_openai(s).aembed_documents, "lists", is_async=True
    ),
    "llama-openai": Client("LlamaIndex OpenAIEmbedding", lambda s: llama_openai(s).get_text_embedding_batch, "lists"),
    "llama-openai-best": Client(
        "LlamaIndex OpenAIEmbedding",
        lambda s: llama_openai(s, embed_batch_size=2048).get_text_embedding_batch,
        "lists",
        settings="embed_batch_size=2048",
    ),
    "llama-openai-async": Client(
        "LlamaIndex OpenAIEmbedding, async",
        lambda s: llama_openai(s, num_workers=8).aget_text_embedding_batch,
        "lists",
        is_async=True,
        settings="num_workers=8",
    ),
    "baseten-best": Client(
        "Baseten performance client",
        _baseten_matrix,
        "matrix",
        settings="base64, 128 a request, 32 in flight",
    ),
    "embed-unpaced": Client(
        "Embedder.embed, network",
        lambda s: embedder(s, requests_per_second=NO_PACE).embed,
        "matrix",
        settings="no pacing",
    ),
    "embed-cached": Client(
        "Embedder.embed, SQLite cache", lambda s: embedder(s, cache=f"{s.cache}/nanogpt.db").embed, "matrix"
    ),
    "langchain-nanogpt-cached": Client(
        "NanoGPTEmbeddings.embed_documents, SQLite cache",
        lambda s: langchain(s, cache=f"{s.cache}/nanogpt.db").embed_documents,
        "lists",
    ),
    "langchain-cached": Client("LangChain CacheBackedEmbeddings over LocalFileStore", _langchain_cached, "lists"),
    "embed-32": Client("Embedder.embed", _paced, "matrix", settings="batch_size=32"),
    "embed-32-told": Client(
        "Embedder.embed", _B(_paced, requests_per_second=25), "matrix", settings="batch_size=32, requests_per_second=25"
    ),
    "aembed-32": Client(
        "Embedder.aembed",
        lambda s: embedder(s, batch_size=32).aembed,
        "matrix",
        is_async=True,
        settings="batch_size=32",
    ),
}

_UNPACED: dict[str, Any] = {"requests_per_second": NO_PACE}

QUERIES: dict[str, Client] = {
    "raw": Client("raw socket", raw.query, "vector"),
    "sdk": Client("OpenAI SDK embeddings.create", _sdk_query, "vector"),
    "embed-query": Client(
        "Embedder.embed_query", lambda s: embedder(s, **_UNPACED).embed_query, "vector", settings="no pacing"
    ),
    "langchain-nanogpt": Client(
        "NanoGPTEmbeddings.embed_query", lambda s: langchain(s, **_UNPACED).embed_query, "vector", settings="no pacing"
    ),
    "llama-nanogpt": Client(
        "NanoGPTEmbedding.get_query_embedding",
        lambda s: llama(s, **_UNPACED).get_query_embedding,
        "vector",
        settings="no pacing",
    ),
    "langchain-openai": Client("langchain-openai embed_query", lambda s: langchain_openai(s).embed_query, "vector"),
    "llama-openai": Client(
        "LlamaIndex OpenAIEmbedding get_query_embedding", lambda s: llama_openai(s).get_query_embedding, "vector"
    ),
    "sdk-async": Client("OpenAI SDK embeddings.create, async", _sdk_async_query, "vector", is_async=True),
    "aembed-query": Client(
        "Embedder.aembed_query",
        lambda s: embedder(s, **_UNPACED).aembed_query,
        "vector",
        is_async=True,
        settings="no pacing",
    ),
}

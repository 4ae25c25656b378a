"""Passages into vector stores, end to end, with our embedding classes and with the frameworks' own for OpenAI.

The same with vectors that are there already gives the store's own time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.speed import clients, vectors
from benchmarks.speed.setup import Client, Run, Setup

_QDRANT_BATCH = 2048
_NAME = "passages"

Fill = Callable[[], int]
"""Fills a store, searches it once, and returns how many vectors it holds."""


class _Ready:
    """LangChain's interface around vectors that are there, one for each text, in order."""

    def __init__(self, count: int) -> None:
        self.rows: list[list[float]] = vectors.distinct(count).tolist()
        self._next = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if len(self.rows) > len(texts) == 1:  # a store asks for the number of dimensions
            return self.rows[:1]
        start, self._next = self._next, self._next + len(texts)
        return self.rows[start : self._next]

    def embed_query(self, text: str) -> list[float]:
        del text
        return self.rows[0]


# --- LangChain ---


def _search(store: Any) -> None:
    # Some stores build their index only when they are searched.
    assert len(store.similarity_search_by_vector(_query(), k=1)) == 1


def _query() -> list[float]:
    query: list[float] = vectors.vectors()[0].tolist()
    return query


def _langchain_faiss(texts: list[str], embedding: Any) -> Fill:
    from langchain_community.vectorstores import FAISS

    def fill() -> int:
        store = FAISS.from_texts(texts, embedding)
        _search(store)
        return int(store.index.ntotal)

    return fill


def _langchain_qdrant(texts: list[str], embedding: Any, **options: Any) -> Fill:
    from langchain_qdrant import QdrantVectorStore

    def fill() -> int:
        store = QdrantVectorStore.from_texts(texts, embedding, location=":memory:", collection_name=_NAME, **options)
        _search(store)
        return int(store.client.count(_NAME).count)

    return fill


def _langchain_chroma(texts: list[str], embedding: Any) -> Fill:
    import chromadb
    from langchain_chroma import Chroma

    client = chromadb.EphemeralClient()

    def fill() -> int:
        _search(Chroma.from_texts(texts, embedding, collection_name=_NAME, client=client))
        return int(client.get_collection(_NAME).count())

    return fill


# --- LlamaIndex ---


def _llama(texts: list[str], embedding: Any, store: Any, count: Callable[[], int]) -> Fill:
    from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores.types import VectorStoreQuery

    if isinstance(embedding, _Ready):
        nodes = [TextNode(text=text, embedding=row) for text, row in zip(texts, embedding.rows, strict=True)]
        embedding = MockEmbedding(embed_dim=vectors.WIDTH)  # never asked: each node has its vector
    else:
        nodes = [TextNode(text=text) for text in texts]
    storage = StorageContext.from_defaults(vector_store=store)

    def fill() -> int:
        VectorStoreIndex(nodes, storage_context=storage, embed_model=embedding)
        found = store.query(VectorStoreQuery(query_embedding=_query(), similarity_top_k=1))
        assert len(found.ids) == 1
        return count()

    return fill


def _llama_faiss(texts: list[str], embedding: Any) -> Fill:
    import faiss
    from llama_index.vector_stores.faiss import FaissVectorStore

    index = faiss.IndexFlatL2(vectors.WIDTH)
    return _llama(texts, embedding, FaissVectorStore(faiss_index=index), lambda: int(index.ntotal))


def _llama_qdrant(texts: list[str], embedding: Any) -> Fill:
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    client = QdrantClient(":memory:")
    return _llama(texts, embedding, QdrantVectorStore(_NAME, client=client), lambda: client.count(_NAME).count)


def _llama_chroma(texts: list[str], embedding: Any) -> Fill:
    import chromadb
    from llama_index.vector_stores.chroma import ChromaVectorStore

    collection = chromadb.EphemeralClient().create_collection(_NAME)
    return _llama(texts, embedding, ChromaVectorStore(chroma_collection=collection), collection.count)


# --- clients ---

_WAYS: dict[str, tuple[str, str, Callable[[list[str], Any], Fill]]] = {
    "langchain-faiss": ("LangChain, FAISS", "", _langchain_faiss),
    "langchain-qdrant": ("LangChain, Qdrant", "", _langchain_qdrant),
    "langchain-qdrant-2048": (
        "LangChain, Qdrant",
        f"batch_size={_QDRANT_BATCH}",
        partial(_langchain_qdrant, batch_size=_QDRANT_BATCH),
    ),
    "langchain-chroma": ("LangChain, Chroma", "", _langchain_chroma),
    "llama-faiss": ("LlamaIndex, FAISS", "", _llama_faiss),
    "llama-qdrant": ("LlamaIndex, Qdrant", "", _llama_qdrant),
    "llama-chroma": ("LlamaIndex, Chroma", "", _llama_chroma),
}
"""Label, settings of the store, and a function that prepares it."""

_MODELS: dict[str, tuple[tuple[str, Any], tuple[str, Any]]] = {
    "langchain": (("NanoGPTEmbeddings", clients.langchain), ("langchain-openai", clients.langchain_openai)),
    "llama": (("NanoGPTEmbedding", clients.llama), ("OpenAIEmbedding", clients.llama_openai)),
}
"""Our class and the framework's own for OpenAI, both at their defaults."""


def _with_model(make: Callable[[Setup], Any], prepare: Callable[[list[str], Any], Fill], setup: Setup) -> Run:
    model = make(setup)
    embed = model.embed_documents if hasattr(model, "embed_documents") else model.get_text_embedding_batch
    embed(vectors.texts(512, seed=1))
    return lambda texts: prepare(texts, model)


def _with_vectors(prepare: Callable[[list[str], Any], Fill], setup: Setup) -> Run:
    del setup
    return lambda texts: prepare(texts, _Ready(len(texts)))


def _clients() -> dict[str, Client]:
    found = {}
    for name, (way, settings, prepare) in _WAYS.items():
        ours, peer = _MODELS[name.partition("-")[0]]
        for kind, (label, make) in (("ours", ours), ("peer", peer)):
            run = partial(_with_model, make, prepare)
            found[f"{name}-{kind}"] = Client(f"{way}: {label}", run, "store", settings=settings)
        ready = partial(_with_vectors, prepare)
        found[f"{name}-ready"] = Client(f"{way}: vectors that are there", ready, "store", settings=settings)
    return found


STORES = _clients()
"""Each store through each framework: with our class, with the framework's own, and with vectors that are there."""


def ingest(setup: Setup, client: str, texts: int) -> dict[str, float]:
    """Fill a store with so many passages, and search it once."""
    from benchmarks.speed.child import make_ready

    fill = STORES[client].make(setup)(vectors.texts(texts))
    make_ready()
    cpu, start = time.process_time(), time.perf_counter()
    count = fill()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert count == texts, f"{count} vectors in the store for {texts} texts"
    return {"seconds": seconds, "cpu": cpu, "texts": texts}

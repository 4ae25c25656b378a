"""Checks that postgres.py runs: ``write`` fills tables, ``read`` queries them after a restart.

``read`` also runs the snippet of docs/scale/sinks.md, twice.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from langchain_core.documents import Document
from langchain_postgres import PGEngine
from langchain_postgres import PGVectorStore as LangChainStore
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.vector_stores.postgres import PGVectorStore as LlamaIndexStore

from langchain_nanogpt import NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPTEmbedding
from nanogpt_core.errors import ConfigurationError

PORT = os.environ["PGVECTOR_PORT"]
SERVER = f"check@127.0.0.1:{PORT}/postgres"
TEXTS = [
    "The cat sat on the mat and purred.",
    "Stock markets fell sharply on Monday.",
    "The battery of the X200 lasts twelve hours.",
    "A laptop's battery is charged over night.",
]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale" / "sinks.md"
SNIPPET = re.compile(r"^## pgvector$.*?^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
QUESTION = "How long does the X200's battery last?"
WIDTH = "SELECT atttypmod FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'embedding'"


def ask(query: str, *values: object) -> Any:
    """Return the one value that a query answers."""
    with psycopg.connect(f"postgresql://{SERVER}") as connection:
        row = connection.execute(query, values).fetchone()
    return row[0] if row else None


def expected(embeddings: NanoGPTEmbeddings) -> list[tuple[str, float]]:
    """Return the texts with their cosines, best first."""
    scores = embeddings.embed_documents_array(TEXTS) @ np.array(embeddings.embed_query(QUESTION))
    return sorted(zip(TEXTS, scores.tolist(), strict=True), key=lambda pair: -pair[1])


def langchain(embeddings: NanoGPTEmbeddings, *, write: bool) -> LangChainStore:
    """Open LangChain's store."""
    engine = PGEngine.from_connection_string(f"postgresql+psycopg://{SERVER}")
    if write:
        engine.init_vectorstore_table("langchain", vector_size=len(embeddings.embed_query("How many?")))
    return LangChainStore.create_sync(engine, embeddings, "langchain")


def llama_index() -> LlamaIndexStore:
    """Open LlamaIndex's store."""
    return LlamaIndexStore.from_params(
        host="127.0.0.1", port=PORT, user="check", password="", database="postgres", table_name="llama", embed_dim=1536
    )


def write() -> None:
    """Fill a table through each framework."""
    with psycopg.connect(f"postgresql://{SERVER}") as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    store = langchain(NanoGPTEmbeddings(), write=True)
    store.add_documents([Document(text) for text in TEXTS])
    context = StorageContext.from_defaults(vector_store=llama_index())
    VectorStoreIndex([TextNode(text=text) for text in TEXTS], storage_context=context, embed_model=NanoGPTEmbedding())
    version = ask("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    print(f"PostgreSQL {ask('SHOW server_version')}, pgvector {version}: written", flush=True)


def read() -> None:
    """Query the written rows, and check the error for another width."""
    right, other = NanoGPTEmbeddings(), NanoGPTEmbeddings("BAAI/bge-m3")
    best = expected(right)

    store = langchain(right, write=False)
    for found in (
        store.similarity_search_with_score(QUESTION, k=3),
        asyncio.run(store.asimilarity_search_with_score(QUESTION, k=3)),
    ):
        same([(document.page_content, 1 - distance) for document, distance in found], best[:3])
    same_texts = [document.page_content for document in store.max_marginal_relevance_search(QUESTION, k=2)]
    assert same_texts[0] == best[0][0], same_texts
    refused("LangChain", lambda: langchain(other, write=False).similarity_search(QUESTION))
    told(other.check_width, ask(WIDTH, "langchain"))
    right.check_width(ask(WIDTH, "langchain"))

    model, wrong = NanoGPTEmbedding(), NanoGPTEmbedding("BAAI/bge-m3")
    index = VectorStoreIndex.from_vector_store(llama_index(), embed_model=model)
    for hits in (
        index.as_retriever(similarity_top_k=3).retrieve(QUESTION),
        asyncio.run(index.as_retriever(similarity_top_k=3).aretrieve(QUESTION)),
    ):
        same([(hit.node.get_content(), hit.score) for hit in hits], best[:3])
    wrong_index = VectorStoreIndex.from_vector_store(llama_index(), embed_model=wrong)
    refused("LlamaIndex", lambda: wrong_index.as_retriever().retrieve(QUESTION))
    told(wrong.check_width, ask(WIDTH, "data_llama"))
    model.check_width(ask(WIDTH, "data_llama"))
    snippet()
    print("read after a restart: the right texts and scores, sync and async, and another width refused", flush=True)


def snippet() -> None:
    """Run the page's snippet twice; the second time, one text is new."""
    found = SNIPPET.search(PAGE.read_text(encoding="utf-8"))
    assert found, PAGE
    code = compile(found[1].replace("postgresql://localhost/search", f"postgresql://{SERVER}"), str(PAGE), "exec")
    Path("passages").mkdir()
    for texts in (TEXTS[:2], TEXTS[:3]):
        pq.write_table(pa.table({"source": ["page.md"] * len(texts), "text": texts}), "passages/part.parquet")
        exec(code, {"__name__": "snippet"})
        assert ask("SELECT count(*) FROM passages") == len(texts)
    vector = str(NanoGPTEmbeddings().embed_query(QUESTION))
    assert ask("SELECT text FROM passages ORDER BY embedding <=> %s::vector LIMIT 1", vector) == TEXTS[2]
    print("the snippet of docs/scale/sinks.md: each passage once", flush=True)


def same(found: list[tuple[str, float]], best: list[tuple[str, float]]) -> None:
    """Check texts and scores."""
    assert [text for text, _ in found] == [text for text, _ in best], found
    np.testing.assert_allclose([score for _, score in found], [score for _, score in best], atol=1e-5)


def refused(framework: str, search: Callable[[], object]) -> None:
    """Check that the store itself refuses, and print its words."""
    with pytest.raises(
        Exception, match=r"different vector dimensions 1536 and 1024|expected 1536 dimensions, not 1024"
    ) as seen:
        search()
    print(f"{framework}, another width: {seen.type.__name__}: {str(seen.value).splitlines()[0]}", flush=True)


def told(check: Callable[[int], None], width: int) -> None:
    """Check that the message of ``check_width`` names the remedy."""
    with pytest.raises(ConfigurationError, match="fill a new store"):
        check(width)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]]()

"""Embeddings in LangChain's vector stores, caches and indexes."""

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.language_models import FakeListChatModel
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_nanogpt import NanoGPTEmbeddings

TEXTS = [
    "The cat sat on the mat and purred.",
    "Stock markets fell sharply on Monday.",
    "The battery of the X200 lasts twelve hours.",
]
QUESTION = "How long does the X200's battery last?"


@pytest.fixture
def embeddings(options):
    return NanoGPTEmbeddings(**options)


def documents(texts=TEXTS):
    return [Document(text, id=str(i), metadata={"source": f"file{i}"}) for i, text in enumerate(texts)]


async def test_vector_store_finds_the_nearest_text(embeddings, call, sandbox):
    store = InMemoryVectorStore(embeddings)
    await call(store, "add_documents", documents())
    (found,) = await call(store, "similarity_search", QUESTION, k=1)
    assert (found.page_content, found.metadata) == (TEXTS[2], {"source": "file2"})
    assert [request.inputs for request in sandbox.requests] == [tuple(TEXTS), (QUESTION,)]


async def test_vector_store_scores_are_sorted_cosines(embeddings, call):
    store = InMemoryVectorStore(embeddings)
    await call(store, "add_texts", TEXTS)
    scored = await call(store, "similarity_search_with_score", TEXTS[1], k=3)
    scores = [score for _, score in scored]
    assert scored[0][0].page_content == TEXTS[1]
    assert scores[0] == pytest.approx(1)
    assert scores == sorted(scores, reverse=True)
    assert scores[1] < 0.9


async def test_retriever_finds_the_nearest_text(embeddings, call):
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    (found,) = await call(store.as_retriever(search_kwargs={"k": 1}), "invoke", QUESTION)
    assert found.page_content == TEXTS[2]


async def _abatch(retriever, queries):
    found = await retriever.abatch(queries)
    return [documents[0] for documents in found]


async def _multi_query(retriever, queries):
    langchain = pytest.importorskip("langchain_classic.retrievers")
    llm = FakeListChatModel(responses=["\n".join(queries[1:])])
    several = langchain.MultiQueryRetriever.from_llm(retriever=retriever, llm=llm, include_original=True)
    return await several.ainvoke(queries[0])


@pytest.mark.parametrize("retrieve", [_abatch, _multi_query])
async def test_retriever_with_four_queries_sends_one_or_two_requests(embeddings, sandbox, retrieve):
    queries = [QUESTION, "battery of the X200", "hours of battery life", "which device lasts long"]
    store = await InMemoryVectorStore.afrom_texts(TEXTS, embeddings)
    sandbox.clear()
    found = await retrieve(store.as_retriever(search_kwargs={"k": 1}), queries)
    assert found[0].page_content == TEXTS[2]
    sent = [request.inputs for request in sandbox.requests]
    assert sorted(text for texts in sent for text in texts) == sorted(queries)
    assert len(sent) <= 2


async def test_index_sends_only_new_documents(embeddings, sandbox, call):
    records = InMemoryRecordManager("test")
    records.create_schema()
    store = InMemoryVectorStore(embeddings)

    async def run(docs):
        sandbox.clear()
        arguments = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}
        if call.kind == "sync":
            result = index(docs, records, store, **arguments)
        else:
            result = await aindex(docs, records, store, **arguments)
        return result, [request.inputs for request in sandbox.requests]

    first, sent = await run(documents())
    assert (first["num_added"], first["num_skipped"]) == (3, 0)
    assert sent == [tuple(TEXTS)]

    again, sent = await run(documents())
    assert (again["num_added"], again["num_skipped"]) == (0, 3)
    assert sent == []

    changed, sent = await run(documents([TEXTS[0], "Stock markets rose.", TEXTS[2]]))
    assert (changed["num_added"], changed["num_deleted"], changed["num_skipped"]) == (1, 1, 2)
    assert sent == [("Stock markets rose.",)]
    (found,) = store.similarity_search("Stock markets", k=1)
    assert found.page_content == "Stock markets rose."


@pytest.fixture(params=["memory", "files"])
def byte_store(request, tmp_path):
    if request.param == "memory":
        return InMemoryByteStore()
    storage = pytest.importorskip("langchain_classic.storage", reason="langchain-classic is not installed")
    return storage.LocalFileStore(tmp_path)


async def test_cache_backed_embeddings_send_each_text_once(embeddings, sandbox, call, byte_store):
    classic = pytest.importorskip("langchain_classic.embeddings", reason="langchain-classic is not installed")

    def cached():
        return classic.CacheBackedEmbeddings.from_bytes_store(
            embeddings,
            byte_store,
            namespace=embeddings.cache_namespace,
            key_encoder="sha256",
            query_embedding_cache=True,
        )

    first = await call(cached(), "embed_documents", TEXTS)
    again = await call(cached(), "embed_documents", [*TEXTS, "A new text."])
    query = await call(cached(), "embed_query", TEXTS[0])
    assert [request.inputs for request in sandbox.requests] == [tuple(TEXTS), ("A new text.",)]
    assert again[:3] == first == embeddings.embed_documents(TEXTS)
    assert query == first[0]


def test_cache_namespace_differs_if_vectors_differ(options):
    def namespace(**more):
        return NanoGPTEmbeddings(**{**options, **more}).cache_namespace

    same = [{}, {"timeout": 5, "max_retries": 0, "chunk_size": 3, "api_key": "sk-nano-another"}]
    different = [
        {"model": "BAAI/bge-m3"},
        {"dimensions": 64},
        {"on_overflow": "truncate"},
        {"base_url": "https://example.com/v1"},
    ]
    assert len({namespace(**more) for more in same}) == 1
    assert len({namespace(**more) for more in [{}, *different]}) == 5

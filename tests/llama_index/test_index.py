"""Embeddings in LlamaIndex's settings, indexes and ingestion pipelines."""

import asyncio

import pytest
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore

from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core.embeddings.config import EmbedderOptions
from nanogpt_core.sandbox import Reply, Sandbox

TEXTS = [
    "The cat sat on the mat and purred.",
    "Stock markets fell sharply on Monday.",
    "The battery of the X200 lasts twelve hours.",
]
QUESTION = "How long does the X200's battery last?"


@pytest.fixture
def embedding(options):
    return NanoGPTEmbedding(**options)


@pytest.fixture
def settings(monkeypatch, embedding):
    """LlamaIndex's global settings, with our model in them for one test."""
    for name, value in (("_embed_model", embedding), ("_llm", MockLLM())):
        monkeypatch.setattr(Settings, name, value)
    Settings.embed_model = embedding
    return Settings


def documents():
    return [Document(text=text, doc_id=f"doc{i}") for i, text in enumerate(TEXTS)]


@pytest.mark.usefixtures("settings")
async def test_index_from_settings_is_built_saved_loaded_and_queried(sandbox, call, tmp_path):
    VectorStoreIndex.from_documents(documents()).storage_context.persist(tmp_path)
    assert [set(request.inputs) for request in sandbox.requests] == [set(TEXTS)]
    sandbox.clear()

    index = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path)))
    assert sandbox.requests == []
    (found,) = await call(index.as_retriever(similarity_top_k=1), "retrieve", QUESTION)
    assert found.node.get_content() == TEXTS[2]
    assert 0 < found.score < 1
    assert [request.inputs for request in sandbox.requests] == [(QUESTION,)]

    answer = await call(index.as_query_engine(similarity_top_k=1), "query", QUESTION)
    assert [node.node.get_content() for node in answer.source_nodes] == [TEXTS[2]]
    assert TEXTS[2] in str(answer)


@pytest.mark.usefixtures("settings")
def test_index_embeds_only_inserted_documents(sandbox):
    index = VectorStoreIndex.from_documents(documents())
    sandbox.clear()
    index.insert(Document(text="Running shoes come in blue."))
    index.delete_ref_doc("doc0")
    assert [request.inputs for request in sandbox.requests] == [("Running shoes come in blue.",)]
    found = index.as_retriever(similarity_top_k=4).retrieve("blue shoes")
    assert found[0].node.get_content() == "Running shoes come in blue."
    assert len(found) == 3


def pipeline(embedding, cache=None, **more):
    splitter = SentenceSplitter(chunk_size=128, chunk_overlap=0)
    return IngestionPipeline(transformations=[splitter, embedding], cache=cache or IngestionCache(), **more)


async def test_pipeline_fills_a_store_and_second_run_reads_its_cache(embedding, options, sandbox, call):
    store, cache = SimpleVectorStore(), IngestionCache()
    nodes = await call(pipeline(embedding, cache, vector_store=store), "run", documents=documents())
    assert [node.get_content() for node in nodes] == TEXTS
    assert [store.get(node.node_id) for node in nodes] == [node.embedding for node in nodes]
    assert len(sandbox.requests) == 1

    sandbox.clear()
    other = NanoGPTEmbedding(**{**options, "api_key": "sk-nano-another"}, timeout=5, max_retries=0, batch_size=2)
    again = await call(pipeline(other, cache), "run", documents=documents())
    assert sandbox.requests == []
    assert [node.embedding for node in again] == [node.embedding for node in nodes]

    await call(pipeline(NanoGPTEmbedding(**options, dimensions=64), cache), "run", documents=documents())
    assert [request.body["dimensions"] for request in sandbox.requests] == [64]


def test_pipeline_cache_survives_on_disk(embedding, sandbox, tmp_path):
    first = pipeline(embedding)
    nodes = first.run(documents=documents())
    first.persist(str(tmp_path))
    sandbox.clear()
    second = pipeline(embedding)
    second.load(str(tmp_path))
    assert [node.embedding for node in second.run(documents=documents())] == [node.embedding for node in nodes]
    assert sandbox.requests == []


def test_pipeline_in_spawned_processes_receives_the_key(embedding, sandbox):
    expected = embedding.get_text_embedding_batch(TEXTS)
    sandbox.clear()
    built = pipeline(embedding)
    nodes = built.run(documents=documents(), num_workers=2)
    assert [node.get_content() for node in nodes] == TEXTS
    assert [node.embedding for node in nodes] == expected
    assert sorted(text for request in sandbox.requests for text in request.inputs) == sorted(TEXTS)
    assert len(sandbox.requests) > 1


HASHED = {"model": "BAAI/bge-m3", "on_overflow": "truncate", "query_instruction": "find: ", "dimensions": 64}
NOT_HASHED = {
    "api_key": "sk-nano-another",
    "timeout": 7,
    "max_retries": 0,
    "deadline": 70,
    "requests_per_second": 50,
    "budget_usd": 5,
    "cache": "vectors.sqlite",
    "batch_size": 9,
    "max_concurrency": 1,
    "coalesce": False,
    "embed_batch_size": 7,
    "num_workers": 2,
    "user": "someone",
    "progress": print,
    "on_request": print,
    "default_headers": {"X-Team": "search"},
    "allow_insecure_http": True,
}


@pytest.mark.parametrize(("name", "value"), [*HASHED.items(), *NOT_HASHED.items()], ids=str)
def test_transformation_hash_depends_only_on_options_that_change_vectors(options, name, value, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    nodes = [TextNode(text=TEXTS[0])]
    first, other = NanoGPTEmbedding(**options), NanoGPTEmbedding(**{**options, name: value})
    same = get_transformation_hash(nodes, first) == get_transformation_hash(nodes, other)
    assert same is (name in NOT_HASHED)


def test_transformation_hash_test_covers_every_option():
    aliases = {"model", "embed_batch_size", "num_workers"}
    connections = {"http_client", "http_async_client", "base_url", "limits", "model_info"}
    assert {*HASHED, *NOT_HASHED} | connections == {*EmbedderOptions.__annotations__} | aliases


def test_transformation_hash_depends_on_the_base_url(options):
    nodes = [TextNode(text=TEXTS[0])]
    other = NanoGPTEmbedding(api_key=options["api_key"], base_url="https://example.com/api/v1")
    assert get_transformation_hash(nodes, NanoGPTEmbedding(**options)) != get_transformation_hash(nodes, other)


async def test_query_instruction_is_applied_to_queries_only(options, sandbox, call):
    embedding = NanoGPTEmbedding("BAAI/bge-large-en-v1.5", **options, query_instruction="recommended")
    index = VectorStoreIndex.from_documents(documents(), embed_model=embedding)
    await call(index.as_retriever(similarity_top_k=1), "retrieve", QUESTION)
    build, query = sandbox.requests
    assert set(build.inputs) == set(TEXTS)
    assert query.inputs == (f"Represent this sentence for searching relevant passages: {QUESTION}",)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_fusion_retriever_with_four_queries_sends_one_or_two_requests(kind):
    others = ["battery of the X200", "hours of battery life", "which device lasts long"]
    with Sandbox(script=[Reply("\n".join(others))]) as sandbox:
        options = {"api_key": sandbox.api_key, "api_base": sandbox.base_url}
        embedding = NanoGPTEmbedding(**options)
        index = VectorStoreIndex.from_documents(documents(), embed_model=embedding)
        retriever = QueryFusionRetriever(
            [index.as_retriever(similarity_top_k=2)], llm=NanoGPT("sandbox", **options), num_queries=4
        )

        # Opens the client for async calls: the sync method makes such calls too, each in a task.
        asyncio.run(embedding.aget_query_embedding("a query of a service under way"))
        sandbox.clear()
        found = retriever.retrieve(QUESTION) if kind == "sync" else asyncio.run(retriever.aretrieve(QUESTION))
        requests = [request.inputs for request in sandbox.requests if request.path.endswith("/embeddings")]
    assert found[0].node.get_content() == TEXTS[2]
    assert sorted(text for texts in requests for text in texts) == sorted([QUESTION, *others])
    assert len(requests) <= 2

"""Vector stores that keep their data on disk: one contract for all, in both frameworks."""

import asyncio
import math
import operator
import warnings

import pytest

from nanogpt_core.errors import ConfigurationError, ReplyError

TEXTS = [
    "The cat sat on the mat and purred.",
    "Stock markets fell sharply on Monday.",
    "The battery of the X200 lasts twelve hours.",
    "A laptop's battery is charged over night.",
]
QUESTION = "How long does the X200's battery last?"
NEW = "The X300's battery lasts a week."


class LangChainStore:
    deletes = True

    async def add(self, call, named):
        from langchain_core.documents import Document

        documents = [Document(text, metadata={"name": name}) for name, text in named.items()]
        return dict(zip(named, await call(self.store, "add_documents", documents), strict=True))

    async def remove(self, call, identifier):
        await call(self.store, "delete", [identifier])

    async def search(self, call, k):
        found = await call(self.store, "similarity_search_with_score", QUESTION, k=k)
        return [(one.page_content, one.metadata["name"], self.cosine(score)) for one, score in found]


class LangChainQdrant(LangChainStore):
    own_error = (Exception, "configured for dense vectors with 1536 dimensions")

    def __init__(self, folder, embeddings, _asynchronous):
        qdrant = pytest.importorskip("langchain_qdrant")
        client = pytest.importorskip("qdrant_client")
        # LangChain's async methods write from other threads than the one that opened the file.
        self.client = client.QdrantClient(path=str(folder), force_disable_check_same_thread=True)
        if not self.client.collection_exists("texts"):
            parameters = client.models.VectorParams(size=1536, distance=client.models.Distance.COSINE)
            self.client.create_collection("texts", vectors_config=parameters)
        self.make = lambda: qdrant.QdrantVectorStore(self.client, "texts", embeddings)

    @property
    def store(self):
        return self.make()

    @property
    def width(self):
        return self.client.get_collection("texts").config.params.vectors.size

    def cosine(self, score):
        return score

    def close(self):
        self.client.close()


class LangChainFaiss(LangChainStore):
    own_error = (AssertionError, "^$")

    def __init__(self, folder, embeddings, _asynchronous):
        faiss = pytest.importorskip("faiss")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`langchain-community` is being sunset", DeprecationWarning)
            stores = pytest.importorskip("langchain_community.vectorstores")
        memory = pytest.importorskip("langchain_community.docstore.in_memory").InMemoryDocstore
        self.folder = str(folder)
        if folder.exists():
            self.store = stores.FAISS.load_local(self.folder, embeddings, allow_dangerous_deserialization=True)
        else:
            self.store = stores.FAISS(embeddings, faiss.IndexFlatL2(1536), memory(), {})

    @property
    def width(self):
        return self.store.index.d

    def cosine(self, score):
        return 1 - score / 2  # the square of the distance between vectors of length 1

    def close(self):
        self.store.save_local(self.folder)


class LangChainChroma(LangChainStore):
    own_error = (Exception, "expecting embedding with dimension of 1536, got 1024")

    def __init__(self, folder, embeddings, _asynchronous):
        chromadb = pytest.importorskip("chromadb")
        settings = chromadb.Settings(anonymized_telemetry=False)
        self.client = chromadb.PersistentClient(str(folder), settings=settings)
        self.store = pytest.importorskip("langchain_chroma").Chroma(
            "texts", embeddings, client=self.client, collection_configuration={"hnsw": {"space": "cosine"}}
        )

    @property
    def width(self):
        return len(self.client.get_collection("texts").peek(1)["embeddings"][0])

    def cosine(self, score):
        return 1 - score

    def close(self):
        self.client.close()


class LlamaIndexStore:
    deletes = True

    async def add(self, _call, named):
        from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

        nodes = []
        for name, text in named.items():
            source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name)}
            more = {"metadata": {"name": name}, "excluded_embed_metadata_keys": ["name"], "relationships": source}
            nodes.append(TextNode(text=text, **more))
        self.index().insert_nodes(nodes)
        return {name: name for name in named}

    async def remove(self, _call, identifier):
        self.store.delete(identifier)

    async def search(self, call, k):
        hits = await call(self.index().as_retriever(similarity_top_k=k), "retrieve", QUESTION)
        return [(hit.node.get_content(), hit.node.metadata["name"], self.cosine(hit.score)) for hit in hits]

    def index(self):
        from llama_index.core import VectorStoreIndex

        return VectorStoreIndex.from_vector_store(self.store, embed_model=self.embeddings)


class LlamaIndexQdrant(LlamaIndexStore):
    own_error = (ValueError, r"shapes \(\d,1536\) and \(1024,\) not aligned")

    def __init__(self, folder, embeddings, asynchronous):
        client = pytest.importorskip("qdrant_client")
        store = pytest.importorskip("llama_index.vector_stores.qdrant", exc_type=ImportError)
        self.embeddings = embeddings
        # On disk only one client may use the folder: the sync or the async one.
        if asynchronous:
            self.client = client.AsyncQdrantClient(path=str(folder))
            self.store = store.QdrantVectorStore("texts", aclient=self.client, index_doc_id=False)
        else:
            self.client = client.QdrantClient(path=str(folder))
            self.store = store.QdrantVectorStore("texts", client=self.client, index_doc_id=False)

    @property
    def width(self):
        return self.client.get_collection("texts").config.params.vectors.size

    def cosine(self, score):
        return score

    def close(self):
        closing = self.client.close()
        if closing is not None:
            asyncio.run(closing)


class LlamaIndexFaiss(LlamaIndexStore):
    own_error = (AssertionError, "^$")
    deletes = False  # LlamaIndex's store of this name cannot

    def __init__(self, folder, embeddings, _asynchronous):
        faiss = pytest.importorskip("faiss")
        store = pytest.importorskip("llama_index.vector_stores.faiss", exc_type=ImportError).FaissVectorStore
        from llama_index.core import StorageContext

        self.embeddings, self.folder, self.old = embeddings, str(folder), folder.exists()
        self.store = store.from_persist_dir(self.folder) if self.old else store(faiss.IndexFlatIP(1536))
        self.context = StorageContext.from_defaults(
            vector_store=self.store, persist_dir=self.folder if self.old else None
        )

    def index(self):
        from llama_index.core import VectorStoreIndex, load_index_from_storage

        if self.old:
            return load_index_from_storage(self.context, embed_model=self.embeddings)
        return VectorStoreIndex([], storage_context=self.context, embed_model=self.embeddings)

    @property
    def width(self):
        return self.store.client.d

    def cosine(self, score):
        return score  # IndexFlatIP: the inner product

    def close(self):
        self.context.persist(self.folder)


class LlamaIndexChroma(LlamaIndexStore):
    own_error = (Exception, "expecting embedding with dimension of 1536, got 1024")

    def __init__(self, folder, embeddings, _asynchronous):
        chromadb = pytest.importorskip("chromadb")
        store = pytest.importorskip("llama_index.vector_stores.chroma", exc_type=ImportError)
        settings = chromadb.Settings(anonymized_telemetry=False)
        self.embeddings = embeddings
        self.client = chromadb.PersistentClient(str(folder), settings=settings)
        self.collection = self.client.get_or_create_collection("texts", configuration={"hnsw": {"space": "cosine"}})
        self.store = store.ChromaVectorStore(chroma_collection=self.collection)

    @property
    def width(self):
        return len(self.collection.peek(1)["embeddings"][0])

    def cosine(self, score):
        return 1 + math.log(score)  # LlamaIndex makes exp(-distance) of the distance

    def close(self):
        self.client.close()


STORES = {
    "langchain_nanogpt": {"qdrant": LangChainQdrant, "faiss": LangChainFaiss, "chroma": LangChainChroma},
    "llama_index_nanogpt": {"qdrant": LlamaIndexQdrant, "faiss": LlamaIndexFaiss, "chroma": LlamaIndexChroma},
}


@pytest.fixture(params=["qdrant", "faiss", "chroma"])
def kind(request, plugin):
    return STORES[plugin.module][request.param]


@pytest.fixture
def open_store(kind, tmp_path):
    """Open the store of this test, with any embeddings; all are closed at the end."""
    opened = []

    def open_with(embeddings, asynchronous=False):
        opened.append(kind(tmp_path / "store", embeddings, asynchronous))
        return opened[-1]

    yield open_with
    for one in opened:
        one.close()


@pytest.fixture
def embeddings(make):
    return make()


async def fill(open_store, embeddings, call):
    opened = open_store(embeddings)
    identifiers = await opened.add(call, {f"text{number}": text for number, text in enumerate(TEXTS)})
    opened.close()
    return identifiers


async def test_stored_texts_are_found_after_reopening(plugin, open_store, embeddings, call, sandbox):
    await fill(open_store, embeddings, call)
    assert {text for request in sandbox.requests for text in request.inputs} >= set(TEXTS)
    sandbox.clear()
    found = await open_store(embeddings, call.kind == "async").search(call, 3)
    sent = {text for request in sandbox.requests for text in request.inputs}
    assert QUESTION in sent
    assert not sent & set(TEXTS)

    question = getattr(embeddings, plugin.query)(QUESTION)
    vectors = getattr(embeddings, plugin.documents)(TEXTS)
    expected = [sum(map(operator.mul, question, vector)) for vector in vectors]
    best = sorted(range(len(TEXTS)), key=lambda number: -expected[number])[:3]
    assert best[:2] == [2, 3]
    assert [(text, name) for text, name, _ in found] == [(TEXTS[number], f"text{number}") for number in best]
    assert [score for _, _, score in found] == pytest.approx([expected[number] for number in best], abs=1e-5)


async def test_removals_and_additions_hold_after_reopening(kind, open_store, embeddings, call):
    identifiers = await fill(open_store, embeddings, call)
    opened = open_store(embeddings)
    if kind.deletes:
        await opened.remove(call, identifiers["text2"])
    await opened.add(call, {"new": NEW})
    opened.close()
    names = [name for _, name, _ in await open_store(embeddings, call.kind == "async").search(call, 4)]
    assert "new" in names[:2]
    assert ("text2" in names) is not kind.deletes


async def test_check_width_refuses_a_store_of_another_model(open_store, embeddings, call, make, sandbox):
    await fill(open_store, embeddings, call)
    width = open_store(embeddings).width
    sandbox.clear()
    for fitting in (embeddings, make("text-embedding-ada-002"), make("text-embedding-3-large", dimensions=1536)):
        fitting.check_width(width)
    with pytest.raises(ConfigurationError, match=r"1,536 dimensions; those of BAAI/bge-m3 have 1024\. Open it") as seen:
        make("BAAI/bge-m3").check_width(width)
    assert "text-embedding-3-small" in str(seen.value)
    assert "fill a new store" in str(seen.value)
    with pytest.raises(ConfigurationError, match=r"have 3072\. Pass dimensions=1536, if"):
        make("text-embedding-3-large").check_width(width)
    assert sandbox.requests == []


async def test_error_of_the_store_is_the_documented_one(kind, open_store, embeddings, call, make):
    await fill(open_store, embeddings, call)
    error, words = kind.own_error
    with pytest.raises(error, match=words):
        await open_store(make("BAAI/bge-m3"), call.kind == "async").search(call, 1)


async def test_checked_width_is_compared_with_the_first_reply(plugin, make, call):
    other = make("sandbox-embedding-new")
    other.check_width(7)
    with pytest.raises(ReplyError, match="1024 dimensions, not 7"):
        await call(other, plugin.query, QUESTION)


@pytest.mark.parametrize("wrong", [0, -1, "1536", 1536.0, True, None])
def test_impossible_width_is_refused(embeddings, wrong):
    with pytest.raises((ValueError, TypeError), match="stored_width"):
        embeddings.check_width(wrong)

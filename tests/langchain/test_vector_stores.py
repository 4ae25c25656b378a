"""Vector stores that keep their data on disk: one contract for all, and what each makes of another width."""

import warnings

import pytest
from langchain_core.documents import Document

from langchain_nanogpt import NanoGPTEmbeddings
from nanogpt_core.errors import ConfigurationError, ReplyError

TEXTS = [
    "The cat sat on the mat and purred.",
    "Stock markets fell sharply on Monday.",
    "The battery of the X200 lasts twelve hours.",
    "A laptop's battery is charged over night.",
]
QUESTION = "How long does the X200's battery last?"


class Qdrant:
    own_error = (Exception, "configured for dense vectors with 1536 dimensions")

    def __init__(self, folder, embeddings):
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


class Faiss:
    own_error = (AssertionError, "^$")

    def __init__(self, folder, embeddings):
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


class Chroma:
    own_error = (Exception, "expecting embedding with dimension of 1536, got 1024")

    def __init__(self, folder, embeddings):
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


@pytest.fixture(params=[Qdrant, Faiss, Chroma], ids=lambda kind: kind.__name__.lower())
def open_store(request, tmp_path):
    """Open the store of this test, with any embeddings; all are closed at the end."""
    opened = []

    def make(embeddings):
        opened.append(request.param(tmp_path / "store", embeddings))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def embeddings(options):
    return NanoGPTEmbeddings(**options)


def documents():
    return [Document(text, metadata={"number": number}) for number, text in enumerate(TEXTS)]


async def fill(open_store, embeddings, call):
    opened = open_store(embeddings)
    ids = await call(opened.store, "add_documents", documents())
    opened.close()
    return ids


async def test_what_was_written_is_found_after_opening_it_again(open_store, embeddings, call, sandbox):
    await fill(open_store, embeddings, call)
    sandbox.clear()
    opened = open_store(embeddings)
    found = await call(opened.store, "similarity_search_with_score", QUESTION, k=3)
    assert QUESTION in [text for request in sandbox.requests for text in request.inputs]
    assert not {text for request in sandbox.requests for text in request.inputs} & set(TEXTS)

    expected = embeddings.embed_documents_array(TEXTS) @ embeddings.embed_query(QUESTION)
    best = (-expected).argsort()[:3].tolist()
    assert best[:2] == [2, 3]
    assert [document.metadata["number"] for document, _ in found] == best
    assert [document.page_content for document, _ in found] == [TEXTS[number] for number in best]
    assert [opened.cosine(score) for _, score in found] == pytest.approx(expected[best].tolist(), abs=1e-5)


async def test_removed_and_added_documents_are_so_after_opening_it_again(open_store, embeddings, call):
    ids = await fill(open_store, embeddings, call)
    opened = open_store(embeddings)
    await call(opened.store, "delete", [ids[2]])
    await call(opened.store, "add_texts", ["The X300's battery lasts a week."])
    opened.close()
    found = await call(open_store(embeddings).store, "similarity_search", QUESTION, k=2)
    assert [document.page_content for document in found] == ["The X300's battery lasts a week.", TEXTS[3]]


async def test_the_width_tells_before_anything_is_sent_that_another_model_filled_the_store(
    open_store, embeddings, call, options, sandbox
):
    await fill(open_store, embeddings, call)
    width = open_store(embeddings).width
    sandbox.clear()
    embeddings.check_width(width)
    NanoGPTEmbeddings("text-embedding-ada-002", **options).check_width(width)
    NanoGPTEmbeddings("text-embedding-3-large", dimensions=1536, **options).check_width(width)
    with pytest.raises(
        ConfigurationError, match=r"1,536 dimensions; those of BAAI/bge-m3 have 1024\. Open it with"
    ) as seen:
        NanoGPTEmbeddings("BAAI/bge-m3", **options).check_width(width)
    assert "text-embedding-3-small" in str(seen.value)
    assert "fill a new store" in str(seen.value)
    with pytest.raises(ConfigurationError, match=r"have 3072\. Pass dimensions=1536, if"):
        NanoGPTEmbeddings("text-embedding-3-large", **options).check_width(width)
    assert sandbox.requests == []


async def test_what_the_store_says_itself_is_what_the_docs_say(open_store, embeddings, call, options):
    await fill(open_store, embeddings, call)
    opened = open_store(NanoGPTEmbeddings("BAAI/bge-m3", **options))
    kind, words = opened.own_error
    with pytest.raises(kind, match=words):
        await call(opened.store, "similarity_search", QUESTION)


async def test_a_width_that_only_a_reply_can_tell_is_held_against_the_reply(options, call):
    other = NanoGPTEmbeddings("jina-embeddings-v3", **options)
    other.check_width(7)
    with pytest.raises(ReplyError, match="1024 dimensions, not 7"):
        await call(other, "embed_query", QUESTION)


@pytest.mark.parametrize("wrong", [0, -1, "1536", 1536.0, True, None])
def test_a_width_that_is_none_is_refused(embeddings, wrong):
    with pytest.raises((ValueError, TypeError), match="stored_width"):
        embeddings.check_width(wrong)

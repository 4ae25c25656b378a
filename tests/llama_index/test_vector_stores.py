"""Vector stores that keep their data on disk: one contract for all, and what each makes of another width."""

import asyncio
import math

import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

from llama_index_nanogpt import NanoGPTEmbedding
from nanogpt_core.errors import ConfigurationError, ReplyError

TEXTS = [
    "The cat sat on the mat and purred.",
    "Stock markets fell sharply on Monday.",
    "The battery of the X200 lasts twelve hours.",
    "A laptop's battery is charged over night.",
]
QUESTION = "How long does the X200's battery last?"


class Qdrant:
    own_error = (ValueError, r"shapes \(\d,1536\) and \(1024,\) not aligned")
    deletes = True

    def __init__(self, folder, asynchronous=False):
        client = pytest.importorskip("qdrant_client")
        store = pytest.importorskip("llama_index.vector_stores.qdrant", exc_type=ImportError)
        # On disk only one client may have the folder: that for the sync methods or that for the async ones.
        if asynchronous:
            self.client = client.AsyncQdrantClient(path=str(folder))
            self.store = store.QdrantVectorStore("texts", aclient=self.client, index_doc_id=False)
        else:
            self.client = client.QdrantClient(path=str(folder))
            self.store = store.QdrantVectorStore("texts", client=self.client, index_doc_id=False)

    def index(self, embed_model):
        return VectorStoreIndex.from_vector_store(self.store, embed_model=embed_model)

    @property
    def width(self):
        return self.client.get_collection("texts").config.params.vectors.size

    def cosine(self, score):
        return score

    def close(self):
        closing = self.client.close()
        if closing is not None:
            asyncio.run(closing)


class Faiss:
    own_error = (AssertionError, "^$")
    deletes = False  # LlamaIndex's store of this name cannot

    def __init__(self, folder, _asynchronous=False):
        faiss = pytest.importorskip("faiss")
        store = pytest.importorskip("llama_index.vector_stores.faiss", exc_type=ImportError).FaissVectorStore
        self.folder, self.old = str(folder), folder.exists()
        self.store = store.from_persist_dir(self.folder) if self.old else store(faiss.IndexFlatIP(1536))
        self.context = StorageContext.from_defaults(
            vector_store=self.store, persist_dir=self.folder if self.old else None
        )

    def index(self, embed_model):
        if self.old:
            return load_index_from_storage(self.context, embed_model=embed_model)
        return VectorStoreIndex([], storage_context=self.context, embed_model=embed_model)

    @property
    def width(self):
        return self.store.client.d

    def cosine(self, score):
        return score  # IndexFlatIP: the inner product

    def close(self):
        self.context.persist(self.folder)


class Chroma:
    own_error = (Exception, "expecting embedding with dimension of 1536, got 1024")
    deletes = True

    def __init__(self, folder, _asynchronous=False):
        chromadb = pytest.importorskip("chromadb")
        store = pytest.importorskip("llama_index.vector_stores.chroma", exc_type=ImportError)
        settings = chromadb.Settings(anonymized_telemetry=False)
        self.client = chromadb.PersistentClient(str(folder), settings=settings)
        self.collection = self.client.get_or_create_collection("texts", configuration={"hnsw": {"space": "cosine"}})
        self.store = store.ChromaVectorStore(chroma_collection=self.collection)

    def index(self, embed_model):
        return VectorStoreIndex.from_vector_store(self.store, embed_model=embed_model)

    @property
    def width(self):
        return len(self.collection.peek(1)["embeddings"][0])

    def cosine(self, score):
        return 1 + math.log(score)  # LlamaIndex makes exp(-distance) of the distance

    def close(self):
        self.client.close()


@pytest.fixture(params=[Qdrant, Faiss, Chroma], ids=lambda kind: kind.__name__.lower())
def kind(request):
    return request.param


@pytest.fixture
def open_store(kind, tmp_path):
    """Open the store of this test; all are closed at the end."""
    opened = []

    def make(asynchronous=False):
        opened.append(kind(tmp_path / "store", asynchronous))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def embed_model(options):
    return NanoGPTEmbedding(**options)


def node(text, name):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name)}
    return TextNode(text=text, metadata={"name": name}, excluded_embed_metadata_keys=["name"], relationships=source)


def fill(open_store, embed_model):
    opened = open_store()
    opened.index(embed_model).insert_nodes([node(text, f"text{number}") for number, text in enumerate(TEXTS)])
    opened.close()


def found(opened, embed_model, k):
    return named(opened.index(embed_model).as_retriever(similarity_top_k=k).retrieve(QUESTION))


def named(hits):
    return [(hit.node.get_content(), hit.node.metadata["name"], hit.score) for hit in hits]


async def test_what_was_written_is_found_after_opening_it_again(open_store, embed_model, sandbox, call):
    fill(open_store, embed_model)
    assert sorted(text for request in sandbox.requests for text in request.inputs) == sorted(TEXTS)
    sandbox.clear()
    opened = open_store(call.kind == "async")
    hits = named(await call(opened.index(embed_model).as_retriever(similarity_top_k=3), "retrieve", QUESTION))
    assert [request.inputs for request in sandbox.requests] == [(QUESTION,)]

    query = embed_model.get_query_embedding(QUESTION)
    expected = [sum(map(lambda a, b: a * b, query, embed_model.get_text_embedding(text))) for text in TEXTS]
    best = sorted(range(len(TEXTS)), key=lambda number: -expected[number])[:3]
    assert best[:2] == [2, 3]
    assert [(text, name) for text, name, _ in hits] == [(TEXTS[number], f"text{number}") for number in best]
    scores = [opened.cosine(score) for _, _, score in hits]
    assert scores == pytest.approx([expected[number] for number in best], abs=1e-5)


def test_removed_and_added_nodes_are_so_after_opening_it_again(open_store, embed_model, kind):
    fill(open_store, embed_model)
    opened = open_store()
    if kind.deletes:
        opened.store.delete("text2")
    opened.index(embed_model).insert_nodes([node("The X300's battery lasts a week.", "new")])
    opened.close()
    names = [name for _, name, _ in found(open_store(), embed_model, 4)]
    assert "new" in names[:2]
    assert ("text2" in names) is not kind.deletes


def test_the_width_tells_before_anything_is_sent_that_another_model_filled_the_store(
    open_store, embed_model, options, sandbox
):
    fill(open_store, embed_model)
    width = open_store().width
    sandbox.clear()
    embed_model.check_width(width)
    NanoGPTEmbedding("text-embedding-3-large", dimensions=1536, **options).check_width(width)
    with pytest.raises(ConfigurationError, match=r"1,536 dimensions; those of BAAI/bge-m3 have 1024\. Open it with"):
        NanoGPTEmbedding("BAAI/bge-m3", **options).check_width(width)
    with pytest.raises(ConfigurationError, match=r"have 3072\. Pass dimensions=1536, if"):
        NanoGPTEmbedding("text-embedding-3-large", **options).check_width(width)
    assert sandbox.requests == []


def test_what_the_store_says_itself_is_what_the_docs_say(open_store, embed_model, options, kind):
    fill(open_store, embed_model)
    error, words = kind.own_error
    with pytest.raises(error, match=words):
        found(open_store(), NanoGPTEmbedding("BAAI/bge-m3", **options), 1)


async def test_a_width_that_only_a_reply_can_tell_is_held_against_the_reply(options, call):
    other = NanoGPTEmbedding("jina-embeddings-v3", **options)
    other.check_width(7)
    with pytest.raises(ReplyError, match="1024 dimensions, not 7"):
        await call(other, "get_query_embedding", QUESTION)

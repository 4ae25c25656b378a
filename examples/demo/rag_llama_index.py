"""RAG with LlamaIndex: IngestionPipeline, NanoGPTEmbedding, Qdrant on disk, a retriever, and NanoGPT as the LLM."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from common import Ingested, Service, Settings, main
from corpus import Passage
from endings import reading
from llama_index.core import Document, QueryBundle, VectorStoreIndex
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from prompting import SYSTEM_PROMPT, USER_PROMPT, Found, quoted
from store import COLLECTION, open_store, stored

from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import Usage

PROMPT = ChatPromptTemplate.from_messages([("system", SYSTEM_PROMPT), ("user", USER_PROMPT)])


class LlamaIndexPipeline:
    """The pipeline: it talks to ``service``, and works as ``settings`` say."""

    def __init__(self, service: Service, settings: Settings) -> None:
        connection = {"api_key": service.api_key, "base_url": service.base_url}
        self.settings, self.chat_tokens = settings, (0, 0)
        self.embed_model = NanoGPTEmbedding(settings.model, cache=settings.cache(service), **connection)
        self.llm = NanoGPT(settings.chat_model, temperature=0, **connection)
        self.cutoff = SimilarityPostprocessor(similarity_cutoff=settings.least_score(service))
        folder = settings.folder(service, "llama_index")
        self.client = open_store(folder / "qdrant", self.embed_model.check_width)
        self.store = QdrantVectorStore(COLLECTION, client=self.client, index_doc_id=False)
        self.documents_file = folder / "documents.json"
        self.documents = SimpleDocumentStore()
        if self.documents_file.exists():
            with reading(self.documents_file):
                self.documents = SimpleDocumentStore.from_persist_path(str(self.documents_file))

    def ingest(self, documents: Sequence[Passage]) -> Ingested:
        """Make the index hold these documents and no others; only the passages of changed ones are embedded."""
        size = self.settings.chunk_tokens
        splitter = SentenceSplitter(
            chunk_size=size,
            chunk_overlap=size // 10,
            tokenizer=lambda text: range(self.settings.count_tokens(text)),  # only how many is asked for
            paragraph_separator="\n\n",
            chunking_tokenizer_fn=partial(str.splitlines, keepends=True),  # where a paragraph is too long
            id_func=_node_id,
        )
        pipeline = IngestionPipeline(
            transformations=[splitter, self.embed_model],
            vector_store=self.store,
            docstore=self.documents,
            disable_cache=True,  # it would hold all vectors a second time
        )
        named = {document.source: _document(document) for document in documents}
        removed = self._remove(named)
        nodes = pipeline.run(documents=list(named.values()))
        self._save()  # last, so that after a failure the same documents are taken again
        changed = len({node.ref_doc_id for node in nodes})
        return Ingested("documents", changed, removed, len(named) - changed)

    def _remove(self, named: Mapping[str, Document]) -> int:
        """Remove, all at once, what changed or is gone, and what is on record alone or in the store alone."""
        with reading(self.documents_file):
            known = {name: self.documents.get_document_hash(name) for name in self.documents.docs}
        there = stored(self.client)
        unchanged = {name for name, document in named.items() if known.get(name) == document.hash}
        kept = unchanged.intersection(there.values())
        for name in known.keys() - kept:
            self.documents.delete_document(name, raise_error=False)
        self._save()  # first, or a document of which some passages are left could count as unchanged after a kill
        if stale := [key for key, source in there.items() if source not in kept]:
            self.client.delete(COLLECTION, stale)
        return len((known.keys() | there.values()) - named.keys())

    def _save(self) -> None:
        self.documents.persist(str(part := self.documents_file.with_suffix(".part")))
        part.replace(self.documents_file)

    def retrieve(self, question: str) -> list[Found]:
        """Return the passages for a question, best first; with MMR, in the order in which it chose them."""
        index = VectorStoreIndex.from_vector_store(self.store, embed_model=self.embed_model)
        # Embedded here: an empty question would go to the store without a vector, and find anything.
        query = QueryBundle(question, embedding=self.embed_model.get_query_embedding(question))
        hits = index.as_retriever(similarity_top_k=self.settings.k * (4 if self.settings.mmr else 1)).retrieve(query)
        hits = self.cutoff.postprocess_nodes(hits, query)
        if self.settings.mmr and hits:
            hits = self._diverse(hits, query.embedding)
        return [Found(hit.metadata["source"], hit.node.get_content(MetadataMode.LLM), hit.get_score()) for hit in hits]

    def _diverse(self, hits: list[NodeWithScore], query: list[float] | None) -> list[NodeWithScore]:
        # LlamaIndex's store for Qdrant takes no notice of the query mode MMR.
        by_id = {hit.node_id: hit for hit in hits}
        vectors = {node.node_id: node.embedding for node in self.store.get_nodes(list(by_id))}
        chosen = get_top_k_mmr_embeddings(query, list(vectors.values()), None, self.settings.k, list(vectors))[1]
        return [by_id[name] for name in chosen]

    def prompt(self, question: str, found: Sequence[Found]) -> list[tuple[str, str]]:
        """Return the messages that are sent: role and text of each."""
        messages = PROMPT.format_messages(context=quoted(found), question=question)
        return [(message.role.value, message.content or "") for message in messages]

    def stream(self, question: str, found: Sequence[Found]) -> Iterator[str]:
        """Yield the answer piece by piece."""
        for part in self.llm.stream_chat(PROMPT.format_messages(context=quoted(found), question=question)):
            if used := getattr(part.raw, "usage", None):
                asked, said = self.chat_tokens
                self.chat_tokens = (asked + used.prompt_tokens, said + used.completion_tokens)
            yield part.delta or ""

    @property
    def embedded(self) -> Usage:
        """What embedding took so far."""
        return self.embed_model.usage

    def close(self) -> None:
        """Close the files."""
        self.client.close()


def _document(passage: Passage) -> Document:
    return Document(
        id_=passage.source,
        text=passage.text,
        metadata={"source": passage.source},
        metadata_template="{value}",  # each part gets the name: a later one does not say what it is about
        text_template="{metadata_str}: {content}",
    )


def _node_id(number: int, document: BaseNode) -> str:
    # The same each time, so that nothing is there twice after an ingest that was broken off. Qdrant wants a UUID.
    return str(uuid.UUID(bytes=hashlib.sha256(f"{document.hash} {number}".encode()).digest()[:16]))


if __name__ == "__main__":
    main(LlamaIndexPipeline, "RAG over Python's own documentation, with LlamaIndex")

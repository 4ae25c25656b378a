"""RAG with LlamaIndex: IngestionPipeline, NanoGPTEmbedding, Qdrant on disk, a retriever, and NanoGPT as the LLM."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from cli_errors import name_damaged
from command_line import main
from corpus import Passage
from llama_index.core import Document, QueryBundle, VectorStoreIndex
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from prompts import SYSTEM_PROMPT, USER_PROMPT, RetrievedPassage, quote_passages
from qdrant_store import COLLECTION, close_on_error, open_store, stored_sources
from settings import IngestReport, Service, Settings
from tqdm import tqdm

from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import Usage

BATCH = 500  # documents per run of the ingestion pipeline
PROMPT = ChatPromptTemplate.from_messages([("system", SYSTEM_PROMPT), ("user", USER_PROMPT)])


class LlamaIndexPipeline:
    """RAG pipeline on LlamaIndex's parts, for a service and settings."""

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
            with close_on_error(self.client), name_damaged(self.documents_file):
                self.documents = SimpleDocumentStore.from_persist_path(str(self.documents_file))

    def ingest(self, documents: Sequence[Passage]) -> IngestReport:
        """Make the index hold exactly these documents; only the passages of changed ones are embedded."""
        size = self.settings.chunk_tokens
        splitter = SentenceSplitter(
            chunk_size=size,
            chunk_overlap=size // 10,
            tokenizer=lambda text: range(self.settings.count_tokens(text)),  # SentenceSplitter uses only their number
            paragraph_separator="\n\n",
            chunking_tokenizer_fn=partial(str.splitlines, keepends=True),  # if a paragraph is too long
            id_func=_node_id,
        )
        pipeline = IngestionPipeline(
            transformations=[splitter, self.embed_model],
            vector_store=self.store,
            docstore=self.documents,
            disable_cache=True,  # it would store all vectors a second time
        )
        named = {document.source: _document(document) for document in documents}
        removed = self._remove(named)
        wanted, nodes = list(named.values()), []
        with tqdm(total=len(wanted), desc="Indexing", unit="document") as bar:
            for start in range(0, len(wanted), BATCH):
                nodes += pipeline.run(documents=wanted[start : start + BATCH])
                bar.update(len(wanted[start : start + BATCH]))
        self._save()  # last: after a failure the same documents are processed again
        changed = len({node.ref_doc_id for node in nodes})
        return IngestReport("documents", changed, removed, len(named) - changed)

    def _remove(self, named: Mapping[str, Document]) -> int:
        """Delete in one call the documents that changed, are gone, or are only on record or only in the store."""
        with name_damaged(self.documents_file):
            known = {name: self.documents.get_document_hash(name) for name in self.documents.docs}
        there = stored_sources(self.client)
        unchanged = {name for name, document in named.items() if known.get(name) == document.hash}
        kept = unchanged.intersection(there.values())
        for name in known.keys() - kept:
            self.documents.delete_document(name, raise_error=False)
        self._save()  # first: after a kill, a document with some passages left must not count as unchanged
        if stale := [key for key, source in there.items() if source not in kept]:
            self.client.delete(COLLECTION, stale)
        return len((known.keys() | there.values()) - named.keys())

    def _save(self) -> None:
        self.documents.persist(str(part := self.documents_file.with_suffix(".part")))
        part.replace(self.documents_file)

    def retrieve(self, question: str) -> list[RetrievedPassage]:
        """Return the passages for a question, best first; with MMR, in the order of its choice."""
        index = VectorStoreIndex.from_vector_store(self.store, embed_model=self.embed_model)
        # Embedded here, which refuses an empty question; the retriever would search without a vector.
        query = QueryBundle(question, embedding=self.embed_model.get_query_embedding(question))
        hits = index.as_retriever(similarity_top_k=self.settings.k * (4 if self.settings.mmr else 1)).retrieve(query)
        hits = self.cutoff.postprocess_nodes(hits, query)
        if self.settings.mmr and hits:
            hits = self._diverse(hits, query.embedding)
        return [
            RetrievedPassage(hit.metadata["source"], hit.node.get_content(MetadataMode.LLM), hit.get_score())
            for hit in hits
        ]

    def _diverse(self, hits: list[NodeWithScore], query: list[float] | None) -> list[NodeWithScore]:
        # LlamaIndex's store for Qdrant ignores the query mode MMR.
        by_id = {hit.node_id: hit for hit in hits}
        vectors = {node.node_id: node.embedding for node in self.store.get_nodes(list(by_id))}
        chosen = get_top_k_mmr_embeddings(query, list(vectors.values()), None, self.settings.k, list(vectors))[1]
        return [by_id[name] for name in chosen]

    def prompt(self, question: str, found: Sequence[RetrievedPassage]) -> list[tuple[str, str]]:
        """Return role and text of the messages that :meth:`stream` sends."""
        messages = PROMPT.format_messages(context=quote_passages(found), question=question)
        return [(message.role.value, message.content or "") for message in messages]

    def stream(self, question: str, found: Sequence[RetrievedPassage]) -> Iterator[str]:
        """Yield the answer in pieces."""
        for part in self.llm.stream_chat(PROMPT.format_messages(context=quote_passages(found), question=question)):
            if used := getattr(part.raw, "usage", None):
                asked, said = self.chat_tokens
                self.chat_tokens = (asked + used.prompt_tokens, said + used.completion_tokens)
            yield part.delta or ""

    @property
    def embedded(self) -> Usage:
        """Usage of embedding since the start."""
        return self.embed_model.usage

    def close(self) -> None:
        """Close the files of the store."""
        self.client.close()


def _document(passage: Passage) -> Document:
    return Document(
        id_=passage.source,
        text=passage.text,
        metadata={"source": passage.source},
        metadata_template="{value}",  # each part gets the name; a later one rarely names its subject
        text_template="{metadata_str}: {content}",
    )


def _node_id(number: int, document: BaseNode) -> str:
    # Reproducible: an interrupted ingest, repeated, stores nothing twice. Qdrant wants a UUID.
    return str(uuid.UUID(bytes=hashlib.sha256(f"{document.hash} {number}".encode()).digest()[:16]))


if __name__ == "__main__":
    main(LlamaIndexPipeline, "RAG over Python's own documentation, with LlamaIndex")

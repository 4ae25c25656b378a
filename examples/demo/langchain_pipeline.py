"""RAG with LangChain: its indexing API, NanoGPTEmbeddings, Qdrant on disk, and a chain that ends in ChatNanoGPT."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterator, Sequence

from command_line import main
from corpus import Passage
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.indexing import index
from langchain_core.prompts import ChatPromptTemplate
from langchain_qdrant import QdrantVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from prompts import SYSTEM_PROMPT, USER_PROMPT, RetrievedPassage, quote_passages
from qdrant_client import models
from qdrant_store import COLLECTION, close_on_error, open_store, stored_sources
from settings import IngestReport, Service, Settings
from tqdm import tqdm

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from nanogpt_core import Usage

BATCH = 500  # passages per batch of the indexing API
PROMPT = ChatPromptTemplate([("system", SYSTEM_PROMPT), ("user", USER_PROMPT)])


class LangChainPipeline:
    """RAG pipeline on LangChain's parts.

    Args:
        service: The API to talk to.
        settings: Options.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        connection = {"api_key": service.api_key, "base_url": service.base_url}
        self.settings = settings
        self.least_score = settings.least_score(service)
        self.embeddings = NanoGPTEmbeddings(settings.model, cache=settings.cache(service), **connection)
        self.chain = PROMPT | ChatNanoGPT(model=settings.chat_model, temperature=0, **connection)
        self.chat_tokens = (0, 0)

        folder = settings.folder(service, "langchain")
        self.client = open_store(folder / "qdrant", self.embeddings.check_width)
        with close_on_error(self.client):
            if not self.client.collection_exists(COLLECTION):
                width = len(self.embeddings.embed_query("How many dimensions?"))
                vectors = models.VectorParams(size=width, distance=models.Distance.COSINE)
                self.client.create_collection(COLLECTION, vectors_config=vectors)
            # The store's own check of the dimensions would embed a word each time.
            self.store = QdrantVectorStore(self.client, COLLECTION, self.embeddings, validate_collection_config=False)
            self.records = SQLRecordManager(COLLECTION, db_url=f"sqlite:///{folder / 'records.sqlite'}")
            self.records.create_schema()

    def ingest(self, documents: Sequence[Passage]) -> IngestReport:
        """Make the index hold exactly these documents; only new passages are embedded."""
        parts = self._split(documents)
        strays = self._reconcile({_key(part) for part in parts})
        result = index(
            tqdm(parts, desc="Indexing", unit="passage"),
            self.records,
            self.store,
            cleanup="full",
            source_id_key="source",
            key_encoder=_key,
            batch_size=BATCH,
        )
        return IngestReport("passages", result["num_added"], result["num_deleted"] + strays, result["num_skipped"])

    def _reconcile(self, wanted: set[str]) -> int:
        """Make the records agree with the store after a loss or a kill; return the number of stray passages deleted."""
        there, known = set(stored_sources(self.client)), set(self.records.list_keys())
        for keys in _batches(known - there):
            self.records.delete_keys(keys)
        for keys in _batches((there & wanted) - known):
            self.records.update(keys)  # already paid for: a key is a digest of name and text
        if strays := list(there - wanted - known):  # the indexing API does not know them
            self.client.delete(COLLECTION, strays)
        return len(strays)

    def _split(self, documents: Sequence[Passage]) -> list[Document]:
        size = self.settings.chunk_tokens
        splitter = RecursiveCharacterTextSplitter(
            chunk_size=size, chunk_overlap=size // 10, length_function=self.settings.count_tokens
        )
        whole = [Document(document.text, metadata={"source": document.source}) for document in documents]
        parts = splitter.split_documents(whole)
        # A later part of a long text rarely names its subject, so each part gets the name.
        return [Document(f"{part.metadata['source']}: {part.page_content}", metadata=part.metadata) for part in parts]

    def retrieve(self, question: str) -> list[RetrievedPassage]:
        """Return the passages for a question, best first; with MMR, in the order of its choice."""
        k, limits = self.settings.k, {"score_threshold": self.least_score}
        if self.settings.mmr:
            vector = self.embeddings.embed_query(question)
            scored = self.store.max_marginal_relevance_search_with_score_by_vector(vector, k=k, fetch_k=4 * k, **limits)
        else:
            scored = self.store.similarity_search_with_score(question, k=k, **limits)
        return [
            RetrievedPassage(document.metadata["source"], document.page_content, score) for document, score in scored
        ]

    def prompt(self, question: str, found: Sequence[RetrievedPassage]) -> list[tuple[str, str]]:
        """Return role and text of the messages that :meth:`stream` sends."""
        messages = PROMPT.format_messages(context=quote_passages(found), question=question)
        return [("user" if message.type == "human" else message.type, message.text) for message in messages]

    def stream(self, question: str, found: Sequence[RetrievedPassage]) -> Iterator[str]:
        """Yield the answer in pieces."""
        for chunk in self.chain.stream({"context": quote_passages(found), "question": question}):
            if chunk.usage_metadata:
                asked, said = self.chat_tokens
                used = chunk.usage_metadata
                self.chat_tokens = (asked + used["input_tokens"], said + used["output_tokens"])
            yield chunk.text

    @property
    def embedded(self) -> Usage:
        """Usage of embedding since the start."""
        return self.embeddings.usage

    def close(self) -> None:
        """Close files and connections."""
        self.client.close()
        self.records.engine.dispose()


def _batches(keys: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(keys)  # SQLite takes a few thousand at a time
    return (ordered[start : start + BATCH] for start in range(0, len(keys), BATCH))


def _key(document: Document) -> str:
    # Qdrant wants a UUID.
    text = f"{document.metadata['source']}\0{document.page_content}"
    return str(uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16]))


if __name__ == "__main__":
    main(LangChainPipeline, "RAG over Python's own documentation, with LangChain")

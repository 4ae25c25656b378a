"""Service, settings and result types shared by the demo's pipelines."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from corpus import Passage
from prompts import RetrievedPassage

from nanogpt_core import Usage, get_model
from nanogpt_core.http.endpoint import DEFAULT_BASE_URL
from nanogpt_core.http.secrets import KEY_VARIABLES
from nanogpt_core.models.tokens import TokenCounter

DATA = Path(__file__).resolve().parents[2] / ".nanogpt-demo"
MAX_CHUNK_TOKENS = 400
"""Longer chunks cover several subjects, and one vector describes none of them well."""
SANDBOX_MIN_SCORE = 0.28
"""Measured: 30 of 30 English answers score higher, and 18 of 20 questions on other subjects find nothing."""


@dataclass(frozen=True)
class Service:
    """The API that a pipeline talks to: NanoGPT, or the sandbox on this machine."""

    name: str
    api_key: str
    base_url: str
    is_sandbox: bool = False

    @property
    def slug(self) -> str:
        """Folder name that keeps vectors of different services apart; without the sandbox's port, which changes."""
        return "sandbox" if self.is_sandbox else re.sub(r"\W+", "-", self.base_url).strip("-")


@dataclass(frozen=True)
class Settings:
    """Options of a pipeline.

    Attributes:
        data: Folder that holds the indexes.
        model: Embedding model.
        chat_model: Chat model.
        k: Number of passages in the prompt.
        mmr: Use maximal marginal relevance: of the 4 k nearest passages, prefer those that differ from each other.
        min_score: Lowest cosine of a retrieved passage; None for the service's default.
    """

    data: Path = DATA
    model: str = "text-embedding-3-small"
    chat_model: str = "gpt-4o-mini"
    k: int = 5
    mmr: bool = False
    min_score: float | None = None

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk: 400, or three quarters of the model's limit, which leaves room for the document's name."""
        return min(MAX_CHUNK_TOKENS, (get_model(self.model).max_tokens or MAX_CHUNK_TOKENS) * 3 // 4)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text in the model's tokenizer, or an upper estimate."""
        return TokenCounter(get_model(self.model)).count(text)

    def least_score(self, service: Service) -> float:
        """Return the lowest score of a retrieved passage. The default differs by model; only the sandbox's is known."""
        return self.min_score if self.min_score is not None else SANDBOX_MIN_SCORE if service.is_sandbox else 0.0

    def folder(self, service: Service, framework: str) -> Path:
        """Return the folder of one framework's index, separate for each service, model and chunk size."""
        model = re.sub(r"[^\w.-]+", "-", self.model)
        folder = self.data / framework / f"{service.slug}-{model}-{self.chunk_tokens}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def cache(self, service: Service) -> Path | None:
        """Return the file of the embedding cache, which outlives an index; None for the sandbox, which is free."""
        return None if service.is_sandbox else self.data / "paid.sqlite"


@dataclass(frozen=True)
class IngestReport:
    """Result of an ingest, counted in passages or in documents.

    Attributes:
        unit: ``"passages"`` or ``"documents"``.
        added: How many were embedded.
        removed: How many were deleted, or None if unknown.
        unchanged: How many were in the index before.
    """

    unit: str
    added: int
    removed: int | None
    unchanged: int


class Pipeline(Protocol):
    """Interface of a RAG pipeline, as the command line and the page use it."""

    def ingest(self, documents: Sequence[Passage]) -> IngestReport:
        """Make the index hold exactly these documents; only new passages are embedded."""

    def retrieve(self, question: str) -> list[RetrievedPassage]:
        """Return the passages for a question, best first."""

    def prompt(self, question: str, found: Sequence[RetrievedPassage]) -> list[tuple[str, str]]:
        """Return role and text of the messages that :meth:`stream` sends."""

    def stream(self, question: str, found: Sequence[RetrievedPassage]) -> Iterator[str]:
        """Yield the answer in pieces."""

    @property
    def embedded(self) -> Usage:
        """Usage of embedding since the start."""

    @property
    def chat_tokens(self) -> tuple[int, int]:
        """Tokens of all prompts and of all answers since the start."""

    def close(self) -> None:
        """Close files and connections."""


@contextlib.contextmanager
def connect() -> Iterator[Service]:
    """Yield NanoGPT if the environment has a key, else a sandbox that runs until the end of the block."""
    key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
    if key:
        url = os.environ.get("NANOGPT_BASE_URL") or DEFAULT_BASE_URL
        yield Service(f"NanoGPT at {url}", key, url)
        return
    from nanogpt_core import Sandbox

    with Sandbox() as sandbox:
        name = "the sandbox on this machine (word matching and quoting, no language model; NANOGPT_API_KEY is not set)"
        yield Service(name, sandbox.api_key, sandbox.base_url, is_sandbox=True)

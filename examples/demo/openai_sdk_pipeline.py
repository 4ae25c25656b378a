"""RAG with the bare OpenAI SDK: the four steps of NanoGPT's reference page, completed.

There are no retries, no splitting of requests and no checks of replies here, and the index is one array in one file.
The packages and the frameworks provide the rest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
from cli_errors import name_damaged
from command_line import main
from corpus import Passage, cut
from openai import OpenAI
from prompts import SYSTEM_PROMPT, USER_PROMPT, RetrievedPassage, quote_passages
from settings import IngestReport, Service, Settings
from tqdm import tqdm

from nanogpt_core import Usage, get_model
from nanogpt_core.models.pricing import price

BATCH = 512  # texts per request
CHARS_PER_TOKEN = 3  # a low estimate for English


class BarePipeline:
    """RAG pipeline on the bare SDK.

    Args:
        service: The API to talk to.
        settings: Options.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        self.client = OpenAI(api_key=service.api_key, base_url=service.base_url)
        self.settings = settings
        self.least_score = settings.least_score(service)
        self.file = settings.folder(service, "openai_sdk") / "vectors.npz"
        self.tokens = 0
        self.chat_tokens = (0, 0)

    def ingest(self, documents: Sequence[Passage]) -> IngestReport:
        """1. Embed the passages that are not in the file yet, and store them."""
        most = self.settings.chunk_tokens * CHARS_PER_TOKEN
        self.passages = [passage for document in documents for passage in cut(document, most)]
        keys = [hashlib.sha256(passage.text.encode()).hexdigest() for passage in self.passages]
        texts = {key: passage.text for key, passage in zip(keys, self.passages, strict=True)}
        before = self._load()
        vectors = {key: before[key] for key in texts if key in before}
        new = [key for key in texts if key not in before]
        try:
            for start in tqdm(range(0, len(new), BATCH), desc="Embedding", unit="request", disable=not new):
                batch = new[start : start + BATCH]
                vectors.update(zip(batch, self._embed([texts[key] for key in batch]), strict=True))
        finally:  # after a failure, keep the vectors that are paid for
            if vectors.keys() != before.keys():
                self._save(vectors)
        self.matrix = np.array([vectors[key] for key in keys])
        return IngestReport("passages", len(new), len(before.keys() - texts.keys()), len(texts) - len(new))

    def _load(self) -> dict[str, np.ndarray]:
        if not self.file.exists():
            return {}
        with name_damaged(self.file), self.file.open("rb") as file, np.load(file) as arrays:
            return dict(zip(arrays["keys"].tolist(), arrays["vectors"], strict=True))

    def _save(self, vectors: dict[str, np.ndarray]) -> None:
        part = self.file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, keys=list(vectors), vectors=list(vectors.values()))
        part.replace(self.file)  # atomically

    def _embed(self, texts: list[str]) -> np.ndarray:
        reply = self.client.embeddings.create(model=self.settings.model, input=texts)
        rows = [item.embedding for item in sorted(reply.data, key=lambda item: item.index)]
        self.tokens += reply.usage.prompt_tokens
        matrix = np.array(rows, dtype=np.float32)
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def retrieve(self, question: str) -> list[RetrievedPassage]:
        """2. Embed the question. 3. Find the most relevant facts."""
        scores = self.matrix @ self._embed([question])[0]
        near = [int(row) for row in np.argsort(-scores) if scores[row] >= self.least_score]
        best = self._diverse(near[: 4 * self.settings.k], scores) if self.settings.mmr else near[: self.settings.k]
        return [
            RetrievedPassage(self.passages[row].source, self.passages[row].text, float(scores[row])) for row in best
        ]

    def _diverse(self, near: list[int], scores: np.ndarray) -> list[int]:
        """Return k rows by maximal marginal relevance: near to the question, and far from the rows before."""
        chosen: list[int] = []
        while near and len(chosen) < self.settings.k:
            alike = (self.matrix[near] @ self.matrix[chosen].T).max(axis=1) if chosen else 0
            chosen.append(near.pop(int(np.argmax(scores[near] - alike))))
        return chosen

    def prompt(self, question: str, found: Sequence[RetrievedPassage]) -> list[tuple[str, str]]:
        """Return role and text of the messages that :meth:`stream` sends."""
        user = USER_PROMPT.format(context=quote_passages(found), question=question)
        return [("system", SYSTEM_PROMPT), ("user", user)]

    def stream(self, question: str, found: Sequence[RetrievedPassage]) -> Iterator[str]:
        """4. Answer from them with a chat completion, in pieces."""
        chunks = self.client.chat.completions.create(
            model=self.settings.chat_model,
            temperature=0,
            messages=[{"role": role, "content": text} for role, text in self.prompt(question, found)],
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in chunks:
            if chunk.usage:
                asked, said = self.chat_tokens
                self.chat_tokens = (asked + chunk.usage.prompt_tokens, said + chunk.usage.completion_tokens)
            yield from (choice.delta.content for choice in chunk.choices if choice.delta.content)

    @property
    def embedded(self) -> Usage:
        """Usage of embedding since the start."""
        cost = price(self.tokens, get_model(self.settings.model).usd_per_million_tokens)
        return Usage(prompt_tokens=self.tokens, cost_usd=cost)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


if __name__ == "__main__":
    main(BarePipeline, "RAG over Python's own documentation, with the bare OpenAI SDK")

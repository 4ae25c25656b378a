"""The batches of one call of LlamaIndex's methods: positions in the caller's list, and vectors kept if one fails."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from nanogpt_core.errors import DimensionsError, NanoGPTError

first_position: ContextVar[int | Sequence[int]] = ContextVar("nanogpt_first_position", default=0)
"""Position of the batch's first text in the caller's list, or the position of each."""


def positions_of_batch(texts: Sequence[str]) -> int | Sequence[int]:
    """Return the value of :data:`first_position`; 0 if a subclass passes on other texts than those of the batch."""
    first = first_position.get()
    return first if isinstance(first, int) or len(first) == len(texts) else 0


class StoredBatch:
    """A batch of which LlamaIndex's ``embeddings_cache`` has some vectors.

    LlamaIndex's own method loses all new vectors of a batch if one text fails, and the positions of the texts.

    Args:
        texts: The texts of the batch.
        found: For each of them, the value in the store, or None.

    Attributes:
        missing: The texts without a value.
    """

    def __init__(self, texts: list[str], found: Iterable[dict[str, list[float]] | None]) -> None:
        start = first_position.get()
        assert isinstance(start, int)  # noqa: S101 - Batches sets it
        self._vectors = {
            position: next(iter(value.values())) for position, value in enumerate(found, start) if value is not None
        }
        self._missing = {position: text for position, text in enumerate(texts, start) if position not in self._vectors}
        self.missing = list(self._missing.values())

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """Let errors in this block name positions in the caller's list, and take the vectors that they bring."""
        token = first_position.set([*self._missing])
        try:
            yield
        except NanoGPTError as error:
            if {*error.completed, *error.failed_positions} == {*self._missing}:
                self._vectors |= {position: vector.tolist() for position, vector in error.completed.items()}
            elif error.failed_positions:  # a subclass embeds parts of the batch, or in a thread without its context
                error.failed_positions = tuple(self._missing)
            error.completed = {
                position: np.array(vector, dtype=np.float32) for position, vector in sorted(self._vectors.items())
            }
            raise
        finally:
            first_position.reset(token)

    def add(self, vectors: Iterable[list[float]]) -> None:
        """Take the vectors of the missing texts."""
        self._vectors.update(zip(self._missing, vectors, strict=True))

    def new_values(self) -> Iterator[tuple[str, dict[str, list[float]]]]:
        """Yield the new texts that have a vector now, each with its value for the store."""
        for position, text in self._missing.items():
            if position in self._vectors:
                yield text, {str(uuid.uuid4()): self._vectors[position]}  # as LlamaIndex stores them

    def result(self) -> list[list[float]]:
        """Return all vectors, in order.

        Raises:
            DimensionsError: Those in the store have other dimensions than the new ones, or each other.
        """
        vectors = [self._vectors[position] for position in sorted(self._vectors)]
        odd = next((vector for vector in vectors if len(vector) != len(vectors[0])), None)
        if odd is not None:
            raise DimensionsError(
                f"The embeddings_cache has vectors of {len(vectors[0])} and {len(odd)} dimensions for one model.",
                remedy="Nothing was returned. Use another embeddings_cache, or remove its vectors of this model.",
                width=len(odd),
            )
        return vectors


class Batches:
    """The texts of one call in batches, one after another or concurrently.

    Args:
        texts: The texts, checked.
        size: Texts in a batch.

    Attributes:
        texts: The texts.
    """

    def __init__(self, texts: list[str], size: int) -> None:
        self.texts = texts
        self._size = size
        self._finished: dict[int, list[list[float]]] = {}

    @property
    def starts(self) -> range:
        """Position of the first text of each batch."""
        return range(0, len(self.texts), self._size)

    def result(self) -> list[list[float]]:
        """Return the vectors of all texts, in order."""
        return [vector for start in self.starts for vector in self._finished[start]]

    def embed(self, starts: Iterable[int], function: Callable[[list[str]], list[list[float]]]) -> None:
        """Embed the batches one after another.

        Raises:
            NanoGPTError: The error of a batch, with positions in all texts, and the vectors of the batches before.
        """
        with self._completing_errors():
            for start in starts:
                token = first_position.set(start)
                try:
                    self._finished[start] = function(self.texts[start : start + self._size])
                finally:
                    first_position.reset(token)

    async def aembed(
        self, function: Callable[[list[str]], Awaitable[list[list[float]]]], workers: int | None, gather: Any
    ) -> None:
        """Embed the batches concurrently. The first failure ends the others.

        Args:
            function: Embeds a batch.
            workers: Batches in progress at once; None for all.
            gather: ``asyncio.gather``, or a function like it.

        Raises:
            NanoGPTError: As for :meth:`embed`.
        """
        slots = asyncio.Semaphore(workers or max(1, len(self.starts)))

        async def embed(start: int) -> None:
            async with slots:
                first_position.set(start)  # in the context of this task
                self._finished[start] = await function(self.texts[start : start + self._size])

        tasks = [asyncio.ensure_future(embed(start)) for start in self.starts]
        with self._completing_errors():
            try:
                await gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @contextmanager
    def _completing_errors(self) -> Iterator[None]:
        try:
            yield
        except NanoGPTError as error:
            completed = dict(error.completed)
            for start, vectors in self._finished.items():
                completed |= dict(enumerate(np.array(vectors, dtype=np.float32), start))
            error.completed = completed
            error.failed_positions = tuple(each for each in range(len(self.texts)) if each not in completed)
            raise

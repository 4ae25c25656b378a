"""One call's vectors as they come in, from cache and replies: into a matrix or lists, in the caller's order."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from nanogpt_core.cache.lookup import CacheLookup
from nanogpt_core.embeddings.batch import Batch
from nanogpt_core.embeddings.output import Output, in_one
from nanogpt_core.embeddings.planning import Plan
from nanogpt_core.embeddings.response import DimensionsCheck, EmbeddingResponse, names_same_model
from nanogpt_core.errors import DimensionsError, NanoGPTError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ResultCollector"]

R = TypeVar("R")


class ResultCollector(Generic[R]):
    """What one call has got so far.

    Args:
        form: What to make of the vectors.
        plan: What the call wants.
        guard: Holds the width.
        model: The model asked for.
        store: The cache, or None.
        report: Called with each number of the caller's texts that are newly done.
    """

    def __init__(
        self,
        form: type[Output[R]],
        plan: Plan,
        *,
        guard: DimensionsCheck,
        model: str,
        store: CacheLookup | None,
        report: Callable[[int], object],
    ) -> None:
        self._vectors = form(plan)
        self._plan = plan
        self._guard = guard
        self._model = model
        self._store = store
        self._report = report
        self._counts = plan.counts()
        self._done = bytearray(len(plan.wire))
        self._cached_width: int | None = None
        self._lock = threading.Lock()

    @property
    def missing(self) -> list[int]:
        """The rows that have no vector yet."""
        return [row for row, done in enumerate(self._done) if not done]

    def look_up(self) -> int:
        """Take from the cache what it has, and return how many rows that were. May block.

        Raises:
            DimensionsError: What the cache holds is of another width than the model's vectors have.
        """
        if self._store is None or not self._plan.wire:
            return 0
        count = 0
        for rows, vectors in self._store.find(self._plan.wire):
            self._accept_cached(vectors.shape[1])
            if rows:
                for _ in self._take(rows, vectors):
                    pass
                count += len(rows)
        return count

    def _accept_cached(self, width: int) -> None:
        try:
            self._guard.accept(width)
        except DimensionsError as error:
            error.message = error.message.replace("The reply's", "The cache's", 1)
            error.remedy = "Use another cache file, or clear this one with clear_cache()."
            # What was taken may be what is wrong.
            self._done, self._cached_width = bytearray(len(self._plan.wire)), None
            raise
        self._cached_width = self._guard.width

    def room(self, batch: Batch) -> NDArray[np.float32] | None:
        """Return where the vectors of one request will be, so that they need not be copied; None where that is open."""
        width = self._guard.width
        return None if width is None else self._vectors.room(batch.rows, width)

    def accept(self, batch: Batch, reply: EmbeddingResponse) -> Iterator[None]:
        """Take the vectors of one request, part by part."""
        return self._take(batch.rows, reply.vectors)

    @property
    def keeps_on_disk(self) -> bool:
        """Whether :meth:`keep` may block: where there is a cache, whichever it is."""
        return self._store is not None

    def keep(self, batch: Batch, reply: EmbeddingResponse) -> None:
        """CacheLookup the vectors of one request in the cache."""
        trusted = names_same_model(self._model, reply.model)
        if not trusted:
            warnings.warn(
                f"Asked for the model {self._model!r}, the service answered as {reply.model!r}; its vectors are "
                "returned, but not cached.",
                RuntimeWarning,
                stacklevel=2,
            )
        if self._store is not None and trusted:
            self._store.put(batch.texts, reply.vectors)

    def _take(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterator[None]:
        yield from self._vectors.put(rows, vectors)
        first, end, together = rows[0], rows[-1] + 1, in_one(rows)
        with self._lock:
            if together:
                self._done[first:end] = b"\1" * len(rows)
            else:
                for row in rows:
                    self._done[row] = 1
            self._report(sum(self._counts[first:end] if together else [self._counts[row] for row in rows]))

    def result(self) -> R:
        """Return the vectors in the caller's order."""
        return self._vectors.result(self._guard.width or 0)

    def add_to(self, error: NanoGPTError) -> None:
        """Put what is done into an error that ends the call, and what the cache may have to do with it."""
        if isinstance(error, DimensionsError) and self._cached_width is not None:
            error.remedy += f" The cache's have {self._cached_width}: if the service changed the model, clear_cache()."
        if error.failed_positions or not self._plan.texts:
            return
        whole = {number for number, row in enumerate(self._plan.rows) if self._is_done(number, row)}
        first, unique = self._plan.first, self._plan.unique
        answered = [index for index, number in enumerate(unique) if number in whole]
        error.failed_positions = tuple(first + index for index, number in enumerate(unique) if number not in whole)
        if answered:
            vectors = self._vectors.some(answered)
            error.completed = dict(zip((first + index for index in answered), vectors, strict=True))

    def _is_done(self, number: int, row: int) -> bool:
        return bool(self._done[row]) if row >= 0 else all(self._done[piece] for piece, _ in self._plan.pieces[number])

"""Results of one call: vectors from the cache and from replies, collected into an array or lists in the caller's order.

Each vector belongs to a request text. :meth:`ResultCollector.finish` raises if the vector of one is missing.
"""

from __future__ import annotations

import contextlib
import gc
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core.cache.lookup import CacheLookup
from nanogpt_core.embeddings.planning import Batch, Plan
from nanogpt_core.embeddings.response import DimensionsCheck, EmbeddingResponse
from nanogpt_core.errors import DimensionsError, NanoGPTError
from nanogpt_core.http.error_body import excerpt
from nanogpt_core.http.runner import Run, Yield

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Vectors that become lists of floats before an event loop gets its turn: 3 to 10 ms of work.
_VECTORS_PER_TURN = 64
_PUNCTUATION = re.compile(r"[\W_]")

Advance = Callable[[int], object]
"""A function to call with each number of texts that have just been embedded."""


class ArrayOutput:
    """A container for the vectors of one call: one array, ``(n, d)`` float32.

    It has a row for each request text until :meth:`result` puts them in the caller's order. Several threads may call
    :meth:`put`, each for other request texts.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._vectors: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def out(self, indices: Sequence[int], dimensions: int) -> NDArray[np.float32] | None:
        """Return the memory for the vectors of some request texts, ``(len(indices), dimensions)`` float32.

        None if :meth:`put` has to copy them.
        """
        if not _contiguous(indices):
            return None
        array = self._array(dimensions, replace=False)
        return array[indices[0] : indices[-1] + 1] if array.shape[1] == dimensions else None

    def put(self, indices: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[Yield]:
        """Store ``vectors``, ``(len(indices), d)`` float32, at once; there are no steps to perform."""
        import numpy as np

        # All accepted vectors have the same dimensions. The array has others only if the expectation was wrong.
        array = self._array(vectors.shape[1], replace=True)
        if not np.may_share_memory(array, vectors):
            array[slice(indices[0], indices[-1] + 1) if _contiguous(indices) else list(indices)] = vectors
        return ()

    def _array(self, dimensions: int, *, replace: bool) -> NDArray[np.float32]:
        import numpy as np

        with self._lock:
            if self._vectors is None or (replace and self._vectors.shape[1] != dimensions):
                self._vectors = np.empty((len(self._plan.request_texts), dimensions), dtype=np.float32)
            return self._vectors

    def result(self, dimensions: int) -> NDArray[np.float32]:
        """Return the vectors of all texts in the caller's order; no rows of ``dimensions`` if there are no texts."""
        import numpy as np

        if self._vectors is None:
            return np.empty((0, dimensions), dtype=np.float32)
        return self._plan.assemble(self._vectors)

    def select(self, text_indices: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some of the call's texts, ``(len(text_indices), d)`` float32."""
        assert self._vectors is not None  # noqa: S101 - some texts are done
        return self._plan.assemble(self._vectors, text_indices)


class ListOutput:
    """A container like :class:`ArrayOutput`: a list of floats for each text, as both frameworks use.

    The lists are made while other requests are in flight, and without the whole array in memory: a list of floats takes
    ten times the memory of a row. If texts are repeated or split, the array is made first.
    """

    def __init__(self, plan: Plan) -> None:
        self._array = None if plan.one_to_one else ArrayOutput(plan)
        self._lists: list[list[float]] = [[]] * len(plan.request_texts) if plan.one_to_one else []

    def out(self, indices: Sequence[int], dimensions: int) -> NDArray[np.float32] | None:
        """Return the memory in the array, if there is one."""
        return None if self._array is None else self._array.out(indices, dimensions)

    def put(self, indices: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[Yield]:
        """Return the steps that store ``vectors``: a few of them in each, with a turn for the event loop in between."""
        return self._put(indices, vectors) if self._array is None else self._array.put(indices, vectors)

    def _put(self, indices: Sequence[int], vectors: NDArray[np.float32]) -> Iterator[Yield]:
        remaining = iter(indices)
        for number, lists in enumerate(_iter_lists(vectors)):
            if number:
                yield Yield()
            for floats, index in zip(lists, remaining, strict=False):
                self._lists[index] = floats

    def result(self, dimensions: int) -> list[list[float]]:
        """Return the lists of all texts in the caller's order."""
        if self._array is None:
            return self._lists
        return [floats for lists in _iter_lists(self._array.result(dimensions)) for floats in lists]

    def select(self, text_indices: Sequence[int]) -> NDArray[np.float32]:
        """Return some of the vectors."""
        import numpy as np

        if self._array is not None:
            return self._array.select(text_indices)
        return np.array([self._lists[index] for index in text_indices], dtype=np.float32)


def _contiguous(indices: Sequence[int]) -> bool:
    return indices[-1] + 1 - indices[0] == len(indices)


def _iter_lists(vectors: NDArray[np.float32]) -> Iterator[list[list[float]]]:
    for start in range(0, len(vectors), _VECTORS_PER_TURN):
        lists: list[list[float]] = vectors[start : start + _VECTORS_PER_TURN].tolist()
        if len(lists) == _VECTORS_PER_TURN:
            _promote_new_objects()
        yield lists


def _promote_new_objects() -> None:
    """Move all new objects to the oldest generation of the garbage collector.

    It would traverse each new list of floats up to three times, float by float, and find no cycle. That is 30 % of the
    CPU time of a call that returns lists: docs/adr/0050-no-process-wide-tuning.md.
    """
    # unfreeze() would also release the objects that the application froze, for example before a fork.
    if hasattr(gc, "freeze") and not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()


@dataclass(eq=False, repr=False)
class ResultCollector:
    """Collects the vectors of one call.

    Attributes:
        advance: Called with the number of the caller's texts that have just been completed; None without progress.
        warnings: Gives the warnings of all calls of the embedder.
    """

    plan: Plan
    output: ArrayOutput | ListOutput
    _: KW_ONLY
    dimensions_check: DimensionsCheck
    model: str
    cache: CacheLookup | None
    advance: Advance | None
    warnings: DistinctWarnings

    def __post_init__(self) -> None:
        self._texts_done = self.plan.texts_done() if self.advance else ()
        self._done = bytearray(len(self.plan.request_texts))
        self._cached_dimensions: int | None = None
        self._lock = threading.RLock()  # progress may run the event loop again, as nest_asyncio allows

    def load_cached(self) -> Sequence[int]:
        """Take all vectors that the cache has; return the indices of the other request texts. May block.

        Raises:
            DimensionsError: The cached vectors have other dimensions than the model's.
        """
        texts = self.plan.request_texts
        for indices, vectors in self.cache.find(texts) if self.cache is not None else ():
            self._accept_cached(vectors.shape[1])
            if indices:
                for _ in self._put(indices, vectors):
                    pass
        return [index for index, done in enumerate(self._done) if not done] if any(self._done) else range(len(texts))

    def _accept_cached(self, dimensions: int) -> None:
        try:
            self.dimensions_check.accept(dimensions, "cache")
        except DimensionsError as error:
            error.remedy = "Use another cache file, or clear this one with clear_cache()."
            # The vectors taken before may be the wrong ones.
            self._done, self._cached_dimensions = bytearray(len(self.plan.request_texts)), None
            raise
        self._cached_dimensions = self.dimensions_check.dimensions

    def out(self, batch: Batch) -> NDArray[np.float32] | None:
        """Return the memory for the vectors of a batch; None if the dimensions are not known yet, or for a copy."""
        dimensions = self.dimensions_check.dimensions
        return None if dimensions is None else self.output.out(batch.request_indices, dimensions)

    def accept(self, batch: Batch, response: EmbeddingResponse, *, may_cache: bool = True) -> Iterator[Yield | Run]:
        """Write the vectors of one batch to the cache, unless the reply names another model, and take them.

        The cache comes first: progress may raise, and a call on an event loop may be cancelled.
        """
        if not _names_same_model(self.model, response.model):
            self.warnings.warn(
                f"Asked for the model {self.model!r}, the service answered as {excerpt(str(response.model))!r}; its "
                "vectors are returned, but not cached."
            )
        elif may_cache and self.cache is not None:
            yield Run(partial(self.cache.put, batch.texts, response.vectors))
        yield from self._put(batch.request_indices, response.vectors)

    def _put(self, indices: Sequence[int], vectors: NDArray[np.float32]) -> Iterator[Yield]:
        yield from self.output.put(indices, vectors)
        with self._lock:
            for index in indices:
                self._done[index] = 1
            if self.advance is not None:
                self.advance(sum(self._texts_done[index] for index in indices))

    def finish(self) -> Any:
        """Return all vectors in the caller's order: an array, ``(n, d)`` float32, or lists of floats.

        Raises:
            NanoGPTError: A vector is missing.
        """
        if not all(self._done):
            raise NanoGPTError(
                f"{self._done.count(0)} of {len(self._done)} vectors are missing, though no request failed.",
                remedy="Call again; completed vectors are in .completed. Please report this.",
            )
        return self.output.result(self.dimensions_check.dimensions or 0)

    def add_completed_to(self, error: NanoGPTError) -> None:
        """Put the completed vectors and the failed positions into an error that ends the call."""
        if isinstance(error, DimensionsError) and self._cached_dimensions is not None:
            error.remedy += (
                f" The cache's have {self._cached_dimensions}: if the service changed the model, clear_cache()."
            )
        if error.failed_positions or not self.plan.text_positions:
            return
        plan = self.plan
        complete = [plan.is_complete(index, self._done) for index in range(len(plan.request_index_of))]
        completed = [text_index for text_index, index in enumerate(plan.index_of) if complete[index]]
        error.failed_positions = tuple(
            position for position, index in zip(plan.text_positions, plan.index_of, strict=True) if not complete[index]
        )
        if completed:
            vectors = self.output.select(completed)
            error.completed = dict(zip((plan.text_positions[index] for index in completed), vectors, strict=True))


def _names_same_model(asked: str, answered: str | None) -> bool:
    """Return whether both names mean the same model: prefix, case, punctuation and a version's suffix may differ.

    No name, or an empty one, says nothing.
    """
    if answered is None or answered == asked:
        return True
    mine, theirs = (_PUNCTUATION.sub("", name.lower().rsplit("/", 1)[-1]) for name in (asked, answered))
    if not theirs:
        return True
    return theirs.startswith(mine) or (mine.startswith(theirs) and len(theirs) * 2 >= len(mine))


@contextlib.contextmanager
def track_progress(progress: bool | Callable[[int, int], None] | None, total: int | None) -> Iterator[Advance | None]:
    """Yield the function that advances the option ``progress``; None without it.

    ``progress`` is True for a bar, or a function of (texts done, texts in total). If ``total`` is None, the function
    gets the texts done for both.
    """
    if not progress:
        yield None
    elif callable(progress):
        yield _counter(progress, total)
    else:
        from tqdm.auto import tqdm  # only needed for a bar

        # Services and windowed programs on Windows have no standard error. Otherwise TQDM_DISABLE decides.
        options: dict[str, Any] = {"disable": True} if sys.stderr is None else {}
        with tqdm(total=total, unit="text", desc="Embedding", **options) as bar:
            yield bar.update


def _counter(function: Callable[[int, int], None], total: int | None) -> Advance:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        function(done, done if total is None else total)

    return advance

"""One call's vectors as they come in, from cache and replies: into a matrix or lists, in the caller's order."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from nanogpt_core import waiting
from nanogpt_core.cache import (
    EmbeddingCache,
    KeySpace,
    entry_of,
    is_width_note,
    vector_of,
    vectors_of,
    width_note_of,
    width_of,
)
from nanogpt_core.delivery import Job
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.lists import lists_in_parts, to_lists
from nanogpt_core.planning import Plan
from nanogpt_core.reply import Reply, WidthError, WidthGuard, names_same_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Form", "Gathering", "Lists", "Matrix", "Store"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

# Of a call's time that is left, what waiting for a locked cache may take: the requests want the rest.
_SHARE = 0.25
# Texts that are looked up together: what comes of them stays in the processor's own memory.
_AT_ONCE = 512


class Store:
    """A cache as one call uses it. Whatever the cache does, the call goes on: it is left out after its first failure.

    Args:
        cache: The cache.
        space: Makes the keys.
        deadline: When the call has to be over, in seconds of :func:`nanogpt_core.waiting.now`, or None.
    """

    def __init__(self, cache: EmbeddingCache, space: KeySpace, deadline: float | None) -> None:
        self._cache = cache
        self._space = space
        self._deadline = deadline
        self._failed = False
        self._width_noted = False

    def find(self, texts: Sequence[str]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Yield the sound vectors there are: the texts' rows, and ``(n, d)`` float32.

        The first may have no rows and the width of the space's note.
        """
        import numpy as np

        note_key = self._space.width_key
        note = self._get([note_key]).get(note_key)
        noted = None if note is None else width_of(note_key, note)
        if noted is not None:
            self._width_noted = True
            yield [], np.empty((0, noted), dtype=np.float32)
        for start in range(0, len(texts), _AT_ONCE):
            keys = self._space.keys(texts[start : start + _AT_ONCE])
            entries = self._get(keys)
            rows = [row for row, key in enumerate(keys, start) if key in entries]
            there = keys if len(rows) == len(keys) else [keys[row - start] for row in rows]
            if rows:
                yield from _sound(rows, there, [entries[key] for key in there])

    def put(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store vectors, ``(n, d)`` float32."""
        entries = {key: entry_of(key, row) for key, row in zip(self._space.keys(texts), vectors, strict=True)}
        if not self._width_noted:
            key = self._space.width_key
            entries[key] = width_note_of(key, vectors.shape[1])
        if self._attempt(lambda: self._cache.put_many(entries)):
            self._width_noted = True

    def _get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        self._attempt(lambda: found.update(self._cache.get_many(keys)))
        return found

    def _attempt(self, work: Callable[[], None]) -> bool:
        if self._failed:
            return False
        try:
            with waiting.limited(self._until()):
                work()
        except Exception as error:  # noqa: BLE001 - a cache of the caller's own may raise anything
            self._failed = True
            warnings.warn(
                f"The embedding cache {self._cache!r} failed ({type(error).__name__}: {error}); going on without it.",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        return True

    def _until(self) -> float | None:
        if self._deadline is None:
            return None
        now = waiting.now()
        return now + _SHARE * (self._deadline - now)


def _sound(
    rows: list[int], keys: Sequence[bytes], entries: Sequence[bytes]
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    vectors = vectors_of(keys, entries)
    if vectors is not None:
        yield rows, vectors
        return
    for row, key, entry in zip(rows, keys, entries, strict=True):
        if not is_width_note(entry) and width_of(key, entry) is not None:
            yield [row], vector_of(entry)[None]


class Form(Protocol[R_co]):
    """What a call makes of its vectors."""

    def __init__(self, plan: Plan) -> None:
        """Begin without vectors."""

    def put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[None]:
        """Take vectors, ``(len(rows), d)`` float32, as what is returned is run through, part by part.

        Called from several threads, for other rows each.
        """

    def result(self, width: int) -> R_co:
        """Return all vectors in the caller's order; ``width`` is said where there are none."""

    def some(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some of the caller's texts, ``(len(positions), d)`` float32."""


class Matrix:
    """A matrix, ``(n, d)`` float32."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._vectors: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[None]:
        """Take vectors, at once."""
        import numpy as np

        with self._lock:
            if self._vectors is None:
                self._vectors = np.empty((len(self._plan.wire), vectors.shape[1]), dtype=np.float32)
        self._vectors[slice(rows[0], rows[-1] + 1) if _in_one(rows) else list(rows)] = vectors
        return ()

    def result(self, width: int) -> NDArray[np.float32]:
        """Return the matrix."""
        import numpy as np

        if self._vectors is None:
            return np.empty((0, width), dtype=np.float32)
        return self._plan.assemble(self._vectors)

    def some(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return some of the vectors."""
        assert self._vectors is not None  # noqa: S101 - there are some
        return self._plan.assemble(self._vectors, positions)


class Lists:
    """A list of floats for each text, which the frameworks want.

    They are made while other requests are under way, and without a whole matrix beside them: a text's list takes ten
    times the memory of its row. Where texts are repeated or split there is a matrix first.
    """

    def __init__(self, plan: Plan) -> None:
        plain = plan.texts == len(plan.wire) and not plan.pieces
        self._matrix = None if plain else Matrix(plan)
        self._lists: list[list[float]] = [[]] * len(plan.wire) if plain else []

    def put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[None]:
        """Take vectors, part by part."""
        return self._put(rows, vectors) if self._matrix is None else self._matrix.put(rows, vectors)

    def _put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterator[None]:
        left = iter(rows)
        for lists in lists_in_parts(vectors):
            for numbers, row in zip(lists, left, strict=False):
                self._lists[row] = numbers
            yield

    def result(self, width: int) -> list[list[float]]:
        """Return the lists."""
        return self._lists if self._matrix is None else to_lists(self._matrix.result(width))

    def some(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return some of the vectors."""
        import numpy as np

        if self._matrix is not None:
            return self._matrix.some(positions)
        return np.array([self._lists[position] for position in positions], dtype=np.float32)


def _in_one(rows: Sequence[int]) -> bool:
    return rows[-1] + 1 - rows[0] == len(rows)


class Gathering(Generic[R]):
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
        form: type[Form[R]],
        plan: Plan,
        *,
        guard: WidthGuard,
        model: str,
        store: Store | None,
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
            WidthError: What the cache holds is of another width than the model's vectors have.
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
        except WidthError as error:
            error.message = error.message.replace("The reply's", "The cache's", 1)
            error.remedy = "Use another cache file, or clear this one with clear_cache()."
            # What was taken may be what is wrong.
            self._done, self._cached_width = bytearray(len(self._plan.wire)), None
            raise
        self._cached_width = self._guard.width

    def accept(self, job: Job, reply: Reply) -> Iterator[None]:
        """Take the vectors of one request, part by part."""
        return self._take(job.rows, reply.vectors)

    @property
    def keeps_on_disk(self) -> bool:
        """Whether :meth:`keep` may block: where there is a cache, whichever it is."""
        return self._store is not None

    def keep(self, job: Job, reply: Reply) -> None:
        """Store the vectors of one request in the cache."""
        trusted = names_same_model(self._model, reply.model)
        if not trusted:
            warnings.warn(
                f"Asked for the model {self._model!r}, the service answered as {reply.model!r}; its vectors are "
                "returned, but not cached.",
                RuntimeWarning,
                stacklevel=2,
            )
        if self._store is not None and trusted:
            self._store.put(job.texts, reply.vectors)

    def _take(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterator[None]:
        yield from self._vectors.put(rows, vectors)
        first, end, in_one = rows[0], rows[-1] + 1, _in_one(rows)
        with self._lock:
            if in_one:
                self._done[first:end] = b"\1" * len(rows)
            else:
                for row in rows:
                    self._done[row] = 1
            self._report(sum(self._counts[first:end] if in_one else [self._counts[row] for row in rows]))

    def result(self) -> R:
        """Return the vectors in the caller's order."""
        return self._vectors.result(self._guard.width or 0)

    def add_to(self, error: NanoGPTError) -> None:
        """Put what is done into an error that ends the call, and what the cache may have to do with it."""
        if isinstance(error, WidthError) and self._cached_width is not None:
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

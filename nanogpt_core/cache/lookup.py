"""A cache as one call uses it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.clock import Deadline
from nanogpt_core.cache.base import (
    CacheNamespace,
    EmbeddingCache,
    entry_of,
    is_width_note,
    vector_of,
    vectors_of,
    width_note_of,
    width_of,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CacheLookup"]

# Of a call's time that is left, what waiting for a locked cache may take: the requests want the rest.
_SHARE = 0.25
# Texts that are looked up together: what comes of them stays in the processor's own memory.
_AT_ONCE = 512


class CacheLookup:
    """A cache as one call uses it. Whatever the cache does, the call goes on: it is left out after its first failure.

    Args:
        cache: The cache.
        space: Makes the keys.
        deadline: The time by which the call must have ended.
    """

    def __init__(self, cache: EmbeddingCache, space: CacheNamespace, deadline: Deadline) -> None:
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
        """CacheLookup vectors, ``(n, d)`` float32."""
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
            with clock.deadline_scope(Deadline.after(_SHARE * self._deadline.remaining())):
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

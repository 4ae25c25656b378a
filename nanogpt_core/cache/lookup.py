"""The cache as seen by one ``embed`` call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.clock import Deadline
from nanogpt_core._runtime.log import OneWarning
from nanogpt_core.cache.base import (
    CacheNamespace,
    EmbeddingCache,
    decode_entries,
    decode_entry,
    encode_dimensions,
    encode_entry,
    entry_dimensions,
    holds_vector,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CacheLookup"]

_WAIT_SHARE = 0.25  # of the time until the deadline, for a locked cache; the requests need the rest
_TEXTS_PER_LOOKUP = 512  # their entries fit into the processor's caches


class CacheLookup:
    """The cache as seen by one ``embed`` call; disabled, with a warning, after its first failure.

    The embedder gives each warning once.

    Args:
        cache: The cache.
        namespace: Makes the keys.
        deadline: The deadline of the call, or None.
        close_late: Called after each use of the cache. It closes the file again if the embedder was closed meanwhile.
        warning: Gives the warnings of all calls of the embedder.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        namespace: CacheNamespace,
        deadline: Deadline | None,
        close_late: Callable[[], None] = lambda: None,
        warning: OneWarning | None = None,
    ) -> None:
        self._cache = cache
        self._close_late = close_late
        self._namespace = namespace
        self._deadline = deadline
        self._warning = warning or OneWarning()
        self._failed = False
        self._dimensions_stored = False

    def find(self, texts: Sequence[str]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Yield the valid vectors found: positions in ``texts``, and ``(n, d)`` float32.

        The first array may have no rows, and only give the dimensions of the namespace.
        """
        import numpy as np

        key = self._namespace.dimensions_key
        entry = self._get([key]).get(key)
        dimensions = None if entry is None else entry_dimensions(key, entry)
        if dimensions is not None:
            self._dimensions_stored = True
            yield [], np.empty((0, dimensions), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_PER_LOOKUP):
            keys = self._namespace.keys(texts[start : start + _TEXTS_PER_LOOKUP])
            entries = self._get(keys)
            rows = [row for row, key in enumerate(keys, start) if key in entries]
            found = keys if len(rows) == len(keys) else [keys[row - start] for row in rows]
            if rows:
                yield from _valid_vectors(rows, found, [entries[key] for key in found])

    def put(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store vectors, ``(n, d)`` float32, in the cache."""
        entries = {key: encode_entry(key, row) for key, row in zip(self._namespace.keys(texts), vectors, strict=True)}
        if not self._dimensions_stored:
            key = self._namespace.dimensions_key
            entries[key] = encode_dimensions(key, vectors.shape[1])
        if self._attempt(lambda: self._cache.put_many(entries)):
            self._dimensions_stored = True

    def _get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        # The call ends with its deadline, and a cache of many slow lookups must not delay it.
        if self._deadline is not None and self._deadline.remaining() <= 0:
            return found
        self._attempt(lambda: found.update(self._cache.get_many(keys)))
        return found

    def _attempt(self, work: Callable[[], None]) -> bool:
        if self._failed:
            return False
        try:
            if self._deadline is None or getattr(self._cache, "keeps_deadline", False):
                with clock.deadline_scope(self._wait_deadline()):
                    work()
            else:
                _run_within(_WAIT_SHARE * self._deadline.remaining(), work)
        except Exception as error:  # noqa: BLE001 - a user's own cache may raise anything
            self._failed = True
            self._warning.warn(
                f"The embedding cache {self._cache!r} failed ({type(error).__name__}: {error}); continuing without it."
            )
            return False
        finally:
            self._close_late()
        return True

    def _wait_deadline(self) -> Deadline | None:
        if self._deadline is None:
            return None
        return Deadline.after(_WAIT_SHARE * self._deadline.remaining())


def _run_within(seconds: float, work: Callable[[], None]) -> None:
    """Call ``work``, of a cache that knows no deadline, in a thread of its own that is left behind if it takes longer.

    Raises:
        TimeoutError: It does.
        Exception: An error of ``work``.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised in the caller's thread
            failures.append(error)

    # A daemon: a cache that never answers must not delay the exit.
    thread = threading.Thread(target=run, name="nanogpt-cache", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, for example because of a limit on processes
        work()
        return
    thread.join(max(0.0, seconds))
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.3g} seconds, a quarter of the time until the deadline")
    if failures:
        raise failures[0]


def _valid_vectors(
    rows: list[int], keys: Sequence[bytes], entries: Sequence[bytes]
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    vectors = decode_entries(keys, entries)
    if vectors is not None:
        yield rows, vectors
        return
    for row, key, entry in zip(rows, keys, entries, strict=True):
        if holds_vector(entry) and entry_dimensions(key, entry) is not None:
            yield [row], decode_entry(entry)[None]

"""The cache as seen by one ``embed`` call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from nanogpt_core._runtime.clock import NO_DEADLINE, Deadline, attempt_limits
from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core._runtime.signals import raised_by_signal_handler, unwrap_signal_errors
from nanogpt_core._runtime.threads import run_within
from nanogpt_core.cache.base import (
    CacheNamespace,
    EmbeddingCache,
    decode_entry,
    encode_dimensions,
    encode_entry,
    entry_dimensions,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

_WAIT_SHARE = 0.25  # of the time until the deadline, for a locked cache; the requests need the rest
_TEXTS_PER_LOOKUP = 512  # their entries fit into the processor's caches


class CacheLookup:
    """The cache as seen by one ``embed`` call; disabled, with a warning, after its first failure.

    The embedder gives each warning once. ``close_late`` is called after each use of the cache: it closes the file again
    if the embedder was closed meanwhile.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        namespace: CacheNamespace,
        deadline: Deadline,
        close_late: Callable[[], None],
        warnings: DistinctWarnings,
    ) -> None:
        self._cache = cache
        self._close_late = close_late
        self._namespace = namespace
        self._deadline = deadline
        self._warnings = warnings
        self._failed = False
        self._dimensions_stored = False

    def find(self, texts: Sequence[str]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Yield the valid vectors found: indices into ``texts``, and ``(n, d)`` float32.

        The first array may have no rows, and only give the dimensions of the namespace.
        """
        import numpy as np

        dimensions_key = self._namespace.dimensions_key
        for start in range(0, len(texts), _TEXTS_PER_LOOKUP):
            keys = self._namespace.keys(texts[start : start + _TEXTS_PER_LOOKUP])
            # The dimensions come with the first part: a query is one round trip to a cache on another machine.
            entries = self._get(keys if start else [dimensions_key, *keys])
            dimensions = entry_dimensions(dimensions_key, entries.get(dimensions_key))
            if dimensions is not None:
                self._dimensions_stored = True
                yield [], np.empty((0, dimensions), dtype=np.float32)
            by_dimensions: dict[int, tuple[list[int], list[NDArray[np.float32]]]] = {}
            for index, key in enumerate(keys, start):
                vector = decode_entry(key, entries.get(key))
                if vector is not None:
                    indices, vectors = by_dimensions.setdefault(len(vector), ([], []))
                    indices.append(index)
                    vectors.append(vector)
            for indices, vectors in by_dimensions.values():
                yield indices, np.stack(vectors)

    def put(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store vectors, ``(n, d)`` float32, in the cache."""
        entries = {key: encode_entry(key, one) for key, one in zip(self._namespace.keys(texts), vectors, strict=True)}
        if not self._dimensions_stored:
            key = self._namespace.dimensions_key
            entries[key] = encode_dimensions(key, vectors.shape[1])
        self._attempt(lambda: self._cache.put_many(entries))
        self._dimensions_stored = not self._failed

    def _get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        # The call ends with its deadline, and a cache of many slow lookups must not delay it.
        if self._deadline.remaining() <= 0:
            return {}
        return self._attempt(lambda: dict(self._cache.get_many(keys))) or {}

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """Return the result of ``work``; None if it fails, or if the cache has failed before."""
        if self._failed:
            return None
        try:
            seconds = _WAIT_SHARE * self._deadline.remaining()
            if self._deadline == NO_DEADLINE or getattr(self._cache, "keeps_deadline", False):
                with attempt_limits(seconds), unwrap_signal_errors():
                    return work()
            return run_within(seconds, work, "nanogpt-cache")
        except Exception as error:
            # A user's own cache may raise anything.
            if raised_by_signal_handler(error):
                raise
            self._failed = True
            self._warnings.warn(
                f"The embedding cache {self._cache!r} failed ({type(error).__name__}: {error}); continuing without it."
            )
            return None
        finally:
            self._close_late()

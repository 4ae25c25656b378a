"""The cache protocol, the format of keys and entries, and a cache in memory.

A cache stores bytes under keys and does not interpret them. A value is an *entry*, encoded and checked here: the
vector's dimensions, a checksum and the float32 numbers. An entry with a wrong checksum counts as missing, in every
cache. Keys are digests of everything that changes a vector: one cache serves any number of models.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from zlib import crc32

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.validation import check_positive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FORMAT = b"nanogpt-rag 1"
_HEADER = struct.Struct("<II")  # dimensions, CRC-32
_FLOAT_BYTES = 4


@runtime_checkable
class EmbeddingCache(Protocol):
    """The interface of an embedding cache. Its methods are called from several threads at once.

    A key has 32 bytes; an entry has 4 bytes for each dimension of its vector, and a short header. A cache need not know
    more of either.

    If a method raises, the call warns and continues without the cache. So it does if the call has a ``deadline`` and a
    method takes longer than a quarter of the time until then: for that, each method runs in a thread of its own. A
    cache whose methods never wait long says so with an attribute ``keeps_deadline = True``, and needs no such threads.

    Example:
        >>> class DictionaryCache:
        ...     keeps_deadline = True  # neither method waits
        ...
        ...     def __init__(self):
        ...         self._entries = {}
        ...
        ...     def get_many(self, keys):
        ...         return {key: self._entries[key] for key in keys if key in self._entries}
        ...
        ...     def put_many(self, entries):
        ...         self._entries.update(entries)
        >>> embedder = Embedder(cache=DictionaryCache())
    """

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the entries found for ``keys``; keys without an entry are left out."""

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries, all or none, replacing those under the same keys."""


class CacheNamespace:
    """Makes the cache keys of one model at one address."""

    def __init__(self, base_url: str, model: str, dimensions: int | None) -> None:
        parts = (_FORMAT, base_url.encode(), model.encode(), str(dimensions or "").encode())
        # With their lengths, no two lists of parts give the same bytes.
        self._prefix = b"".join(struct.pack("<I", len(part)) + part for part in parts)

    def key(self, text: str) -> bytes:
        """Return the key of a text as it is sent, with its query instruction: 32 bytes."""
        return self.keys([text])[0]

    def keys(self, texts: Iterable[str]) -> list[bytes]:
        """Return the keys of several texts."""
        prefix, sha256 = self._prefix + b"text:", hashlib.sha256
        return [sha256(prefix + text.encode()).digest() for text in texts]

    @property
    def dimensions_key(self) -> bytes:
        """The key of the entry with the dimensions of all vectors of this namespace."""
        return hashlib.sha256(self._prefix + b"width").digest()


def encode_entry(key: bytes, vector: NDArray[np.float32]) -> bytes:
    """Return the entry for a vector: dimensions, checksum of key and numbers, numbers (little-endian)."""
    numbers = vector.astype("<f4", order="C", copy=False).data
    return b"".join((_HEADER.pack(len(numbers), crc32(numbers, crc32(key))), numbers))


def encode_dimensions(key: bytes, dimensions: int) -> bytes:
    """Return the entry with a namespace's dimensions: a header without numbers."""
    return _HEADER.pack(dimensions, crc32(_HEADER.pack(dimensions, 0), crc32(key)))


def entry_dimensions(key: object, entry: object) -> int | None:
    """Return the dimensions of a valid entry, with or without numbers; None if its checksum or length is wrong."""
    # A user's own cache, or a damaged file, may return values of any type.
    entry = _as_bytes(entry)
    if not isinstance(key, bytes) or not isinstance(entry, bytes) or len(entry) < _HEADER.size:
        return None
    dimensions: int
    dimensions, checksum = _HEADER.unpack_from(entry)
    if len(entry) == _HEADER.size:
        return dimensions if entry == encode_dimensions(key, dimensions) else None
    numbers = memoryview(entry)[_HEADER.size :]
    valid = len(numbers) == dimensions * _FLOAT_BYTES and crc32(numbers, crc32(key)) == checksum
    return dimensions if valid else None


def decode_entry(key: object, entry: object) -> NDArray[np.float32] | None:
    """Return the vector of an entry, ``(d,)`` float32, read-only; None if it is not valid, or has no numbers."""
    entry = _as_bytes(entry)
    if not isinstance(entry, bytes) or len(entry) == _HEADER.size or entry_dimensions(key, entry) is None:
        return None
    import numpy as np

    return np.frombuffer(entry, dtype="<f4", offset=_HEADER.size)


def _as_bytes(entry: object) -> object:
    # Drivers of databases return such types, psycopg2 for one.
    return bytes(entry) if isinstance(entry, (bytearray, memoryview)) else entry


class MemoryCache(ForkSafe):
    """An embedding cache in this process's memory. A copy or a pickle of it is empty.

    Args:
        max_bytes: Maximum number of bytes of keys and entries to keep; the least recently used are evicted first.
            Default: no limit.

    Raises:
        ConfigurationError: ``max_bytes`` is below 1.
        InvalidTypeError: It is not a number.
    """

    keeps_deadline = True

    def __init__(self, max_bytes: int | None = None) -> None:
        check_positive("max_bytes", max_bytes, at_least=1)
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        super().__init__()

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the entries found for ``keys``."""
        with self._lock:
            found = {key: self._entries[key] for key in keys if key in self._entries}
            if self._max_bytes is not None:
                for key in found:
                    self._entries.move_to_end(key)
            return found

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries, and evict others if the cache is over its limit."""
        with self._lock:
            for key, entry in entries.items():
                if key in self._entries:
                    self._bytes -= len(key) + len(self._entries.pop(key))
                self._bytes += len(key) + len(entry)
                self._entries[key] = entry
            while self._max_bytes is not None and self._bytes > self._max_bytes:
                key, entry = self._entries.popitem(last=False)
                self._bytes -= len(key) + len(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[type[MemoryCache], tuple[int | None]]:
        return MemoryCache, (self._max_bytes,)

"""The contract of an embedding cache, as tests that run on each implementation."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

from nanogpt_core.cache.base import EmbeddingCache

_MANY_KEYS = 5000  # more than the parameters of one SQL statement
_THREADS = 8


class EmbeddingCacheContract:
    """Tests that every :class:`EmbeddingCache` has to pass. A subclass makes the cache."""

    def make_cache(self) -> EmbeddingCache:
        """Return a new, empty cache without a size limit."""
        raise NotImplementedError

    def test_follows_the_protocol(self) -> None:
        """A cache has both methods."""
        assert isinstance(self.make_cache(), EmbeddingCache)

    def test_missing_keys_are_left_out(self) -> None:
        """``get_many`` returns only keys with an entry."""
        cache = self.make_cache()
        assert dict(cache.get_many([])) == {}
        assert dict(cache.get_many([b"key"])) == {}
        cache.put_many({b"a": b"1", b"b": b"2", b"c": b"3"})
        assert dict(cache.get_many([b"c", b"a", b"missing"])) == {b"a": b"1", b"c": b"3"}

    def test_repeated_keys_are_returned_once(self) -> None:
        """The same key may be asked for twice."""
        cache = self.make_cache()
        cache.put_many({b"a": b"1"})
        assert dict(cache.get_many([b"a", b"a"])) == {b"a": b"1"}

    def test_later_entries_replace_earlier_ones(self) -> None:
        """``put_many`` overwrites, also with another length."""
        cache = self.make_cache()
        cache.put_many({b"a": b"1", b"b": b"2"})
        cache.put_many({b"a": b"longer than before"})
        assert dict(cache.get_many([b"a", b"b"])) == {b"a": b"longer than before", b"b": b"2"}

    def test_storing_nothing_changes_nothing(self) -> None:
        """``put_many`` accepts an empty mapping."""
        cache = self.make_cache()
        cache.put_many({b"a": b"1"})
        cache.put_many({})
        assert dict(cache.get_many([b"a"])) == {b"a": b"1"}

    def test_keys_and_entries_are_any_bytes(self) -> None:
        """Zero bytes, empty strings and all byte values come back unchanged, as ``bytes``."""
        cache = self.make_cache()
        entries = {
            b"": b"empty key",
            b"empty entry": b"",
            b"\0\0\0": b"\0\0",
            bytes(range(256)): bytes(range(256)) * 99,
        }
        entries |= {key + b"\0": b"another" for key in entries}
        cache.put_many(entries)
        found = dict(cache.get_many(list(entries)))
        assert found == entries
        assert {type(entry) for entry in found.values()} == {bytes}

    def test_thousands_of_keys_in_one_call(self) -> None:
        """Neither method limits the number of keys."""
        cache = self.make_cache()
        entries = {hashlib.sha256(b"%d" % number).digest(): b"%d" % number * 9 for number in range(_MANY_KEYS)}
        cache.put_many(entries)
        assert dict(cache.get_many(list(entries))) == entries
        half = list(entries)[::2]
        found = cache.get_many([*half, *(key + b"?" for key in half)])
        assert dict(found) == {key: entries[key] for key in half}

    def test_threads_share_the_cache(self) -> None:
        """Eight threads read their own writes; a key that all write has one thread's entry."""
        cache = self.make_cache()
        start = threading.Barrier(_THREADS)

        def work(thread: int) -> int:
            start.wait()
            written: list[bytes] = []
            for turn in range(40):
                own = {b"%d %d %d" % (thread, turn, i): b"%d %d" % (turn, i) * 9 for i in range(10)}
                cache.put_many({**own, b"shared": b"%d" % thread * 100})
                assert dict(cache.get_many(list(own))) == own
                assert len(set(cache.get_many([b"shared"])[b"shared"])) == 1
                written += own
            return len(cache.get_many(written))

        with ThreadPoolExecutor(_THREADS) as pool:
            assert list(pool.map(work, range(_THREADS))) == [400] * _THREADS

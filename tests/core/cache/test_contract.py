"""The contract of an embedding cache, run on every implementation, and the promises of our own caches beyond it."""

import copy
import os
import pickle
import stat

import pytest

from cache_contract import EmbeddingCacheContract
from nanogpt_core.cache.base import MemoryCache
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.errors import ConfigurationError, InvalidTypeError

KIB = 1024


class Contract(EmbeddingCacheContract):
    """The public contract, and the promises of our own caches beyond it. A subclass gives ``make(path, **options)``."""

    persistent = True

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder, self.made = tmp_path, 0

    def new(self, **options):
        self.made += 1
        return self.make(self.folder / f"{self.made}.db", **options)

    def make_cache(self):
        return self.new()

    @pytest.fixture
    def cache(self):
        return self.new()

    def test_least_recently_used_entries_are_evicted_first(self):
        cache = self.new(max_bytes=100 * KIB)
        for name in b"abcdefgh":
            cache.put_many({bytes([name]): bytes([name]) * 12 * KIB})
        assert len(cache.get_many([b"a", b"b"])) == 2  # used now: c is the oldest
        cache.put_many({b"new": b"n" * 12 * KIB})
        left = cache.get_many([bytes([name]) for name in b"abcdefgh"] + [b"new"])
        assert {b"a", b"b", b"h", b"new"} <= set(left)
        assert b"c" not in left
        assert all(entry == key[:1] * 12 * KIB for key, entry in left.items())

    def test_replaced_entry_counts_as_used_and_only_once(self):
        cache = self.new(max_bytes=100 * KIB)
        for _ in range(30):
            cache.put_many({b"same": b"s" * 40 * KIB, b"other": b"o" * 40 * KIB})
        assert len(cache.get_many([b"same", b"other"])) == 2
        cache.put_many({b"other": b"p" * 40 * KIB})
        cache.put_many({b"same": b"t" * 40 * KIB})
        cache.put_many({b"third": b"u" * 40 * KIB})
        assert dict(cache.get_many([b"same", b"other", b"third"])) == {
            b"same": b"t" * 40 * KIB,
            b"third": b"u" * 40 * KIB,
        }

    def test_size_stays_below_max_bytes(self):
        cache = self.new(max_bytes=50 * KIB)
        keys = [str(number).encode() for number in range(200)]
        for key in keys:
            cache.put_many({key: os.urandom(KIB)})
            held = cache.get_many(keys)
            assert sum(len(name) + len(entry) for name, entry in held.items()) <= 50 * KIB
            assert key in held

    def test_entry_larger_than_max_bytes_is_not_kept(self):
        cache = self.new(max_bytes=KIB)
        cache.put_many({b"a": b"1"})
        cache.put_many({b"large": b"x" * 2 * KIB})
        assert b"large" not in cache.get_many([b"a", b"large"])
        cache.put_many({b"b": b"2"})
        assert cache.get_many([b"b"]) == {b"b": b"2"}

    @pytest.mark.parametrize("wrong", [0, -1])
    def test_max_bytes_below_one_is_refused(self, wrong):
        with pytest.raises(ConfigurationError, match="max_bytes"):
            self.new(max_bytes=wrong)

    @pytest.mark.parametrize("wrong", ["1000", True])
    def test_max_bytes_of_a_wrong_type_is_refused(self, wrong):
        with pytest.raises(InvalidTypeError, match="max_bytes must be a number"):
            self.new(max_bytes=wrong)

    @pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
    def test_copies_and_pickles_work_independently(self, twin_of):
        cache = self.new(max_bytes=KIB)
        cache.put_many({b"a": b"1"})
        twin = twin_of(cache)
        assert dict(twin.get_many([b"a"])) == ({b"a": b"1"} if self.persistent else {})
        twin.put_many({b"b": b"2" * 600, b"c": b"3" * 600})
        assert len(twin.get_many([b"b", b"c"])) == 1  # the limit travels too

    def test_pickle_contains_no_entries(self, cache):
        cache.put_many({b"a": b"a vector, so to speak"})
        assert b"a vector, so to speak" not in pickle.dumps(cache)


class TestMemoryCache(Contract):
    persistent = False

    def make(self, _path, **options):
        return MemoryCache(**options)

    def test_len_counts_entries(self, cache):
        cache.put_many({b"a": b"1", b"b": b"2"})
        assert len(cache) == 2


class TestSQLiteCache(Contract):
    def make(self, path, **options):
        return SQLiteCache(path, **options)

    def test_entries_persist_after_close(self, cache):
        cache.put_many({b"a": b"1"})
        cache.close()
        cache.close()
        assert dict(cache.get_many([b"a"])) == {b"a": b"1"}
        assert dict(SQLiteCache(cache.path).get_many([b"a"])) == {b"a": b"1"}

    def test_max_bytes_holds_after_reopening(self, tmp_path):
        for name in b"abcdef":
            cache = SQLiteCache(tmp_path / "c.db", max_bytes=3 * KIB)
            cache.put_many({bytes([name]): b"x" * KIB})
            cache.close()
        assert set(cache.get_many([bytes([name]) for name in b"abcdef"])) == {b"e", b"f"}

    def test_clock_that_was_ahead_keeps_no_old_entries_in_place_of_new_ones(self, tmp_path, monkeypatch):
        cache = SQLiteCache(tmp_path / "c.db", max_bytes=3 * KIB)
        with monkeypatch.context() as patch:
            patch.setattr("time.time_ns", lambda: 2**62)
            cache.put_many({b"a": b"x" * KIB, b"b": b"x" * KIB})
        for name in b"cdef":
            cache.put_many({bytes([name]): b"x" * KIB})
        assert set(cache.get_many([bytes([name]) for name in b"abcdef"])) == {b"e", b"f"}

    def test_file_is_created_at_first_use(self, tmp_path):
        SQLiteCache(tmp_path / "folder" / "c.db")
        assert not (tmp_path / "folder").exists()

    @pytest.mark.parametrize("umask", [0o000, 0o022])
    def test_folder_file_and_log_modes_are_private(self, tmp_path, umask):
        before = os.umask(umask)
        try:
            cache = SQLiteCache(tmp_path / "new" / "c.db")
            cache.put_many({b"a": b"1"})
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "new").iterdir()}
        assert modes == {"c.db": 0o600, "c.db-wal": 0o600, "c.db-shm": 0o600}

    @pytest.mark.parametrize("name", ["a b.db", "ä?x=1#y.db", "100%41.db", "file:x", "-wal", "'quoted\".db"])
    def test_unusual_file_names_work(self, tmp_path, name):
        SQLiteCache(tmp_path / name).put_many({b"a": b"1"})
        assert dict(SQLiteCache(tmp_path / name).get_many([b"a"])) == {b"a": b"1"}
        assert (tmp_path / name).is_file()

    def test_tilde_is_expanded(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        SQLiteCache("~/c.db").put_many({b"a": b"1"})
        assert (tmp_path / "c.db").is_file()

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("", ConfigurationError),
            ("a\0b", ConfigurationError),
            ("~nobody-of-this-name/c.db", ConfigurationError),
            (b"c.db", InvalidTypeError),
            (None, InvalidTypeError),
            (7, InvalidTypeError),
        ],
    )
    def test_invalid_path_is_refused(self, path, kind):
        with pytest.raises(kind, match="path"):
            SQLiteCache(path)


class TestLimitedMemoryCache(EmbeddingCacheContract):
    def make_cache(self):
        return MemoryCache(max_bytes=10_000_000)


class TestLimitedSQLiteCache(EmbeddingCacheContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "c.db"

    def make_cache(self):
        return SQLiteCache(self.path, max_bytes=10_000_000)


@pytest.mark.parametrize("fault", ["forgets", "returns too much", "text", "no protocol"])
def test_contract_fails_for_a_broken_cache(fault):
    class Broken(MemoryCache):
        def get_many(self, keys):
            found = dict(super().get_many(keys))
            if fault == "forgets":
                found = dict(list(found.items())[:1])
            elif fault == "returns too much":
                found = dict(self._entries)
            elif fault == "text":
                found = {key: entry.decode("latin-1") for key, entry in found.items()}
            return found

    class Suite(EmbeddingCacheContract):
        def make_cache(self):
            return object() if fault == "no protocol" else Broken()

    failures = 0
    for name in dir(Suite):
        if name.startswith("test_"):
            try:
                getattr(Suite(), name)()
            except Exception:  # noqa: BLE001 - whichever way the test fails
                failures += 1
    assert failures

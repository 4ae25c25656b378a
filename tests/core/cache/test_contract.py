"""The contract of an embedding cache, run against every implementation; then what each promises beyond it."""

import copy
import os
import pickle
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nanogpt_core.cache.base import EmbeddingCache, MemoryCache
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.errors import ConfigurationError, InvalidTypeError

KIB = 1024


class Contract:
    """What every embedding cache does. A subclass gives ``make(path, **options)``."""

    persistent = True

    @pytest.fixture
    def new(self, tmp_path):
        made = []

        def new(**options):
            made.append(self.make(tmp_path / f"{len(made)}.db", **options))
            return made[-1]

        return new

    @pytest.fixture
    def cache(self, new):
        return new()

    def test_is_an_embedding_cache(self, cache):
        assert isinstance(cache, EmbeddingCache)

    def test_an_empty_cache_has_nothing(self, cache):
        assert dict(cache.get_many([b"key"])) == {}
        assert dict(cache.get_many([])) == {}

    def test_what_was_put_comes_back_and_nothing_else(self, cache):
        cache.put_many({b"a": b"1", b"b": b"2", b"c": b"3"})
        assert dict(cache.get_many([b"c", b"a", b"missing"])) == {b"a": b"1", b"c": b"3"}

    def test_a_key_asked_for_twice_comes_back_once(self, cache):
        cache.put_many({b"a": b"1"})
        assert dict(cache.get_many([b"a", b"a"])) == {b"a": b"1"}

    def test_a_later_put_replaces_an_earlier_one(self, cache):
        cache.put_many({b"a": b"1", b"b": b"2"})
        cache.put_many({b"a": b"longer than before"})
        assert dict(cache.get_many([b"a", b"b"])) == {b"a": b"longer than before", b"b": b"2"}

    def test_putting_nothing_changes_nothing(self, cache):
        cache.put_many({b"a": b"1"})
        cache.put_many({})
        assert dict(cache.get_many([b"a"])) == {b"a": b"1"}

    @pytest.mark.parametrize(
        ("key", "entry"),
        [(b"", b"empty key"), (b"empty entry", b""), (b"\0" * 3, b"\0\0"), (bytes(range(256)), bytes(range(256)) * 99)],
    )
    def test_any_bytes_are_keys_and_entries(self, cache, key, entry):
        cache.put_many({key: entry, key + b"\0": b"another"})
        assert dict(cache.get_many([key, key + b"\0"])) == {key: entry, key + b"\0": b"another"}
        assert all(type(found) is bytes for found in cache.get_many([key]).values())

    def test_five_thousand_keys_at_once(self, cache, entries):
        many = entries(5000)
        cache.put_many(many)
        assert dict(cache.get_many(list(many))) == many
        half = list(many)[::2]
        assert dict(cache.get_many([*half, *(key + b"?" for key in half)])) == {key: many[key] for key in half}

    def test_the_least_recently_used_go_first(self, new):
        cache = new(max_bytes=100 * KIB)
        for name in b"abcdefgh":
            cache.put_many({bytes([name]): bytes([name]) * 12 * KIB})
        assert len(cache.get_many([b"a", b"b"])) == 2  # used now, so that c is the oldest
        cache.put_many({b"new": b"n" * 12 * KIB})
        left = cache.get_many([bytes([name]) for name in b"abcdefgh"] + [b"new"])
        assert {b"a", b"b", b"h", b"new"} <= set(left)
        assert b"c" not in left
        assert all(entry == key[:1] * 12 * KIB for key, entry in left.items())

    def test_a_replaced_entry_is_a_used_one_and_does_not_count_twice(self, new):
        cache = new(max_bytes=100 * KIB)
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

    def test_it_never_holds_more_than_its_limit(self, new):
        cache = new(max_bytes=50 * KIB)
        keys = [str(number).encode() for number in range(200)]
        for key in keys:
            cache.put_many({key: os.urandom(KIB)})
            held = cache.get_many(keys)
            assert sum(len(name) + len(entry) for name, entry in held.items()) <= 50 * KIB
            assert key in held

    def test_an_entry_larger_than_the_limit_is_not_kept(self, new):
        cache = new(max_bytes=KIB)
        cache.put_many({b"a": b"1"})
        cache.put_many({b"large": b"x" * 2 * KIB})
        assert b"large" not in cache.get_many([b"a", b"large"])
        cache.put_many({b"b": b"2"})
        assert cache.get_many([b"b"]) == {b"b": b"2"}

    @pytest.mark.parametrize("wrong", [0, -1])
    def test_a_limit_below_one_byte_is_refused(self, new, wrong):
        with pytest.raises(ConfigurationError, match="max_bytes"):
            new(max_bytes=wrong)

    @pytest.mark.parametrize("options", [{}, {"max_bytes": 10_000_000}], ids=["unlimited", "limited"])
    def test_eight_threads(self, new, options):
        cache = new(**options)
        start = threading.Barrier(8)

        def work(thread):
            start.wait()
            for turn in range(40):
                mine = {f"{thread} {turn} {i}".encode(): f"{thread} {turn} {i}".encode() * 9 for i in range(10)}
                shared = {b"shared": b"%d" % thread * 100}
                cache.put_many({**mine, **shared})
                assert dict(cache.get_many(list(mine))) == mine
                assert len(set(cache.get_many([b"shared"])[b"shared"])) == 1
            return len(cache.get_many([f"{thread} {t} {i}".encode() for t in range(40) for i in range(10)]))

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [400] * 8

    @pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
    def test_a_copy_works_by_itself(self, new, twin_of):
        cache = new(max_bytes=KIB)
        cache.put_many({b"a": b"1"})
        twin = twin_of(cache)
        assert dict(twin.get_many([b"a"])) == ({b"a": b"1"} if self.persistent else {})
        twin.put_many({b"b": b"2" * 600, b"c": b"3" * 600})
        assert len(twin.get_many([b"b", b"c"])) == 1  # the limit travels too

    def test_no_pickle_holds_entries(self, cache):
        cache.put_many({b"a": b"a vector, so to speak"})
        assert b"a vector, so to speak" not in pickle.dumps(cache)


class TestMemoryCache(Contract):
    persistent = False

    def make(self, _path, **options):
        return MemoryCache(**options)

    def test_its_length_is_its_entries(self, cache):
        cache.put_many({b"a": b"1", b"b": b"2"})
        assert len(cache) == 2


class TestSQLiteCache(Contract):
    def make(self, path, **options):
        return SQLiteCache(path, **options)

    def test_it_is_there_after_closing(self, cache):
        cache.put_many({b"a": b"1"})
        cache.close()
        cache.close()
        assert dict(cache.get_many([b"a"])) == {b"a": b"1"}
        assert dict(SQLiteCache(cache.path).get_many([b"a"])) == {b"a": b"1"}

    def test_the_limit_holds_after_reopening_too(self, tmp_path):
        for name in b"abcdef":
            cache = SQLiteCache(tmp_path / "c.db", max_bytes=3 * KIB)
            cache.put_many({bytes([name]): b"x" * KIB})
            cache.close()
        assert set(cache.get_many([bytes([name]) for name in b"abcdef"])) == {b"e", b"f"}

    def test_nothing_is_opened_before_it_is_used(self, tmp_path):
        SQLiteCache(tmp_path / "folder" / "c.db")
        assert not (tmp_path / "folder").exists()

    @pytest.mark.parametrize("umask", [0o000, 0o022])
    def test_folder_file_and_log_are_the_owners_alone(self, tmp_path, umask):
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
    def test_any_name_will_do(self, tmp_path, name):
        SQLiteCache(tmp_path / name).put_many({b"a": b"1"})
        assert dict(SQLiteCache(tmp_path / name).get_many([b"a"])) == {b"a": b"1"}
        assert (tmp_path / name).is_file()

    def test_the_home_folder_is_known(self, tmp_path, monkeypatch):
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
    def test_what_cannot_be_a_path_is_refused(self, path, kind):
        with pytest.raises(kind, match="path"):
            SQLiteCache(path)

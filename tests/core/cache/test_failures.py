"""Cache failures: the vectors are right, with a warning at most, and no unchecked entry is used."""

import gc
import os
import shutil
import sqlite3
import stat
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from nanogpt_core import Embedder
from nanogpt_core.cache.admin import export_cache, inspect_cache, verify_cache
from nanogpt_core.cache.base import CacheNamespace, MemoryCache, encode_dimensions, encode_entry
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.cache.sqlite_file import connect, open_file
from nanogpt_core.errors import ConfigurationError, InvalidTypeError

TEXTS = [f"text number {number} of the run" for number in range(40)]
MODEL = "text-embedding-3-small"


@pytest.fixture
def right(make):
    return make(MODEL).embed(TEXTS)


# --- caches of the user's own ---


class Base:
    """Works, until a subclass has its way."""

    def __init__(self):
        self.entries = {}

    def get_many(self, keys):
        return {key: self.entries[key] for key in keys if key in self.entries}

    def put_many(self, entries):
        self.entries.update(entries)


class RaisesOnGet(Base):
    def get_many(self, _keys):
        raise OSError("the cache is gone")


class RaisesOnPut(Base):
    def put_many(self, _entries):
        raise ZeroDivisionError("of all things")


class ReturnsNone(Base):
    def get_many(self, _keys):
        return None


class ReturnsAList(Base):
    def get_many(self, _keys):
        return list(self.entries.values())


def each(change):
    """Make a cache that changes each entry on its way out."""

    class Changing(Base):
        def get_many(self, keys):
            return {key: change(key, entry) for key, entry in super().get_many(keys).items()}

    return Changing


class Shifts(Base):
    """Gives each key its neighbour's entry."""

    def get_many(self, keys):
        entries = list(self.entries.values())
        return dict(zip(keys, entries[1:] + entries[:1], strict=False))


class ReturnsMore(Base):
    def get_many(self, keys):
        return {**super().get_many(keys), b"not asked for": b"x", None: None, 7: b"y"}


class Forgets(Base):
    def put_many(self, entries):
        pass


# The name of each, the cache, whether it warns, and whether anything of it can be used.
ODD = [
    ("raises on get", RaisesOnGet, True, False),
    ("raises on put", RaisesOnPut, True, False),
    ("returns None", ReturnsNone, True, False),
    ("returns a list", ReturnsAList, True, False),
    ("entries of None", each(lambda _key, _entry: None), False, False),
    ("entries of text", each(lambda _key, entry: entry.hex()), False, False),
    ("entries of eight letters", each(lambda _key, _entry: "8letters"), False, False),
    ("entries of numbers", each(lambda _key, _entry: 7), False, False),
    ("entries that can change", each(lambda _key, entry: bytearray(entry)), False, True),
    ("truncated entries", each(lambda _key, entry: entry[:-4]), False, False),
    ("cut to the head", each(lambda _key, entry: entry[:8]), False, False),
    ("empty entries", each(lambda _key, _entry: b""), False, False),
    ("longer entries", each(lambda _key, entry: entry + b"\0" * 4), False, False),
    ("zeros", each(lambda _key, entry: bytes(len(entry))), False, False),
    ("a flipped bit", each(lambda _key, entry: entry[:-1] + bytes([entry[-1] ^ 1])), False, False),
    ("width notes in place of vectors", each(lambda key, _entry: encode_dimensions(key, 1536)), False, False),
    ("other texts' entries", Shifts, False, False),
    ("forgets", Forgets, False, False),
    ("returns more than was asked for", ReturnsMore, False, True),
]


@pytest.mark.parametrize("odd", [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_misbehaving_cache_never_changes_vectors(embed, make, sandbox, right, odd):
    kind, warns, used = odd
    sandbox.clear()
    embedder = make(MODEL, cache=kind())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert np.array_equal(embed(embedder, TEXTS), right)
        assert embedder.estimate(TEXTS).cached == (len(TEXTS) if used else 0)
    assert bool(caught) == warns
    assert all("cache" in str(warning.message) for warning in caught)
    assert len(sandbox.requests) == (1 if used else 2)
    assert embedder.usage.texts_cached == (len(TEXTS) if used else 0)


def test_failed_cache_is_used_again_by_the_next_call(embed, make, sandbox):
    class Recovers(Base):
        broken = True

        def put_many(self, entries):
            if self.broken:
                raise OSError("not now")
            super().put_many(entries)

    cache = Recovers()
    embedder = make(MODEL, cache=cache)
    with pytest.warns(RuntimeWarning, match="not now"):
        embed(embedder, TEXTS[:2])
    cache.broken = False
    embed(embedder, TEXTS[:2])
    embed(embedder, TEXTS[:2])
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize("wrong", [7, b"path", object(), MemoryCache, ["path"]])
def test_object_without_cache_methods_is_refused(make, wrong):
    with pytest.raises(InvalidTypeError, match="cache"):
        make(cache=wrong)


@pytest.mark.parametrize("wrong", ["", "a\0b", "~nobody-of-this-name/c.db"])
def test_invalid_cache_path_is_refused_by_embedder(make, wrong):
    with pytest.raises(ConfigurationError, match="path"):
        make(cache=wrong)


# --- paths that cannot be written ---


@pytest.fixture
def goes_on(embed, make, right):
    """Embed twice through a cache that does not work: one warning, right vectors. Returns the warning."""

    def goes_on(path, before_use=lambda: None):
        embedder = make(MODEL, cache=path)
        before_use()
        with pytest.warns(RuntimeWarning, match="embedding cache") as caught:
            vectors = embed(embedder, TEXTS)
        again = embed(embedder, TEXTS)  # without a further warning, which would be an error
        assert np.array_equal(vectors, right)
        assert np.array_equal(again, right)
        assert len(caught) == 1, [str(warning.message) for warning in caught]
        assert str(getattr(path, "path", path)) in str(caught[0].message)
        return str(caught[0].message)

    return goes_on


def test_folder_that_cannot_be_created_gives_a_warning_and_the_vectors(goes_on, tmp_path):
    goes_on(tmp_path / "new" / "deeper" / "c.db", before_use=lambda: (tmp_path / "new").write_text("mine"))
    assert (tmp_path / "new").read_text() == "mine"


@pytest.mark.parametrize("below", ["c.db", "deeper/c.db"])
def test_path_below_a_file_gives_a_warning_and_the_vectors(goes_on, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    assert "Not a directory" in goes_on(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["folder", "link to a folder", "name too long"])
def test_path_that_cannot_be_a_file_is_refused_at_construction(make, tmp_path, kind):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    paths = {"folder": "", "link to a folder": "link", "name too long": "x" * 300}
    before = sorted(tmp_path.iterdir())
    for build in (SQLiteCache, lambda path: make(MODEL, cache=path), lambda path: make(MODEL, cache=str(path))):
        with pytest.raises(ConfigurationError, match="folder" if "folder" in kind else "cannot be a file") as caught:
            build(tmp_path / paths[kind])
        assert isinstance(caught.value, ValueError)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["full", "null", "socket", "fifo"])
def test_special_file_is_refused_at_construction(make, tmp_path, kind):
    # Nodes of the test's own, like /dev/full and /dev/null: those of the machine are not put at risk.
    path = tmp_path / kind
    try:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        else:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7 if kind == "full" else 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    mode = path.stat().st_mode
    with pytest.raises(ConfigurationError, match="not a regular file"):
        make(MODEL, cache=path)
    assert path.stat().st_mode == mode


def test_file_replaced_by_a_folder_later_costs_a_warning(embed, make, right, tmp_path):
    embedder = make(MODEL, cache=tmp_path / "c.db")
    (tmp_path / "c.db").mkdir()
    with pytest.warns(RuntimeWarning, match="not a file"):
        assert np.array_equal(embed(embedder, TEXTS), right)
    assert not list((tmp_path / "c.db").iterdir())


# --- no file descriptors left ---


@pytest.mark.xdist_group("processes")
def test_file_descriptor_exhaustion_costs_a_warning(child, finish, tmp_path):
    path = tmp_path / "c.db"
    cache = SQLiteCache(path)
    cache.put_many({b"a": b"1"})
    cache.close()
    ended = finish(child("out_of_descriptors", path=str(path)))
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    for spare in range(8):
        assert f"after {spare} spare {{b'a': b'1', b'b': b'2'}}" in lines, lines
    assert any(line.startswith("warning") for line in lines)
    assert not list(tmp_path.glob("*corrupt*"))
    assert verify_cache(path).damage == ()


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.xdist_group("processes")
def test_file_descriptor_exhaustion_does_not_fail_the_call(child, finish, options, right, tmp_path, way):
    told = {"path": str(tmp_path / "c.db"), "save": str(tmp_path / "v.npy"), "texts": len(TEXTS), "model": MODEL}
    ended = finish(child("embed_out_of_descriptors", way=way, **told, **options))
    assert (ended.status, ended.err) == (0, "")
    assert np.array_equal(np.load(tmp_path / "v.npy"), right)
    assert ended.out.startswith("warning The embedding cache")
    assert len(ended.out.splitlines()) == 1


def test_missing_folder_is_created(embed, make, right, tmp_path):
    path = tmp_path / "one" / "two" / "c.db"
    assert np.array_equal(embed(make(MODEL, cache=path), TEXTS), right)
    assert verify_cache(path).entries == len(TEXTS)


@pytest.fixture
def common():
    """A folder that other users can reach too, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="cache-rights-"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("modes", "found_after"),
    [
        ((0o555, 0o444), "{b'a': b'1'}"),
        ((0o777, 0o444), "{b'a': b'1'}"),
        ((0o555, 0o666), "{b'a': b'1'}"),
        ((0o777, 0o666), "{b'a': b'1', b'b': b'2'}"),
    ],
)
@pytest.mark.xdist_group("processes")
def test_read_only_cache_is_still_read(child, finish, common, modes, found_after):
    folder_mode, file_mode = modes
    cache = SQLiteCache(common / "c.db")
    cache.put_many({b"a": b"1"})
    cache.close()
    cache.path.chmod(file_mode)
    common.chmod(folder_mode)
    ended = finish(child("as_nobody", path=str(cache.path)))
    assert (ended.status, ended.err) == (0, "")
    found = [line for line in ended.out.splitlines() if line.startswith("found")]
    assert found == ["found {b'a': b'1'}", f"found {found_after}"]
    warned = [line for line in ended.out.splitlines() if line.startswith("warning")]
    assert len(warned) == ("b'b'" not in found_after)
    assert all("cannot be written" in line for line in warned)
    common.chmod(0o777)
    assert not list(common.glob("*corrupt*"))


@pytest.mark.parametrize("hidden", ["file", "folder"])
@pytest.mark.xdist_group("processes")
def test_unreadable_cache_warns_once(child, finish, common, hidden):
    inner = common / "inner"
    inner.mkdir(mode=0o700 if hidden == "folder" else 0o755)
    cache = SQLiteCache(inner / "c.db")
    cache.put_many({b"a": b"1"})
    cache.close()
    ended = finish(child("as_nobody", path=str(cache.path)))
    if os.geteuid() != 0:
        pytest.skip("the owner can read what is the owner's alone")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("found {}") == 2
    assert ended.out.count("warning") == 1
    assert dict(cache.get_many([b"a", b"b"])) == {b"a": b"1"}


# --- a full disk ---


@pytest.mark.xdist_group("processes")
def test_full_disk_costs_a_warning(child, finish, options, right, tmp_path):
    path, save = tmp_path / "c.db", tmp_path / "v.npy"
    told = {"texts": len(TEXTS), "model": MODEL, "batch_size": 5, **options}
    ended = finish(child("warned", path=str(path), save=str(save), most_bytes=250_000, **told))
    assert (ended.status, ended.err) == (0, "")
    assert np.array_equal(np.load(save), right)
    lines = ended.out.splitlines()
    assert "same True" in lines
    warned = [line for line in lines if line.startswith("warning")]
    assert len(warned) == 1
    assert "cannot be written" in warned[0]
    # Whole earlier batches are kept.
    report = verify_cache(path)
    assert report.clean
    assert 0 < report.entries < len(TEXTS)
    assert report.entries % 5 == 0
    assert not list(tmp_path.glob("*corrupt*"))
    again = Embedder(cache=path, model=MODEL, **options)
    assert np.array_equal(again.embed(TEXTS), right)
    assert again.usage.texts_cached == report.entries


@pytest.mark.parametrize("shortened", ["-wal", ""], ids=["log", "file"])
@pytest.mark.parametrize("python", ["this", "3.10"])
def test_truncation_under_open_connections_is_survived(request, entries, tmp_path, shortened, python):
    if python == "3.10":
        request.getfixturevalue("no_error_codes")
    path = tmp_path / "c.db"
    first, second = SQLiteCache(path), SQLiteCache(path)
    many = entries(300, width=1000)
    first.put_many(many)
    assert dict(second.get_many(list(many))) == many
    if not shortened:
        for cache in (first, second):
            cache.close()
        assert dict(first.get_many(list(many))) == many
    file = path.with_name(path.name + shortened)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for cache in (first, second):
            found = cache.get_many(list(many))
            assert all(found[key] == many[key] for key in found)
        first.put_many({b"a": b"1"})
        assert dict(second.get_many([b"a"])) == {b"a": b"1"}
    assert all("set aside" in str(warning.message) for warning in caught), [str(w.message) for w in caught]
    assert len(caught) <= 1


def test_cache_works_again_after_disk_was_full(entries, tmp_path):
    cache = SQLiteCache(tmp_path / "c.db")
    few, many = entries(3), entries(500, width=1000, seed=1)
    cache.put_many(few)
    cache._connection.execute("PRAGMA max_page_count = 4")
    with pytest.warns(RuntimeWarning, match="full"):
        cache.put_many(many)
    assert dict(cache.get_many(list(few))) == few
    cache._connection.execute("PRAGMA max_page_count = 1000000")
    cache.put_many(many)
    assert dict(cache.get_many(list(many))) == many


# --- damaged and foreign files ---


def damage(kind, path):
    data = bytearray(path.read_bytes())
    if kind == "garbage":
        data = bytearray(os.urandom(len(data)))
    elif kind == "text":
        data = bytearray(b"Dear diary, " * 500)
    elif kind == "header":
        data[:100] = os.urandom(100)
    elif kind == "version":
        data[18] = 99  # SQLite reads such a file, and says that it is read-only
    elif kind == "mark":
        data[68:72] = b"mine"
    elif kind == "cut":
        data = data[: len(data) // 2]
    elif kind == "one byte":
        data = data[:1]
    elif kind == "zeros":
        data[32_768:] = bytes(len(data) - 32_768)
    elif kind == "name":
        data[data.index(b"tablenanogpt_entries") + 5] = 0x9F  # SQLite's error quotes it, and then is no UTF-8
    elif kind == "schema":
        place = data.index(b"CREATE TABLE")
        data[place : place + 12] = bytes([0x9F]) * 12
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind", ["garbage", "text", "header", "version", "mark", "cut", "one byte", "zeros", "schema", "name"]
)
def test_damaged_file_is_set_aside(embed, make, right, tmp_path, kind):
    path = tmp_path / "c.db"
    first = make(MODEL, cache=path)
    first.embed(TEXTS)
    first._config.opened_cache.close()
    damage(kind, path)
    before = path.read_bytes()
    embedder = make(MODEL, cache=path)
    with pytest.warns(RuntimeWarning, match="damaged") as caught:
        vectors = embed(embedder, [*TEXTS, "new"])
    assert np.array_equal(vectors[:-1], right)
    assert len(caught) == 1
    (aside,) = tmp_path.glob("c.db.corrupt-*[0-9]")
    assert aside.name in str(caught[0].message)
    assert aside.read_bytes() == before
    assert verify_cache(path).clean
    for _ in range(2):  # entries read before the damage was found are not in the new file
        again = make(MODEL, cache=path)
        assert np.array_equal(embed(again, TEXTS), right)
    assert again.usage.texts_sent == 0


@pytest.mark.parametrize("ours", [b"", b"nanogpt"], ids=["any", "with our words in it"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_foreign_database_is_not_changed(goes_on, tmp_path, journal, ours):
    path = tmp_path / "c.db"
    theirs = sqlite3.connect(path)
    theirs.execute(f"PRAGMA journal_mode = {journal}")
    theirs.execute("CREATE TABLE entries (key BLOB PRIMARY KEY, entry BLOB, used INTEGER)")
    theirs.execute("INSERT INTO entries VALUES (?, ?, 1)", (b"theirs", ours))
    theirs.commit()
    state = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")}
    said = goes_on(path)
    assert "another program" in said
    for work in (inspect_cache, verify_cache):
        with pytest.raises(ConfigurationError, match="another program"):
            work(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")} == state
    theirs.close()


@pytest.mark.parametrize("change", ["TO nanogpt_entries_2", "COLUMN entry TO vector"])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_later_schema_version_is_not_changed(goes_on, tmp_path, change, is_open):
    path = cache = tmp_path / "c.db"
    SQLiteCache(path).put_many({b"a": b"1"})
    if is_open:
        cache = SQLiteCache(path)
        assert cache.get_many([b"a"])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
        database.execute(f"ALTER TABLE nanogpt_entries RENAME {change}")
    database.close()
    assert "version" in goes_on(cache)
    assert not list(tmp_path.glob("*corrupt*"))


def test_connection_without_its_cache_is_closed_without_a_warning(tmp_path):
    """As the garbage collector may find it. Since Python 3.13, SQLite's own connections give a ResourceWarning."""
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    connection = connect(cache.path, seconds=0)
    cache.close()
    assert (tmp_path / "c.db-wal").exists()
    del connection
    gc.collect()
    assert not (tmp_path / "c.db-wal").exists()  # SQLite deletes it with the last connection
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        open_file(tmp_path / "missing" / "c.db", "mode=ro", seconds=0)
    gc.collect()


def test_empty_file_becomes_a_cache(tmp_path):
    (tmp_path / "c.db").touch(0o600)
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    assert dict(SQLiteCache(cache.path).get_many([b"a"])) == {b"a": b"1"}


def test_log_of_a_deleted_file_is_not_read(tmp_path):
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    log = (tmp_path / "c.db-wal").read_bytes()
    assert log
    cache.close()
    cache.path.unlink()
    (tmp_path / "c.db-wal").write_bytes(log)
    assert dict(SQLiteCache(cache.path).get_many([b"a"])) == {}


def test_entries_of_wrong_sql_type_are_ignored(tmp_path):
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1", b"b": b"2", b"c": b"3"})
    with sqlite3.connect(cache.path) as database:
        database.execute("UPDATE nanogpt_entries SET entry = 7 WHERE key = ?", (b"a",))
        database.execute("UPDATE nanogpt_entries SET entry = CAST(x'ff' AS TEXT) WHERE key = ?", (b"b",))
    database.close()
    assert dict(cache.get_many([b"a", b"b", b"c"])) == {b"c": b"3"}
    assert verify_cache(cache.path).unsound == 3
    assert export_cache(cache.path, tmp_path / "out.npz") == 0


def test_flipped_bit_costs_only_that_text(embed, make, sandbox, right, tmp_path):
    path = tmp_path / "c.db"
    first = make(MODEL, cache=path)
    first.embed(TEXTS)
    first._config.opened_cache.close()
    entry = encode_entry(CacheNamespace(sandbox.base_url, MODEL, None).key(TEXTS[7]), right[7])
    data = path.read_bytes()
    assert data.count(entry) == 1
    path.write_bytes(data.replace(entry, entry[:-1] + bytes([entry[-1] ^ 64])))
    report = verify_cache(path)
    assert (report.unsound, report.clean) == (1, False)
    sandbox.clear()
    assert np.array_equal(embed(make(MODEL, cache=path), TEXTS), right)
    assert [request.inputs for request in sandbox.requests] == [(TEXTS[7],)]
    assert verify_cache(path).clean


def test_swapped_entry_is_not_used(embed, make, right, options, tmp_path):
    path = tmp_path / "c.db"
    namespace = CacheNamespace(options["base_url"], MODEL, None)
    one, two = namespace.keys(TEXTS[:2])
    SQLiteCache(path).put_many({one: encode_entry(two, right[1])})
    assert np.array_equal(embed(make(MODEL, cache=path), TEXTS[:2]), right[:2])

"""The functions for a cache's file: inspect, verify, export, clear."""

import sqlite3
import subprocess
import sys
from enum import Enum

import numpy as np
import pytest

from nanogpt_core.cache.admin import clear_cache, export_cache, inspect_cache, verify_cache
from nanogpt_core.cache.base import CacheNamespace, encode_dimensions, encode_entry
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.errors import ConfigurationError, NanoGPTError

NAMESPACE = CacheNamespace("https://example.invalid", "a model", None)


@pytest.fixture
def export(tmp_path):
    return lambda path: export_cache(path, tmp_path / "export.npz")


def functions(export):
    return [inspect_cache, verify_cache, export, clear_cache]


@pytest.fixture
def filled(entries, tmp_path):
    """A cache with 30 vectors of 8 numbers, 20 of 300, and a note of a width."""
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many(entries(30))
    cache.put_many({key + b"!": encode_entry(key + b"!", np.full(300, 7, np.float32)) for key in list(entries(20))})
    cache.put_many({NAMESPACE.dimensions_key: encode_dimensions(NAMESPACE.dimensions_key, 8)})
    return cache


def test_inspect_counts_entries_and_bytes(filled):
    for look in (inspect_cache, verify_cache):
        report = look(filled.path)
        assert (report.path, report.entries, report.widths) == (filled.path, 50, {8: 30, 300: 20})
        files = [filled.path, filled.path.with_name("c.db-wal")]
        assert report.bytes == sum(file.stat().st_size for file in files if file.exists())
    assert inspect_cache(filled.path).unsound is None
    assert not inspect_cache(filled.path).clean
    assert verify_cache(filled.path).clean
    assert verify_cache(str(filled.path)).unsound == 0


def test_new_cache_is_empty_and_clean(tmp_path):
    SQLiteCache(tmp_path / "c.db").get_many([b"a"])
    report = verify_cache(tmp_path / "c.db")
    assert (report.entries, report.widths, report.clean) == (0, {}, True)


def test_verify_finds_flipped_bit(filled, entries):
    filled.close()
    entry = list(entries(30).values())[4]
    data = filled.path.read_bytes()
    assert data.count(entry) == 1
    filled.path.write_bytes(data.replace(entry, entry[:-3] + bytes([entry[-3] ^ 1]) + entry[-2:]))
    report = verify_cache(filled.path)
    assert (report.unsound, report.damage, report.clean) == (1, (), False)
    assert inspect_cache(filled.path).entries == 50


def test_verify_finds_swapped_entry(filled, entries):
    keys = list(entries(30))
    filled.put_many({keys[0]: entries(30)[keys[1]]})
    assert verify_cache(filled.path).unsound == 1


def test_verify_finds_damaged_page(filled, entries):
    filled.put_many(entries(2000, width=100))
    filled.close()
    data = bytearray(filled.path.read_bytes())
    data[150_000:200_000] = bytes(50_000)
    filled.path.write_bytes(data)
    report = verify_cache(filled.path)
    assert report.damage
    assert not report.clean


def test_export_contains_the_vectors(filled, entries, export, tmp_path):
    assert export(filled.path) == 50
    with np.load(tmp_path / "export.npz", allow_pickle=False) as found:
        assert sorted(found) == ["keys_300", "keys_8", "vectors_300", "vectors_8"]
        assert found["vectors_8"].dtype == np.float32
        by_key = {bytes(key): vector for key, vector in zip(found["keys_8"], found["vectors_8"], strict=True)}
        assert found["vectors_300"].shape == (20, 300)
        assert (found["vectors_300"] == 7).all()
    assert {key: encode_entry(key, vector) for key, vector in by_key.items()} == entries(30)


def test_export_does_not_replace_the_cache_itself(tmp_path, entries):
    cache = SQLiteCache(tmp_path / "c.npz")
    cache.put_many(entries(1))
    for target in (cache.path, tmp_path / "c"):
        with pytest.raises(ConfigurationError, match="is the cache itself"):
            export_cache(cache.path, target)
    assert inspect_cache(cache.path).entries == 1


def test_export_leaves_out_invalid_entries(filled, entries, export):
    key = next(iter(entries(1)))
    filled.put_many({key: entries(1)[key][:-1] + b"\x77", b"odd": b"not an entry at all"})
    assert export(filled.path) == 49


def test_export_of_empty_cache_is_empty(tmp_path, export):
    SQLiteCache(tmp_path / "c.db").get_many([b"a"])
    assert export(tmp_path / "c.db") == 0


def test_unwritable_export_target_is_a_configuration_error(filled, tmp_path):
    with pytest.raises(ConfigurationError, match="missing"):
        export_cache(filled.path, tmp_path / "missing" / "export.npz")


FULL_DISK = """
import resource, sys
from nanogpt_core import ConfigurationError, export_cache
sys.dont_write_bytecode = True  # Python would write a part of a module's bytecode, and later fail to read it
resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, resource.RLIM_INFINITY))  # SQLite takes 32 KiB
try:
    export_cache(*sys.argv[1:])
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
def test_export_on_a_full_disk_leaves_an_earlier_one_as_it_was(filled, entries, export, tmp_path):
    filled.put_many(entries(500, width=100))
    filled.close()
    export(filled.path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    command = [sys.executable, "-c", FULL_DISK, filled.path, tmp_path / "export.npz"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "Cannot write to" in done.stdout
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_clear_shrinks_the_file(filled, entries):
    filled.put_many(entries(2000, width=100))
    filled.close()
    before = filled.path.stat().st_size
    assert clear_cache(filled.path) == 2020
    report = verify_cache(filled.path)
    assert (report.entries, report.clean) == (0, True)
    assert filled.path.stat().st_size < before / 3
    assert not filled.get_many(list(entries(10)))


def test_clear_releases_the_space_while_the_file_is_open(filled, entries):
    filled.put_many(entries(2000, width=100))
    before = inspect_cache(filled.path).bytes
    assert clear_cache(filled.path) == 2020
    assert inspect_cache(filled.path).bytes < before / 3
    assert not filled.get_many(list(entries(10)))


def test_open_cache_keeps_working_during_admin_functions(filled, entries, export):
    assert len(filled.get_many(list(entries(30)))) == 30
    for function in functions(export):
        function(filled.path)
    assert not filled.get_many(list(entries(30)))
    filled.put_many(entries(30))
    assert dict(filled.get_many(list(entries(30)))) == entries(30)
    assert inspect_cache(filled.path).entries == 30


def test_missing_file_is_a_configuration_error(export, tmp_path):
    for function in functions(export):
        with pytest.raises(ConfigurationError, match="no cache file"):
            function(tmp_path / "no.db")
        with pytest.raises(ConfigurationError, match="is a folder"):
            function(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"S", b"some text, and no database", bytes(5000)])
def test_admin_refuses_non_database_unchanged(export, tmp_path, content):
    path = tmp_path / "c.db"
    path.write_bytes(content)
    for function in functions(export):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            function(path)
    assert [file.name for file in tmp_path.iterdir()] == ["c.db"]
    assert path.read_bytes() == content


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
def test_admin_refuses_foreign_database_unchanged(export, tmp_path, journal, closed):
    path = tmp_path / "theirs.db"
    theirs = sqlite3.connect(path)
    theirs.execute(f"PRAGMA journal_mode = {journal}")
    theirs.execute("CREATE TABLE entries (key, entry, used)")
    theirs.execute("INSERT INTO entries VALUES (1, 2, 3)")
    theirs.commit()
    if closed:
        theirs.close()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")}
    for function in functions(export):
        with pytest.raises(ConfigurationError, match="another program"):
            function(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.endswith("-shm")} == before
    assert len(list(tmp_path.iterdir())) == (1 if closed or journal == "delete" else 3)
    theirs.close()


def test_symbolic_link_is_followed(entries, tmp_path):
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    SQLiteCache(tmp_path / "link.db").put_many(entries(3))
    assert (tmp_path / "link.db").is_symlink()
    assert inspect_cache(tmp_path / "real.db").entries == 3
    assert dict(SQLiteCache(tmp_path / "real.db").get_many(list(entries(3)))) == entries(3)


def test_export_takes_the_value_of_a_string_enum_as_its_target(filled, tmp_path, monkeypatch):
    class Names(str, Enum):
        EXPORT = "export"

    monkeypatch.chdir(tmp_path)
    assert export_cache(filled.path, Names.EXPORT) == 50
    assert (tmp_path / "export.npz").exists()


@pytest.mark.parametrize("target", [None, 5, b"export.npz", "", "\ud800", "a\0b"], ids=repr)
def test_target_that_is_no_path_is_refused_before_anything_is_written(filled, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(NanoGPTError, match=r"^target "):
        export_cache(filled.path, target)
    assert sorted(tmp_path.iterdir()) == before

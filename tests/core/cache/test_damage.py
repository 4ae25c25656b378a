"""Damage of a cache file, told from a full disk without SQLite's error codes."""

import sqlite3

import pytest

from nanogpt_core.cache.damage import is_ambiguous, is_damage, may_be_damage, reading_fails
from nanogpt_core.cache.sqlite import SQLiteCache

GUARD_SECONDS = 60


@pytest.fixture
def path(entries, tmp_path):
    path = tmp_path / "c.db"
    cache = SQLiteCache(path)
    cache.put_many(entries(50, width=1000))
    cache.close()
    return path


def test_io_error_without_a_code_is_ambiguous(path):
    error = sqlite3.OperationalError("disk I/O error")
    assert is_ambiguous(error)
    assert may_be_damage(error, path)
    assert not is_damage(error)
    error.sqlite_errorname = "SQLITE_FULL"
    assert not is_ambiguous(error)
    assert not may_be_damage(error, path)


def test_reading_tells_damage_from_a_full_disk(path):
    assert not reading_fails(path, GUARD_SECONDS, opened=True)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert reading_fails(path, GUARD_SECONDS, opened=True)


def test_file_that_cannot_be_opened_is_damaged_if_its_folder_takes_more_data(path):
    assert reading_fails(path, GUARD_SECONDS, opened=False)
    assert not reading_fails(path.parent / "missing" / "c.db", GUARD_SECONDS, opened=False)

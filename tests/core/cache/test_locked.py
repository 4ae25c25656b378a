"""A cache file that another program keeps locked: it is waited for within the deadline, and then left out."""

import contextlib
import sqlite3
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from nanogpt_core._runtime.threads import run_within
from nanogpt_core.cache import sqlite_file
from nanogpt_core.cache.admin import verify_cache
from nanogpt_core.cache.sqlite import SQLiteCache

MODEL = "text-embedding-3-small"
TEXTS = [f"text {number}" for number in range(40)]


@contextlib.contextmanager
def another_program(path, how):
    """Keep a cache file locked: against writers, or against readers too."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with contextlib.closing(database):
        if how == "against readers too":
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture(params=["against writers", "against readers too"])
def how(request):
    return request.param


def test_wait_for_locked_file_ends_with_the_deadline(embed, make, tmp_path, how):
    path = tmp_path / "c.db"
    right = make(MODEL).embed(TEXTS)
    SQLiteCache(path).put_many({b"a": b"1"})
    with another_program(path, how):
        # The wait itself is told in the warning. The second call does not wait for so long again.
        with pytest.warns(RuntimeWarning, match=r"kept locked.* more than (1|0\.\d+) seconds") as first:
            assert np.array_equal(embed(make(MODEL, cache=path, deadline=4), TEXTS), right)
        assert len(first) == 1
        cache = SQLiteCache(path)
        cache._wait_seconds = {"read": 0.2, "written": 0.2}
        embedder = make(MODEL, cache=cache, batch_size=5, max_concurrency=2)
        for seconds in ("0.[12]", "0.1"):  # the other worker may begin to wait a moment after the first gave up
            with pytest.warns(RuntimeWarning, match=rf"kept locked.* more than {seconds} ") as caught:
                assert np.array_equal(embed(embedder, TEXTS), right)
            assert len(caught) <= 2  # the other worker may be at it already
    assert verify_cache(path).entries == 0
    embed(embedder, TEXTS)
    assert verify_cache(path).entries == len(TEXTS)
    assert cache._wait_seconds["written"] == 10, "free again, it is waited for again"


def test_wait_for_locked_file_ends_even_if_the_clock_stands_still(monkeypatch, tmp_path):
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    cache._wait_seconds = {"read": 0.1, "written": 0.1}
    monkeypatch.setattr(sqlite_file, "time", SimpleNamespace(monotonic=lambda: 5.0, sleep=time.sleep))

    def put():
        with pytest.raises(TimeoutError, match="kept locked"):
            cache.put_many({b"b": b"1"})

    with another_program(tmp_path / "c.db", "against writers"):
        run_within(20, put, "put")


def test_busy_thread_does_not_block_other_threads(embed, make, tmp_path):
    cache = SQLiteCache(tmp_path / "c.db")
    cache._wait_seconds = {"read": 0.2, "written": 0.2}
    held, free = threading.Event(), threading.Event()

    def hold():
        with cache._lock:
            held.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        with pytest.warns(RuntimeWarning, match="kept locked"):
            assert len(embed(make(MODEL, cache=cache), TEXTS)) == len(TEXTS)
    finally:
        free.set()
        thread.join()


@pytest.mark.xdist_group("processes")
def test_fork_does_not_wait_for_a_locked_file(child, finish, tmp_path):
    path = tmp_path / "c.db"
    cache = SQLiteCache(path)
    cache.put_many({b"a": b"1"})
    cache.close()
    holder = child("hold_lock", path=str(path))
    assert holder.stdout.readline() == "locked\n"
    forking = child("fork_while_waiting", path=str(path), forks=50)
    assert forking.stdout.readline() == "waiting True\n"
    assert finish(holder, "\n").status == 0
    ended = finish(forking)
    assert (ended.status, ended.err, ended.out) == (0, "", "found {b'a': b'1'}\n")

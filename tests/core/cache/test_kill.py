"""Kills, forks and interpreter exits: finished batches are kept, and paid for once."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from length import usual_or_long
from nanogpt_core import Embedder
from nanogpt_core.cache.admin import verify_cache
from nanogpt_core.cache.base import CacheNamespace, decode_entry
from nanogpt_core.cache.sqlite import SQLiteCache

pytestmark = pytest.mark.xdist_group("processes")  # kills and starts processes: never beside each other

BATCH, CONCURRENCY = 50, 8
MODEL = "text-embedding-3-small"


def texts_of(count):
    return [f"text number {number} of the run" for number in range(count)]


def sent(sandbox):
    return Counter(text for request in sandbox.requests if request.status == 200 for text in request.inputs)


@pytest.fixture
def run(options):
    """Options for an embedder in another process."""
    return {
        **options,
        "model": MODEL,
        "dimensions": 64,
        "batch_size": BATCH,
        "max_concurrency": CONCURRENCY,
        "requests_per_second": 1e6,
    }


@pytest.fixture(params=["sync", "async"])
def start(request, child, run, tmp_path):
    """Start a process that embeds so many texts, sync or async, with a cache file in ``tmp_path``."""

    def start(work, count, name="c.db", **more):
        return child(work, texts=count, cache=str(tmp_path / name), way=request.param, **run, **more)

    return start


def test_kill_costs_only_requests_in_flight(sandbox, run, start, tmp_path):
    count = 5000
    texts = texts_of(count)
    undisturbed = Embedder(**run).embed(texts)
    dice = random.Random("kill")
    mid_run = 0
    for turn in range(usual_or_long(1, 20)):
        sandbox.clear()
        path = tmp_path / f"{turn}.db"
        process = start("embed", count, f"{turn}.db", announce=True)
        # At a moment of the run that no step of it marks: after so many requests, and a random time later.
        moment = dice.randrange(1, count // BATCH)
        for _ in range(moment):
            if not process.stdout.readline().startswith("done"):
                break
        for _ in range(dice.randrange(20_000)):
            pass
        process.kill()
        process.wait()
        first = sent(sandbox)
        if verify_cache(path).entries < count:
            mid_run += 1
        assert verify_cache(path).clean
        resumed = Embedder(cache=path, **run)
        assert np.array_equal(resumed.embed(texts), undisturbed)
        again = sum(number - 1 for number in sent(sandbox).values())
        assert again <= BATCH * CONCURRENCY, f"killed after {sum(first.values())} texts, {again} were sent again"
        assert verify_cache(path).clean
        assert verify_cache(path).entries == count
    assert mid_run, "every process had ended before it was killed"


def test_kill_leaves_whole_transactions(child, finish, tmp_path):
    path = tmp_path / "c.db"
    said = Counter()
    dice = random.Random("kill in commit")
    for turn in range(usual_or_long(3, 30)):
        process = child("put_for_ever", path=str(path), worker=turn)
        for _ in range(dice.randrange(2, 8)):
            said[turn] = int(process.stdout.readline()) + 50
        process.kill()
        finish(process)
        report = verify_cache(path)
        assert report.clean
        assert report.entries % 50 == 0, "half a transaction"
        cache = SQLiteCache(path)
        for worker, number in said.items():
            namespace = CacheNamespace("https://example.invalid", f"worker {worker}", None)
            keys = namespace.keys(map(str, range(number)))
            found = cache.get_many(keys)
            assert len(found) == number, "what was said to be in is not"
            vectors = [decode_entry(key, found[key]) for key in keys]
            assert all(len(vector) == 1536 for vector in vectors)
            assert all(vector[0] == at // 50 * 50 for at, vector in enumerate(vectors))
        cache.close()


def test_ctrl_c_keeps_finished_batches(sandbox, run, start, finish, tmp_path):
    texts = texts_of(3000)
    path = tmp_path / "c.db"
    process = start("embed", len(texts), announce=True)
    assert process.stdout.readline().startswith("done")
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.status in (1, 130, -signal.SIGINT)
    assert ended.err.strip().endswith("KeyboardInterrupt")
    assert ended.err.count("Traceback") <= 2  # asyncio tells of the cancellation that became the interrupt
    assert "Exception ignored" not in ended.err
    assert "never retrieved" not in ended.err
    answered = sum(sent(sandbox).values())
    kept = verify_cache(path)
    assert kept.clean
    assert 0 < kept.entries <= answered < len(texts)
    assert kept.entries >= answered - BATCH * CONCURRENCY
    Embedder(cache=path, **run).embed(texts)
    assert sum(number - 1 for number in sent(sandbox).values()) <= BATCH * CONCURRENCY


@pytest.fixture
def start_hanging(serve, faults, child, tmp_path):
    """Start a process whose first batch is done, and whose next three requests hang."""
    hangs = threading.Event()

    def answer(seen):
        if seen.texts[0] != texts_of(1)[0]:
            hangs.wait()
        return faults.good(seen)

    def start(**work):
        server = serve(answer)
        options = {"model": "lab/unlisted", "api_key": server.api_key, "base_url": server.base_url, "timeout": 3600}
        options |= {"batch_size": 10, "max_concurrency": 3, "max_retries": 0, "cache": str(tmp_path / "c.db")}
        process = child(**work, texts=100, announce=True, **options)
        assert process.stdout.readline().startswith("done")
        server.wait_for(lambda: server.in_flight == 3)
        return process

    yield start
    hangs.set()


@pytest.mark.parametrize("work", [{"work": "embed"}, {"work": "embed", "way": "async"}, {"work": "stream"}])
def test_ctrl_c_does_not_wait_for_a_hanging_service(start_hanging, finish, tmp_path, work):
    process = start_hanging(**work)
    process.send_signal(signal.SIGINT)
    ended = finish(process)  # long before the hour is over
    assert ended.err.strip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in ended.err
    assert verify_cache(tmp_path / "c.db").entries == 10


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells without privileges whether a process sleeps.")
def test_second_ctrl_c_ends_the_wait_at_exit_silently(start_hanging, finish):
    process, tick = start_hanging(work="embed"), threading.Event()
    process.send_signal(signal.SIGINT)
    while not process.stderr.readline().startswith("KeyboardInterrupt"):
        pass
    state = Path(f"/proc/{process.pid}/stat")
    while state.read_text().rpartition(") ")[2][0] not in "SZ":
        tick.wait(0.002)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert (ended.status in (1, 130, -signal.SIGINT), ended.err) == (True, "")


def test_daemon_thread_does_not_delay_exit(sandbox, start, finish, tmp_path):
    texts = texts_of(5000)
    path = tmp_path / "c.db"
    ended = finish(start("in_daemon", len(texts)))  # leaves when some worker is at its second request
    assert (ended.status, ended.out, ended.err) == (0, "leaving\n", "")
    answered = sum(sent(sandbox).values())
    kept = verify_cache(path)
    assert kept.clean
    assert kept.entries > 0
    assert kept.entries >= answered - BATCH * CONCURRENCY
    assert answered < len(texts), "the program went on to the end of its work"


def test_fork_while_threads_use_the_cache(child, finish, tmp_path):
    path = tmp_path / "c.db"
    ended = finish(child("fork", path=str(path), forks=usual_or_long(10, 100)))
    assert (ended.status, ended.out, ended.err) == (0, "states {0} kept True\n", "")
    assert verify_cache(path).clean


def test_file_is_closed_before_fork(tmp_path):
    # In a child SQLite would take the parent's locks for its own, and two processes would then write at once.
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    script = (
        "import os, sys; from nanogpt_core.cache.sqlite import SQLiteCache\n"
        "cache = SQLiteCache(sys.argv[1]); cache.put_many({b'b': b'2'})\n"
        "def files(): return [p for p in (os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{n}')) if 'c.db' in p]\n"
        "assert files()\n"
        "pid = os.fork()\n"
        "if not pid: os._exit(len(files()))\n"
        "print(os.waitpid(pid, 0)[1], dict(cache.get_many([b'a', b'b'])))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(cache.path)], capture_output=True, text=True, check=True, timeout=300
    )
    assert out.stdout == "0 {b'a': b'1', b'b': b'2'}\n"


def test_connection_is_closed_with_the_object(tmp_path, recwarn):
    # Python 3.13 warns of connections that were not closed.
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    connection = cache._connection
    del cache
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    assert not recwarn.list
    assert json.dumps(sorted(file.name for file in tmp_path.iterdir())) == '["c.db"]'

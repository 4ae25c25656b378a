"""Several processes and threads on one cache."""

import pickle
import sqlite3
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from length import usual_or_long
from nanogpt_core import Embedder
from nanogpt_core.cache import sqlite_file
from nanogpt_core.cache.admin import inspect_cache, verify_cache
from nanogpt_core.cache.damage import set_aside
from nanogpt_core.cache.sqlite import SQLiteCache

pytestmark = pytest.mark.xdist_group("processes")  # kills and starts processes: never beside each other

MODEL = "text-embedding-3-small"
TEXTS = [f"text number {number} of the run" for number in range(400)]


def words(line):
    return dict(zip(line.split()[::2], map(int, line.split()[1::2]), strict=True))


def test_four_processes_with_eight_threads_share_a_file(options, child, finish, tmp_path):
    rate = {"requests_per_second": 1e6, "model": MODEL, "dimensions": 64}
    expected = tmp_path / "expected.npy"
    np.save(expected, Embedder(**options, **rate).embed(TEXTS))
    each = usual_or_long(640, 12_000) // 32
    told = {"path": str(tmp_path / "c.db"), "texts": len(TEXTS), "expected": str(expected), "threads": 8}
    seeds = [{"seed": seed} for seed in range(4)]
    ended = finish(child("in_forks", function="calls", each=seeds, calls=each, **told, **options, **rate))
    assert (ended.status, ended.err) == (0, "")
    results = list(map(words, ended.out.splitlines()))
    assert [result["wrong"] for result in results] == [0] * 4
    assert sum(result["cached"] for result in results) > 0
    assert verify_cache(told["path"]).clean


def test_four_processes_set_a_damaged_file_aside_once(options, child, finish, tmp_path):
    rate = {"requests_per_second": 1e6, "model": MODEL, "dimensions": 64}
    path = tmp_path / "c.db"
    first = Embedder(cache=path, **options, **rate)
    expected = first.embed(TEXTS)
    first._config.opened_cache.close()
    data = bytearray(path.read_bytes())
    data[20_000:300_000] = bytes(280_000)
    path.write_bytes(data)
    saved = [tmp_path / f"{number}.npy" for number in range(4)]
    told = {"path": str(path), "texts": len(TEXTS), "batch_size": 16}
    each = [{"save": str(save)} for save in saved]
    ended = finish(child("in_forks", function="warned", each=each, **told, **options, **rate))
    assert (ended.status, ended.err) == (0, "")
    assert all(np.array_equal(np.load(save), expected) for save in saved)
    warned = [line for line in ended.out.splitlines() if line.startswith("warning")]
    assert len(warned) == 1, warned
    assert "set aside" in warned[0]
    assert verify_cache(path).clean
    last = Embedder(cache=path, **options, **rate)
    assert np.array_equal(last.embed(TEXTS), expected)
    assert last.usage.texts_sent == 0


def test_four_processes_create_the_file_at_once(child, finish, tmp_path):
    for turn in range(3):
        path = tmp_path / f"{turn}.db"
        workers = [{"worker": worker} for worker in range(4)]
        process = child("in_forks", function="put_for_ever", each=workers, path=str(path))
        begun = 0
        while begun < len(workers) and (line := process.stdout.readline()) not in {"", "failed\n"}:
            begun += line == "0\n"
        process.kill()  # and the forks
        assert (finish(process).err, begun) == ("", len(workers))
        report = verify_cache(path)
        assert report.clean
        assert report.entries >= 200


def test_writer_waits_for_another_writer(tmp_path, entries):
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    other = sqlite3.connect(cache.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    assert dict(cache.get_many([b"a"])) == {b"a": b"1"}  # readers do not wait
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # In an object of its own, whose lock does not delay the lookup below.
        waiting = threading.Thread(target=SQLiteCache(cache.path).put_many, args=(entries(10),))
        waiting.start()
        assert dict(cache.get_many(list(entries(10)))) == {}
        other.execute("COMMIT")
        other.close()
        waiting.join(60)
    assert dict(cache.get_many(list(entries(10)))) == entries(10)


def test_other_objects_switch_to_the_new_file(tmp_path, entries):
    path = tmp_path / "c.db"
    cache, another = SQLiteCache(path), SQLiteCache(path)
    many = entries(300, width=1000)
    cache.put_many(many)
    assert dict(another.get_many(list(many))) == many
    another.close()
    cache.close()
    data = path.read_bytes()
    path.write_bytes(data[:400_000] + bytes(len(data) - 400_000))
    assert another._open()  # this one has the damaged file open, and has not noticed
    with pytest.warns(RuntimeWarning, match="set aside"):
        cache.get_many(list(many))
    another.put_many({b"a": b"1"})
    assert dict(cache.get_many([b"a"])) == {b"a": b"1"}
    assert len(list(tmp_path.glob("c.db.corrupt-*[0-9]"))) == 1


def test_new_file_is_not_set_aside_for_old_damage(tmp_path):
    path = tmp_path / "c.db"
    late = SQLiteCache(path)
    late.put_many({b"a": b"1"})
    path.rename(tmp_path / "c.db.corrupt-1")  # by the other, which was quicker
    other = SQLiteCache(path)
    other.put_many({b"b": b"2"})
    assert late._recover(sqlite3.DatabaseError("database disk image is malformed"), reopened=False)
    assert dict(late.get_many([b"a", b"b"])) == {b"b": b"2"}
    assert len(list(tmp_path.glob("*corrupt-*"))) == 1


@pytest.mark.parametrize("seen", [True, False], ids=["after the look at the file", "before it"])
def test_file_set_aside_while_it_is_opened_is_created_again(tmp_path, seen):
    path = tmp_path / "c.db"
    late = SQLiteCache(path)
    late.put_many({b"a": b"1"})
    late.close()
    path.rename(tmp_path / "c.db.corrupt-1")  # by another process, after this one saw that the file exists
    if not seen:
        late._identity = None
    assert late._recover(sqlite3.OperationalError("unable to open database file"), reopened=False)
    late.put_many({b"b": b"2"})
    assert dict(late.get_many([b"a", b"b"])) == {b"b": b"2"}


def test_file_set_aside_before_its_log_was_opened_is_not_used(monkeypatch, tmp_path, entries):
    path, many, open_file = tmp_path / "c.db", entries(300, width=1000), sqlite_file.open_file
    late, other = SQLiteCache(path), SQLiteCache(path)
    late.put_many({b"a": b"1"})
    late.close()

    def open_slowly(file, mode, seconds):
        database = open_file(file, mode, seconds)
        if mode == "mode=rw":
            monkeypatch.undo()
            set_aside(path)
            other.put_many(many)
            other.close()
            other.put_many({b"c": b"3"})  # in the log of the new file, which has the name of the old one's
        return database

    monkeypatch.setattr(sqlite_file, "open_file", open_slowly)
    late.put_many({b"b": b"2"})
    other.close()
    late.close()
    assert dict(SQLiteCache(path).get_many([*many, b"b"])) == {**many, b"b": b"2"}
    assert len(list(tmp_path.glob("*corrupt-*[0-9]"))) == 1


def test_second_object_keeps_posix_locks_of_the_first(tmp_path):
    # POSIX drops a process's locks on a file when it closes it once; another process would then take the log away.
    path = tmp_path / "c.db"
    first = SQLiteCache(path)
    first.put_many({b"a": b"1"})
    second = SQLiteCache(path)
    assert second.get_many([b"a"])
    inspect_cache(path)
    look = f"from nanogpt_core.cache.sqlite import *; print(SQLiteCache({str(path)!r}).get_many([b'a', b'b']))"
    assert _python(look) == "{b'a': b'1'}\n"
    first.put_many({b"b": b"2"})
    assert _python(look) == "{b'a': b'1', b'b': b'2'}\n"
    assert dict(second.get_many([b"a", b"b"])) == {b"a": b"1", b"b": b"2"}


def _python(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    ).stdout


def test_deleted_file_is_created_again(tmp_path):
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    cache.path.unlink()
    assert dict(cache.get_many([b"a"])) == {}
    cache.put_many({b"a": b"2"})
    assert dict(SQLiteCache(cache.path).get_many([b"a"])) == {b"a": b"2"}


def test_many_threads_share_one_embedder(make, sandbox, tmp_path):
    embedder = make(MODEL, cache=tmp_path / "c.db", requests_per_second=1e6)
    expected = make(MODEL).embed(TEXTS)
    sandbox.clear()

    def work(number):
        rows = np.random.default_rng(number).choice(len(TEXTS), 40)
        return np.array_equal(embedder.embed([TEXTS[row] for row in rows]), expected[rows])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(100)))
    usage = embedder.usage
    assert usage.texts_sent == sum(request.items for request in sandbox.requests)
    assert usage.texts_cached > usage.texts_sent
    embedder.embed(TEXTS)
    sandbox.clear()
    assert np.array_equal(embedder.embed(TEXTS), expected)
    assert not sandbox.requests


def test_pickled_embedder_uses_the_same_file(make, sandbox, monkeypatch, tmp_path):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    embedder = make(MODEL, cache=tmp_path / "c.db")
    vectors = embedder.embed(TEXTS[:5])
    twin = pickle.loads(pickle.dumps(embedder))
    assert np.array_equal(twin.embed(TEXTS[:5]), vectors)
    assert twin.usage.texts_cached == 5
    assert len(sandbox.requests) == 1


async def test_sync_and_async_calls_in_a_running_loop(make, sandbox, tmp_path):
    # A Jupyter cell runs in a loop.
    embedder = make(MODEL, cache=tmp_path / "c.db")
    first = embedder.embed(TEXTS[:70])
    assert np.array_equal(await embedder.aembed(TEXTS[:70]), first)
    second = await embedder.aembed(TEXTS[70:140])
    assert np.array_equal(embedder.embed(TEXTS[70:140]), second)
    assert sum(request.items for request in sandbox.requests) == 140


# --- platforms without fcntl ---


def test_file_is_created_and_set_aside_without_fcntl(monkeypatch, tmp_path, entries):
    monkeypatch.setattr(sqlite_file, "fcntl", None)
    path = tmp_path / "c.db"
    cache = SQLiteCache(path)
    cache.put_many(entries(300, width=1000))
    cache.close()
    data = path.read_bytes()
    path.write_bytes(data[:100_000] + bytes(len(data) - 100_000))
    with pytest.warns(RuntimeWarning, match="set aside"):
        cache.get_many(list(entries(300)))
    cache.put_many({b"a": b"1"})
    assert dict(SQLiteCache(path).get_many([b"a"])) == {b"a": b"1"}


def test_file_in_creation_by_another_process_is_waited_for_without_fcntl(monkeypatch, tmp_path):
    # Windows does not let a file be deleted while another process has it open.
    unlink, refusals = Path.unlink, iter(range(3))

    def refuse_first(path, **more):
        if path.name.endswith(".new") and next(refusals, None) is not None:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        unlink(path, **more)

    monkeypatch.setattr(sqlite_file, "fcntl", None)
    monkeypatch.setattr(Path, "unlink", refuse_first)
    cache = SQLiteCache(tmp_path / "c.db")
    cache.put_many({b"a": b"1"})
    assert next(refusals, None) is None
    assert dict(cache.get_many([b"a"])) == {b"a": b"1"}

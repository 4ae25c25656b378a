"""``RedisCache`` against a real server: the contract of caches, expiry, outages, pickles and password."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import uuid
import warnings

import numpy as np
import pytest

from cache_contract import EmbeddingCacheContract
from nanogpt_core import ConfigurationError, Embedder, InvalidTypeError, RedisCache
from nanogpt_core._runtime.clock import fake_clock


class TestRedisCache(EmbeddingCacheContract):
    @pytest.fixture(autouse=True)
    def _url(self, redis):
        self.url = redis.url

    def make_cache(self):
        return RedisCache(self.url, prefix=uuid.uuid4().hex)


@pytest.fixture
def cache(redis, name):
    return RedisCache(redis.url, ttl=1000, prefix=name)


def test_text_is_paid_for_once_by_two_processes_with_one_cache(cache, options, sandbox):
    vectors = Embedder(**options, cache=cache).embed(["one", "two"])
    twin = pickle.loads(pickle.dumps(cache))
    again = Embedder(**options, cache=twin).embed(["two", "one"])
    assert np.array_equal(vectors[::-1], again)
    assert len(sandbox.requests) == 1


def test_close_ends_the_connection_until_the_next_call(cache, start_redis, name):
    server = start_redis()
    cache = RedisCache(server.url, prefix=name)
    observer = RedisCache(server.url)
    cache.close()  # nothing to close yet
    cache.put_many({b"key": b"entry"})
    observer.put_many({b"connects": b""})
    assert len(observer._client.client_list()) == 2
    cache.close()
    deadline = time.monotonic() + 60
    while len(observer._client.client_list()) > 1:  # the server reads the end of a connection in its next turn
        assert time.monotonic() < deadline
    assert cache.get_many([b"key"]) == {b"key": b"entry"}
    cache.close()
    observer.close()


@pytest.mark.parametrize("after", [0, 1, 3])
def test_interrupted_call_leaves_its_replies_to_no_other_call(cache, interrupted, after):
    entries = {bytes([number]) * 32: bytes([number]) for number in range(6)}
    cache.put_many(entries)
    with interrupted(after):
        cache.put_many(entries)
    for _ in range(3):
        assert cache.get_many(list(entries)) == entries


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_process_does_not_wait_for_a_connection_of_its_parent(cache):
    cache.put_many({b"key": b"entry"})
    held, over = threading.Event(), threading.Event()

    def hold():
        with cache._client.connection_pool._lock:
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
        process = multiprocessing.get_context("fork").Process(target=cache.get_many, args=([b"key"],))
        process.start()
    process.join(20)
    process.kill()
    process.join()
    over.set()
    thread.join()
    assert process.exitcode == 0


def test_entries_expire_after_ttl(cache, name):
    cache.put_many({b"key": b"entry"})
    assert 0 < cache._client.pttl(f"{name}:key") <= 1_000_000
    forever = RedisCache(cache._address.url, ttl=None, prefix=name)
    forever.put_many({b"other": b"entry"})
    assert cache._client.pttl(f"{name}:other") == -1


@pytest.mark.parametrize("call", ["get_many", "put_many"])
def test_hundreds_of_keys_take_few_round_trips(cache, call):
    cache.put_many({b"first": b"connects"})
    client, keys = cache._client, [b"%d" % n for n in range(300)]
    before = client.info("stats")["total_reads_processed"]
    getattr(cache, call)(keys if call == "get_many" else dict.fromkeys(keys, b"entry"))
    # The server reads 16 KiB at a time.
    assert client.info("stats")["total_reads_processed"] - before < 30


def test_cached_query_takes_one_round_trip(cache, options):
    embedder = Embedder(**options, cache=cache)
    embedder.embed_query("one")
    before = cache._client.info("commandstats")["cmdstat_mget"]["calls"]
    embedder.embed_query("one")
    assert cache._client.info("commandstats")["cmdstat_mget"]["calls"] - before == 1
    assert embedder.usage.texts_cached == 1


def test_call_continues_without_a_server(start_redis, options, name):
    server = start_redis()
    cache = RedisCache(server.url, prefix=name)
    embedder = Embedder(**options, cache=cache)
    embedder.embed(["one"])
    server.stop()
    with pytest.warns(RuntimeWarning, match="continuing without it"):
        assert embedder.embed(["one"]).shape == (1, 1536)
    server.start()
    embedder.embed(["one"])
    embedder.embed(["one"])
    assert embedder.usage.texts_cached == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_server_that_does_not_answer_is_not_asked_for_ten_seconds(start_redis, options, name):
    server = start_redis()
    cache = RedisCache(f"{server.url}?socket_timeout=0.5", prefix=name)
    embedder = Embedder(**options, cache=cache)
    embedder.embed(["one"])
    server.signal(signal.SIGSTOP)
    with pytest.warns(RuntimeWarning, match="TimeoutError"):
        embedder.embed(["one"])
    server.signal(signal.SIGCONT)
    with warnings.catch_warnings():  # the same warning is not given again
        warnings.simplefilter("error")
        embedder.embed(["one"])
    assert embedder.usage.texts_cached == 0
    with fake_clock() as clock:
        clock.advance(10)
        embedder.embed(["one"])
    assert embedder.usage.texts_cached == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_signal_while_the_server_does_not_answer_ends_the_call_and_is_no_outage(
    start_redis, options, name, end_by_signal
):
    server = start_redis()
    embedder = Embedder(**options, cache=RedisCache(f"{server.url}?socket_timeout=60", prefix=name))
    embedder.embed(["one"])
    with end_by_signal(server):
        embedder.embed(["one"])
    embedder.embed(["one"])
    assert embedder.usage.texts_cached == 1


def test_server_that_takes_no_entries_is_named_once_in_its_own_words(start_redis, options, name):
    server = start_redis("--replicaof", "127.0.0.1", "1")  # cannot be written to
    embedder = Embedder(**options, cache=RedisCache(server.url, prefix=name))
    with pytest.warns(RuntimeWarning, match=r"failed \(ReadOnlyError: You can't write") as caught:
        assert [len(embedder.embed([text])) for text in ("one", "two")] == [1, 1]
    assert sum("failed" in str(one.message) for one in caught) == 1


def test_damaged_entry_is_fetched_again(cache, options, sandbox):
    embedder = Embedder(**options, cache=cache)
    embedder.embed(["one"])
    for key in cache._client.scan_iter(f"{cache._prefix}:*"):
        cache._client.set(key, b"damaged")
    embedder.embed(["one"])
    assert len(sandbox.requests) == 2


def test_entries_work_in_a_cluster(start_redis, name, tmp_path):
    server = start_redis("--cluster-enabled", "yes", "--dir", str(tmp_path))
    from redis import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(server.url)
    client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    client.close()
    cache = RedisCache(server.url, prefix=name, cluster=True)
    entries = {b"%d" % n: b"entry %d" % n for n in range(100)}
    for attempt in range(600):
        try:
            cache.put_many(entries)
            break
        except RedisError:
            assert attempt < 599
            threading.Event().wait(0.1)  # a new cluster accepts commands a moment after it has all its slots
    assert dict(cache.get_many([*entries, b"missing"])) == entries


def test_password_is_not_shown(start_redis, name):
    server = start_redis("--requirepass", "sesame")
    cache = RedisCache(f"redis://:sesame@127.0.0.1:{server.port}", prefix=name)
    cache.put_many({b"key": b"entry"})
    assert "sesame" not in repr(cache)
    assert b"sesame" not in pickle.dumps(cache)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ttl": 0}, ConfigurationError),
        ({"ttl": "a day"}, InvalidTypeError),
        ({"prefix": ""}, ConfigurationError),
        ({"prefix": b"x"}, InvalidTypeError),
        ({"url": "127.0.0.1"}, ConfigurationError),
        ({"cluster": "false"}, InvalidTypeError),
    ],
)
def test_invalid_option_is_refused(options, error):
    with pytest.raises(error):
        RedisCache(**{"url": "redis://127.0.0.1", **options})

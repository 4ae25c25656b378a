"""Functions that tests run as a program: ``child.py FUNCTION JSON``. Each prints its results."""

import asyncio
import errno
import json
import os
import resource
import sqlite3
import sys
import threading
import warnings

import numpy as np

from nanogpt_core import Embedder
from nanogpt_core.cache.base import CacheNamespace, encode_entry
from nanogpt_core.cache.sqlite import SQLiteCache


def say(*words):
    # One write: the lines of threads do not mix.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def texts_of(count):
    return [f"text number {number} of the run" for number in range(count)]


def embed(texts, save=None, way="sync", announce=False, **options):
    """Embed; with ``announce`` say when the first texts are done."""
    if announce:
        options["progress"] = lambda done, _total: say("done", done)
    embedder, texts = Embedder(**options), texts_of(texts)
    vectors = embedder.embed(texts) if way == "sync" else asyncio.run(embedder.aembed(texts))
    if save:
        np.save(save, vectors)
    say("sent", embedder.usage.texts_sent)


def stream(texts, **options):
    """Embed as a stream; say when a batch is there."""
    options.pop("announce")
    for batch in Embedder(**options).stream(texts_of(texts)):
        say("done", batch.start)


def put_for_ever(path, worker):
    """Put entries of 6 KB until killed; say each one that is in."""
    cache = SQLiteCache(path)
    namespace = CacheNamespace("https://example.invalid", f"worker {worker}", None)
    number = 0
    while True:
        keys = namespace.keys(map(str, range(number, number + 50)))
        cache.put_many({key: encode_entry(key, np.full(1536, number, np.float32)) for key in keys})
        say(number)
        number += 50


def calls(path, texts, expected, *, threads, calls, seed, **options):
    """Make so many calls in each of several threads, over texts that all draw on; say how many vectors were wrong."""
    embedder = Embedder(cache=path, **options)
    right, texts = np.load(expected), texts_of(texts)
    wrong = []

    def work(number):
        dice = np.random.default_rng([seed, number])
        for _ in range(calls):
            rows = dice.choice(len(texts), size=3)
            vectors = embedder.embed([texts[row] for row in rows])
            if not np.array_equal(vectors, right[rows]):
                wrong.append(rows.tolist())

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    say("wrong", len(wrong), "cached", embedder.usage.texts_cached)


def in_forks(function, each, **shared):
    """Run a function in several forks at once; say each failure, and exit with 1."""
    children = []
    for arguments in each:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads that numpy has outside of Python
            children.append(os.fork())
        if not children[-1]:
            globals()[function](**shared, **arguments)
            sys.exit()
    failed = False
    for _ in children:
        if os.wait()[1]:
            say("failed")  # for a reader that waits for words of the others
            failed = True
    sys.exit(failed)


def said(work):
    """Do it, and say each warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    for warning in caught:
        say("warning", warning.message)
    return result


def warned(path, texts, save, most_bytes=None, **options):
    """Embed twice, optionally with a limit on the size of files; print each warning."""
    if most_bytes is not None:
        sys.dont_write_bytecode = True  # Python would write a part of a module's bytecode, and later fail to read it
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    texts = texts_of(texts)
    embedder = Embedder(cache=path, **options)
    vectors = said(lambda: embedder.embed(texts))
    say("same", np.array_equal(vectors, said(lambda: embedder.embed(texts))))
    say("sent", embedder.usage.texts_sent)
    np.save(save, vectors)


def as_nobody(path):
    """Use a cache as a user without rights; print the entries found."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    cache = SQLiteCache(path)
    say("found", dict(said(lambda: cache.get_many([b"a", b"b"]))))
    said(lambda: cache.put_many({b"b": b"2"}))
    say("found", dict(said(lambda: cache.get_many([b"a", b"b"]))))


def in_daemon(texts, way="sync", **options):
    """Begin to embed in a daemon thread, and end the program when more is done than fits in flight at once."""
    begun, texts = threading.Event(), texts_of(texts)
    in_flight = options["batch_size"] * options["max_concurrency"]
    embedder = Embedder(progress=lambda done, _total: done > in_flight and begun.set(), **options)
    work = (lambda: embedder.embed(texts)) if way == "sync" else (lambda: asyncio.run(embedder.aembed(texts)))
    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    say("leaving")


def fork(path, **options):
    """Fork while other threads use the cache; each child reads existing entries and adds its own."""
    cache = SQLiteCache(path)
    namespace = CacheNamespace("https://example.invalid", "forks", None)
    stop = threading.Event()

    def entries(name):
        keys = namespace.keys(f"{name} {i}" for i in range(20))
        return {key: encode_entry(key, np.full(64, len(name), np.float32)) for key in keys}

    def busy(name):
        while not stop.is_set():
            cache.put_many(entries(name))
            assert len(cache.get_many(list(entries(name)))) == 20

    cache.put_many(entries("before"))
    threads = [threading.Thread(target=busy, args=(f"thread {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    children = []
    for number in range(options["forks"]):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert cache.get_many(list(entries("before"))) == entries("before")
                cache.put_many(entries(f"child {number}"))
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    states = [os.waitpid(pid, 0)[1] for pid in children]
    stop.set()
    for thread in threads:
        thread.join()
    kept = [cache.get_many(list(entries(f"child {n}"))) == entries(f"child {n}") for n in range(options["forks"])]
    say("states", set(states), "kept", all(kept))


def out_of_descriptors(path):
    """Use a cache while ``spare`` file descriptors are free, and again when more are; say the entries found."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    for spare in range(8):
        cache = SQLiteCache(path)
        taken = []
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        for handle in taken[:spare]:
            os.close(handle)
        said(lambda cache=cache: cache.get_many([b"a"]))
        said(lambda cache=cache: cache.put_many({b"b": b"2"}))
        for handle in taken[spare:]:
            os.close(handle)
        said(lambda cache=cache: cache.put_many({b"b": b"2"}))
        say("after", spare, "spare", dict(cache.get_many([b"a", b"b"])))
        cache.close()


def embed_out_of_descriptors(path, save, way, texts, **options):
    """Embed with an open HTTP connection, a closed cache and no file descriptors left."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    cache = SQLiteCache(path)
    embedder, texts = Embedder(cache=cache, max_concurrency=1, **options), texts_of(texts)

    async def work():
        for number, given in enumerate((texts[:5], texts)):
            taken = []
            if number == 1:
                cache.close()
                try:
                    while True:
                        taken.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    pass
            vectors = embedder.embed(given) if way == "sync" else await embedder.aembed(given)
            for handle in taken:
                os.close(handle)
        np.save(save, vectors)

    said(lambda: asyncio.run(work()))


def hold_lock(path):
    """Keep the file locked against readers and writers until a line comes in."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN IMMEDIATE")
    say("locked")
    sys.stdin.readline()
    database.close()


def fork_while_waiting(path, forks):
    """Fork while a thread waits for the locked file; say whether it still waits afterwards."""
    cache, found, ended = SQLiteCache(path), {}, threading.Event()
    cache._wait_seconds["read"] = 600.0  # longer than the forks take on a busy machine

    def read():
        try:
            found.update(cache.get_many([b"a"]))
        finally:
            ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(forks):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    say("waiting", not ended.is_set())
    thread.join()
    say("found", found)


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))

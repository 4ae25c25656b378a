"""What tests run in a process of its own: ``python child.py WORK JSON``. Says what it has done, line by line."""

import asyncio
import fcntl  # noqa: F401 - needed later, when the rights to read it may be gone
import json
import os
import resource
import sys
import threading
import warnings

import numpy as np

from nanogpt_core import Embedder
from nanogpt_core.cache.base import CacheNamespace, entry_of
from nanogpt_core.cache.sqlite import SQLiteCache


def say(*words):
    # One write, so that the lines of threads do not mix.
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
    space = CacheNamespace("https://example.invalid", f"worker {worker}", None)
    number = 0
    while True:
        keys = space.keys(map(str, range(number, number + 50)))
        cache.put_many({key: entry_of(key, np.full(1536, number, np.float32)) for key in keys})
        say(number)
        number += 50


def calls(path, texts, expected, *, threads, each, seed, **options):
    """Make so many calls in each of several threads, over texts that all draw on; say how many vectors were wrong."""
    embedder = Embedder(cache=path, **options)
    right, texts = np.load(expected), texts_of(texts)
    wrong = []

    def work(number):
        dice = np.random.default_rng([seed, number])
        for _ in range(each):
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


def said(work):
    """Do it, and say each warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work()
    for warning in caught:
        say("warning", warning.message)
    return result


def warned(path, texts, save, most_bytes=None, **options):
    """Embed twice, where no file may grow over a size if told so; say each warning."""
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    texts = texts_of(texts)
    embedder = Embedder(cache=path, **options)
    vectors = said(lambda: embedder.embed(texts))
    say("same", np.array_equal(vectors, said(lambda: embedder.embed(texts))))
    say("sent", embedder.usage.texts_sent)
    np.save(save, vectors)


def as_nobody(path):
    """Use a cache as a user without rights; say what comes back."""
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
    """Fork while other threads use the cache; each child reads what was there and adds something."""
    cache = SQLiteCache(path)
    space = CacheNamespace("https://example.invalid", "forks", None)
    stop = threading.Event()

    def entries(name):
        keys = space.keys(f"{name} {i}" for i in range(20))
        return {key: entry_of(key, np.full(64, len(name), np.float32)) for key in keys}

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


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))

"""An exception that a signal handler raises, such as the time limit of a task queue, ends the call at any place."""

import contextlib
import functools
import signal
import sqlite3
import threading

import httpx
import pytest
import tiktoken

from nanogpt_core import MemoryCache
from nanogpt_core._runtime.signals import raised_by_signal_handler
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.models.tokens import load_encoding

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no such signals on this system")

KINDS = pytest.mark.parametrize("kind", [Exception, TimeoutError, OSError])


class Handlers:
    """Signal handlers of each sort, which raise ``error``."""

    def __init__(self, error):
        self.error = error

    def method(self, *_):
        raise self.error

    __call__ = method


@contextlib.contextmanager
def handled(number, handler):
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


@pytest.fixture
def limit(kind):
    """Return a function that has a signal handler raise an error in the main thread, and the class of the error."""

    class Limit(kind):
        pass

    over = threading.Event()

    def reach_limit(*_, **__):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        over.wait(60)

    with handled(signal.SIGUSR1, Handlers(Limit("time limit of a task")).method):
        yield reach_limit, Limit
        over.set()


@pytest.mark.parametrize("sort", ["function", "method", "object", "partial"])
def test_error_of_a_signal_handler_is_told_from_others(sort):
    handlers = Handlers(LookupError("limit"))
    sorts = {"function": lambda *_: handlers.method(), "method": handlers.method, "object": handlers}
    handler = sorts.get(sort) or functools.partial(handlers, "argument")
    with handled(signal.SIGUSR1, handler), pytest.raises(LookupError) as caught:
        signal.raise_signal(signal.SIGUSR1)
    with handled(signal.SIGUSR1, handler):
        assert raised_by_signal_handler(caught.value)
    with pytest.raises(ZeroDivisionError) as other:
        1 / 0  # noqa: B018 - raises
    assert not raised_by_signal_handler(other.value)


def test_error_of_an_enum_is_no_error_of_a_signal_handler(make):
    class Broken(MemoryCache):
        def get_many(self, keys):
            return {key: signal.Handlers(len(keys) + 100) for key in keys}

    with pytest.warns(RuntimeWarning, match=r"The embedding cache .* failed \(ValueError"):
        assert len(make(cache=Broken()).embed(["a text"])) == 1


@KINDS
@pytest.mark.parametrize("method", ["get_many", "put_many"])
@pytest.mark.parametrize("deadline", [None, 600])
def test_signal_during_a_call_of_a_cache_ends_the_call(make, limit, method, deadline):
    reach_limit, error = limit
    cache = type("Limited", (MemoryCache,), {method: reach_limit, "keeps_deadline": False})()
    with pytest.raises(error):
        make(cache=cache, deadline=deadline).embed(["a text"])


@KINDS
def test_signal_while_a_cache_file_is_locked_ends_the_call(make, sandbox, kind, tmp_path):
    class Limit(kind):
        pass

    SQLiteCache(tmp_path / "c.db").put_many({b"a": b"1"})
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN IMMEDIATE")
        embedder = make(cache=tmp_path / "c.db")
        with handled(signal.SIGALRM, Handlers(Limit("time limit of a task"))):
            signal.setitimer(signal.ITIMER_REAL, 0.2)  # the file is waited for 10 seconds
            with pytest.raises(Limit):
                embedder.embed(["a text"])
    assert sandbox.requests == []


@pytest.fixture
def reach_wrapped_limit(limit):
    """Have a signal handler raise an error of which a library makes one of its own, in the ways of libraries."""

    def reach_limit(*_):
        try:
            limit[0]()
        except OSError:
            raise LookupError("no answer")  # noqa: B904 - as redis-py does
        except Exception as error:
            raise LookupError("no answer") from error

    return reach_limit


@KINDS
def test_signal_of_which_a_cache_makes_an_error_of_its_own_ends_the_call(make, limit, reach_wrapped_limit):
    cache = type("Limited", (MemoryCache,), {"get_many": reach_wrapped_limit})()
    with pytest.raises(limit[1]):
        make(cache=cache).embed(["a text"])


@KINDS
def test_signal_of_which_a_hook_makes_an_error_of_its_own_ends_the_call(make, limit, reach_wrapped_limit):
    with pytest.raises(limit[1]):
        make(on_request=reach_wrapped_limit).embed(["a text"])


@KINDS
def test_signal_before_a_call_does_not_end_it(make, limit):
    def fail(*_):
        raise LookupError("broken")

    cache = type("Broken", (MemoryCache,), {"get_many": fail})()
    try:
        limit[0]()
    except limit[1]:
        with pytest.warns(RuntimeWarning, match="LookupError: broken"):
            assert len(make(cache=cache).embed(["a text"])) == 1


@KINDS
def test_signal_during_a_request_of_the_callers_own_client_ends_the_call(serve, kind):
    class Limit(kind):
        pass

    over, answered = threading.Event(), threading.Event()

    def end(*_):
        if not over.is_set():
            over.set()
            raise Limit("time limit of a task")

    def answer(_):
        while not over.wait(0.2):  # more than once: Python runs no handler for a signal just before a system call
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        answered.set()
        return b""

    server = serve(answer)
    with handled(signal.SIGUSR1, end), httpx.Client() as client:
        with pytest.raises(Limit):
            server.embedder(http_client=client).embed(["a text"])
        assert answered.wait(60)


@KINDS
def test_signal_during_the_hook_ends_the_call(make, limit):
    reach_limit, error = limit
    with pytest.raises(error):
        make(on_request=reach_limit).embed(["a text"])


@KINDS
def test_signal_during_the_download_of_the_vocabulary_ends_the_call(limit, monkeypatch):
    reach_limit, error = limit
    monkeypatch.setattr(tiktoken, "get_encoding", reach_limit)
    load_encoding.cache_clear()
    try:
        with pytest.raises(error):
            load_encoding()
    finally:
        load_encoding.cache_clear()

"""Locks at a fork: free in parent and child, and never a deadlock with a thread that holds one of several."""

import faulthandler
import json
import os
import subprocess
import sys
import threading

import pytest

from nanogpt_core.chat.client import make_chat_client
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import Endpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")

FORKS = """
import faulthandler, os, sys, threading
from nanogpt_core._runtime.fork import ForkSafe

class Shared(ForkSafe):
    def __init__(self):
        super().__init__()
        self.lock = self._lock

def fork_and_check(check):
    child = os.fork()
    if child == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def is_free(shared):
    acquired = shared._lock.acquire(blocking=False)
    if acquired:
        shared._lock.release()
    return acquired

registry, started, over, made = Shared(), threading.Event(), threading.Event(), []

def work():
    while not over.is_set():
        with registry.lock:  # as in a registry that makes its entries under its lock
            started.set()
            made[:] = [Shared() for _ in range(int(sys.argv[1]))]
            for one in made:
                with one.lock:
                    pass

faulthandler.dump_traceback_later(240, exit=True)  # of a deadlock
thread = threading.Thread(target=work, daemon=True)
thread.start()
started.wait()
for _ in range(20):
    assert fork_and_check(lambda: is_free(registry))
over.set()
thread.join()
assert is_free(registry)
"""


@pytest.mark.parametrize("count", [1, 40])
def test_fork_does_not_deadlock_with_a_thread_that_makes_objects_under_a_lock(count):
    # In a small process: a fork of a large one takes long, and the thread is busy until the last one.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def fork_and_check(check):
    """Return whether ``check()`` is true in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def embeddings_stream(server):
    return server.embedder(max_concurrency=2).stream(map(str, range(4)), batch_size=1)


def chat_stream(server):
    session = ChatSession(Endpoint.resolve(api_key=server.api_key, base_url=server.base_url))
    options = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    return iter(make_chat_client(session).chat.completions.create(**options))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(("begin", "parts"), [(embeddings_stream, 4), (chat_stream, 3)])
def test_stream_that_a_child_inherits_is_refused_there_and_goes_on_in_the_parent(serve, faults, begin, parts):
    released = threading.Event()

    def answer(seen):
        if seen.path.endswith("/embeddings"):
            assert seen.texts == ["0"] or released.wait(60)
            yield faults.good(seen)
            return
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for number, reason in enumerate([None, None, "stop"]):
            assert not number or released.wait(60)
            choice = {"index": 0, "delta": {"content": str(number)}, "finish_reason": reason}
            event = b"data: %s\n\n" % json.dumps({"id": "1", "choices": [choice]}).encode()
            yield b"%x\r\n%s\r\n" % (len(event), event)
        yield b"0\r\n\r\n"

    def is_refused():
        faulthandler.dump_traceback_later(30, exit=True, file=sys.__stderr__)
        with pytest.raises(ConfigurationError, match="before a fork"):
            next(stream)
        return True

    stream = begin(serve(answer))
    next(stream)
    try:
        assert fork_and_check(is_refused)
    finally:
        released.set()
    assert len(list(stream)) == parts - 1

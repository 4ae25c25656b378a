"""Locks at a fork: free in parent and child, and never a deadlock with a thread that holds one of several."""

import faulthandler
import os
import sys
import threading

import pytest

from nanogpt_core._runtime.fork import ForkSafe

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")


class Shared(ForkSafe):
    """An object with a lock that forks take."""

    def __init__(self):
        super().__init__()
        self.lock = self._lock


def fork_and_check(check):
    """Return whether ``check()`` is true in a forked child."""
    child = os.fork()
    if child == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def is_free(shared):
    acquired = shared._lock.acquire(blocking=False)
    if acquired:
        shared._lock.release()
    return acquired


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("count", [1, 40])
def test_fork_does_not_deadlock_with_a_thread_that_makes_objects_under_a_lock(count):
    registry, started, over = Shared(), threading.Event(), threading.Event()
    made = []

    def work():
        while not over.is_set():
            with registry.lock:  # as in a registry that makes its entries under its lock
                started.set()
                made[:] = [Shared() for _ in range(count)]
                for one in made:
                    with one.lock:
                        pass

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(60)
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)  # a deadlock would hold up the whole run
    try:
        for _ in range(20):
            assert fork_and_check(lambda: is_free(registry))
    finally:
        faulthandler.cancel_dump_traceback_later()
        over.set()
        thread.join(60)
    assert not thread.is_alive()
    assert is_free(registry)

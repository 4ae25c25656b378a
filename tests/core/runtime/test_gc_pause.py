"""The pause of the garbage collector: bounded to its block, in all threads, and not inherited by a forked child."""

import gc
import os
import threading

import pytest

from nanogpt_core._runtime import gc_pause
from nanogpt_core._runtime.gc_pause import gc_paused


@pytest.mark.parametrize("enabled", [True, False])
def test_gc_is_restored_to_its_state_before_the_block(enabled):
    try:
        if not enabled:
            gc.disable()
        with gc_paused():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_gc_is_restored_after_an_exception():
    with pytest.raises(ZeroDivisionError), gc_paused():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_gc_stays_paused_until_the_last_thread_leaves_its_block():
    inside, leave = threading.Barrier(3), threading.Event()

    def hold():
        with gc_paused():
            inside.wait(20)
            leave.wait(20)

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(20)
    with gc_paused():
        pass
    assert not gc.isenabled()
    leave.set()
    for thread in threads:
        thread.join(20)
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_gc_is_enabled_in_a_child_that_was_forked_during_a_pause():
    with gc_paused():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() and not gc_pause._pause.holders else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

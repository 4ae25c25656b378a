"""Functions without a time limit of their own, run in a thread with one."""

import threading

import pytest

from nanogpt_core._runtime.threads import run_within

GUARD_SECONDS = 60


def test_result_of_a_limited_function_is_returned():
    assert run_within(GUARD_SECONDS, lambda: threading.current_thread().name, "limited") == "limited"


@pytest.mark.parametrize("error", [LookupError("away"), TimeoutError("its own"), SystemExit(3)])
def test_error_of_a_limited_function_is_raised(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        run_within(GUARD_SECONDS, fail, "limited")
    assert caught.value is error


def test_function_that_takes_longer_is_left_behind():
    over, ended = threading.Event(), threading.Event()

    def wait():
        over.wait(GUARD_SECONDS)
        ended.set()

    with pytest.raises(TimeoutError, match="no answer within 0 seconds"):
        run_within(0, wait, "limited")
    over.set()
    assert ended.wait(GUARD_SECONDS)


def test_limited_function_runs_in_the_calling_thread_if_no_more_threads_can_be_started(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert run_within(GUARD_SECONDS, threading.current_thread, "limited") is threading.current_thread()

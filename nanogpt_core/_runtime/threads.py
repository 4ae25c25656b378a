"""Threads: started as daemons, waited for at exit, or left behind after a time limit."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401 - the SDK imports it at the first call, which fails at exit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

T = TypeVar("T")

GRACE_SECONDS = 3.0
"""Time that requests in flight get to end after their caller has gone: at exit, or when a stream is left early."""

# Messages of the standard library: too many threads, the interpreter is exiting (two), and the event loop is ending.
_WITHOUT_THREADS = (
    *("can't start new thread", "can't create new thread", "cannot schedule new futures after"),
    "Executor shutdown has been called",
)

# Threads that may still run, each with its stop event. They are no subclass of Thread: gevent replaces that class when
# it patches the process, and cannot join instances of a subclass that was defined before.
_workers: weakref.WeakKeyDictionary[threading.Thread, threading.Event] = weakref.WeakKeyDictionary()


class NoThreadError(RuntimeError):
    """The process may not start another thread."""


class LateError(TimeoutError):
    """A function took longer than :func:`run_within` waits."""


def lacks_threads(error: BaseException) -> bool:
    """Return whether ``error`` says that no thread can be started, and not a signal handler that ran meanwhile."""
    return isinstance(error, RuntimeError) and str(error).startswith(_WITHOUT_THREADS)


def start_thread(work: Callable[[], None], name: str, stop: threading.Event | None) -> threading.Thread:
    """Start a daemon thread; at exit the interpreter sets ``stop`` and waits :data:`GRACE_SECONDS` for it.

    A thread that is no daemon would delay the exit until its request times out. A plain daemon thread would be killed
    at once, together with vectors that are about to arrive. Without ``stop`` it is killed.

    Raises:
        NoThreadError: The process may not start another thread.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise (NoThreadError(str(error)) if lacks_threads(error) else error) from None
    if stop is not None:
        _workers[thread] = stop
    return thread


def call_into(future: Future[T], function: Callable[[], T]) -> None:
    """Call ``function``, and put its result or its error into ``future``."""
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised by future.result()
        future.set_exception(error)


def run_within(seconds: float, function: Callable[[], T], name: str) -> T:
    """Return the result of ``function``. It runs in a thread, which is left behind if it takes longer than ``seconds``.

    Raises:
        LateError: It takes longer.
        Exception: An error of ``function``.
    """
    result: Future[T] = Future()
    work = partial(call_into, result, function)
    try:
        # Without a stop event: a function that never returns must not delay the exit.
        start_thread(work, name, stop=None).join(max(0.0, seconds))
    except NoThreadError:
        work()
    if not result.done():
        raise LateError(f"no answer within {seconds:.3g} seconds")
    return result.result()


_exiting = threading.Event()


def park_if_exiting() -> None:
    """Block forever if the interpreter is exiting and this is a daemon thread: its failure is not worth a traceback."""
    if _exiting.is_set() and threading.current_thread().daemon:
        threading.Event().wait()


_after_workers = contextlib.ExitStack()

call_after_workers = _after_workers.callback
"""Call a function at exit when workers have ended: one that still runs could open another connection."""


@atexit.register
def _wait_for_workers() -> None:
    _exiting.set()
    until = time.monotonic() + GRACE_SECONDS
    workers = [worker for reference in _workers.keyrefs() if (worker := reference()) is not None]
    with _after_workers, contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C ends the wait
        for worker in workers:
            _workers[worker].set()
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))

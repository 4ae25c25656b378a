"""A time limit for functions that have none of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def call_into(future: Future[T], function: Callable[[], T]) -> None:
    """Call ``function``, and put its result or its error into ``future``."""
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised by future.result()
        future.set_exception(error)


def run_within(seconds: float, function: Callable[[], T], name: str) -> T:
    """Return the result of ``function``. It runs in a thread, which is left behind if it takes longer than ``seconds``.

    Raises:
        TimeoutError: It takes longer.
        Exception: An error of ``function``.
    """
    result: Future[T] = Future()
    # A daemon: a function that never returns must not delay the exit.
    thread = threading.Thread(target=call_into, args=(result, function), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, for example because of a limit on processes
        call_into(result, function)
    else:
        thread.join(max(0.0, seconds))
    if not result.done():
        raise TimeoutError(f"no answer within {seconds:.3g} seconds")
    return result.result()

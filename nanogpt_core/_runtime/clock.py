"""The clock, and waiting by it. Tests can let all waits pass at once with :func:`fake_clock`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["FakeClock", "async_sleep", "deadline_scope", "fake_clock", "now", "seconds_left", "sleep"]


class FakeClock:
    """Waits that took no time.

    Attributes:
        seconds: Seconds that would have been waited, all threads and tasks added up.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Let ``seconds`` pass at once."""
        with self._lock:
            self.seconds += seconds


_virtual: FakeClock | None = None
_passed = 0.0


def now() -> float:
    """Return the time in seconds, from a fixed but arbitrary point; virtual waits move it on."""
    return time.monotonic() + _passed + (_virtual.seconds if _virtual else 0.0)


@contextlib.contextmanager
def fake_clock() -> Iterator[FakeClock]:
    """Let every wait between attempts pass at once, in the whole process, as long as the block runs.

    For tests of code that uses this project: retries and rate limits work as they do otherwise, without taking time.

    Yields:
        An object that adds up the seconds that would have been waited.
    """
    global _virtual, _passed  # noqa: PLW0603 - the clock is the process's
    before = _virtual
    mine = _virtual = FakeClock()
    try:
        yield mine
    finally:
        _virtual = before
        _passed += mine.seconds


_deadline: ContextVar[float | None] = ContextVar("nanogpt_deadline", default=None)


@contextlib.contextmanager
def deadline_scope(deadline: float | None) -> Iterator[None]:
    """Let what waits by itself in this block, as a cache does for its file, wait no longer than until ``deadline``.

    Args:
        deadline: In seconds of :func:`now`; None for no limit.
    """
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left(at_most: float) -> float:
    """Return the seconds that may be waited here: ``at_most``, or fewer where the block's deadline comes before."""
    deadline = _deadline.get()
    return at_most if deadline is None else max(0.0, min(at_most, deadline - now()))


def sleep(seconds: float, stop: threading.Event | None = None) -> None:
    """Wait ``seconds``, or until ``stop`` is set."""
    if seconds <= 0:
        return
    if _virtual is not None:
        _virtual.add(seconds)
    elif stop is not None:
        stop.wait(seconds)
    else:
        time.sleep(seconds)


async def async_sleep(seconds: float, stop: asyncio.Event | None = None) -> None:
    """Wait ``seconds``, or until ``stop`` is set, without blocking the event loop."""
    if seconds > 0 and _virtual is not None:
        _virtual.add(seconds)
        seconds = 0.0
    if stop is None or seconds <= 0:
        await asyncio.sleep(max(0.0, seconds))
    else:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)

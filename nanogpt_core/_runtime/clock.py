"""The clock, and waiting by it. Tests can let all waits pass at once with :func:`fake_clock`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Deadline", "FakeClock", "async_sleep", "deadline_scope", "fake_clock", "now", "seconds_left", "sleep"]


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


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time, in seconds of :func:`now`.

    Attributes:
        at: The point in time. Default: infinity, which is no deadline.
    """

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline in ``seconds`` from now; no deadline if None."""
        return cls() if seconds is None else cls(now() + seconds)

    def remaining(self, timeout: float = math.inf) -> float:
        """Return the seconds until the deadline, or ``timeout`` if that is less; 0 or less once it has passed."""
        return min(timeout, self.at - now())


_NO_DEADLINE = Deadline()
_deadline: ContextVar[Deadline] = ContextVar("nanogpt_deadline", default=_NO_DEADLINE)


@contextlib.contextmanager
def deadline_scope(deadline: Deadline) -> Iterator[None]:
    """Bound the waits in this block that take no deadline of their own, such as those of a cache for its file."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left(timeout: float) -> float:
    """Return ``timeout`` in seconds, or the time until the deadline of the enclosing block if that is less."""
    return max(0.0, _deadline.get().remaining(timeout))


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

"""Clock, sleeping and deadlines. Tests can skip all sleeps with :func:`fake_clock`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

_lock = threading.Lock()
_skipped_seconds = 0.0  # never decreases, so that now() does not run backwards after a fake clock
_fake: FakeClock | None = None


class FakeClock:
    """The sleeps that :func:`fake_clock` skipped.

    Attributes:
        seconds: Seconds skipped since the block began, the sum over all threads and tasks.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def advance(self, seconds: float) -> None:
        """Move the clock forward by ``seconds``."""
        global _skipped_seconds  # noqa: PLW0603
        with _lock:
            self.seconds += seconds
            _skipped_seconds += seconds


def now() -> float:
    """Return the time in seconds since a fixed but arbitrary point: the monotonic clock plus all skipped sleeps."""
    return time.monotonic() + _skipped_seconds


@contextlib.contextmanager
def fake_clock() -> Iterator[FakeClock]:
    """Skip all sleeps of this project, in the whole process, until the end of the block.

    A skipped sleep returns at once and moves the clock of this project forward by its length. So retries, rate limits
    and deadlines behave as with real sleeps, but take no time. Time also passes normally in between, and reading from
    the network takes as long as always.

    Yields:
        The clock, which adds up the skipped seconds.

    Example:
        >>> with fake_clock() as skipped:
        ...     sleep(60)
        >>> skipped.seconds
        60.0
    """
    global _fake  # noqa: PLW0603 - there is one clock in a process
    outer = _fake
    _fake = FakeClock()
    try:
        yield _fake
    finally:
        _fake = outer


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time, in seconds of :func:`now`.

    Attributes:
        at: The point in time.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline that is ``seconds`` from now."""
        return cls(now() + seconds)

    def remaining(self, timeout: float = math.inf) -> float:
        """Return the seconds until the deadline, or ``timeout`` if that is less; 0 or less once it has passed."""
        return min(timeout, self.at - now())


_deadline: ContextVar[Deadline | None] = ContextVar("nanogpt_deadline", default=None)


@contextlib.contextmanager
def deadline_scope(deadline: Deadline) -> Iterator[None]:
    """Set the deadline for :func:`seconds_left` in this block, for code that takes no deadline, such as a cache.

    Args:
        deadline: Replaces the deadline of an enclosing block. Other threads and tasks do not see it.
    """
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left(timeout: float) -> float:
    """Return ``timeout`` in seconds, or the time until the deadline of :func:`deadline_scope` if that is less.

    Returns:
        Seconds, at least 0.
    """
    deadline = _deadline.get()
    return timeout if deadline is None else max(0.0, deadline.remaining(timeout))


def sleep(seconds: float, stop: threading.Event | None = None) -> None:
    """Sleep for ``seconds``, or until ``stop`` is set.

    Args:
        seconds: Returns at once if 0 or negative.
        stop: Ends the sleep early.
    """
    if seconds <= 0 or (stop is not None and stop.is_set()):
        return
    fake = _fake
    if fake is not None:
        fake.advance(seconds)
    elif stop is not None:
        stop.wait(seconds)
    else:
        time.sleep(seconds)


async def async_sleep(seconds: float, stop: asyncio.Event | None = None) -> None:
    """Sleep for ``seconds``, or until ``stop`` is set, without blocking the event loop.

    Other tasks run at least once, also if the sleep takes no time.

    Args:
        seconds: See :func:`sleep`.
        stop: Ends the sleep early.
    """
    fake = _fake
    if seconds <= 0 or (stop is not None and stop.is_set()):
        await asyncio.sleep(0)
    elif fake is not None:
        fake.advance(seconds)
        await asyncio.sleep(0)
    elif stop is None:
        await asyncio.sleep(seconds)
    else:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)

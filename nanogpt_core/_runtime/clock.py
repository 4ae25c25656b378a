"""Clock, sleeping, deadlines and cancellation. Tests can skip all sleeps with :func:`fake_clock`.

:func:`attempt_limits` limits the time and the size of one attempt. HTTP clients limit only the time of each read, so a
reply that comes in small parts can take any time; and they unpack a compressed reply of any size. The network backends
and transports of this project keep to the limits of the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from nanogpt_core._runtime.validation import check_not_negative
from nanogpt_core.errors import RequestTimeoutError

_lock = threading.Lock()
_skipped_seconds = 0.0  # never decreases, so that now() does not run backwards after a fake clock
_fakes: tuple[FakeClock, ...] = ()  # of all blocks that go on; they can be nested, or overlap in threads and tasks


class FakeClock:
    """The sleeps that :func:`fake_clock` skipped.

    Attributes:
        seconds: Seconds skipped in the block, the sum over all threads and tasks.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def advance(self, seconds: float) -> None:
        """Move the clock of this project forward by ``seconds``, as a skipped sleep of that length does.

        Raises:
            InvalidTypeError: ``seconds`` is no number.
            ConfigurationError: It is negative or not finite. Time never runs backwards.
        """
        check_not_negative("seconds", seconds)
        _skip(seconds)


def _skip(seconds: float) -> None:
    """Move the time forward, for all fake clocks."""
    global _skipped_seconds  # noqa: PLW0603
    with _lock:
        _skipped_seconds += seconds
        for fake in _fakes:
            fake.seconds += seconds


def now() -> float:
    """Return the time in seconds since a fixed but arbitrary point: the monotonic clock plus all skipped sleeps."""
    return time.monotonic() + _skipped_seconds


@contextlib.contextmanager
def fake_clock() -> Iterator[FakeClock]:
    """Skip all sleeps of this project, in the whole process, until the end of the block.

    A skipped sleep returns at once and moves the clock of this project forward by its length. So retries, rate limits
    and deadlines behave as with real sleeps, but take no time. Time also passes normally in between; reading from the
    network and waiting for a locked cache file take as long as always. Blocks can be nested: a sleep counts in all.

    Yields:
        The clock, which adds up the skipped seconds.

    Example:
        >>> with fake_clock() as clock:
        ...     embedder.embed(texts)  # the service asks for a pause of 20 seconds, which takes no time
        >>> clock.seconds
        20.0
    """
    global _fakes  # noqa: PLW0603 - there is one time in a process
    fake = FakeClock()
    with _lock:
        _fakes = (*_fakes, fake)
    try:
        yield fake
    finally:
        with _lock:
            _fakes = tuple(one for one in _fakes if one is not fake)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time, in seconds of :func:`now`."""

    at: float

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline that is ``seconds`` from now; :data:`NO_DEADLINE` for None."""
        return NO_DEADLINE if seconds is None else cls(now() + seconds)

    def remaining(self, timeout: float = math.inf) -> float:
        """Return the seconds until the deadline, or ``timeout`` if that is less; 0 or less once it has passed."""
        return min(timeout, self.at - now())


NO_DEADLINE = Deadline(math.inf)
"""The deadline of a call that may take any time."""


@dataclass(frozen=True)
class Cancellation:
    """The deadline and the stop signal of one call, shared by its requests.

    Attributes:
        deadline: The time by which the call must end.
        stop: Set if no further attempt must be made, because the call was interrupted or another of its requests
            failed.
    """

    deadline: Deadline = NO_DEADLINE
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def is_late(self) -> bool:
        """True if the deadline has passed."""
        return self.deadline.remaining() <= 0

    def check(self) -> None:
        """Check that the call may continue.

        Raises:
            RequestTimeoutError: The deadline has passed, or ``stop`` is set.
        """
        if self.stop.is_set():
            raise RequestTimeoutError("Cancelled: the call was interrupted, or another of its requests failed.")
        if self.is_late:
            raise RequestTimeoutError(
                "The call's deadline has passed.", remedy="Raise deadline, or embed fewer texts at a time."
            )

    def remaining(self, timeout: float) -> float:
        """Return ``timeout`` in seconds, or the time until the deadline if that is less.

        Raises:
            RequestTimeoutError: As :meth:`check`.
        """
        seconds = self.deadline.remaining(timeout)
        self.check()  # last: time passes, and a lock refuses to wait for less than 0 seconds
        return seconds

    def leaves_time_for(self, delay: float) -> bool:
        """Return whether another attempt in ``delay`` seconds can still end in time."""
        return not self.stop.is_set() and self.deadline.remaining() > delay


class AttemptLimits(NamedTuple):
    """Time and size of one attempt.

    Attributes:
        deadline: The time by which it must end, in seconds of ``time.monotonic``.
        max_bytes: Maximum size of its unpacked reply, in bytes.
    """

    deadline: float = math.inf
    max_bytes: int = 1 << 60


_NO_LIMITS = AttemptLimits()

current_attempt: ContextVar[AttemptLimits] = ContextVar("nanogpt_attempt_limits", default=_NO_LIMITS)
"""The limits of the attempt that this thread or task makes."""


@contextlib.contextmanager
def attempt_limits(timeout: float, max_bytes: int = _NO_LIMITS.max_bytes) -> Iterator[None]:
    """Limit an attempt in this block, the read of a stream, or a use of the cache: to ``timeout`` seconds and a size.

    Other threads and tasks do not see the limits.
    """
    token = current_attempt.set(AttemptLimits(time.monotonic() + timeout, max_bytes))
    try:
        yield
    finally:
        current_attempt.reset(token)


def sleep(seconds: float, stop: threading.Event | None = None) -> None:
    """Sleep for ``seconds``, or until ``stop`` is set; not at all if 0 or negative."""
    if seconds <= 0 or (stop is not None and stop.is_set()):
        return
    if _fakes:
        _skip(seconds)
    elif stop is not None:
        stop.wait(seconds)
    else:
        time.sleep(seconds)


async def async_sleep(seconds: float, stop: asyncio.Event | None = None) -> None:
    """Sleep for ``seconds``, or until ``stop`` is set, without blocking the event loop.

    Other tasks run at least once, even if the sleep takes no time.
    """
    if seconds <= 0 or (stop is not None and stop.is_set()):
        await asyncio.sleep(0)
    elif _fakes:
        _skip(seconds)
        await asyncio.sleep(0)
    elif stop is None:
        await asyncio.sleep(seconds)
    else:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)

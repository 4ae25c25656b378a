"""When the next request may go out: one rate and one pause for all that use the same key at the same address.

The rate begins at what the caller allows. When the service answers 429, it falls to what the service was seen to grant
in the second before, and is tried higher again after a while. A pause that the service asks for holds back everybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import sys
import threading
import weakref
from bisect import bisect, bisect_left, insort
from collections import deque

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core.errors import NanoGPTError, RateLimitError, StatusError
from nanogpt_core.http.endpoint import Endpoint

__all__ = ["DEFAULT_RATE", "RateLimit", "RateLimiter", "limiter_for"]

DEFAULT_RATE = 100.0
"""Requests per second: what the reference page grants an address."""

_LEAST_RATE = 0.5
_WINDOW = 0.99  # seconds; a little less than the second in which a service counts
_LOOK_BACK = 1.1
_MANY = 20
_DISORDER = 0.1  # seconds: requests do not arrive quite in the order in which they began
_MEMORY = 120.0  # seconds: longer than an attempt takes by default
_MARGIN = 0.98  # requests do not arrive in quite the rhythm in which they are sent
_EVENLY = 0.9
_ALIKE = 0.1
_DOUBLE, _SOON = 2.0, 2.0
_LITTLE, _SELDOM = 1.05, 60.0


class RateLimit:
    """What one object allows; the lowest rate_limit that lives is the rate's upper bound.

    Args:
        requests_per_second: The object's own limit.
    """

    def __init__(self, requests_per_second: float) -> None:
        self.requests_per_second = requests_per_second


class RateLimiter(ForkSafe):
    """Hands out start times, at most ``rate`` in any second. Thread-safe; does not wait itself.

    A start time is asked for with :meth:`reserve`, waited for, and confirmed with :meth:`confirm`, because a pause
    may have come up in the meantime.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limits: weakref.WeakSet[RateLimit] = weakref.WeakSet()
        self._starts: list[float] = []  # in order; planned ones, and in their place the real ones
        self._paused_until = -math.inf
        self._taken: deque[float] = deque()
        self._refused: list[float] = []
        self._grant = _Grant()

    def join(self, rate_limit: RateLimit) -> None:
        """Keep to ``rate_limit`` as long as it lives."""
        with self._lock:
            self._limits.add(rate_limit)

    @property
    def rate(self) -> float:
        """Requests per second at present."""
        with self._lock:
            return self._rate()

    def _rate(self) -> float:
        return min([self._grant.rate, *(rate_limit.requests_per_second for rate_limit in self._limits)])

    def reserve(self) -> float:
        """Take the next start time and return it, in seconds of :func:`nanogpt_core._runtime.clock.now`."""
        with self._lock:
            time = clock.now()
            self._learn(time)
            earliest = max(time, self._paused_until)
            free = self._free()
            if free > earliest and self._grant.grows(time):
                free = self._free()
            start = max(earliest, free)
            insort(self._starts, start)
            return start

    def _free(self) -> float:
        # So many in any period of a second or a little more.
        rate = self._rate()
        count = math.ceil(rate) if math.isfinite(rate) else sys.maxsize
        period = count / rate / _MARGIN
        del self._starts[: bisect(self._starts, clock.now() - 2 * max(period, 1))]
        if len(self._starts) < count:
            return -math.inf
        free = self._starts[-count] + period
        if self._starts[-((count + 1) // 2)] + period > clock.now():
            # Under load one by one: many at a time arrive in another rhythm than they were sent in.
            free = max(free, self._starts[-1] + _EVENLY / rate)
        return free

    def confirm(self, planned: float) -> float | None:
        """Return the time at which the caller now starts; None where it may not: take a new start time.

        So it is where a pause has come up, and where many who are late would start at once.

        Args:
            planned: What :meth:`reserve` gave. Whoever starts later than that moves those who follow.
        """
        with self._lock:
            time = clock.now()
            if not self._give_back(planned) or time < self._paused_until or self._crowded(time):
                return None
            insort(self._starts, time)
            self._taken.append(time)
            while self._taken[0] < time - _MEMORY:
                self._taken.popleft()
            return time

    def release(self, planned: float) -> None:
        """Give back a start time that will not be used."""
        with self._lock:
            self._give_back(planned)

    def _give_back(self, planned: float) -> bool:
        place = bisect_left(self._starts, planned)
        if self._starts[place : place + 1] != [planned]:
            return False
        del self._starts[place]
        return True

    def _crowded(self, time: float) -> bool:
        rate = self._rate()
        if not math.isfinite(rate):
            return False
        count = math.ceil(rate)
        return bisect(self._starts, time) - bisect(self._starts, time - count / rate) >= count

    def on_error(self, error: NanoGPTError, seconds: float, began: float | None = None) -> None:
        """Hold everybody back where a failure says that the others would be turned away too.

        Args:
            error: What an attempt failed with.
            seconds: How long that one waits before its next attempt, with its own jitter.
            began: When it began; None where that is not known.
        """
        told = error.retry_after if isinstance(error, StatusError) else None
        pause = seconds if told is None else told
        if isinstance(error, RateLimitError) and began is not None:
            self.on_rate_limited(began, pause)
        elif isinstance(error, RateLimitError) or told is not None:
            self.pause(pause)

    def pause(self, seconds: float) -> None:
        """Let nobody start for ``seconds``."""
        with self._lock:
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        time = clock.now()
        self._paused_until = max(self._paused_until, time + seconds)
        # Start times that were handed out for the pause are void; their holders come again.
        while self._starts and self._starts[-1] > time:
            self._starts.pop()

    def on_rate_limited(self, began: float, seconds: float) -> None:
        """Note that the service found the requests too many when it got the one that began at ``began``.

        Nobody starts for ``seconds``.
        """
        with self._lock:
            with contextlib.suppress(ValueError):
                self._taken.remove(began)
            insort(self._refused, began)
            self._pause(seconds)

    def _learn(self, time: float) -> None:
        if self._refused and time >= self._paused_until:
            # By now, the others that were refused at that time have been taken out.
            since, until = self._refused[0] - _LOOK_BACK, self._paused_until
            begun = [began for began in self._taken if since <= began < until]
            taken = max((bisect(begun, began + _WINDOW) - place for place, began in enumerate(begun)), default=0)
            later = begun[-1] > self._refused[0] + _DISORDER if begun else False
            convincing = len(self._refused) > 1 and taken >= _MANY and not later
            self._grant.fall(taken or self._rate() / 2, time, convincing=convincing)
            self._refused.clear()

    def __repr__(self) -> str:
        pause = max(0.0, self._paused_until - clock.now())
        return f"RateLimiter({self.rate:.3g} requests/s, paused for {pause:.3g} s)"


class _Grant:
    """What the service was seen to grant.

    A refusal may be an odd one, so the rate is doubled again soon. When the next refusal finds the same rate, or the
    first is convincing, that is what is granted, and more is tried seldom and by little.
    """

    def __init__(self) -> None:
        self.rate = math.inf
        self._measured = math.inf
        self._growth, self._calm = _DOUBLE, _SOON
        self._grow_at = math.inf

    def fall(self, measured: float, time: float, *, convincing: bool) -> None:
        """Take over a rate that was measured when the service refused.

        Args:
            measured: Requests taken in the second before.
            time: Now.
            convincing: Whether many were taken before, several refused, and none taken after.
        """
        confirmed = convincing or abs(measured - self._measured) <= _ALIKE * measured
        self._growth, self._calm = (_LITTLE, _SELDOM) if confirmed else (_DOUBLE, _SOON)
        self._measured = measured
        self.rate = max(_LEAST_RATE, min(measured, self.rate))
        self._grow_at = time + self._calm

    def grows(self, time: float) -> bool:
        """Try more, when it has gone well for long enough; return whether that is so."""
        if time < self._grow_at:
            return False
        # The longer it goes well, the bolder.
        self.rate *= self._growth
        self._growth, self._calm = min(_DOUBLE, self._growth**2), max(_SOON, self._calm / 2)
        self._grow_at = time + self._calm
        return True


_salt = secrets.token_bytes(16)
_limiters: weakref.WeakValueDictionary[bytes, RateLimiter] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def limiter_for(endpoint: Endpoint) -> RateLimiter:
    """Return the limiter that this process uses for the endpoint's address and key."""
    key = endpoint.key.get_secret_value() if endpoint.key else ""
    # Under a salt of this process's own, the name says nothing about the key.
    name = hashlib.blake2b(f"{endpoint.base_url}\n{key}".encode(), key=_salt).digest()
    with _lock:
        limiter = _limiters.get(name)
        if limiter is None:
            limiter = _limiters[name] = RateLimiter()
        return limiter


def _start_afresh() -> None:
    # A lock that another thread held at the fork would never be released in the child.
    global _lock, _limiters  # noqa: PLW0603
    _lock = threading.Lock()
    _limiters = weakref.WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)

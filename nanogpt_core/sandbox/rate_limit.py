"""The sandbox's rate limits: per second and per day."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

_SECONDS_PER_DAY = 86_400


class RateWindow:
    """A sliding window: a limit on the requests in any second. For use in one event loop.

    Args:
        requests_per_second: The rate. Below 1, one request is accepted in ``1 / requests_per_second`` seconds.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, requests_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = max(1, int(requests_per_second))
        self._seconds = self._most / requests_per_second
        self._clock = clock
        self._admitted: deque[float] = deque()

    def admit(self) -> int:
        """Count a request and return 0, or return the whole seconds until the next one is accepted."""
        now = self._clock()
        while self._admitted and now - self._admitted[0] >= self._seconds:
            self._admitted.popleft()
        if len(self._admitted) < self._most:
            self._admitted.append(now)
            return 0
        return math.ceil(self._admitted[0] + self._seconds - now)


class DailyLimit:
    """A limit on the requests of a day; it resets at midnight UTC. For use in one event loop.

    Args:
        requests_per_day: Maximum number of requests in a day.
        clock: Returns the time, in seconds since 1970.
    """

    def __init__(self, requests_per_day: int, clock: Callable[[], float] = time.time) -> None:
        self._most = requests_per_day
        self._clock = clock
        self._day = self._admitted = 0

    def admit(self) -> int:
        """Count a request and return 0, or return the whole seconds until midnight UTC."""
        day, seconds = divmod(self._clock(), _SECONDS_PER_DAY)
        if day != self._day:
            self._day, self._admitted = int(day), 0
        if self._admitted < self._most:
            self._admitted += 1
            return 0
        return math.ceil(_SECONDS_PER_DAY - seconds)

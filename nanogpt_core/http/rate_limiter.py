"""Rate limiter: a sliding window log with reservations, at a rate that CUBIC adapts.

**Sliding window log.** Each request reserves a start time and waits for it. With ``n = ceil(rate)`` and
``period = n / (0.98 * rate)``,

    ``start = max(now, end of the pause, starts[-n] + period, starts[-1] + period / n)``

The third term allows n starts in any period. The fourth spaces them evenly. It applies after n / 2 starts in a period;
until the service has refused a request, only after n starts in two periods. So requests after an idle time start at
once.

**CUBIC** (RFC 9438), the congestion control of TCP, also used by the AWS SDKs in their adaptive retry mode. When the
service refuses requests (429) at a rate of ``peak``, and requests then had to wait for their start time for t seconds,

    ``rate(t) = peak + C * (t - K) ** 3``    with ``K = (peak * (1 - 0.95) / C) ** (1 / 3)``

The rate falls by 5 %, returns to the peak after K seconds, stays near it, and then grows faster and faster. All
refusals of requests that started before the first of them was known are one congestion event. After a large overshoot
the peak is the number of requests that the service accepted in a second. Each event near the last peak (at first, the
default rate) makes C smaller, since a rate that is known needs few tests. Processes that use the same key share its
rate without any other communication: each takes the room that another's decrease leaves. Measurements:
``docs/adr/0010-rate-limiter.md``.

:class:`ProcessLimits` joins the limiter with a budget.
"""

from __future__ import annotations

import math
import weakref
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass, replace

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.fork import ForkSafe, Registry
from nanogpt_core._runtime.log import describe, logger
from nanogpt_core.errors import BudgetExceededError, NanoGPTError, RateLimitError, StatusError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.limits import Admission, Budget, Cost, Outcome, Saving

DEFAULT_RATE = 25.0
"""Requests per second at the start if no limit is set. Source: the service's documentation, since March 2025."""

MAX_DEFAULT_RATE = 100.0
"""Highest rate in requests per second if no limit is set. Source: the service's older API reference."""

_MIN_RATE = 0.2  # requests per second
_USED_SHARE = 0.98  # of the rate: requests arrive with jitter
_DECREASE_FACTOR = 0.95
# C in requests per second, per second cubed. At a peak of 20 requests/s, K is 12, 47 and then 58 s.
_MAX_GROWTH, _MIN_GROWTH = 0.04, 5e-6
_GROWTH_DIVISOR = 64
_NEAR_PEAK_FACTOR = 1.5
_WINDOW_SECONDS = 0.99  # a little less than the second in which the service counts
_LOOK_BACK_SECONDS = 1.1  # before the first refusal
_RESOLUTION_SECONDS = 0.02  # of a coarse clock, by which callers wake early: 15.6 ms on Windows until Python 3.12
_HISTORY_SECONDS = 10.0  # a refusal that arrives later halves the rate


@dataclass(slots=True)
class _CongestionEvent:
    known_at: float  # when the first refusal was known
    first_start: float  # start of the first request that was refused
    rate: float  # before the event, as are peak and growth
    peak: float | None
    growth: float
    refusals: int = 0


class RateLimiter(ForkSafe):
    """Reserves start times at an adapted rate. Thread-safe; never waits itself. A forked process begins anew.

    ``now`` returns the time in seconds, by default that of :func:`nanogpt_core._runtime.clock.now`.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        super().__init__()
        self._now = now or clock.now
        self._caps: weakref.WeakSet[RateCap] = weakref.WeakSet()
        # Programs freeze the clock in tests. One that has not moved since the last reservation, although a caller has
        # waited for its start time, stands still: the limiter's own time then goes ahead to that. A program that ends
        # the frozen time may set the clock back: the limiter's own time goes on.
        self._read_at, self._ahead = math.nan, 0.0
        self._in_child()

    def _in_child(self) -> None:
        self._starts: list[float] = []  # sorted; reserved and real ones, without those that were refused
        self._paused_until = self._busy_until = -math.inf
        self._peak: float | None = None  # None until the first refusal
        self._growth, self._busy_seconds = _MAX_GROWTH, 0.0
        self._event = _CongestionEvent(-math.inf, -math.inf, 0.0, None, _MAX_GROWTH)

    def _time(self) -> float:
        now = self._now()
        if now < self._read_at:
            self._ahead += self._read_at - now
            self._read_at = now
        return now + self._ahead

    def join(self, cap: RateCap) -> None:
        """Keep to ``cap`` as long as it lives."""
        with self._lock:
            self._caps.add(cap)

    @property
    def rate(self) -> float:
        """Requests per second at present."""
        with self._lock:
            return self._rate()

    def _rate(self, at: float = math.inf) -> float:
        caps = [cap.requests_per_second for cap in self._caps if cap.requests_per_second is not None]
        most = min(caps, default=MAX_DEFAULT_RATE)
        if self._peak is None and caps:
            return most
        # Without a refusal, the default is a peak that has just been reached.
        peak = self._peak or DEFAULT_RATE
        plateau = 0.0 if self._peak is None else (peak * (1 - _DECREASE_FACTOR) / self._growth) ** (1 / 3)
        busy = self._busy_seconds - max(0.0, self._busy_until - at)
        return min(max(peak + self._growth * (busy - plateau) ** 3, _MIN_RATE), most)

    def reserve(self, *, gathers: bool = False) -> tuple[float, float]:
        """Reserve the next start time; return it, and the seconds until then.

        A request that ``gathers`` takes more texts along if it waits longer. Its wait does not raise the rate over the
        peak, or over :data:`DEFAULT_RATE`, since a refusal would pause all requests. And after n / 2 starts in a
        period, those that are left are spread over it: otherwise, calls that come after the last of them would wait for
        up to a second.
        """
        with self._lock:
            time, rate = self._time(), self._rate()
            self._read_at = self._now()
            earliest = max(time, self._paused_until)
            may_burst = not gathers and self._peak is None
            start = max(earliest, self._next_start(time, rate, may_burst=may_burst, gathers=gathers))
            if not gathers or rate < max(self._peak or 0.0, DEFAULT_RATE):
                self._busy_seconds += max(0.0, start - max(earliest, self._busy_until))
                self._busy_until = max(self._busy_until, start)
            insort(self._starts, start)
            return start, start - time

    def _next_start(self, time: float, rate: float, *, may_burst: bool, gathers: bool = False) -> float:
        count = math.ceil(rate)
        period = count / rate / _USED_SHARE
        starts, half = self._starts, (count + 1) // 2
        del starts[: bisect_left(starts, time - max(2 * period, _HISTORY_SECONDS))]
        start = starts[-count] + period if len(starts) >= count else -math.inf
        is_burst = may_burst and (len(starts) < count or starts[-count] + 2 * period <= time)
        if not is_burst and len(starts) >= half and starts[-half] + period > time:
            spacing = period / count
            if gathers:
                used = len(starts) - bisect_right(starts, starts[-1] - period)
                spacing = max(spacing, (starts[-used] + period - starts[-1]) / max(1, count - used + 1))
            start = max(start, starts[-1] + spacing)
        return start

    def confirm(self, start: float) -> float | None:
        """Start now; return the real start time, or None if the caller must reserve again.

        It must if a pause has begun, or if too many requests are late and would start at the same time.
        """
        with self._lock:
            time, rate = self._time(), self._rate()
            if not self.release(start):
                return None
            is_early = start > time + _RESOLUTION_SECONDS or time < min(start, self._paused_until)
            if is_early and self._now() == self._read_at:
                self._ahead += start - time
                time = start
            return None if time < self._paused_until else self._start(time, rate)

    def _start(self, time: float, rate: float) -> float | None:
        count = math.ceil(rate)
        if bisect_right(self._starts, time) - bisect_right(self._starts, time - count / rate) >= count:
            return None
        insort(self._starts, time)
        return time

    def start_now(self) -> float | None:
        """Start now, as :meth:`reserve` and :meth:`confirm` together; None if the request would have to wait."""
        with self._lock:
            time, rate = self._time(), self._rate()
            if max(self._paused_until, self._next_start(time, rate, may_burst=False)) > time:
                return None
            return self._start(time, rate)

    def release(self, start: float) -> bool:
        """Give back a start time that will not be used; return whether it was reserved."""
        with self._lock:
            index = bisect_left(self._starts, start)
            found = self._starts[index : index + 1] == [start]
            if found:
                del self._starts[index]
            return found

    def on_error(self, error: NanoGPTError, delay: float, start: float | None = None) -> None:
        """Lower the rate after a refusal (429), and pause all requests after that or a ``Retry-After``.

        See :meth:`SharedLimits.on_error`. Without ``start``, the real start time of the attempt, the rate stays.
        """
        retry_after = error.retry_after if isinstance(error, StatusError) else None
        if not isinstance(error, RateLimitError) and retry_after is None:
            return
        with self._lock:
            time, paused = self._time(), self._paused_until
            if isinstance(error, RateLimitError) and start is not None:
                self._decrease(start, time)
            self._paused_until = max(paused, time + (delay if retry_after is None else retry_after))
            del self._starts[bisect_right(self._starts, time) :]  # void: confirm() makes the callers reserve again
            pause, rate = self._paused_until - time, self._rate()
        if paused <= time:
            logger.info("Pausing all requests for %.1f s after %s; rate: %.3g/s", pause, describe(error), rate)

    def _decrease(self, start: float, time: float) -> None:
        self.release(start)
        if start > self._event.known_at:
            self._event = _CongestionEvent(time, start, self._rate(start), self._peak, self._growth)
        event = self._event
        event.refusals += 1
        event.first_start = min(event.first_start, start)
        begin = bisect_left(self._starts, event.first_start - _LOOK_BACK_SECONDS)
        starts = self._starts[begin : bisect_right(self._starts, event.known_at)]
        accepted = max((bisect_right(starts, at + _WINDOW_SECONDS) - n for n, at in enumerate(starts)), default=0)
        lowest_peak = event.rate / 2  # one event halves the rate at most, unless many requests were sent
        if accepted + event.refusals >= lowest_peak:
            lowest_peak = min(lowest_peak, 1.0)
        self._peak = max(lowest_peak, _MIN_RATE, min(event.rate, accepted))
        near = 1 / _NEAR_PEAK_FACTOR < self._peak / (event.peak or DEFAULT_RATE) < _NEAR_PEAK_FACTOR
        self._growth = max(event.growth / _GROWTH_DIVISOR, _MIN_GROWTH) if near else _MAX_GROWTH
        self._busy_seconds, self._busy_until = 0.0, -math.inf

    def __repr__(self) -> str:
        with self._lock:
            pause = max(0.0, self._paused_until - self._time())
        return f"RateLimiter({self.rate:.3g} requests/s, paused for {pause:.3g} s)"


class ProcessLimits:
    """Limits of one process: the rate limiter that its objects share, and the budget of one object."""

    may_block = False

    def __init__(self, limiter: Callable[[], RateLimiter], budget: Budget | None = None) -> None:
        self._limiter = limiter
        self.budget = budget
        self.budget_usd = None if budget is None else budget.limit_usd

    def admit_now(self, cost: Cost) -> Admission | None:
        """Reserve ``cost`` and confirm a start time; None, with nothing reserved, if the request has to wait.

        Raises:
            BudgetExceededError: ``cost`` would exceed the budget. Nothing is reserved.
        """
        limiter = self._limiter()
        start = limiter.start_now()
        if start is None:
            return None
        try:
            if self.budget is not None:
                self.budget.reserve(cost)
        except BudgetExceededError:
            limiter.release(start)
            raise
        return Admission("", start, 0.0, ready=True, cost=cost)

    def check(self, cost: Cost) -> None:
        """See :meth:`SharedLimits.check`."""
        if self.budget is not None:
            self.budget.check(cost)

    def reserve(self, cost: Cost) -> Admission:
        """See :meth:`SharedLimits.reserve`."""
        if self.budget is not None and cost.usd is not None:
            self.budget.reserve(cost)
        start, delay = self._limiter().reserve(gathers=cost.gathers)
        return Admission("", start, delay, ready=False, cost=cost)

    def confirm(self, admission: Admission) -> Admission:
        """See :meth:`SharedLimits.confirm`."""
        limiter = self._limiter()
        start = limiter.confirm(admission.start)
        if start is not None:
            return replace(admission, start=start, delay=0.0, ready=True)
        start, delay = limiter.reserve(gathers=admission.cost.gathers)
        return replace(admission, start=start, delay=delay)

    def release(self, admission: Admission) -> None:
        """See :meth:`SharedLimits.release`."""
        self._limiter().release(admission.start)
        self.settle(admission, Outcome(0.0))

    def settle(self, admission: Admission, outcome: Outcome) -> None:
        """See :meth:`SharedLimits.settle`."""
        if self.budget is not None and admission.cost.usd is not None:
            self.budget.settle(admission.cost, outcome.usd)

    def on_error(self, error: NanoGPTError, delay: float, admission: Admission | None = None) -> None:
        """See :meth:`SharedLimits.on_error`."""
        self._limiter().on_error(error, delay, None if admission is None else admission.start)

    def add_saving(self, saving: Saving) -> None:
        """See :meth:`SharedLimits.add_saving`; ``Usage`` counts what one object saves."""


class RateCap:
    """The highest rate that one object allows the limiter that it shares. The lowest cap of all open objects applies.

    If ``requests_per_second`` is None, it sets no cap. If no object sets one, the rate begins at :data:`DEFAULT_RATE`
    and follows the service.
    """

    def __init__(self, endpoint: Endpoint, requests_per_second: float | None) -> None:
        self.requests_per_second = requests_per_second
        self._name = endpoint.digest
        self._limiter: RateLimiter | None = None

    def lift(self) -> None:
        """Set no cap any more, since the object was closed."""
        self.requests_per_second = None

    def limiter(self) -> RateLimiter:
        """Return the limiter; from the first use on, it keeps to this cap."""
        if self._limiter is None:
            limiter = _limiters.get(self._name, RateLimiter)
            limiter.join(self)
            self._limiter = limiter  # only now: no other thread may use it without the cap
        return self._limiter


_limiters = Registry[RateLimiter]()

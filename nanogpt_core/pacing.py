"""When the next request may go out: one rate and one pause for all that use the same key at the same address.

The rate begins at what the caller allows. When the service answers 429, it falls to what the service was seen to grant,
and is tried a little higher again every half minute. A pause that the service asks for holds back everybody.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import threading
import weakref
from collections import deque

from nanogpt_core import waiting
from nanogpt_core.connection import Connection

__all__ = ["DEFAULT_RATE", "Claim", "Pacer", "pacer_for"]

DEFAULT_RATE = 100.0
"""Requests per second: what the reference page grants an address."""

_LEAST_RATE = 0.5
_WINDOW = 1.0
_PROBE_AFTER = 30.0
_PROBE_GROWTH = 1.1


class Claim:
    """What one object allows; the lowest claim that lives is the rate's upper bound.

    Args:
        requests_per_second: The object's own limit.
    """

    def __init__(self, requests_per_second: float) -> None:
        self.requests_per_second = requests_per_second


class Pacer:
    """Hands out start times, at most ``rate`` in any second. Thread-safe; does not wait itself.

    A start time is asked for with :meth:`reserve`, waited for, and confirmed with :meth:`may_start`, because a pause
    may have come up in the meantime.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: weakref.WeakSet[Claim] = weakref.WeakSet()
        self._granted = math.inf
        self._starts: deque[float] = deque()
        self._paused_until = -math.inf
        self._accepted: deque[float] = deque()
        self._refused_at: float | None = None
        self._settled_at = 0.0

    def join(self, claim: Claim) -> None:
        """Keep to ``claim`` as long as it lives."""
        with self._lock:
            self._claims.add(claim)

    @property
    def rate(self) -> float:
        """Requests per second at present."""
        with self._lock:
            return self._rate()

    def _rate(self) -> float:
        return min([self._granted, *(claim.requests_per_second for claim in self._claims)])

    def reserve(self) -> float:
        """Take the next start time and return it, in seconds of :func:`nanogpt_core.waiting.now`."""
        with self._lock:
            time = waiting.now()
            self._learn(time)
            rate = self._rate()
            earliest = max(time, self._paused_until)
            if math.isfinite(rate):
                # So many in any period of such a length: a whole number in a second, or one in more than a second.
                count = max(1, math.floor(rate))
                while len(self._starts) > count:
                    self._starts.popleft()
                if len(self._starts) == count:
                    earliest = max(earliest, self._starts[0] + count / rate)
            self._starts.append(earliest)
            return earliest

    def may_start(self) -> bool:
        """Whether no pause has come up; else a new start time has to be taken."""
        with self._lock:
            return waiting.now() >= self._paused_until

    def pause(self, seconds: float) -> None:
        """Let nobody start for ``seconds``."""
        with self._lock:
            time = waiting.now()
            self._paused_until = max(self._paused_until, time + seconds)
            # Start times that were handed out for the pause are void; their holders come again.
            while self._starts and self._starts[-1] > time:
                self._starts.pop()

    def accepted(self) -> None:
        """Note that the service took a request."""
        with self._lock:
            time = waiting.now()
            self._accepted.append(time)
            while self._accepted[0] < time - 2 * _WINDOW:
                self._accepted.popleft()

    def refused(self) -> None:
        """Note that the service found the requests too many. What it grants is reckoned when the next one starts."""
        with self._lock:
            if self._refused_at is None:
                self._refused_at = waiting.now()

    def _learn(self, time: float) -> None:
        if self._refused_at is not None and time >= self._paused_until:
            # Answers to what was already under way have come by now: so many did the service take in that second.
            since = self._refused_at - _WINDOW
            taken = sum(since <= moment for moment in self._accepted) / max(_WINDOW, time - self._refused_at)
            self._granted = max(_LEAST_RATE, min(taken or self._rate() / 2, self._rate()))
            self._refused_at, self._settled_at = None, time
            self._starts.clear()
        elif math.isfinite(self._granted) and time - self._settled_at >= _PROBE_AFTER:
            self._granted, self._settled_at = self._granted * _PROBE_GROWTH, time

    def __repr__(self) -> str:
        pause = max(0.0, self._paused_until - waiting.now())
        return f"Pacer({self.rate:.3g} requests/s, paused for {pause:.3g} s)"


_salt = secrets.token_bytes(16)
_pacers: weakref.WeakValueDictionary[bytes, Pacer] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def pacer_for(connection: Connection) -> Pacer:
    """Return the pacer that this process uses for the connection's address and key."""
    key = connection.key.get_secret_value() if connection.key else ""
    # Under a salt of this process's own, the name says nothing about the key.
    name = hashlib.blake2b(f"{connection.base_url}\n{key}".encode(), key=_salt).digest()
    with _lock:
        pacer = _pacers.get(name)
        if pacer is None:
            pacer = _pacers[name] = Pacer()
        return pacer


def _start_afresh() -> None:
    # A lock that another thread held at the fork would never be released in the child.
    global _lock, _pacers  # noqa: PLW0603
    _lock = threading.Lock()
    _pacers = weakref.WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)

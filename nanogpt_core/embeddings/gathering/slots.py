"""The slots of a gatherer: how many of its requests are in flight, and if another may start. No I/O, no lock."""

from __future__ import annotations

import time
from collections import deque

from nanogpt_core.embeddings.gathering.waiting_call import Lane, Sender

SLOT_SECONDS = 0.25
"""Seconds after which a request in flight no longer occupies a slot, and a waiting call looks for one itself.

Slots bound the work of this process. A service that is slow, or does not answer, must not hold up other calls.
"""

# Slots grow with the time of a request, up to the maximum at 15 ms: docs/adr/0060-gathered-batches.md.
_MIN_SLOTS = 2
_SECONDS_FOR_A_SLOT = 0.0025
_DURATIONS_KEPT = 16


class Slots:
    """Requests in flight, at most ``most`` in threads and on each event loop, and the slots that they occupy."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._starts: dict[Lane, dict[Sender, float]] = {}  # of the requests in flight, the oldest first
        self._durations: deque[float] = deque(maxlen=_DURATIONS_KEPT)  # seconds, of the last requests
        self._fastest = SLOT_SECONDS  # of them

    def __contains__(self, sender: Sender) -> bool:
        return sender in self._starts.get(sender.lane, ())

    def has_free(self, lane: Lane) -> bool:
        """Return whether another request may start in ``lane``."""
        starts = self._starts.get(lane)
        if starts is None:
            return True
        # A service that answers at once is not waited for: more requests would only be more work for this process.
        slots = min(self._most, _MIN_SLOTS + int(self._fastest / _SECONDS_FOR_A_SLOT))
        if len(starts) < slots:
            return True
        latest = time.monotonic() - SLOT_SECONDS
        slow = next((number for number, start in enumerate(starts.values()) if start > latest), len(starts))
        return len(starts) - slow < slots

    def occupy(self, sender: Sender) -> None:
        """Count a request of ``sender`` that starts now."""
        self._starts.setdefault(sender.lane, {})[sender] = time.monotonic()

    def free(self, sender: Sender) -> None:
        """Forget the request of ``sender``, if it has one in flight."""
        starts = self._starts.get(sender.lane, {})
        start = starts.pop(sender, None)
        if start is not None:
            self._durations.append(time.monotonic() - start)
            self._fastest = min(self._durations)
            if not starts:
                del self._starts[sender.lane]  # it would keep the event loop alive

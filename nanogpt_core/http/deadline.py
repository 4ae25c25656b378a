"""Time and size limits of one attempt.

An HTTP client's own time limit is one for each read, which a reply that trickles in never reaches; and it unpacks a
compressed reply however large that grows. Both limits are set for a block with :func:`attempt_limits`. The network
backends and transports of this package keep to them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar

_UNLIMITED_BYTES = 1 << 60

# The deadline, in seconds of time.monotonic(), and the most bytes of a reply, unpacked.
_current: ContextVar[tuple[float, int] | None] = ContextVar("nanogpt_attempt_limits", default=None)


@contextlib.contextmanager
def attempt_limits(timeout: float, max_bytes: int) -> Iterator[None]:
    """Limit the attempt, or the read of a stream, in this block to ``timeout`` seconds and a reply to ``max_bytes``."""
    token = _current.set((time.monotonic() + timeout, max_bytes))
    try:
        yield
    finally:
        _current.reset(token)


def remaining(timeout: float | None) -> float | None:
    """Return ``timeout`` in seconds, or the time left of the attempt if that is less: 0 or less after its deadline."""
    limits = _current.get()
    if limits is None:
        return timeout
    seconds = limits[0] - time.monotonic()
    return seconds if timeout is None else min(timeout, seconds)


def max_reply_bytes() -> int:
    """Return the maximum size of a reply to the attempt, unpacked."""
    limits = _current.get()
    return _UNLIMITED_BYTES if limits is None else limits[1]

"""The lives of an object, of a call and of an attempt: until each is closed, cancelled, or out of time.

An HTTP client's own time limit is one for each read, which a reply that trickles in never reaches; and it unpacks a
compressed reply however large that grows. So time and size of an attempt are limited for a block with
:func:`attempt_limits`. The network backends and transports of this package keep to them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nanogpt_core._runtime.clock import Deadline
from nanogpt_core.errors import ConfigurationError, RequestTimeoutError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


# --- objects ---


class Lifetime:
    """The state of one object: open or closed.

    Connections are shared. They stay open as long as an object that has used them is open.

    Attributes:
        is_closed: Whether the object was closed.
    """

    def __init__(self) -> None:
        self.is_closed = False

    def check_open(self) -> None:
        """Check that the object is open.

        Raises:
            ConfigurationError: It was closed.
        """
        if self.is_closed:
            raise ConfigurationError(
                "This object was closed, by close() or at the end of a with block.",
                remedy="Make a new one, or close it after the last call.",
            )


class Closeable:
    """A base class of objects with :meth:`close` and :meth:`aclose`: they work in ``with`` and ``async with``."""

    def close(self) -> None:
        """Close the object."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the object, without blocking the event loop."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


# --- calls ---


@dataclass(frozen=True)
class Cancellation:
    """The deadline and the stop signal of one call, shared by its requests.

    Attributes:
        deadline: The time by which the call must end. Default: none.
        stop: Set if no further attempt must be made, because the call was interrupted or another of its requests
            failed.
    """

    deadline: Deadline | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Check that the call may continue.

        Raises:
            RequestTimeoutError: The deadline has passed, or ``stop`` is set.
        """
        if self.stop.is_set():
            raise RequestTimeoutError("Cancelled: the call was interrupted, or another of its requests failed.")
        if self.deadline is not None and self.deadline.remaining() <= 0:
            raise RequestTimeoutError(
                "The call's deadline has passed.", remedy="Raise deadline, or embed fewer texts at a time."
            )

    def remaining(self, timeout: float) -> float:
        """Return ``timeout`` in seconds, or the time until the deadline if that is less.

        Raises:
            RequestTimeoutError: See :meth:`check`.
        """
        self.check()
        return timeout if self.deadline is None else self.deadline.remaining(timeout)

    def leaves_time_for(self, delay: float) -> bool:
        """Return whether another attempt in ``delay`` seconds can still end in time."""
        return not self.stop.is_set() and (self.deadline is None or self.deadline.remaining() > delay)


# --- attempts ---

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

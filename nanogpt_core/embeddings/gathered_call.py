"""A call that waits for its texts, and those that send them: the parts that a gatherer holds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

from nanogpt_core.embeddings.planning import Batch
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.limits import Budget
from nanogpt_core.http.retry import CallLimits
from nanogpt_core.observability.observer import CallObserver

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Call", "Carrier", "Item", "Lane", "Starter", "running_loop"]

Lane = asyncio.AbstractEventLoop | None
"""The event loop of a call or carrier; None for threads."""


class Carrier(Protocol):
    """Sends gathered batches, in a thread or in a task of one event loop."""

    lane: Lane
    is_cancelled: bool

    def start(self) -> None:
        """Begin. Calls :meth:`Gatherer.end` if that is impossible."""

    def cancel(self) -> None:
        """Stop, since no call waits for its batch any more."""


class Starter(Protocol):
    """Makes carriers. Each call brings one along."""

    def make_carrier(self, lane: Lane) -> Carrier:
        """Return a carrier that has not started."""


class Item:
    """A text under way, for one or more calls."""

    __slots__ = ("calls", "carrier", "lane", "text", "weight")

    def __init__(self, text: str, weight: int, lane: Lane) -> None:
        self.text = text
        self.weight = weight
        self.lane = lane
        self.calls: dict[Call, int] = {}  # with the position of the text in the call's batch
        self.carrier: Carrier | Call | None = None  # None in the queue


class Call:
    """One call, as long as it waits for its texts.

    Attributes:
        batch: Its texts.
        limits: Its deadline and stop signal.
        observer: Reports its requests.
        budget: Its budget, or None.
        lane: The event loop that it runs on, or None.
        starter: Makes carriers.
        items: The texts under way.
        vectors: For each text its vector, ``(d,)`` float32, or None.
        model: The model that the last reply named.
        error: The error that ends the call, or None.
        done: True if nothing is left to wait for.
    """

    def __init__(
        self,
        batch: Batch,
        limits: CallLimits,
        *,
        observer: CallObserver,
        budget: Budget | None,
        lane: Lane,
        starter: Starter,
    ) -> None:
        self.batch, self.limits = batch, limits
        self.observer, self.budget, self.lane, self.starter = observer, budget, lane, starter
        self.items: list[Item] = []
        self.vectors: list[NDArray[np.float32] | None] = [None] * len(batch.texts)
        self.model: str | None = None
        self.error: NanoGPTError | None = None
        self.done = False
        self._event: threading.Event | asyncio.Future[None] | None = None

    @property
    def is_late(self) -> bool:
        """True if its deadline has passed: it is about to end."""
        return self.limits.deadline is not None and self.limits.deadline.remaining() <= 0

    def finish(self) -> None:
        """Wake the caller."""
        self.done = True
        event = self._event
        if isinstance(event, threading.Event):
            event.set()
        elif event is not None:
            _resolve_in_its_loop(event)

    def wait(self, seconds: float) -> None:
        """Wait in a thread until the call is done, at most ``seconds``."""
        self._event = event = threading.Event()
        if not self.done:  # else it was done before the event was there
            event.wait(seconds)

    async def wait_async(self, seconds: float) -> None:
        """Wait on the event loop until the call is done, at most ``seconds``."""
        loop = asyncio.get_running_loop()
        self._event = event = loop.create_future()
        if self.done:
            return
        timer = loop.call_later(seconds, _resolve, event)
        try:
            await event
        finally:
            timer.cancel()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _resolve_in_its_loop(future: asyncio.Future[None]) -> None:
    loop = future.get_loop()
    if loop is running_loop():
        _resolve(future)
        return
    with contextlib.suppress(RuntimeError):  # the loop is closed, and the call with it
        loop.call_soon_threadsafe(_resolve, future)


def running_loop() -> Lane:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

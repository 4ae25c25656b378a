"""The parts that a gatherer holds: calls that wait, their texts under way, and the interface of carriers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Protocol

from nanogpt_core._runtime.clock import Cancellation
from nanogpt_core.embeddings.planning import Batch
from nanogpt_core.http.limits import Budget
from nanogpt_core.observability.observer import CallObserver

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Lane = asyncio.AbstractEventLoop | None
"""The event loop of a call or carrier; None for threads."""


class Carrier(Protocol):
    """Sends gathered batches, in a thread or in a task of one event loop.

    Attributes:
        lane: The event loop, or None for a thread.
        items: The texts that it carries.
        is_cancelled: True if it stops.
    """

    lane: Lane
    items: list[Item]
    is_cancelled: bool

    def start(self) -> None:
        """Begin. Calls :meth:`Gatherer.remove_carrier` if that is impossible."""

    def cancel(self) -> None:
        """Stop, since no call waits for its batch any more."""


@dataclass(eq=False, repr=False, slots=True)
class Item:
    """A text under way, for one or more calls.

    Attributes:
        text: The text.
        tokens: Its tokens, for the size of a batch.
        lane: The event loop of its calls or of its sender, or None.
        calls: The calls that wait for it, each with the text's position in its batch.
        sender: The sender that has it; None in the queue.
    """

    text: str
    tokens: int
    lane: Lane
    calls: dict[WaitingCall, int] = field(default_factory=dict)
    sender: Sender | None = None


@dataclass(eq=False, repr=False)
class WaitingCall:
    """One call, as long as it waits for its texts.

    Attributes:
        batch: Its texts.
        cancellation: Its deadline and stop signal.
        observer: Reports its requests.
        budget: Its budget, or None.
        lane: The event loop that it runs on, or None.
        make_carrier: Returns a carrier for a lane, which has not started.
        items: The texts under way.
        vectors: The vectors that have come, ``(d,)`` float32 each, by position of their text.
        model: The model that the last reply named.
        error: The error that ends the call, or None. It may also be an exception of its hook.
        done: True if nothing is left to wait for.
    """

    batch: Batch
    cancellation: Cancellation
    _: KW_ONLY
    observer: CallObserver
    budget: Budget | None
    lane: Lane
    make_carrier: Callable[[Lane], Carrier]
    items: list[Item] = field(default_factory=list)
    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    model: str | None = None
    error: BaseException | None = None
    done: bool = False
    # A caller in a thread waits for the lock: an Event takes three times as long to make and to wait for.
    _wakes: threading.Lock | asyncio.Future[None] | None = None

    def finish(self) -> None:
        """Wake the caller. The gatherer calls it under its lock."""
        self.done = True
        wakes, self._wakes = self._wakes, None
        if isinstance(wakes, asyncio.Future):
            _resolve_in_its_loop(wakes)
        elif wakes is not None:
            wakes.release()

    def wait(self, seconds: float) -> None:
        """Wait in a thread until the call is done, at most ``seconds``."""
        lock = threading.Lock()
        lock.acquire()
        self._wakes = lock
        if not self.done:  # else it was done before the lock was there
            lock.acquire(timeout=seconds)

    async def wait_async(self, seconds: float) -> None:
        """Wait on the event loop until the call is done, at most ``seconds``."""
        loop = asyncio.get_running_loop()
        self._wakes = woken = loop.create_future()
        if self.done:
            return
        timer = loop.call_later(seconds, _resolve, woken)
        try:
            await woken
        finally:
            timer.cancel()


Sender = Carrier | WaitingCall
"""A carrier, or a call by itself: sends the texts of a request."""


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

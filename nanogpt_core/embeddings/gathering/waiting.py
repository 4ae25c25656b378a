"""The parts that a gatherer holds: calls that wait, the queue of their texts, and the interface of carriers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
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
    """Sends gathered batches, in a thread or in a task of one event loop: the part of a carrier that a gatherer uses.

    Attributes:
        lane: The event loop, or None for a thread.
        items: The texts that it carries.
        has_started: True once :meth:`start` was called.
        is_cancelled: True if it stops.
    """

    lane: Lane
    items: list[Item]
    has_started: bool
    is_cancelled: bool

    def start(self) -> None:
        """Begin. Calls :meth:`Gatherer.remove_carrier` if that is impossible."""

    def cancel(self) -> None:
        """Stop, since no call waits for its batch any more."""


@dataclass(eq=False, repr=False, slots=True)
class Item:
    """A text under way, for one or more calls.

    Attributes:
        lane: The event loop of its calls or of its sender, or None.
        calls: The calls that wait for it, each with the text's index in its batch.
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
        lane: The event loop that it runs on, or None.
        make_carrier: Returns a carrier for a lane, which has not started.
        items: The texts under way.
        vectors: The vectors that have come, ``(d,)`` float32 each, by index of their text in the batch.
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


class TextQueue:
    """Texts that wait, in order, without a lock.

    Attributes:
        items: The texts, to be read only.
        lanes: The number of texts of each lane, at least 1.
    """

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.lanes: Counter[Lane] = Counter()

    def add(self, items: Iterable[Item], *, front: bool = False) -> None:
        """Add texts that no sender has, at the end or at the front."""
        if not self.items:
            self.lanes.clear()  # a signal handler may have raised before a text was counted out
        items = list(items)
        for item in items:
            item.sender = None
        if front:
            self.items.extendleft(reversed(items))
        else:
            self.items.extend(items)
        self.lanes.update(item.lane for item in items)

    def discard(self, item: Item) -> None:
        """Remove a text, if it is in the queue."""
        if item in self.items:
            self.items.remove(item)
            self._count_out(item)

    def move_to_threads(self, item: Item) -> None:
        """Let a thread carry a text of the queue."""
        self._count_out(item)
        item.lane = None
        self.lanes[None] += 1

    def take(self, lane: Lane, *, from_all_lanes: bool, max_items: int, max_tokens: float = math.inf) -> list[Item]:
        """Remove and return the first texts of a lane, or of all, up to ``max_items`` and ``max_tokens``.

        A text with more tokens is returned by itself.
        """
        taken: list[Item] = []
        passed_over: list[Item] = []
        tokens = 0
        while self.items:
            item = self.items[0]
            if not from_all_lanes and item.lane is not lane:
                passed_over.append(self.items.popleft())
                continue
            tokens += item.tokens
            if taken and (len(taken) >= max_items or tokens > max_tokens):
                break
            taken.append(self.items.popleft())
        self.items.extendleft(reversed(passed_over))
        for item in taken:
            self._count_out(item)
        return taken

    def _count_out(self, item: Item) -> None:
        self.lanes[item.lane] -= 1
        if self.lanes[item.lane] <= 0:
            del self.lanes[item.lane]


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

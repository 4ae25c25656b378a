"""Gatherer: texts that wait for a request, of all calls in this process that could share one. No I/O.

A call goes at once, by itself, if a slot and a turn of the rate limiter are free. Otherwise its texts join a queue. A
*carrier*, a thread or a task, waits for the next slot and turn, takes the texts from the front of the queue up to the
model's limits, and sends them as one batch. With limits that several processes share, it takes the texts first, since
such limits reserve their cost together with the turn. All changes of state happen here, under one lock:
docs/adr/0060-gathered-batches.md.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core.embeddings.gathered_call import Carrier, Item, Lane, WaitingCall
from nanogpt_core.errors import BudgetExceededError, NanoGPTError, TextTooLongError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SLOT_SECONDS", "Gatherer", "gatherer_for"]

SLOT_SECONDS = 0.25
"""Seconds after which a request in flight no longer occupies a slot, and a waiting call looks for one itself.

Slots bound the work of this process. A service that is slow, or does not answer, must not hold up other calls.
"""

# Slots grow with the time of a request, up to the maximum at 15 ms: docs/adr/0060-gathered-batches.md.
_MIN_SLOTS = 2
_SECONDS_FOR_A_SLOT = 0.0025
_DURATIONS_KEPT = 16


class Gatherer(ForkSafe):
    """The texts that wait, and those in flight. Thread-safe; a forked child starts with none.

    Args:
        max_items: Maximum number of texts in a batch.
        max_tokens: Maximum number of tokens in a batch, or None.
        slots: Maximum number of requests in flight: in threads, and on each event loop.
        mixes_lanes: Whether a thread may carry the texts of event loops. Not so if the caller's own client sends.
    """

    def __init__(self, max_items: int, max_tokens: int | None, slots: int, *, mixes_lanes: bool = True) -> None:
        self._max_items, self._max_tokens, self._slots = max_items, max_tokens, slots
        self._mixes_lanes = mixes_lanes
        self._in_child()
        super().__init__()

    def _in_child(self) -> None:
        self._queue: deque[Item] = deque()
        self._queued_lanes: Counter[Lane] = Counter()
        self._under_way: dict[str, Item] = {}
        # Those that wait for a turn of the rate limit: at most one a lane. And those in flight, with their start.
        self._waiting_for_turn: dict[Lane, Carrier | WaitingCall] = {}
        self._in_flight: dict[Lane, dict[Carrier | WaitingCall, float]] = {}
        self._carried: dict[Carrier, list[Item]] = {}
        self._durations: deque[float] = deque(maxlen=_DURATIONS_KEPT)  # seconds, of the last requests
        self._fastest = SLOT_SECONDS  # of them

    # --- calls ---

    def enter(self, call: WaitingCall) -> bool:
        """Register the texts of a call; a text that is under way already is not sent twice.

        Returns:
            True if the call may go by itself: :meth:`go_alone`, :meth:`depart` or :meth:`join_queue` must follow. False
            if its texts are in the queue, or under way.
        """
        with self._lock:
            new = [item for position in range(len(call.batch.texts)) if (item := self._add(call, position))]
            alone = len(new) == len(call.items) and not self._queue and self._is_idle(call.lane)
            if alone:
                for item in new:
                    item.carrier = call
                self._waiting_for_turn[call.lane] = call
                return True
            self._enqueue(new)
            carrier = self._next_carrier()
        _start(carrier)
        return False

    def _add(self, call: WaitingCall, position: int) -> Item | None:
        """Return a new item for a text of the call; None if the text is under way."""
        text = call.batch.texts[position]
        item, new = self._under_way.get(text), None
        if item is not None and item.lane is not call.lane:
            # Texts of one event loop in flight depend on that loop, which may be blocked or closed.
            if not self._mixes_lanes or (item.carrier is not None and item.lane is not None):
                item = None
            elif item.carrier is None:
                self._count_out(item)
                self._queued_lanes[None] += 1
                item.lane = None
        if item is None:
            item = new = self._under_way[text] = Item(text, call.batch.tokens[position], call.lane)
        item.calls[call] = position
        call.items.append(item)
        return new

    def _is_idle(self, lane: Lane) -> bool:
        return not self._waiting_for_turn and self._has_slot(lane)

    def _has_slot(self, lane: Lane) -> bool:
        starts = self._in_flight.get(lane)
        if starts is None:
            return True
        # A service that answers at once is not waited for: more requests would only be more work for this process.
        slots = min(self._slots, _MIN_SLOTS + int(self._fastest / _SECONDS_FOR_A_SLOT))
        if len(starts) < slots:
            return True
        # The oldest requests come first. They no longer occupy their slots if they take long.
        oldest = time.monotonic() - SLOT_SECONDS
        slow = next((number for number, start in enumerate(starts.values()) if start > oldest), len(starts))
        return len(starts) - slow < slots

    def _occupy_slot(self, one: Carrier | WaitingCall) -> None:
        starts = self._in_flight.get(one.lane)
        if starts is None:
            starts = self._in_flight[one.lane] = {}
        starts[one] = time.monotonic()

    def _free_slot(self, one: Carrier | WaitingCall) -> None:
        starts = self._in_flight.get(one.lane, {})
        start = starts.pop(one, None)
        if start is not None:
            self._durations.append(time.monotonic() - start)
            self._fastest = min(self._durations)
            if not starts:
                del self._in_flight[one.lane]  # it would keep the event loop alive

    @property
    def waiting(self) -> int:
        """Number of texts in the queue."""
        return len(self._queue)

    def go_alone(self, call: WaitingCall) -> bool:
        """Occupy a slot for a call that :meth:`enter` has let through; False if other calls have joined it."""
        with self._lock:
            if self._queue:
                return False
            self._waiting_for_turn.pop(call.lane, None)
            self._occupy_slot(call)
            return True

    def depart(self, one: Carrier | WaitingCall) -> None:
        """Occupy a slot for a request that starts, and let others wait for the next turn; only the first time counts.

        Args:
            one: A carrier that has taken its texts, or a call that :meth:`enter` has let through.
        """
        with self._lock:
            if self._waiting_for_turn.get(one.lane) is not one:
                return
            del self._waiting_for_turn[one.lane]
            self._occupy_slot(one)
            carrier = self._next_carrier()
        _start(carrier)

    def join_queue(self, call: WaitingCall) -> None:
        """Put the texts of a call that :meth:`enter` has let through at the front of the queue."""
        with self._lock:
            self._waiting_for_turn.pop(call.lane, None)
            self._enqueue(call.items, front=True)
            carrier = self._next_carrier()
        _start(carrier)

    def leave(self, call: WaitingCall, error: NanoGPTError | None = None) -> None:
        """Forget a call that ends; its texts stay under way if other calls wait for them.

        Args:
            call: The call. It may have left before.
            error: The error of a call that went by itself.
        """
        if call.done and call not in self._in_flight.get(call.lane, ()):
            return  # a carrier has answered it
        with self._lock:
            if self._waiting_for_turn.get(call.lane) is call:
                del self._waiting_for_turn[call.lane]
            self._free_slot(call)
            unfinished = [item for item in call.items if item.carrier is call]
            for idle in self._withdraw(call):
                if not isinstance(idle, WaitingCall) and not self._items_of(idle):
                    idle.cancel()
            wanted = [item for item in unfinished if item.calls]
            if wanted and error is not None and _concerns_others(error, call):
                self.fail(wanted, error)
            elif wanted:
                self._enqueue(wanted, front=True)
            carrier = self._next_carrier()
        _start(carrier)

    def _items_of(self, carrier: Carrier) -> list[Item]:
        return [item for item in self._carried.get(carrier, ()) if item.calls]

    def _withdraw(self, call: WaitingCall) -> set[Carrier | WaitingCall]:
        """Let a call wait for nothing; return those that carry a text which no other call waits for."""
        carriers = set()
        for item in call.items:
            item.calls.pop(call, None)
            if not item.calls:
                self._forget(item)
                if item.carrier is not None:
                    carriers.add(item.carrier)
        call.items = []
        return carriers

    def look_again(self) -> None:
        """Start a carrier if a slot has become free since nothing came in the time of a slot."""
        with self._lock:
            for lane in [lane for lane in self._waiting_for_turn if lane is not None and lane.is_closed()]:
                del self._waiting_for_turn[lane]  # its task never ran again
            carrier = self._next_carrier()
        _start(carrier)

    # --- the queue ---

    def _enqueue(self, items: Iterable[Item], *, front: bool = False) -> None:
        items = list(items)
        for item in items:
            item.carrier = None
            self._queued_lanes[item.lane] += 1
        if front:
            self._queue.extendleft(reversed(items))
        else:
            self._queue.extend(items)

    def _forget(self, item: Item) -> None:
        if self._under_way.get(item.text) is item:
            del self._under_way[item.text]
        if item.carrier is None and item in self._queue:
            self._queue.remove(item)
            self._count_out(item)

    def _count_out(self, item: Item) -> None:
        self._queued_lanes[item.lane] -= 1
        if not self._queued_lanes[item.lane]:
            del self._queued_lanes[item.lane]

    def _next_carrier(self, own: Carrier | None = None) -> Carrier | None:
        """Return a carrier to start, if the queue needs one; ``own`` itself if it can go on."""
        if not self._queue or (self._mixes_lanes and None in self._waiting_for_turn):
            return None
        waiting = [lane for lane in self._queued_lanes if lane not in self._waiting_for_turn]
        if not waiting:
            return None
        if len(self._queued_lanes) > 1 and self._mixes_lanes:
            waiting = [None]
        lane = next((lane for lane in waiting if self._has_slot(lane)), waiting[0])
        if not self._has_slot(lane):
            return None
        if own is None or own.lane is not lane or own.is_cancelled:
            item = next((item for item in self._queue if item.lane is lane), self._queue[0])
            own = next(iter(item.calls)).starter.make_carrier(lane)
        self._waiting_for_turn[lane] = own
        return own

    # --- carriers ---

    def take(self, carrier: Carrier, *, departs: bool = True) -> list[Item]:
        """Return the texts of the next batch; none if there are no more.

        Args:
            carrier: The carrier.
            departs: Whether its request starts now and occupies a slot. Otherwise :meth:`depart` must follow.
        """
        taken: list[Item] = []
        passed_over: list[Item] = []
        tokens = 0
        with self._lock:
            takes_all = carrier.lane is None and self._mixes_lanes
            while self._queue:
                item = self._queue[0]
                mine = takes_all or item.lane is carrier.lane
                if mine and taken and not self._fits(len(taken), tokens + item.weight):
                    break
                self._queue.popleft()
                (taken if mine else passed_over).append(item)
                tokens += item.weight if mine else 0
            self._queue.extendleft(reversed(passed_over))
            for item in taken:
                self._count_out(item)
                item.carrier = carrier
                item.lane = carrier.lane
            if taken:
                self._carried[carrier] = taken
            if taken and not departs:
                return taken
            self._stop_waiting(carrier)
            if taken:
                self._occupy_slot(carrier)
            following = self._next_carrier()
        _start(following)
        return taken

    def _stop_waiting(self, carrier: Carrier) -> bool:
        """Let other carriers wait for the next turn; True if this one did so."""
        is_waiting = self._waiting_for_turn.get(carrier.lane) is carrier
        if is_waiting:
            del self._waiting_for_turn[carrier.lane]
        return is_waiting

    def _fits(self, items: int, tokens: int) -> bool:
        return items < self._max_items and (self._max_tokens is None or tokens <= self._max_tokens)

    def go_on(self, carrier: Carrier) -> bool:
        """Free the slot of a carrier whose batch is done; True if it should carry another one."""
        with self._lock:
            self._put_down(carrier)
            following = self._next_carrier(carrier)
        if following is carrier:
            return True
        _start(following)
        return False

    def end(self, carrier: Carrier, *, failed: bool) -> None:
        """Forget a carrier, also twice. If it could not start, or was stopped, its calls go by themselves."""
        with self._lock:
            if self._stop_waiting(carrier) and failed:
                mine = (item for item in self._queue if carrier.lane is None or item.lane is carrier.lane)
                self.hand_back(list(mine))
            self._put_down(carrier)
            following = self._next_carrier()
        _start(following)

    def _put_down(self, carrier: Carrier) -> None:
        self._free_slot(carrier)
        # The carrier was stopped; or the calls are late, or came after those had paid that have left.
        self.hand_back(self._items_of(carrier))
        self._carried.pop(carrier, None)

    # --- results ---

    def deliver(self, items: Sequence[Item], vectors: NDArray[np.float32], model: str | None) -> None:
        """Hand out the vectors of some texts, ``(len(items), d)`` float32."""
        with self._lock:
            for item, vector in zip(items, vectors, strict=True):
                calls, item.calls = item.calls, {}
                self._forget(item)
                for call, position in calls.items():
                    call.vectors[position], call.model = vector, model
                    call.items.remove(item)
                    if not call.items:
                        call.finish()

    def fail(self, items: Iterable[Item], error: NanoGPTError) -> None:
        """End the calls that wait for these texts, each with an error of its own."""
        with self._lock:
            for item in items:
                for call in list(item.calls):
                    self.fail_call(call, _copy(error))

    def fail_call(self, call: WaitingCall, error: NanoGPTError) -> None:
        """End one call."""
        with self._lock:
            call.error = error
            self._withdraw(call)
            call.finish()

    def hand_back(self, items: Iterable[Item], which: Callable[[WaitingCall], bool] = lambda _: True) -> None:
        """Let the calls that wait for these texts send all that they still miss by themselves.

        Args:
            items: The texts.
            which: Returns whether a call is meant. Default: all.
        """
        with self._lock:
            for call in {call for item in items for call in item.calls if which(call)}:
                self._withdraw(call)
                call.finish()


def _start(carrier: Carrier | None) -> None:
    if carrier is not None:
        carrier.start()


def _concerns_others(error: NanoGPTError, call: WaitingCall) -> bool:
    """Return whether other calls with the same text would get the same error."""
    if len(call.batch.texts) > 1 or isinstance(error, (BudgetExceededError, TextTooLongError)):
        return False
    return call.call_limits.deadline is None or not error.transient


def _copy(error: NanoGPTError) -> NanoGPTError:
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


class _Registry(ForkSafe):
    def __init__(self) -> None:
        super().__init__()
        self._gatherers: weakref.WeakValueDictionary[bytes, Gatherer] = weakref.WeakValueDictionary()

    def get(self, name: bytes, *arguments: Any, **options: Any) -> Gatherer:
        with self._lock:
            found = self._gatherers.get(name)
            if found is None:
                found = self._gatherers[name] = Gatherer(*arguments, **options)
            return found


_registry, _salt = _Registry(), secrets.token_bytes(16)


def gatherer_for(
    key: Sequence[object], max_items: int, max_tokens: int | None, slots: int, *, mixes_lanes: bool
) -> Gatherer:
    """Return the gatherer that this process uses for all calls with the same ``key``; for arguments see its class."""
    # The salt keeps the API key from being guessed from the digest.
    name = hashlib.blake2b(repr(key).encode(), key=_salt).digest()
    return _registry.get(name, max_items, max_tokens, slots, mixes_lanes=mixes_lanes)

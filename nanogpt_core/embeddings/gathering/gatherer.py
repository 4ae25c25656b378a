"""Gatherer: texts that wait for a request, of all calls in this process that could share one. No I/O.

A call goes by itself if a slot is free, no other call or carrier waits to start, the queue is empty and the rate
limiter admits it. On an event loop it lets the other tasks run once first, so calls made in the same turn share one
request. Otherwise its texts join a queue.

A *carrier*, a thread or a task, waits for the next slot and start time, takes the texts from the front of the queue up
to the limits of the model and of its host, and sends them as one batch. With limits that several processes share, it
takes the texts first, since such limits reserve their cost together with the start time. All changes of state happen
here, under one lock: docs/adr/0060-gathered-batches.md.

A *sender*, such a call or a carrier, waits for its start time first, at most one in a lane. Then its request is in
flight and occupies a slot. The states of a call, and the methods of :class:`Gatherer` that change them::

    new --- register() ---> waiting to start --- start_request() ---> in flight
     |                             |                                      |
     |                        join_queue()                           unregister()
     |                             v                                      v
     +----- register() --------> queued ------ deliver(), fail() ------> done

A queued call waits for its texts, in the queue or with senders; after :meth:`Gatherer.send_separately` it is done too,
and sends the rest by itself. A call that is late or cancelled is done from any state: :meth:`Gatherer.unregister` comes
last in each call. The states of a carrier::

    new -- start() --> waiting to start -- take_batch(), start_request() --> in flight -- remove_carrier() --> done
                              ^                                                  |
                              +---------- finish_batch(), if texts wait ---------+
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from nanogpt_core._runtime.clock import NO_DEADLINE
from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core.embeddings.gathering.waiting import Carrier, Item, Lane, Sender, TextQueue, WaitingCall
from nanogpt_core.embeddings.planning import Batch
from nanogpt_core.embeddings.response import EmbeddingResponse
from nanogpt_core.errors import BudgetExceededError, NanoGPTError, StatusError, TextTooLongError
from nanogpt_core.http.text_errors import add_position, named_position

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

    At most ``slots`` requests are in flight in threads, and on each event loop. With ``mixes_lanes``, a thread may
    carry the texts of event loops: not so if the caller's own client sends. ``fits`` returns whether the host can
    accept some texts in one request, by what is known.
    """

    def __init__(
        self,
        max_items: int,
        max_tokens: int | None,
        slots: int,
        *,
        mixes_lanes: bool = True,
        fits: Callable[[Sequence[Item]], bool] = lambda _: True,
    ) -> None:
        self._max_items = max_items
        self._max_tokens = math.inf if max_tokens is None else max_tokens
        self._max_slots = slots
        self._mixes_lanes = mixes_lanes
        self._fits = fits
        self._in_child()
        super().__init__()

    def _in_child(self) -> None:
        self._queue = TextQueue()
        self._slots = _Slots(self._max_slots)
        self._under_way: dict[str, Item] = {}  # in the queue or with a sender, by text
        self._waiting_to_start: dict[Lane, Sender] = {}

    @property
    def queued_texts(self) -> int:
        """Number of texts in the queue."""
        return len(self._queue.items)

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock; then start a carrier if the queue needs one.

        Methods that add no text to the queue, end no wait for a start and free no slot need only the lock.
        """
        carrier: Carrier | None = None
        try:
            with self._lock:
                yield
                carrier = self._next_carrier()
        finally:  # also if a signal handler raises
            if carrier is not None:
                carrier.start()

    # --- calls ---

    def register(self, call: WaitingCall) -> bool:
        """Register the texts of a call; a text that is under way already is not sent twice.

        Return True if the call may go by itself: :meth:`start_request` or :meth:`join_queue` must follow. Otherwise its
        texts are in the queue, or under way.
        """
        with self._change():
            new = [item for index in range(len(call.batch.texts)) if (item := self._add(call, index))]
            is_idle = not self._queue.items and not self._waiting_to_start and self._slots.has_free(call.lane)
            goes_alone = is_idle and len(new) == len(call.items)
            if goes_alone:
                for item in new:
                    item.sender = call
                self._waiting_to_start[call.lane] = call
            else:
                self._queue.add(new)
        return goes_alone

    def _add(self, call: WaitingCall, index: int) -> Item | None:
        """Return a new item for a text of the call; None if the text is under way."""
        text = call.batch.texts[index]
        item, new = self._under_way.get(text), None
        if item is None or not self._can_share(item, call.lane):
            item = new = Item(text, call.batch.tokens[index], call.lane)
        item.calls[call] = index
        call.items.append(item)
        # Last: a signal handler may raise, and a call that ends forgets its own items only.
        self._under_way[text] = item
        return new

    def _can_share(self, item: Item, lane: Lane) -> bool:
        """Return whether a call of ``lane`` can wait for a text under way."""
        if item.lane is lane:
            return True
        if self._mixes_lanes and item.sender is None:
            self._queue.move_to_threads(item)
        # Texts in flight on an event loop depend on that loop, which may be blocked or closed.
        return self._mixes_lanes and item.lane is None

    def start_request(self, sender: Sender) -> None:
        """Occupy a slot for a request that starts, and let others wait for the next start; only the first time counts.

        Its sender is a carrier that has taken its texts, or a call that :meth:`register` has let through.
        """
        with self._change():
            if self._stop_waiting(sender):
                self._slots.occupy(sender)

    def _stop_waiting(self, sender: Sender) -> bool:
        """Let another sender wait for the next start; True if this one did so."""
        is_waiting = self._waiting_to_start.get(sender.lane) is sender
        if is_waiting:
            del self._waiting_to_start[sender.lane]
        return is_waiting

    def join_queue(self, call: WaitingCall) -> None:
        """Put the texts of a call that :meth:`register` has let through at the front of the queue."""
        with self._change():
            self._stop_waiting(call)
            self._queue.add(call.items, front=True)

    def unregister(self, call: WaitingCall, error: NanoGPTError | None = None) -> None:
        """Forget a call that ends, if it has not left before; its texts stay under way if other calls wait for them.

        ``error`` is the error of a call that went by itself.
        """
        if call.done and call not in self._slots:
            return  # a carrier has answered it
        with self._change():
            self._stop_waiting(call)
            self._slots.free(call)
            unfinished = [item for item in call.items if item.sender is call]
            for sender in self._withdraw(call):
                if not isinstance(sender, WaitingCall) and not any(item.calls for item in sender.items):
                    sender.cancel()
            wanted = [item for item in unfinished if item.calls]
            if error is not None and _concerns_others(error, call):
                is_named = named_position(error, 1) is not None
                self.fail(wanted, error, wanted[0] if is_named and wanted else None)
            elif wanted:
                self._queue.add(wanted, front=True)

    def _withdraw(self, call: WaitingCall) -> set[Sender]:
        """Let a call wait for nothing; return the senders of texts that no other call waits for."""
        senders = set()
        for item in call.items:
            item.calls.pop(call, None)
            if not item.calls:
                self._forget(item)
                if item.sender is not None:
                    senders.add(item.sender)
        call.items = []
        return senders

    def _forget(self, item: Item) -> None:
        if self._under_way.get(item.text) is item:
            del self._under_way[item.text]
        if item.sender is None:
            self._queue.discard(item)

    def check_slots(self) -> None:
        """Start a carrier if a slot has become free since nothing came in the time of a slot."""
        with self._change():
            for lane, sender in list(self._waiting_to_start.items()):
                # The task never ran again; or a signal handler raised between making the carrier and starting it.
                is_lost = not isinstance(sender, WaitingCall) and not sender.has_started
                if is_lost or (lane is not None and lane.is_closed()):
                    del self._waiting_to_start[lane]

    # --- carriers ---

    def _next_carrier(self, own: Carrier | None = None) -> Carrier | None:
        """Return a carrier to start, if the queue needs one; ``own`` itself if it can go on."""
        if not self._queue.items or (self._mixes_lanes and None in self._waiting_to_start):
            return None
        lanes: list[Lane] = [lane for lane in self._queue.lanes if lane not in self._waiting_to_start]
        if lanes and self._mixes_lanes and len(self._queue.lanes) > 1:
            lanes = [None]
        lanes = [lane for lane in lanes if self._slots.has_free(lane)]
        if not lanes:
            return None
        lane = lanes[0]
        if own is None or own.lane is not lane or own.is_cancelled:
            of_lane = (item for item in self._queue.items if item.lane is lane)
            item = next(of_lane, None) or self._queue.items[0]
            own = next(iter(item.calls)).make_carrier(lane)
        self._waiting_to_start[lane] = own
        return own

    def take_batch(self, carrier: Carrier) -> list[Item]:
        """Return the texts of the next batch; none if there are no more. :meth:`start_request` must follow."""
        with self._lock:
            takes_all = carrier.lane is None and self._mixes_lanes
            carrier.items = self._queue.take(
                carrier.lane, from_all_lanes=takes_all, max_items=self._max_items, max_tokens=self._max_tokens
            )
            if not self._fits(carrier.items):
                self._keep_those_that_fit(carrier)
            for item in carrier.items:
                item.sender, item.lane = carrier, carrier.lane
            return carrier.items

    def _keep_those_that_fit(self, carrier: Carrier) -> None:
        """Put all but the first texts, at least one, back: carriers beside this one send them."""
        counts = range(2, len(carrier.items) + 1)
        count = 1 + bisect_left(counts, True, key=lambda count: not self._fits(carrier.items[:count]))
        self._queue.add(carrier.items[count:], front=True)
        carrier.items = carrier.items[:count]

    def finish_batch(self, carrier: Carrier) -> bool:
        """Free the slot of a carrier whose batch is done; True if it should carry another one."""
        with self._lock:
            self._end_batch(carrier)
            following = self._next_carrier(carrier)
        if following is not None and following is not carrier:
            following.start()
        return following is carrier

    def remove_carrier(self, carrier: Carrier, *, failed: bool) -> None:
        """Forget a carrier, also twice. If it could not start, or was stopped, its calls go by themselves."""
        with self._change():
            if self._stop_waiting(carrier) and failed:
                self.send_separately(
                    [item for item in self._queue.items if carrier.lane is None or item.lane is carrier.lane]
                )
            self._end_batch(carrier)

    def _end_batch(self, carrier: Carrier) -> None:
        self._slots.free(carrier)
        # Texts that are left were not sent: the carrier was stopped, their calls are past the deadline, or the calls
        # that would have paid for them left before others joined.
        self.send_separately(carrier.items)
        carrier.items = []

    # --- results ---

    def share(self, call: WaitingCall, batch: Batch, response: EmbeddingResponse) -> None:
        """Hand the vectors of a call that went by itself to others with the same texts."""
        index_of = {text: index for index, text in enumerate(batch.texts)}
        shared = [item for item in call.items if len(item.calls) > 1 and item.text in index_of]
        if shared:  # with copies of the vectors: the caller may change its own array
            self.deliver(shared, response.vectors[[index_of[item.text] for item in shared]], response.model)
            call.vectors.clear()  # it takes them from its own response

    def deliver(self, items: Sequence[Item], vectors: NDArray[np.float32], model: str | None) -> None:
        """Hand out the vectors of some texts, ``(len(items), d)`` float32."""
        with self._lock:
            for item, vector in zip(items, vectors, strict=True):
                calls, item.calls = item.calls, {}
                self._forget(item)
                for call, index in calls.items():
                    call.vectors[index], call.model = vector, model
                    call.items.remove(item)
                    if not call.items:
                        call.finish()

    def fail(self, items: Iterable[Item], error: NanoGPTError, named: Item | None = None) -> None:
        """End the calls that wait for these texts, each with an error of its own; ``named`` is the text it names."""
        named_index = named_position(error, sys.maxsize)
        with self._lock:
            places = {} if named is None else {call: call.batch.positions[index] for call, index in named.calls.items()}
            for item in items:
                for call in list(item.calls):
                    own = copy.copy(error)
                    own.__cause__ = error.__cause__
                    if isinstance(own, StatusError) and named is not None and named_index is not None:
                        add_position(own, named_index, places.get(call))
                    self.fail_call(call, own)

    def fail_call(self, call: WaitingCall, error: NanoGPTError) -> None:
        """End one call."""
        with self._lock:
            call.error = call.error or error
            self._withdraw(call)
            call.finish()

    def send_separately(self, items: Iterable[Item], which: Callable[[WaitingCall], bool] = lambda _: True) -> None:
        """Let the calls that wait for these texts, or ``which`` of them, send all that they miss by themselves."""
        with self._lock:
            for call in {call for item in items for call in item.calls if which(call)}:
                self._withdraw(call)
                call.finish()


class _Slots:
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


def _concerns_others(error: NanoGPTError, call: WaitingCall) -> bool:
    """Return whether other calls with the same text would get the same error."""
    if len(call.batch.texts) > 1 or isinstance(error, (BudgetExceededError, TextTooLongError)):
        return False
    if named_position(error, 1) is not None and call.batch.positions[0]:
        return False  # it gives the position in the list of this call
    return call.cancellation.deadline == NO_DEADLINE or not error.transient

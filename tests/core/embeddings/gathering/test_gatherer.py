"""The queue of gathered calls: slots, carriers and order. No requests are sent."""

from types import SimpleNamespace

import numpy as np
import pytest

from nanogpt_core._runtime.clock import Cancellation
from nanogpt_core.embeddings.gathering import gatherer as gatherer_module
from nanogpt_core.embeddings.gathering.gatherer import SLOT_SECONDS, Gatherer
from nanogpt_core.embeddings.gathering.waiting import Item, TextQueue, WaitingCall
from nanogpt_core.embeddings.planning import Batch


class Carrier:
    is_cancelled = False

    def __init__(self, lane, started):
        self.lane, self.started, self.items, self.has_started = lane, started, [], False

    def start(self):
        self.has_started = True
        self.started.append(self)

    def cancel(self):
        self.is_cancelled = True


@pytest.fixture
def now(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(gatherer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def started():
    return []


@pytest.fixture
def call(started):
    def call(*texts, lane=None):
        count = range(len(texts))
        batch = Batch(list(texts), count, count, [1] * len(texts))
        options = {"observer": None, "budget": None, "make_carrier": lambda lane: Carrier(lane, started)}
        return WaitingCall(batch, Cancellation(), lane=lane, **options)

    return call


def go(gatherer, call):
    """Let a call go by itself; return whether it may."""
    alone = gatherer.register(call)
    if alone:
        gatherer.start_request(call)
    return alone


def send(gatherer, carrier):
    """Let a carrier take its texts and send them; return the texts."""
    items = gatherer.take_batch(carrier)
    gatherer.start_request(carrier)
    return [item.text for item in items]


def slots_taken(gatherer, call):
    count = 0
    while go(gatherer, call(f"text {count}")):
        count += 1
    return count


@pytest.mark.parametrize(("seconds", "slots"), [(0.0, 2), (0.001, 2), (0.006, 4), (0.02, 8), (2.0, 8)])
def test_slots_are_fewer_if_the_service_answers_at_once(now, call, seconds, slots):
    gatherer = Gatherer(64, None, 8)
    for number in range(20):
        one = call(f"earlier {number}")
        assert go(gatherer, one)
        now[0] += seconds
        gatherer.unregister(one)
    assert slots_taken(gatherer, call) == slots


def test_slots_are_all_there_before_the_first_reply(call):
    assert slots_taken(Gatherer(64, None, 8), call) == 8


def test_request_in_flight_for_long_occupies_no_slot(now, call, started):
    gatherer = Gatherer(64, None, 1)
    assert go(gatherer, call("hangs"))
    assert not go(gatherer, call("waits"))
    gatherer.check_slots()
    assert started == []
    now[0] += SLOT_SECONDS
    gatherer.check_slots()
    (carrier,) = started
    assert send(gatherer, carrier) == ["waits"]


def test_carrier_whose_start_a_signal_handler_prevents_is_replaced(call, started, monkeypatch):
    def interrupt(_carrier):
        raise KeyboardInterrupt

    gatherer = Gatherer(64, None, 1)
    first, second = call("first"), call("second")
    assert go(gatherer, first)
    assert not gatherer.register(second)
    with monkeypatch.context() as patched:
        patched.setattr(Carrier, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            gatherer.unregister(first)
    gatherer.check_slots()
    (carrier,) = started
    gatherer.check_slots()
    assert started == [carrier]
    assert send(gatherer, carrier) == ["second"]


def test_carrier_takes_texts_in_order_up_to_items_and_tokens(call, started):
    gatherer = Gatherer(3, 4, 1)
    first = call("first")
    go(gatherer, first)
    long = call("long")
    long.batch.tokens[0] = 3
    for one in (call("a", "b"), long, call("c"), call("d"), call("e"), call("f")):
        assert not gatherer.register(one)
    gatherer.unregister(first)
    (carrier,) = started
    taken = []
    while items := gatherer.take_batch(carrier):
        gatherer.start_request(carrier)
        taken.append([item.text for item in items])
        gatherer.deliver(items, np.ones((len(items), 2)), None)
        gatherer.finish_batch(carrier)
    assert taken == [["a", "b"], ["long", "c"], ["d", "e", "f"]]


def test_only_one_carrier_waits_to_start(call, started):
    gatherer = Gatherer(64, None, 1)
    first = call("first")
    go(gatherer, first)
    for number in range(5):
        gatherer.register(call(f"text {number}"))
    gatherer.unregister(first)
    gatherer.register(call("one more"))
    gatherer.check_slots()
    assert len(started) == 1
    assert len(send(gatherer, started[0])) == 6


def test_texts_of_several_event_loops_are_carried_by_a_thread(call, started):
    gatherer, loops = Gatherer(64, None, 1), [object(), object()]
    first = [call("of one", lane=loops[0]), call("of two", lane=loops[1])]
    for one in first:
        assert go(gatherer, one)
    gatherer.register(call("a", lane=loops[0]))
    gatherer.register(call("b", lane=loops[1]))
    (carrier,) = started
    assert carrier.lane is None
    assert send(gatherer, carrier) == ["a", "b"]


def test_carrier_that_has_taken_its_texts_is_the_only_one_to_wait_until_its_request_starts(call, started):
    gatherer = Gatherer(64, None, 2)
    first = call("first")
    assert gatherer.register(first)  # it waits to start
    assert not gatherer.register(call("a"))
    assert started == []
    gatherer.start_request(first)
    (carrier,) = started
    assert [item.text for item in gatherer.take_batch(carrier)] == ["a"]
    assert not gatherer.register(call("b"))
    gatherer.check_slots()
    assert started == [carrier]
    gatherer.start_request(carrier)
    gatherer.check_slots()
    assert started == [carrier]  # both slots are taken
    gatherer.unregister(first)
    assert len(started) == 2
    assert send(gatherer, started[1]) == ["b"]


def test_carrier_whose_request_never_started_lets_the_next_one_start(call, started):
    gatherer = Gatherer(64, None, 2)
    first = call("first")
    assert gatherer.register(first)
    waits = call("a")
    assert not gatherer.register(waits)
    gatherer.start_request(first)
    gatherer.take_batch(started[0])
    assert not gatherer.register(call("b"))
    assert not gatherer.finish_batch(started[0])
    gatherer.remove_carrier(started[0], failed=False)
    assert waits.done  # it goes by itself
    assert send(gatherer, started[1]) == ["b"]


def test_queue_counts_no_lane_of_texts_that_an_interrupt_has_removed():
    queue, loops = TextQueue(), [object(), object()]
    queue.add([Item("interrupted", 1, loops[0])])
    queue.items.popleft()  # and a signal handler raises here
    queue.add([Item("later", 1, loops[1])])
    assert queue.lanes == {loops[1]: 1}

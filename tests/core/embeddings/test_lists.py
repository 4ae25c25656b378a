"""Lists out of a matrix, and the garbage collector around them."""

import gc
import os
import threading

import numpy as np
import pytest

from nanogpt_core._runtime import gc_pause as collector
from nanogpt_core.embeddings.lists import to_lists


@pytest.fixture
def collections():
    """The phases of collections as they begin and end."""
    seen = []

    def note(phase, _):
        seen.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 2049])
def test_the_lists_hold_the_rows(count):
    vectors = np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)
    found = to_lists(vectors)
    assert found == vectors.tolist()
    assert {type(number) for row in found for number in row} <= {float}


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_as_it_was(on):
    try:
        if not on:
            gc.disable()
        to_lists(np.ones((300, 4), dtype=np.float32))
        assert gc.isenabled() is on
    finally:
        gc.enable()


def test_a_failure_lets_the_collector_go_on():
    with pytest.raises(AttributeError):
        to_lists(["no matrix"])
    assert gc.isenabled()


def test_hardly_a_collection_comes_while_lists_are_made_and_they_are_old_after(collections):
    found = to_lists(np.ones((5000, 2), dtype=np.float32))
    assert collections.count("start") <= 1  # else one for each 700 lists
    young = {id(one) for one in gc.get_objects(generation=0)}
    assert sum(id(row) in young for row in found) == 0


def test_it_can_be_left_alone(collections, monkeypatch):
    monkeypatch.setattr(collector, "hold_back_collector", False)
    to_lists(np.ones((5000, 2), dtype=np.float32))
    assert collections.count("start") >= 2


def test_what_somebody_froze_stays_frozen():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        to_lists(np.ones((10, 2), dtype=np.float32))
        assert gc.get_freeze_count() > frozen // 2 > 0  # some are freed one by one
    finally:
        gc.unfreeze()


def test_the_last_of_several_threads_lets_it_go_on():
    inside, leave = threading.Barrier(3), threading.Event()

    def hold():
        with collector.gc_paused():
            inside.wait(20)
            leave.wait(20)

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(20)
    with collector.gc_paused():
        pass
    assert not gc.isenabled()
    leave.set()
    for thread in threads:
        thread.join(20)
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_it_is_held_back_leaves_it_on_in_the_child():
    with collector.gc_paused():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() and not collector._hold.holders else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nobody_joins_who_would_hold_it_back_for_too_long(monkeypatch):
    with collector.gc_paused():
        monkeypatch.setattr(collector, "_LONGEST", -1.0)
        with collector.gc_paused():
            assert collector._hold.holders == 1
    assert gc.isenabled()

"""The clock: sleeps, the fake clock that skips them, deadlines."""

import asyncio
import math
import threading
import time

import pytest

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.clock import Cancellation, Deadline, fake_clock
from nanogpt_core.errors import ConfigurationError, InvalidTypeError, RequestTimeoutError

HOUR = 3600.0


@pytest.fixture(params=["sync", "async"])
def sleep(request):
    """``sleep(seconds, stopped=None)``: with a stop signal that is set or not, or without one; sync and async."""

    def sync(seconds, stopped=None):
        clock.sleep(seconds, *signal(threading.Event, stopped))

    def run_async(seconds, stopped=None):
        async def main():
            await clock.async_sleep(seconds, *signal(asyncio.Event, stopped))

        asyncio.run(main())

    def signal(event, stopped):
        if stopped is None:
            return ()
        made = event()
        if stopped:
            made.set()
        return (made,)

    return sync if request.param == "sync" else run_async


@pytest.fixture
def waits(monkeypatch):
    """Waits of an hour that the standard library was asked for. They are skipped; all others take their time."""
    asked = []

    def skip_hours(owner, name):
        real = getattr(owner, name)

        def wait(*arguments, **more):
            if HOUR not in arguments:
                return real(*arguments, **more)
            asked.append(name)
            return None

        monkeypatch.setattr(owner, name, wait)

    def skip_async_hours(name):
        real = getattr(asyncio, name)

        async def wait(*arguments, **more):
            if HOUR not in arguments:
                return await real(*arguments, **more)
            asked.append(name)
            if name == "wait_for":
                arguments[0].close()
                raise asyncio.TimeoutError
            return None

        monkeypatch.setattr(asyncio, name, wait)

    skip_hours(time, "sleep")
    skip_hours(threading.Event, "wait")
    skip_async_hours("sleep")
    skip_async_hours("wait_for")
    return asked


@pytest.mark.parametrize(("stopped", "names"), [(None, {"sleep"}), (False, {"wait", "wait_for"})])
def test_sleep_lasts_as_long_as_asked(sleep, waits, stopped, names):
    sleep(HOUR, stopped)
    assert len(waits) == 1
    assert names.issuperset(waits)


@pytest.mark.parametrize("seconds", [0, -1])
@pytest.mark.parametrize("stopped", [None, False, True])
def test_sleep_of_no_time_returns_at_once(sleep, seconds, stopped):
    with fake_clock() as skipped:
        sleep(seconds, stopped)
    assert skipped.seconds == 0


def test_stop_signal_that_is_set_ends_a_sleep_at_once(sleep):
    sleep(HOUR, True)
    with fake_clock() as skipped:
        sleep(HOUR, True)
    assert skipped.seconds == 0


def test_stop_signal_ends_a_sleep_that_has_begun():
    stop = threading.Event()
    sleeper = threading.Thread(target=clock.sleep, args=(HOUR, stop))
    sleeper.start()
    stop.set()
    sleeper.join(60)
    assert not sleeper.is_alive()


async def test_stop_signal_ends_an_async_sleep_that_has_begun():
    stop = asyncio.Event()
    sleeper = asyncio.create_task(clock.async_sleep(HOUR, stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(sleeper, 30)


@pytest.mark.parametrize("stop", [False, True])
async def test_async_sleep_can_be_cancelled(stop):
    sleeper = asyncio.create_task(clock.async_sleep(HOUR, asyncio.Event() if stop else None))
    await asyncio.sleep(0)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper


@pytest.mark.parametrize("seconds", [0, HOUR])
async def test_async_sleep_that_takes_no_time_lets_other_tasks_run(seconds):
    ran = []
    other = asyncio.create_task(asyncio.sleep(0))
    other.add_done_callback(ran.append)
    with fake_clock():
        for _ in range(3):
            await clock.async_sleep(seconds)
    assert ran == [other]


# --- The fake clock


@pytest.mark.parametrize("stopped", [None, False])
def test_fake_clock_skips_sleeps_and_moves_the_time(sleep, stopped):
    before, real = clock.now(), time.monotonic()
    with fake_clock() as skipped:
        sleep(HOUR, stopped)
        sleep(HOUR, stopped)
        assert skipped.seconds == 2 * HOUR
        assert clock.now() >= before + 2 * HOUR
    assert time.monotonic() - real < HOUR


def test_time_never_runs_backwards_around_fake_clocks():
    times = [clock.now()]
    with fake_clock() as outer:
        clock.sleep(HOUR)
        times.append(clock.now())
        with fake_clock() as inner:
            times.append(clock.now())
            clock.sleep(HOUR)
            times.append(clock.now())
        times.append(clock.now())
    times.append(clock.now())
    assert times == sorted(times)
    assert (outer.seconds, inner.seconds) == (2 * HOUR, HOUR)
    assert times[-1] - times[0] >= 2 * HOUR


def test_sleeps_are_real_again_after_the_block_and_after_an_error_in_it(sleep, waits):
    with pytest.raises(ZeroDivisionError), fake_clock() as skipped:
        raise ZeroDivisionError
    sleep(HOUR)
    assert waits == ["sleep"]
    assert skipped.seconds == 0


def test_fake_clock_adds_up_the_sleeps_of_all_threads():
    with fake_clock() as skipped:
        threads = [threading.Thread(target=lambda: [clock.sleep(1) for _ in range(500)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert skipped.seconds == 4000


def test_fake_clock_can_be_moved_by_hand():
    with fake_clock() as skipped:
        deadline = Deadline.after(HOUR)
        skipped.advance(HOUR)
        assert deadline.remaining() <= 0


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        (-1, ConfigurationError),
        (math.nan, ConfigurationError),
        (math.inf, ConfigurationError),
        (10**400, ConfigurationError),
        ("5", InvalidTypeError),
        (True, InvalidTypeError),
        (None, InvalidTypeError),
    ],
)
def test_time_that_would_break_the_clock_is_refused(seconds, kind):
    with fake_clock() as skipped:
        before = clock.now()
        with pytest.raises(kind, match="seconds"):
            skipped.advance(seconds)
        assert skipped.seconds == 0
        assert before <= clock.now() < before + HOUR


def test_blocks_of_threads_and_tasks_may_overlap(sleep, waits):
    first, second = fake_clock(), fake_clock()
    one = first.__enter__()
    two = second.__enter__()
    first.__exit__(None, None, None)
    sleep(HOUR)
    assert (one.seconds, two.seconds) == (0, HOUR)
    second.__exit__(None, None, None)
    assert waits == []
    sleep(HOUR)
    assert len(waits) == 1
    assert (one.seconds, two.seconds) == (0, HOUR)


# --- Deadlines


def test_deadline_counts_down_to_less_than_zero():
    with fake_clock():
        deadline = Deadline.after(10)
        assert deadline.remaining() == pytest.approx(10, abs=1)
        clock.sleep(11)
        assert -2 < deadline.remaining() < 0


def test_deadline_bounds_a_timeout():
    deadline = Deadline.after(10)
    assert deadline.remaining(5) == 5
    assert deadline.remaining(HOUR) <= 10


def test_time_that_remains_is_never_negative(monkeypatch):
    times = iter([0.0, 10.0])  # the deadline passes in between
    monkeypatch.setattr(clock, "now", lambda: next(times))
    with pytest.raises(RequestTimeoutError):
        Cancellation(Deadline(9.0)).remaining(HOUR)

"""The rate that follows what the service grants: a service in virtual time, which admits so many a second."""

import os
import threading

import pytest

from nanogpt_core._runtime import clock
from nanogpt_core.http.rate_limiter import RateLimit, RateLimiter
from nanogpt_core.sandbox.pacing import RateWindow


@pytest.fixture(autouse=True)
def _virtual_waits():
    with clock.fake_clock():
        yield


class Service:
    """Counts what it admits and what it refuses."""

    def __init__(self, grants):
        self.change(grants)
        self.reserved, self.admitted, self.refused = [], [], []

    def change(self, grants):
        self.window = RateWindow(grants, clock.now)

    def asked(self, limiter, odd=False):
        self.reserved.append(limiter.reserve())
        clock.sleep(self.reserved[-1] - clock.now())
        began = limiter.confirm(self.reserved[-1])
        if began is None:
            return
        seconds = 1 if odd else self.window.admit()
        if seconds:
            self.refused.append(began)
            limiter.on_rate_limited(began, seconds)
        else:
            self.admitted.append(began)

    def serve(self, limiter, seconds):
        """Return the requests a second that were admitted, and how many were refused."""
        start, admitted, refused = clock.now(), len(self.admitted), len(self.refused)
        while clock.now() < start + seconds:
            self.asked(limiter)
        return (len(self.admitted) - admitted) / (clock.now() - start), len(self.refused) - refused


def paced(rate=100.0):
    limiter = RateLimiter()
    limiter.rate_limit = RateLimit(rate)
    limiter.join(limiter.rate_limit)
    return limiter


@pytest.mark.parametrize("grants", [2, 10, 25, 60])
def test_what_is_granted_is_used(grants):
    admitted, refused = Service(grants).serve(paced(), 100)
    assert 0.95 * grants <= admitted <= grants * 1.02
    assert refused <= 4


def test_nothing_is_refused_where_more_is_granted_than_asked_for():
    admitted, refused = Service(1000).serve(paced(50), 20)
    assert admitted == pytest.approx(50, rel=0.06)
    assert refused == 0


@pytest.mark.parametrize("afterwards", [0, 6])
def test_requests_at_once_find_the_grant_at_their_first_refusals(afterwards):
    limiter = paced()
    starts = []
    for _ in range(40):
        starts.append(limiter.confirm(limiter.reserve()))
        clock.sleep(0.001)
    # They arrive in another order than they began in: 25 are taken, the rest is refused.
    for began in starts[21:36]:
        limiter.on_rate_limited(began, 1)
    clock.sleep(1.1)
    for _ in range(afterwards):  # those who waited for the pause's end
        assert limiter.confirm(limiter.reserve())
    limiter.reserve()
    assert limiter.rate == 25
    clock.sleep(30)
    for _ in range(60):
        limiter.reserve()
    assert limiter.rate == 25, "what is known was tried again"


@pytest.mark.parametrize("before", [0, 1, 5, 60])
def test_an_odd_refusal_is_soon_forgotten(before):
    limiter, service = paced(), Service(1000)
    for _ in range(before):
        service.asked(limiter)
    service.asked(limiter, odd=True)
    service.serve(limiter, 20)
    admitted, _ = service.serve(limiter, 10)
    assert admitted > 95


def test_a_grant_that_falls_and_rises_is_followed():
    limiter, service = paced(), Service(50)
    service.serve(limiter, 30)
    service.change(10)
    service.serve(limiter, 10)
    admitted, refused = service.serve(limiter, 60)
    assert admitted >= 9.5
    assert refused <= 2
    service.change(50)
    service.serve(limiter, 300)
    assert service.serve(limiter, 60)[0] >= 45


def test_no_second_has_more_starts_than_the_claim():
    service = Service(10_000)
    service.serve(paced(20), 10)
    starts = service.reserved
    for number, start in enumerate(starts):
        assert sum(1 for other in starts[number:] if other < start + 0.999) <= 20


def test_those_who_start_later_than_planned_move_those_who_follow():
    limiter = paced(20)
    planned = [limiter.reserve() for _ in range(20)]
    clock.sleep(0.5)
    for start in planned:
        limiter.confirm(start)
    assert limiter.reserve() >= clock.now() + 1


def test_those_who_wake_up_late_do_not_all_start_at_once():
    limiter = paced(4)
    planned = [limiter.reserve() for _ in range(16)]
    clock.sleep(10)
    began = [limiter.confirm(start) for start in planned]
    assert sum(start is not None for start in began) == 4
    later = [limiter.reserve() for _ in range(12)]
    assert later[0] >= clock.now() + 0.9
    clock.sleep(later[0] - clock.now())
    assert limiter.confirm(later[0])


def test_a_turn_that_is_given_back_is_had_by_the_next():
    limiter = paced(5)
    planned = [limiter.reserve() for _ in range(60)]
    for start in planned[5:]:
        limiter.release(start)
    assert limiter.reserve() <= clock.now() + 1.1


def test_a_pause_holds_back_a_start_that_was_handed_out_before():
    limiter = paced(1)
    start = limiter.reserve()
    assert start <= clock.now()
    limiter.pause(5)
    assert limiter.confirm(start) is None
    assert limiter.reserve() == pytest.approx(clock.now() + 5, abs=0.5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_holds_the_lock_leaves_it_free():
    limiter = paced()
    held, release = threading.Event(), threading.Event()

    def hold():
        with limiter._lock:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    threading.Timer(0.2, release.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if limiter._lock.acquire(timeout=5) else 1)
    thread.join(30)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

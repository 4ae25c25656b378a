"""Rate limiter: pacing, adaptation to services in simulated time, limits of several objects, real processes."""

import functools
import gc
import heapq
import itertools
import math
import os
import random
import re
import subprocess
import sys
import threading
import weakref
from bisect import bisect_right
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nanogpt_core import Embedder
from nanogpt_core._runtime.clock import Cancellation, fake_clock
from nanogpt_core.errors import ConnectionFailedError, RateLimitError, ServerError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.rate_limiter import DEFAULT_RATE, MAX_DEFAULT_RATE, ProcessLimits, RateCap, RateLimiter
from nanogpt_core.http.retry import send_with_retries
from nanogpt_core.http.runner import Wait
from nanogpt_core.sandbox.rate_limit import RateWindow

# --- Services in simulated time: admit(time) returns None, or the Retry-After of a refusal (NO_HEADER without one).

NO_HEADER = object()


class SlidingWindow:
    """At most ``rate`` requests in any second, with whole seconds in ``Retry-After``, as in the sandbox."""

    def __init__(self, rate):
        self.time = 0.0
        self.window = RateWindow(rate, lambda: self.time)

    def admit(self, time):
        self.time = time
        return self.window.admit() or None


class SlidingWindowWithoutHeader(SlidingWindow):
    def admit(self, time):
        return super().admit(time) and NO_HEADER


class FixedWindow:
    """At most ``rate`` requests in each second of the clock."""

    def __init__(self, rate):
        self.rate, self.second, self.count = rate, None, 0

    def admit(self, time):
        if self.second != math.floor(time):
            self.second, self.count = math.floor(time), 0
        self.count += 1
        return None if self.count <= self.rate else self.second + 1 - time


class TokenBucket:
    """``rate`` tokens per second, in a bucket for one second's tokens."""

    def __init__(self, rate):
        self.rate = self.tokens = rate
        self.time = 0.0

    def admit(self, time):
        self.tokens = min(self.rate, self.tokens + (time - self.time) * self.rate)
        self.time = time
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return None


SERVICES = [SlidingWindow, SlidingWindowWithoutHeader, FixedWindow, TokenBucket]


class Simulation:
    """Processes with 16 workers each, which send one request after another, in deterministic simulated time."""

    def __init__(self, service, processes=1, *, told=None, workers=16, latency=0.1, jitter=0.01, seed=1):
        self.time, self.service, self.latency, self.jitter = 0.0, service, latency, jitter
        self.random = random.Random(seed)
        self.events, self.order = [], itertools.count()
        self.accepted, self.refused = ([[] for _ in range(processes)] for _ in range(2))
        self.failed_calls = 0
        self.limiters = [RateLimiter(now=lambda: self.time) for _ in range(processes)]
        self.limits = [limit(told) for _ in range(processes)]
        for process, limiter in enumerate(self.limiters):
            limiter.join(self.limits[process])
            for _ in range(workers):
                self.after(self.random.random() / 100, functools.partial(self.call, process))

    def after(self, seconds, action):
        heapq.heappush(self.events, (self.time + seconds, next(self.order), action))

    def call(self, process):
        def attempt(_admission):
            retry_after = yield "send"
            if retry_after is not None:
                raise refusal(None if retry_after is NO_HEADER else retry_after)

        limits = ProcessLimits(lambda: self.limiters[process])
        steps = send_with_retries(attempt, limits=limits, max_retries=5, cancellation=Cancellation())
        self.advance(process, steps, None)

    def advance(self, process, steps, result):
        try:
            action = steps.send(result)
        except StopIteration:
            self.call(process)
        except RateLimitError:
            self.failed_calls += 1
            self.call(process)
        else:
            if isinstance(action, Wait):
                self.after(action.seconds, functools.partial(self.advance, process, steps, None))
            else:
                self.after(self.one_way(), functools.partial(self.arrive, process, steps))

    def arrive(self, process, steps):
        retry_after = self.service.admit(self.time)
        (self.accepted if retry_after is None else self.refused)[process].append(self.time)
        self.after(self.one_way(), functools.partial(self.advance, process, steps, retry_after))

    def one_way(self):
        return self.latency / 2 + self.random.random() * self.jitter

    def run(self, until):
        while self.events[0][0] <= until:
            self.time, _, action = heapq.heappop(self.events)
            action()
        self.time = until
        return self

    def rates(self, begin):
        """Accepted requests per second since ``begin``, for each process."""
        return [sum(time >= begin for time in times) / (self.time - begin) for times in self.accepted]

    def refused_share(self, begin):
        accepted, refused = (
            sum(time >= begin for times in lists for time in times) for lists in (self.accepted, self.refused)
        )
        return refused / (accepted + refused)


@pytest.fixture(autouse=True)
def _same_backoff_each_time():
    random.seed(1)


ENDPOINT = Endpoint.resolve(api_key="sk-nano-limits", base_url="https://limits.invalid/api/v1")


def limit(requests_per_second=None, endpoint=ENDPOINT):
    return RateCap(endpoint, requests_per_second)


def limiter_for(endpoint):
    """Return this process's limiter for an endpoint, without a limit of its own."""
    return RateCap(endpoint, None).limiter()


def refusal(retry_after=None):
    return RateLimitError("refused", status=429, retry_after=retry_after)


class Paced:
    """A limiter with a clock that is set by hand."""

    def __init__(self, told=None):
        self.time = 1000.0
        self.limiter = RateLimiter(now=lambda: self.time)
        self.limit = limit(told)
        self.limiter.join(self.limit)

    def start(self):
        """Start one request at the next possible time, which becomes now."""
        while True:
            start, delay = self.limiter.reserve()
            self.time += delay
            confirmed = self.limiter.confirm(start)
            if confirmed is not None:
                return confirmed

    def reserve(self):
        return self.limiter.reserve()[0]

    def delay(self):
        """Return the delay of one more reservation."""
        return self.limiter.reserve()[1]


# --- Shares of a granted rate


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("rate", [2, 10, 20, 25, 60])
def test_one_process_finds_an_unknown_rate_and_uses_95_percent_of_it(service, rate):
    simulation = Simulation(service(rate)).run(150)
    assert sum(simulation.rates(30)) >= 0.95 * rate
    assert simulation.refused_share(30) <= 0.02
    assert not simulation.failed_calls


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("rate", [2, 10, 20, 25, 60])
def test_known_rate_is_used_to_95_percent_without_refusals(service, rate):
    simulation = Simulation(service(rate), told=rate).run(60)
    assert sum(simulation.rates(5)) >= 0.95 * rate
    assert not any(simulation.refused)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("seed", [1, 2])
def test_processes_share_a_rate_without_shared_state(service, processes, seed):
    simulation = Simulation(service(20), processes, seed=seed).run(100)
    assert sum(simulation.rates(10)) >= 0.8 * 20
    assert simulation.refused_share(10) <= 0.08
    assert min(simulation.rates(10)) >= 0.15 * 20 / processes  # none starves
    assert not simulation.failed_calls


def test_documented_rate_is_used_from_the_first_second_and_tested_twice_in_90_seconds():
    simulation = Simulation(SlidingWindow(25)).run(90)
    assert sum(simulation.rates(0)) >= 0.945 * 25
    assert len(simulation.refused[0]) <= 2


@pytest.mark.parametrize("latency", [0.02, 0.5])
def test_share_of_a_rate_does_not_depend_on_latency(latency):
    simulation = Simulation(SlidingWindow(20), latency=latency, jitter=0.01).run(150)
    assert sum(simulation.rates(30)) >= 0.95 * 20


def test_rate_follows_a_service_that_grants_less_and_then_more():
    simulation = Simulation(SlidingWindow(50)).run(60)
    simulation.service = SlidingWindow(10)
    simulation.run(80)
    simulation.run(130)
    assert sum(simulation.rates(80)) >= 0.9 * 10
    simulation.service = SlidingWindow(50)
    simulation.run(350)
    simulation.run(400)
    assert sum(simulation.rates(350)) >= 0.9 * 50


def test_processes_that_remain_take_over_the_rate_of_those_that_ended():
    simulation = Simulation(SlidingWindow(20), 4).run(60)
    simulation.call = lambda process, call=simulation.call: process == 0 and call(process)
    simulation.run(360)
    assert simulation.rates(300)[0] >= 0.9 * 20
    assert simulation.rates(300)[1:] == [0, 0, 0]


# --- Pacing


def test_no_second_has_more_starts_than_the_limit():
    paced = Paced(told=20)
    starts = [paced.start() for _ in range(200)]
    assert all(later - earlier > 1 for earlier, later in zip(starts, starts[20:], strict=False))
    assert starts[-1] - starts[0] == pytest.approx(199 / 20 / 0.98, rel=0.06)


@pytest.mark.parametrize(
    ("gathers", "refused", "at_once"), [(False, False, 20), (True, False, 10), (False, True, 10), (True, True, 10)]
)
def test_requests_after_an_idle_time_start_at_once(gathers, refused, at_once):
    paced = Paced(told=20)
    if refused:  # and back at the limit, after K seconds of load
        paced.limiter.on_error(refusal(0.1), 0.1, paced.start())
        while paced.limiter.rate < 20:
            paced.start()
    for _ in range(3):
        paced.time += 10
        delays = [paced.limiter.reserve(gathers=gathers)[1] for _ in range(20)]
        assert delays[:at_once] == [0] * at_once
        assert all(delays[at_once:])
        assert paced.delay() > 1


def test_requests_that_would_gather_start_without_waiting_up_to_half_of_the_rate():
    limiter = RateLimiter(now=lambda: 1000.0)
    cap = limit(20)
    limiter.join(cap)
    assert [limiter.start_now() for _ in range(11)] == [1000.0] * 10 + [None]


@pytest.mark.parametrize("rate", [2, 3, 25, 25.5, 100])
def test_gathered_batches_after_a_burst_start_without_a_long_gap(rate):
    paced = Paced(told=rate)
    starts = [paced.start() for _ in range(math.ceil(rate / 2))]  # calls that come in the same moment
    for _ in range(3 * math.ceil(rate)):
        start, delay = paced.limiter.reserve(gathers=True)
        paced.time += delay
        starts.append(paced.limiter.confirm(start))
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert max(gaps) <= 2.5 / rate
    count = math.ceil(rate)
    assert all(later - earlier >= count / rate for earlier, later in zip(starts, starts[count:], strict=False))
    assert starts[-1] - starts[0] == pytest.approx(3.5 * count / rate / 0.98, rel=0.2)  # no start is given away


def test_rate_below_one_request_per_second():
    paced = Paced(told=0.25)
    assert paced.start() + 4 < paced.start() < paced.time + 4.2


def test_late_start_delays_later_reservations():
    paced = Paced(told=20)
    reservations = [paced.reserve() for _ in range(20)]
    paced.time += 1.0
    assert all(map(paced.limiter.confirm, reservations))
    assert paced.delay() >= 1


def test_late_requests_do_not_all_start_at_once():
    paced = Paced(told=4)
    reservations = [paced.reserve() for _ in range(16)]
    paced.time += 10
    confirmed = [paced.limiter.confirm(reservation) for reservation in reservations]
    assert [entry is not None for entry in confirmed] == [True] * 4 + [False] * 12
    assert confirmed[0] == paced.time


def test_released_start_time_goes_to_the_next_request():
    paced = Paced(told=5)
    reservations = [paced.reserve() for _ in range(60)]
    for reservation in reservations[5:]:
        paced.limiter.release(reservation)
    assert paced.delay() <= 1.1


def test_released_start_time_cannot_be_confirmed():
    paced = Paced()
    reservation = paced.reserve()
    paced.limiter.release(reservation)
    paced.limiter.release(reservation)
    assert paced.limiter.confirm(reservation) is None


# --- Pauses


@pytest.mark.parametrize("error", [refusal(5.0), ServerError("busy", status=503, retry_after=5.0)])
def test_retry_after_pauses_all_requests_exactly_as_long(error):
    paced = Paced()
    first, waiting = paced.start(), paced.reserve()
    paced.limiter.on_error(error, 99.0, first)
    assert paced.limiter.confirm(waiting) is None
    assert paced.delay() == 5
    paced.time += 4.999
    assert paced.delay() == pytest.approx(0.001)
    paced.time += 0.001
    assert paced.delay() <= 0.05


def test_refusal_without_retry_after_pauses_all_requests_for_the_backoff():
    paced = Paced()
    paced.limiter.on_error(refusal(), 0.7, paced.start())
    assert paced.delay() == pytest.approx(0.7)


def test_longest_pause_applies():
    paced = Paced()
    for retry_after in (2.0, 5.0, 1.0):
        paced.limiter.on_error(refusal(retry_after), 0, None)
    assert paced.delay() == 5


@pytest.mark.parametrize("error", [ServerError("broken", status=500), ConnectionFailedError("reset")])
def test_error_of_a_single_request_pauses_no_other_request(error):
    paced = Paced()
    paced.limiter.on_error(error, 9.0, paced.start())
    assert paced.delay() == 0
    assert paced.limiter.rate == pytest.approx(DEFAULT_RATE)


def test_refusal_of_an_unknown_request_pauses_but_keeps_the_rate():
    paced = Paced()
    paced.limiter.on_error(refusal(3.0), 0.5)
    assert paced.delay() == 3
    assert paced.limiter.rate == pytest.approx(DEFAULT_RATE)


# --- Adaptation


def test_peak_after_a_burst_is_the_number_of_accepted_requests():
    paced = Paced(told=60)
    starts = []
    for _ in range(40):
        starts.append(paced.start())
        paced.time += 0.001
    # They arrive in a different order than they started: 25 are accepted.
    for started in starts[21:36]:
        paced.limiter.on_error(refusal(1.0), 1.0, started)
    assert paced.limiter._peak == 25


def test_all_refusals_of_one_congestion_event_lower_the_rate_once():
    paced = Paced(told=100)
    started = [paced.start() for _ in range(300)]
    for reservation in started[-3:-1]:
        paced.limiter.on_error(refusal(1.0), 1.0, reservation)
    first, rate = paced.limiter._event, paced.limiter.rate
    assert rate == pytest.approx(0.95 * 100, rel=0.03)
    paced.time += 2  # refused at that time as well, but known only now
    paced.limiter.on_error(refusal(1.0), 1.0, started[-1])
    assert paced.limiter._event is first
    assert paced.limiter.rate == pytest.approx(rate, rel=0.02)
    paced.time += 2
    paced.limiter.on_error(refusal(1.0), 1.0, [paced.start() for _ in range(200)][-1])
    assert paced.limiter._event is not first
    assert paced.limiter.rate < 0.97 * rate


@pytest.mark.parametrize("before", [1, 5, 60])
def test_rate_recovers_soon_after_a_single_unrelated_refusal(before):
    paced = Paced(told=100)
    for _ in range(before):
        started = paced.start()
        paced.time += 0.05
    paced.limiter.on_error(refusal(1.0), 1.0, started)
    assert paced.limiter.rate >= 0.95 * 50 - 1e-9
    began = paced.time
    while paced.time < began + 20:
        paced.start()
    assert paced.limiter.rate >= 95


def test_rate_grows_only_while_requests_have_to_wait():
    paced = Paced()
    for _ in range(100):
        paced.start()
        paced.time += 0.5
    assert paced.limiter.rate == DEFAULT_RATE
    for _ in range(1000):
        paced.start()
    assert paced.limiter.rate > 1.5 * DEFAULT_RATE


def test_rate_without_a_limit_stays_below_the_highest_documented_one():
    simulation = Simulation(SlidingWindow(1000), latency=0.01).run(60)
    assert simulation.limiters[0].rate == MAX_DEFAULT_RATE
    assert sum(simulation.rates(30)) <= MAX_DEFAULT_RATE


def test_rate_never_exceeds_a_limit():
    simulation = Simulation(SlidingWindow(1000), told=30).run(60)
    assert simulation.limiters[0].rate == 30
    assert sum(simulation.rates(5)) <= 30


# --- Limits of several objects


@pytest.fixture
def endpoint(request):
    return Endpoint.resolve(api_key=f"key-{abs(hash(request.node.name))}", base_url="http://127.0.0.1:9/v1")


def test_lowest_explicit_limit_applies_and_a_default_is_no_limit(endpoint):
    objects = [limit(rate, endpoint) for rate in (1000, None, 400)]
    limiter = objects[0].limiter()
    assert limiter.rate == 1000
    assert objects[1].limiter() is limiter
    assert limiter.rate == 1000
    objects[2].limiter()
    assert limiter.rate == 400
    del objects[2]
    assert limiter.rate == 1000
    del objects[0]
    assert limiter.rate == DEFAULT_RATE


def test_dropped_object_releases_its_limit_without_the_cycle_collector(sandbox):
    options = {"api_key": sandbox.api_key, "base_url": sandbox.base_url.replace("/api/v1", "/api/paid/v1")}
    limiter = limiter_for(Endpoint.resolve(**options))
    gc.collect()
    gc.disable()
    try:
        dropped = Embedder(**options, requests_per_second=3)
        dropped.embed_query("one")
        assert limiter.rate == 3
        del dropped
        assert limiter.rate == DEFAULT_RATE
    finally:
        gc.enable()


@pytest.mark.parametrize("other", [{"api_key": "another"}, {"base_url": "http://127.0.0.1:10/v1"}])
def test_limiter_is_shared_by_key_and_base_url(endpoint, other):
    options = {"api_key": endpoint.key, "base_url": endpoint.base_url}
    limiter = limiter_for(endpoint)
    assert limiter_for(Endpoint.resolve(**options)) is limiter
    assert limiter_for(Endpoint.resolve(**{**options, **other})) is not limiter


def test_unused_limiter_is_forgotten(endpoint):
    unused = weakref.ref(limiter_for(endpoint))
    gc.collect()
    assert unused() is None


def test_repr_shows_rate_and_pause_but_no_key(endpoint):
    with fake_clock():
        owner = limit(12.0, endpoint)
        owner.limiter().on_error(refusal(7.0), 7.0)
        shown = repr(owner.limiter())
    # Time also passes beside the fake clock.
    assert re.fullmatch(r"RateLimiter\(12 requests/s, paused for (7|6\.\d+) s\)", shown)
    assert endpoint.key.get_secret_value() not in shown


# --- Threads, forks, processes


def test_another_thread_never_uses_the_limiter_before_its_cap_applies(monkeypatch):
    cap, rates, joins = limit(2.0), [], []
    join = RateLimiter.join

    def interrupted(limiter, joining):
        joins.append(joining)
        if len(joins) == 1:
            thread = threading.Thread(target=lambda: rates.append(cap.limiter().rate))
            thread.start()
            thread.join(60)
        join(limiter, joining)

    monkeypatch.setattr(RateLimiter, "join", interrupted)
    cap.limiter()
    assert rates == [2.0]


def test_threads_reserve_different_start_times():
    limiter = RateLimiter(now=lambda: 0.0)
    own = limit(1000)
    limiter.join(own)
    found = []

    def reserve():
        found.extend(limiter.reserve()[0] for _ in range(200))

    threads = [threading.Thread(target=reserve) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    later = sorted(start for start in found if start > 0)
    assert len(later) == len(set(later)) >= 1600 - 1000
    assert sum(start == 0 for start in found) == 1000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_another_thread_holds_the_lock_leaves_it_free_and_ends_the_pause(endpoint):
    limiter = limiter_for(endpoint)
    limiter.on_error(refusal(60.0), 60.0)
    held, release = threading.Event(), threading.Event()

    def hold():
        with limiter._lock:
            held.set()
            release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    threading.Timer(0.2, release.set).start()
    child = os.fork()
    if child == 0:
        free = limiter._lock.acquire(timeout=60)
        os._exit(0 if free and limiter_for(endpoint).reserve()[1] < 30 else 1)
    thread.join(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Without the embedder, whose imports take longer than the whole test.
CHILD = """
import http.client, sys, threading
from nanogpt_core._runtime import clock
from nanogpt_core.errors import RateLimitError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.rate_limiter import ProcessLimits, RateCap
from nanogpt_core._runtime.clock import Cancellation
from nanogpt_core.http.retry import send_with_retries

port, count = map(int, sys.argv[1:])
limit = RateCap(Endpoint.resolve(api_key="key", base_url=f"http://127.0.0.1:{port}"), None)

def attempt(_admission):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/")
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status == 429:
        raise RateLimitError("refused", status=429, retry_after=float(response.headers["Retry-After"]))
    yield from ()

def work():
    for _ in range(count // 8):
        limits = ProcessLimits(limit.limiter)
        steps = send_with_retries(attempt, limits=limits, max_retries=5, cancellation=Cancellation())
        for action in steps:
            clock.sleep(action.seconds)

sys.stdin.readline()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
"""


class CountingServer(ThreadingHTTPServer):
    """Grants 40 requests in any second; keeps the statuses of its replies in order."""

    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), CountingHandler)
        self.window, self.lock, self.statuses = RateWindow(40), threading.Lock(), []


class CountingHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        with self.server.lock:
            retry_after = self.server.window.admit()
            status = 429 if retry_after else 200
            self.server.statuses.append(status)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Retry-After", str(retry_after))
        self.end_headers()

    def log_message(self, *args):
        pass


def test_four_real_processes_share_the_rate_of_a_real_server():
    processes, count = 4, 32
    server = CountingServer()
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    try:
        command = [sys.executable, "-c", CHILD, str(server.server_port), str(count)]
        children = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(processes)]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            child.communicate(timeout=300)
    finally:
        server.shutdown()
        serving.join(60)
        server.server_close()
    assert [child.returncode for child in children] == [0] * processes
    assert server.statuses.count(200) == processes * count
    # In the first second, four processes that begin at 25 requests/s find a grant of 40. Then refusals are few.
    second_half = server.statuses[len(server.statuses) // 2 :]
    assert second_half.count(429) <= 0.1 * len(second_half)
    assert server.statuses.count(429) <= 0.35 * len(server.statuses)


# --- a clock that stands still, as in tests of programs that freeze it ---


def test_clock_that_stands_still_holds_up_no_request_for_ever():
    limiter = RateLimiter(now=lambda: 5.0)

    def begin():
        for _ in range(3):
            start, delay = limiter.reserve()
            if limiter.confirm(start) is not None:
                return delay
        pytest.fail("no start time comes")

    waits = [begin() for _ in range(200)]
    assert max(waits) < 1.5, "each request waits for its own part of the time, and not for all before it"
    assert 200 / DEFAULT_RATE - 1.5 < sum(waits) < 200 / DEFAULT_RATE + 1.5
    for _ in range(2):
        limiter.on_error(refusal(retry_after=7.0), 7.0, limiter.reserve()[0])
        assert 7.0 <= begin() < 8.0
        assert begin() < 1.0


def test_threads_wait_in_turn_if_the_clock_stands_still():
    limiter = RateLimiter(now=lambda: 5.0)
    reserved = [limiter.reserve() for _ in range(60)]
    started = [limiter.confirm(start) for start, _ in sorted(reserved)]
    assert started == sorted(start for start, _ in reserved)
    assert limiter.reserve()[1] < 1.0


def test_pause_of_a_moment_ends_if_the_clock_stands_still():
    limiter = RateLimiter(now=lambda: 5.0)
    limiter.on_error(refusal(retry_after=0.001), 0.001, limiter.confirm(limiter.reserve()[0]))
    assert limiter.confirm(limiter.reserve()[0]) is not None


def test_clock_that_is_set_back_after_it_stood_still_holds_up_no_request():
    time = 1e9
    limiter = RateLimiter(now=lambda: time)
    for _ in range(30):
        limiter.confirm(limiter.reserve()[0])
    limiter.on_error(refusal(retry_after=2.0), 2.0, limiter.confirm(limiter.reserve()[0]))
    time = 7.0
    start, delay = limiter.reserve()
    assert 0.0 < delay <= 2.0, "the pause keeps its length"
    time += delay
    assert limiter.confirm(start) == start


@pytest.mark.parametrize("callers", [1, 16])
def test_clock_that_moves_in_steps_starts_no_request_too_early(callers):
    """As on Windows until Python 3.12, whose event loop also wakes callers up to a step too early."""
    time, step, rate, started = 0.0, 1 / 64, 100, []
    events, cap = [(0.0, caller, None) for caller in range(callers)], limit(rate)
    limiter = RateLimiter(now=lambda: time // step * step)
    limiter.join(cap)
    while len(started) < 5 * rate:
        due, caller, start = heapq.heappop(events)
        time = max(time, due)
        if start is not None and limiter.confirm(start) is not None:
            started.append(time)
        start, delay = limiter.reserve()
        wake = (time // step + (delay + 1e-9) // step) * step
        heapq.heappush(events, (max(wake, time + 1e-4), caller, start))
    most = max(bisect_right(started, begin + 1.0 - step) - at for at, begin in enumerate(started))
    assert most <= rate

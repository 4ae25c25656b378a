# ruff: noqa: ARG002
"""Shared limits in the flow of requests: budget, start time and send in order; blocking limits; option ``limits``."""

import asyncio
import socket
import threading

import pytest

from nanogpt_core import (
    BudgetExceededError,
    ConfigurationError,
    Embedder,
    InvalidTypeError,
    LimitsUnavailableError,
    ModelInfo,
)
from nanogpt_core._runtime.clock import Cancellation, fake_clock
from nanogpt_core.errors import ConnectionFailedError, RateLimitError, RequestTimeoutError, ServerError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.limits import FREE, GATHERED, Admission, Budget, Cost, Outcome, SharedLimits
from nanogpt_core.http.rate_limiter import ProcessLimits, RateCap, RateLimiter
from nanogpt_core.http.retry import send_with_retries, wait_for_start
from nanogpt_core.http.runner import Run, Wait

CENT = Cost("model", texts=1, tokens=100, usd=0.01, timeout=60)
GUARD_SECONDS = 60
PRICED = ModelInfo("lab/priced", usd_per_million_tokens=10.0)
BUDGET = 1.5 * Embedder(PRICED, api_key="k").estimate(["text"]).cost_usd  # of one attempt, and no second one


class RecordingLimits:
    """Limits of a user's own, which may block, and which record their calls."""

    may_block = True
    budget_usd = 1.0

    def __init__(self, *failures):
        self.calls, self.threads = [], []
        self.failures = list(failures)
        self.gate = threading.Event()
        self.gate.set()
        self.entered, self.released = threading.Event(), threading.Event()

    def _record(self, name):
        self.calls.append(name)
        self.threads.append(threading.current_thread())

    def check(self, cost):
        self._record("check")

    def reserve(self, cost):
        self.entered.set()
        assert self.gate.wait(GUARD_SECONDS)
        self._record("reserve")
        if self.failures:
            raise self.failures.pop(0)
        return Admission("id", 0.0, 0.0, ready=False, cost=cost)

    def confirm(self, admission):
        self._record("confirm")
        return Admission("id", 0.0, 0.0, ready=True, cost=admission.cost)

    def release(self, admission):
        self.calls.append("release")
        self.released.set()

    def settle(self, admission, outcome):
        self.calls.append(("settle", outcome.usd, outcome.answered))

    def on_error(self, error, delay, admission=None):
        self.calls.append("on_error")

    def add_saving(self, saving):
        self.calls.append(("saving", saving.cached, saving.repeated))


def limits_of(rate, budget=None):
    limiter, limit = RateLimiter(), RateCap(Endpoint(None, "https://limits.invalid"), rate)
    limiter.join(limit)
    limits = ProcessLimits(lambda: limiter, None if budget is None else Budget(budget))
    limits.kept = limit
    return limits


def test_protocol_is_followed_by_both():
    assert isinstance(RecordingLimits(), SharedLimits)
    assert isinstance(limits_of(1), SharedLimits)


def test_order_is_budget_then_turn_then_send(call_embed, options):
    limits = RecordingLimits()
    call_embed(Embedder(**options, limits=limits), ["one", "two", "one"])
    assert limits.calls[:2] == ["check", ("saving", 0, 1)]
    assert limits.calls[2:4] == ["reserve", "confirm"]
    (settle,) = limits.calls[4:]
    assert settle == ("settle", pytest.approx(4e-8), True)


def test_async_code_calls_limits_that_may_block_in_other_threads(options):
    limits = RecordingLimits()
    asyncio.run(Embedder(**options, limits=limits).aembed(["text"]))
    assert limits.threads
    assert threading.main_thread() not in limits.threads


async def test_event_loop_goes_on_while_limits_block(options):
    limits = RecordingLimits()
    limits.gate.clear()
    task = asyncio.create_task(Embedder(**options, limits=limits).aembed_query("text"))
    assert await asyncio.to_thread(limits.entered.wait, GUARD_SECONDS)
    assert not task.done()
    limits.gate.set()
    assert (await task).shape == (1536,)


async def test_admission_that_arrives_after_a_cancellation_is_given_back(options):
    limits = RecordingLimits()
    limits.gate.clear()
    task = asyncio.create_task(Embedder(**options, limits=limits).aembed_query("text"))
    assert await asyncio.to_thread(limits.entered.wait, GUARD_SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "release" not in limits.calls
    limits.gate.set()
    assert await asyncio.to_thread(limits.released.wait, GUARD_SECONDS)
    assert limits.calls.count("reserve") == 1


def test_temporary_failure_of_the_limits_is_retried(options, call_embed):
    limits = RecordingLimits(LimitsUnavailableError("away"))
    call_embed(Embedder(**options, limits=limits, max_retries=1), ["text"])
    assert limits.calls[:4] == ["check", "reserve", "reserve", "confirm"]
    assert "on_error" not in limits.calls


def test_limits_that_stay_away_end_the_call_before_anything_is_sent(options, call_embed, sandbox):
    limits = RecordingLimits(*(LimitsUnavailableError("away") for _ in range(10)))
    with pytest.raises(LimitsUnavailableError):
        call_embed(Embedder(**options, limits=limits, max_retries=1), ["text"])
    assert sandbox.requests == []


def test_budget_covers_the_requests_that_make_it_up():
    limits = limits_of(1000, budget=0.3)  # 0.1 + 0.1 + 0.1 is 0.30000000000000004
    for _ in range(3):
        limits.reserve(Cost(usd=0.1))
    with pytest.raises(BudgetExceededError):
        limits.reserve(Cost(usd=1e-6))


def test_request_that_is_not_sent_costs_nothing():
    limits = limits_of(0.01, budget=0.02)
    next(wait_for_start(limits, Cancellation(), CENT), None)  # takes the first start time
    steps = wait_for_start(limits, Cancellation(), CENT)
    assert isinstance(next(steps), Wait)
    with pytest.raises(BudgetExceededError, match=r"budget_usd=0\.02; \$0\.02 of it is spent or may"):
        limits.reserve(CENT)
    steps.close()
    limits.reserve(CENT)


def test_request_that_the_deadline_stops_costs_nothing():
    limits, cancellation = limits_of(0.01, budget=0.02), Cancellation()
    next(wait_for_start(limits, cancellation, CENT), None)
    steps = wait_for_start(limits, cancellation, CENT)
    next(steps)
    cancellation.stop.set()
    with pytest.raises(RequestTimeoutError):
        next(steps)
    limits.reserve(CENT)


@pytest.mark.parametrize("coalesce", [True, False])
def test_attempts_without_a_connection_cost_nothing(call_embed, coalesce):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
        embedder = Embedder(PRICED, api_key="k", base_url=url, budget_usd=BUDGET, coalesce=coalesce, max_retries=3)
        for _ in range(2):
            with fake_clock(), pytest.raises(ConnectionFailedError) as caught:
                call_embed(embedder, ["text"])
            assert caught.value.unsent
        assert embedder.usage.uncertain == 0


@pytest.mark.parametrize("coalesce", [True, False])
def test_calls_whose_deadline_passes_before_they_send_cost_nothing(options, call_embed, coalesce):
    embedder = Embedder(PRICED, **options, deadline=1e-6, budget_usd=BUDGET, coalesce=coalesce)
    for _ in range(3):
        with pytest.raises(RequestTimeoutError, match="deadline"):
            call_embed(embedder, ["text"])
    assert embedder.usage.uncertain == 0


def test_connection_that_closes_within_a_reply_may_be_billed(call_embed, serve, faults):
    server = serve(lambda _: faults.Closing(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))
    embedder = server.embedder(PRICED, budget_usd=BUDGET)
    with pytest.raises(ConnectionFailedError) as caught:
        call_embed(embedder, ["text"])
    assert not caught.value.unsent
    assert embedder.usage.uncertain == 1
    with pytest.raises(BudgetExceededError):
        call_embed(embedder, ["text"])


def test_budget_error_of_a_retry_is_caused_by_the_last_failure():
    limits, failure = limits_of(1000, budget=0.01), ServerError("broken", status=500)

    def attempt(admission):
        yield "send"
        limits.settle(admission, Outcome(None))
        raise failure

    steps = send_with_retries(attempt, limits=limits, max_retries=3, cancellation=Cancellation(), cost=CENT)
    with pytest.raises(BudgetExceededError) as caught:
        list(steps)
    assert caught.value.__cause__ is failure


def test_limits_that_may_block_are_called_in_run_actions():
    limits = RecordingLimits()
    steps = wait_for_start(limits, Cancellation(), FREE)
    for _ in range(2):
        action = next(steps)
        assert isinstance(action, Run)
        action.function()
    with pytest.raises(StopIteration):
        next(steps)
    assert limits.calls == ["reserve", "confirm"]


@pytest.fixture(params=["sync", "async"])
def call_embed(request):
    if request.param == "sync":
        return lambda embedder, texts: embedder.embed(texts)
    return lambda embedder, texts: asyncio.run(embedder.aembed(texts))


# --- The option


@pytest.mark.parametrize("other", [{"requests_per_second": 5}, {"budget_usd": 1}])
def test_limits_exclude_the_options_that_they_replace(other):
    with pytest.raises(ConfigurationError, match=f"{next(iter(other))} and limits cannot be combined"):
        Embedder(api_key="k", limits=RecordingLimits(), **other)


@pytest.mark.parametrize("limits", ["redis://x", 5, RecordingLimits, object()])
def test_other_objects_are_refused_as_limits(limits):
    with pytest.raises(InvalidTypeError, match="limits must be an object such as RedisLimits"):
        Embedder(api_key="k", limits=limits)


def test_shared_budget_needs_a_model_with_a_price():
    with pytest.raises(ConfigurationError, match="its price is unknown"):
        Embedder("lab/unlisted", api_key="k", limits=RecordingLimits())


# --- start times of gathered batches ---


def test_admit_now_reserves_nothing_if_the_request_has_to_wait():
    limits = limits_of(1, budget=0.05)
    admission = limits.admit_now(CENT)
    assert admission.ready
    starts = list(limits._limiter()._starts)
    assert limits.admit_now(CENT) is None
    assert limits._limiter()._starts == starts
    limits.check(Cost(usd=0.04))  # only the first cent is reserved
    limits.release(admission)
    limits.check(Cost(usd=0.05))


def test_admit_now_without_money_reserves_no_start_time():
    limits = limits_of(1, budget=0.005)
    with pytest.raises(BudgetExceededError, match=r"budget_usd=0\.005; nothing of it is spent or may"):
        limits.admit_now(CENT)
    assert limits._limiter()._starts == []


@pytest.mark.parametrize(("gathers", "grows"), [(False, True), (True, False)])
def test_gathered_batches_do_not_raise_the_rate_over_the_documented_one(gathers, grows):
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    before = limiter.rate
    for _ in range(1000):
        start, delay = limiter.reserve(gathers=gathers)
        now[0] += delay
        limiter.confirm(start)
    assert (limiter.rate > before) is grows


def test_rate_of_gathered_batches_recovers_after_a_refusal():
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    refused = RateLimitError("slow down", status=429)
    for number in range(2000):
        start, delay = limiter.reserve(gathers=True)
        now[0] += delay
        confirmed = limiter.confirm(start)
        if number == 100:
            limiter.on_error(refused, 1.0, confirmed)
            lowered = limiter.rate
    assert lowered < 25 <= limiter.rate + 0.5


def test_turns_of_gathered_batches_have_no_budget():
    limits = limits_of(1000, budget=0.01)
    limits.admit_now(CENT)
    limits.reserve(GATHERED)  # spends nothing

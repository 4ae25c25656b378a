"""Small calls with shared ``limits`` share a request too, and one reservation for it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from nanogpt_core import BudgetExceededError, LimitsUnavailableError, RedisLimits
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.embeddings.gathering import small_call
from nanogpt_core.errors import BadRequestError, RequestTimeoutError

GUARD_SECONDS = 60
WIDTH = 8
# 5 tokens each, and the first one is 1.
TEXTS = ["five words are in here", "five words are in there", "five words are in this"]
USD_PER_TOKEN = 0.02 / 1e6


@pytest.fixture(params=["process", "redis"])
def make_limits(request, gathering):
    """Make limits within this process, or of a Redis server."""
    if request.param == "process":
        return gathering.LimitsInProcess
    redis, name = request.getfixturevalue("redis"), request.getfixturevalue("name")
    return lambda budget_usd=None: RedisLimits(redis.url, name, budget_usd=budget_usd)


@pytest.fixture
def in_process(gathering):
    return gathering.LimitsInProcess


def counts(limits):
    """Return the number of answered requests, their texts and tokens, after all of them have ended."""
    if not isinstance(limits, RedisLimits):
        return limits.counts()
    ledger = limits.ledger()
    assert ledger.open == ()
    return ledger.answered, ledger.texts_sent, ledger.tokens


def counted(faults, tokens=5):
    """Answer with a number of tokens for each text."""
    return lambda seen: faults.response(faults.document(seen.texts, "base64", WIDTH, tokens=tokens * len(seen.texts)))


def test_waiting_calls_share_one_request_and_one_reservation(together, held, faults, make_limits):
    server, limits = held(counted(faults)), make_limits()
    one, two = server.embedder(limits=limits), server.embedder(limits=limits, deadline=GUARD_SECONDS)
    texts = ["first", *(f"query {number}" for number in range(20))]
    results = together(server, [((one, two)[n % 2], text) for n, text in enumerate(texts)])
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    assert [sorted(texts) for texts in server.sent] == [sorted(texts[1:])]
    assert counts(limits) == (2, 21, 105)
    total = one.usage + two.usage
    assert (total.requests, total.texts_sent, total.prompt_tokens) == (2, 21, 105)
    assert total.cost_usd == pytest.approx(105 * USD_PER_TOKEN)


def test_budget_refuses_only_the_calls_that_would_exceed_it(together, held, faults, make_limits):
    server, limits = held(counted(faults)), make_limits(18 * USD_PER_TOKEN)
    embedder = server.embedder(limits=limits)
    first, *others = together(server, [(embedder, text) for text in ["first", *TEXTS]])
    assert server.right(first, "first")
    (refused,) = [result for result in others if isinstance(result, BudgetExceededError)]
    assert "5 tokens" in str(refused)  # its own
    right = [server.right(result, text) for result, text in zip(others, TEXTS, strict=True) if result is not refused]
    assert right == [True, True]
    assert len(server.sent) == 2
    assert counts(limits) == (3, 3, 15)


def test_calls_with_the_same_options_share_if_their_limits_are_the_same_object(held, in_process):
    server, limits = held(), in_process()
    queues = [server.queue_of(server.embedder(limits=one)) for one in (limits, limits, in_process(), None)]
    assert queues[0] is queues[1]
    assert len({id(queue) for queue in queues}) == 3


def test_every_request_of_a_search_for_a_bad_text_has_a_reservation(together, held, faults, in_process):
    refusal = faults.response({"error": {"message": "forbidden words"}}, 400)
    server = held(lambda seen: refusal if any("bad" in text for text in seen.texts) else counted(faults)(seen))
    limits = in_process()
    embedder = server.embedder(limits=limits)
    texts = ["first", *(f"query {number}" if number != 9 else "a bad query" for number in range(16))]
    results = together(server, [(embedder, text) for text in texts])
    assert type(results[10]) is BadRequestError
    assert (
        sum(server.right(vector, text) for vector, text in zip(results, texts, strict=True) if "bad" not in text) == 16
    )
    assert len(limits.ended) == len(server.server.requests)
    assert limits.counts()[1:] == (16, 80)


def test_retried_request_reserves_for_each_attempt(together, held, faults, in_process):
    failures, answer = iter([faults.response("", 503, Retry_After="0")]), counted(faults)
    server = held(lambda seen: answer(seen) if seen.texts == ["first"] else next(failures, answer(seen)))
    limits = in_process(1.0)
    embedder = server.embedder(limits=limits, max_retries=2)
    results = together(server, [(embedder, text) for text in ["first", *TEXTS]])
    assert all(server.right(vector, text) for vector, text in zip(results, ["first", *TEXTS], strict=True))
    assert [outcome.usd is None for _, outcome in limits.ended.values()] == [False, True, False]
    assert limits.counts() == (2, 4, 20)
    assert all(cost.gathers for cost, _ in limits.ended.values())  # also of the call that went by itself


def test_only_requests_for_which_texts_gather_are_marked(serve, faults, in_process):
    limits = in_process()
    server = serve(faults.good)
    embedder = server.embedder("text-embedding-3-small", dimensions=8, limits=limits)
    embedder.embed(["a small call"])
    embedder.embed([f"text {number}" for number in range(200)], batch_size=100)
    assert sorted(cost.gathers for cost, _ in limits.ended.values()) == [False, False, True]


# --- limits that cannot be reached ---


def test_limits_that_come_back_in_time_disturb_no_call(together, held, in_process):
    server, limits = held(), in_process()
    embedder = server.embedder(limits=limits, max_retries=2)
    with fake_clock():
        limits.failures = 1  # of the call that goes by itself
        first_failures = iter([2])  # of those that gather
        server.others = lambda _: setattr(limits, "failures", next(first_failures, 0))
        results = together(server, [(embedder, text) for text in ["first", *TEXTS]])
    assert all(server.right(vector, text) for vector, text in zip(results, ["first", *TEXTS], strict=True))
    assert len(server.sent) == 1
    assert limits.open == {}


def test_each_call_gets_an_error_of_its_own_if_redis_goes_away(together, held, start_redis, name):
    redis = start_redis()
    server, limits = held(), RedisLimits(redis.url, name, budget_usd=1.0)
    server.others = lambda _: redis.stop()
    embedder = server.embedder(limits=limits, max_retries=0)
    first, *errors = together(server, [(embedder, text) for text in ["first", *TEXTS]])
    assert server.right(first, "first")
    assert [type(error) for error in errors] == [LimitsUnavailableError] * 3
    assert len(set(map(id, errors))) == 3
    assert [error.failed_positions for error in errors] == [(0,)] * 3
    assert server.sent == []


def test_nothing_is_sent_if_the_limits_of_a_call_that_goes_by_itself_are_away(query, serve, in_process):
    server, limits = serve(), in_process()
    limits.failures = 100
    with pytest.raises(LimitsUnavailableError):
        query(server.embedder(limits=limits), "text")
    assert server.requests == []
    limits.failures = 0
    assert query(server.embedder(limits=limits), "text").shape
    assert limits.open == {}


# --- calls that end while their batch waits for its start time ---


async def _gather_at_the_gate(server, limits, embedder):
    """Make three calls whose batch waits for its reservation; return their tasks."""
    first = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
    assert limits.reserving.acquire(timeout=0)
    limits.gate.clear()
    calls = [asyncio.ensure_future(embedder.aembed_query(text)) for text in TEXTS]
    await server.await_queue(embedder, 3)
    server.released.set()
    await first
    assert await asyncio.to_thread(limits.reserving.acquire, timeout=GUARD_SECONDS)
    return calls


async def test_cancelled_call_leaves_a_batch_that_waits_for_its_turn(held, faults, in_process):
    server, limits = held(counted(faults)), in_process()
    calls = await _gather_at_the_gate(server, limits, server.embedder(limits=limits))
    calls[1].cancel()
    await asyncio.wait(calls[1:2])
    limits.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert server.right(results[0], TEXTS[0])
    assert isinstance(results[1], asyncio.CancelledError)
    assert server.right(results[2], TEXTS[2])
    assert server.sent == [[TEXTS[0], TEXTS[2]]]
    assert limits.counts() == (2, 3, 15)


async def test_reservation_is_given_back_if_all_calls_are_cancelled(held, faults, in_process):
    server, limits = held(counted(faults)), in_process()
    embedder = server.embedder(limits=limits)
    calls = await _gather_at_the_gate(server, limits, embedder)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    limits.gate.set()
    assert server.right(await embedder.aembed_query("after"), "after")
    # The thread that reserves for the cancelled calls may be slower than the next call.
    until = asyncio.get_running_loop().time() + GUARD_SECONDS
    while not (given_back := [cost.texts for cost, outcome in list(limits.ended.values()) if outcome is None]):
        assert asyncio.get_running_loop().time() < until, "the reservation was not given back"
        await asyncio.sleep(0)
    assert given_back == [3]
    assert limits.open == {}
    assert server.sent == [["after"]]


async def test_texts_that_come_after_the_reservation_go_with_the_next_batch(held, in_process):
    server, limits = held(), in_process()
    embedder = server.embedder(limits=limits)
    calls = await _gather_at_the_gate(server, limits, embedder)
    later = [asyncio.ensure_future(embedder.aembed_query(text)) for text in ("later", "last")]
    await server.await_queue(embedder, 2)
    limits.gate.set()
    texts = [*TEXTS, "later", "last"]
    for text, vector in zip(texts, await asyncio.gather(*calls, *later), strict=True):
        assert server.right(vector, text)
    assert server.sent == [TEXTS, ["later", "last"]]


async def test_closing_disturbs_no_call_that_waits_for_its_turn(held, in_process):
    server, limits = held(), in_process()
    embedder = server.embedder(limits=limits)
    calls = await _gather_at_the_gate(server, limits, embedder)
    await embedder.aclose()
    limits.gate.set()
    for text, vector in zip(TEXTS, await asyncio.gather(*calls), strict=True):
        assert server.right(vector, text)
    assert limits.open == {}


def test_deadline_of_a_call_ends_it_while_its_batch_waits_for_its_turn(held, in_process, monkeypatch):
    server, limits = held(), in_process()
    monkeypatch.setattr(small_call, "SLOT_SECONDS", 0.01)  # waiting calls look at their deadline
    patient, hasty = server.embedder(limits=limits), server.embedder(limits=limits, deadline=1000)
    with fake_clock() as skipped, ThreadPoolExecutor(3) as executor:
        first = executor.submit(patient.embed_query, "first")
        server.server.wait_for(lambda: server.server.in_flight == 1)
        assert limits.reserving.acquire(timeout=0)
        limits.gate.clear()
        late, other = executor.submit(hasty.embed_query, "b"), executor.submit(patient.embed_query, "a")
        server.wait_for_queue(patient, 2)
        server.released.set()
        assert limits.reserving.acquire(timeout=GUARD_SECONDS)
        skipped.advance(1000)
        with pytest.raises(RequestTimeoutError, match="deadline"):
            late.result(GUARD_SECONDS)
        limits.gate.set()
        assert server.right(other.result(GUARD_SECONDS), "a")
        assert server.right(first.result(GUARD_SECONDS), "first")
    assert server.sent == [["a"]]
    assert limits.open == {}


def test_thread_that_waits_for_its_own_turn_lets_others_gather(held, in_process):
    server, limits = held(), in_process()
    embedder = server.embedder(limits=limits)
    limits.gate.clear()
    server.released.set()
    with ThreadPoolExecutor(3) as executor:
        one = executor.submit(embedder.embed_query, "one")
        assert limits.reserving.acquire(timeout=GUARD_SECONDS)
        others = [executor.submit(embedder.embed_query, text) for text in ("two", "three")]
        server.wait_for_queue(embedder, 2)
        limits.gate.set()
        for text, call in zip(("one", "two", "three"), (one, *others), strict=True):
            assert server.right(call.result(GUARD_SECONDS), text)
    assert server.sent[0] == ["one"]
    assert sorted(server.sent[1]) == ["three", "two"]

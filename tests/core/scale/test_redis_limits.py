"""``RedisLimits`` against a real server: rate, pauses, budget, ledger, outages, and workers that die."""

import asyncio
import contextlib
import copy
import ctypes
import gc
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest
import trustme
from blockbuster import blockbuster_ctx

from nanogpt_core import (
    BudgetExceededError,
    ConfigurationError,
    Embedder,
    InvalidTypeError,
    LimitsUnavailableError,
    MemoryCache,
    RedisLimits,
)
from nanogpt_core._runtime import clock
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import ConnectionFailedError, RateLimitError, ServerError
from nanogpt_core.http import rate_limiter
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.limits import FREE, Cost, Outcome, Saving, SharedLimits
from nanogpt_core.http.rate_limiter import RateCap, RateLimiter
from nanogpt_core.scale import redis_scripts
from nanogpt_core.scale.redis_address import RedisAddress
from nanogpt_core.scale.redis_errors import server_error
from nanogpt_core.scale.request_log import RequestLog

CENT = Cost("model", texts=1, tokens=100, usd=0.01, timeout=60)
PAID = Outcome(0.01, tokens=100, answered=True)
GUARD_SECONDS = 60


@pytest.fixture
def make_limits(redis, name):
    """Make limits of one more worker."""
    return lambda rate=None, budget=None, **more: RedisLimits(redis.url, name, rate, budget, **more)


def refused(retry_after=None):
    return RateLimitError("refused", status=429, retry_after=retry_after)


def admit(limits, cost=FREE):
    """Reserve a start time and return it, confirmed, without waiting."""
    admission = limits.reserve(cost)
    assert admission.ready
    return admission


def wait_until(condition):
    end = time.monotonic() + GUARD_SECONDS
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


# --- Rate and pauses


def test_redis_limits_follow_the_protocol(make_limits):
    limits = make_limits()
    assert isinstance(limits, SharedLimits)
    assert limits.may_block


def test_start_times_of_two_workers_keep_to_one_rate(make_limits):
    workers = [make_limits(4), make_limits(4)]
    for limits in workers * 6:
        limits.reserve(FREE)
    session = workers[0]._session
    starts = [score / 1e6 for _, score in session._client.zrange(session._keys[2], 0, -1, withscores=True)]
    assert len(starts) == 12
    # By the server's clock, no five starts are within a second.
    assert min(later - earlier for earlier, later in zip(starts, starts[4:], strict=False)) > 1


def test_request_that_need_not_wait_takes_one_command(make_limits):
    limits = make_limits(100)
    admit(limits)
    client = limits._session._client
    before = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    limits.settle(admit(limits, CENT), PAID)
    limits.release(admit(limits, CENT))
    after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before <= 4  # two requests, and at most two reports in the background


def test_retry_after_of_one_worker_pauses_all(make_limits):
    first, second = make_limits(), make_limits()
    waiting = second.reserve(FREE)
    first.on_error(refused(30.0), 30.0, first.reserve(FREE))
    first.flush()
    assert second.reserve(FREE).delay == pytest.approx(30, abs=20)
    later = second.confirm(waiting) if not waiting.ready else second.reserve(FREE)
    assert later.delay > 20


def test_pause_is_logged_once(make_limits, caplog):
    caplog.set_level(logging.INFO, "nanogpt_core")
    limits = make_limits()
    for _ in range(2):
        limits.on_error(refused(30.0), 30.0, limits.reserve(FREE))
    messages = [record.getMessage() for record in caplog.records if record.name == "nanogpt_core"]
    assert messages == ["Pausing the requests of all workers for 30.0 s after RateLimitError (status 429)"]


def test_learned_rate_is_logged_once_by_each_worker(make_limits, caplog):
    one, two = make_limits(), make_limits()
    admissions = [admit(one) for _ in range(6)]
    with caplog.at_level(logging.INFO, logger="nanogpt_core"):
        for admission in admissions[4:]:
            one.on_error(refused(0.05), 0.05, admission)
        one.flush()
        for limits in (one, one, two):
            admission = limits.reserve(FREE)
            while not admission.ready:
                clock.sleep(admission.delay)
                admission = limits.confirm(admission)
    learned = [record.message for record in caplog.records if record.message.startswith("Learned")]
    assert len(learned) == 2
    assert "requests/s of all workers are accepted" in learned[0]


def test_connection_that_the_server_closed_is_opened_again(make_limits):
    limits = make_limits(1000, 1.0)
    limits.reserve(CENT)
    with contextlib.closing(limits._session._address.connect()) as client:
        for use in (limits.check, limits.reserve):
            client.client_kill_filter(_type="normal", skipme=True)
            use(CENT)
    assert limits._session.is_reachable


def test_request_that_waits_for_its_start_time_notices_a_pause(make_limits):
    first, second = make_limits(0.01), make_limits(0.01)
    admit(first)
    waiting = second.reserve(FREE)
    assert not waiting.ready
    first.on_error(ServerError("overloaded", status=503, retry_after=400.0), 400.0)
    first.flush()
    again = second.confirm(waiting)
    assert not again.ready
    assert again.delay == pytest.approx(400, abs=20)


def test_confirm_before_the_start_time_returns_the_rest_of_the_delay(make_limits):
    limits = make_limits(0.1)
    admit(limits)
    waiting = limits.reserve(FREE)
    early = limits.confirm(waiting)
    assert not early.ready
    assert waiting.delay - 5 < early.delay <= waiting.delay


def test_start_time_that_is_given_back_is_free_again(make_limits):
    limits = make_limits(0.01)
    admit(limits)
    waiting = limits.reserve(FREE)
    limits.release(waiting)
    assert limits.reserve(FREE).delay <= waiting.delay


def test_refusals_lower_the_rate_of_all_workers(make_limits):
    first, second = make_limits(), make_limits()
    admissions = [admit(first) for _ in range(3)]
    assert second.ledger().requests_per_second == 25
    for admission in admissions:
        first.on_error(refused(0.0), 0.0, admission)
    first.flush()
    assert second.ledger().requests_per_second < 25
    # All three were sent before the first refusal was known: one congestion event.
    assert second.ledger().requests_per_second > 10


def test_connection_error_changes_neither_rate_nor_pause(make_limits):
    limits = make_limits()
    limits.on_error(ConnectionFailedError("reset"), 9.0, admit(limits))
    limits.flush()
    assert limits.ledger().requests_per_second == 25
    assert limits.reserve(FREE).delay < 1


def test_rate_that_is_set_is_never_exceeded(make_limits):
    limits = make_limits(7)
    assert limits.ledger().requests_per_second == 7


def test_clock_of_a_worker_does_not_matter(make_limits, monkeypatch):
    limits = make_limits(0.01)
    admit(limits)
    monkeypatch.setattr("time.time", lambda: 0.0)
    other = make_limits(0.01)
    assert 0 < other.reserve(FREE).delay < 103


def set_clock_back(redis, seconds, *workers):
    """Move all times that the server has given out into the future."""
    from redis import Redis

    state, _, starts = workers[0]._keys[:3]
    with Redis.from_url(redis.url, decode_responses=True) as client:
        for member, score in client.zrange(starts, 0, -1, withscores=True):
            client.zadd(starts, {member: score + seconds * 1e6})
        for field in ("paused", "busy_until", "event_known", "time"):
            if value := client.hget(state, field):
                client.hset(state, field, f"{float(value) + seconds * 1e6:.0f}")
    for limits in workers:
        session = limits._session
        session.last_reply = session.last_reply._replace(now=session.last_reply.now + int(seconds * 1e6))


def test_server_clock_that_is_set_back_holds_up_no_request(make_limits, redis):
    limits = make_limits(1.0)
    for _ in range(3):
        limits.reserve(FREE)
    set_clock_back(redis, 3600, limits)
    delays = [limits.reserve(FREE).delay for _ in range(3)]
    assert 0 < delays[2] < 3  # two after the first, less the time that the test itself has taken
    assert max(delays) == delays[2]


def test_pause_keeps_its_length_if_the_server_clock_is_set_back(make_limits, redis):
    limits = make_limits()
    limits.on_error(refused(30.0), 30.0, admit(limits))
    limits.flush()
    set_clock_back(redis, 3600, limits)
    assert 20 < limits.reserve(FREE).delay <= 31
    rate = limits.ledger().requests_per_second
    limits.on_error(refused(0.0), 0.0, limits.reserve(FREE))
    limits.flush()
    assert limits.ledger().requests_per_second < rate


def test_pause_outlasts_a_clock_set_back_that_several_workers_notice(make_limits, redis):
    first, second, new = (make_limits() for _ in range(3))
    first.on_error(refused(30.0), 30.0, admit(first))
    first.flush()
    second.flush()
    set_clock_back(redis, 3600, first, second)
    for limits in (new, first, second):
        assert 20 < limits.reserve(FREE).delay <= 31


def test_names_and_prefixes_do_not_share(redis, name):
    first, second = RedisLimits(redis.url, name, 0.01), RedisLimits(redis.url, name, 0.01, prefix="other")
    admit(first)
    admit(second)
    admit(RedisLimits(redis.url, f"{name}-2", 0.01))
    assert not first.reserve(FREE).ready


# --- Budget and ledger


def test_budget_holds_over_all_workers(make_limits):
    workers = [make_limits(100, budget=0.05) for _ in range(2)]
    for n in range(5):
        admit(workers[n % 2], CENT)
    for limits in workers:
        with pytest.raises(BudgetExceededError, match=r"budget_usd=0\.05"):
            limits.reserve(CENT)
        with pytest.raises(BudgetExceededError):
            limits.check(CENT)


def test_refused_request_takes_no_start_time(make_limits):
    limits = make_limits(0.01, budget=0.001)
    with pytest.raises(BudgetExceededError):
        limits.reserve(CENT)
    assert limits.reserve(FREE).ready


def test_settled_amount_replaces_the_reserved_one(make_limits):
    limits = make_limits(100, budget=0.03)
    first, second, third = (admit(limits, CENT) for _ in range(3))
    limits.settle(first, Outcome(0.002, tokens=100, answered=True))
    limits.settle(second, Outcome(0.0))
    limits.settle(third, Outcome(None))
    ledger = limits.ledger()
    assert ledger.spent_usd == pytest.approx(0.002)
    assert ledger.may_have_been_billed_usd == pytest.approx(0.01)
    assert (ledger.answered, ledger.refused, ledger.uncertain) == (1, 1, 1)
    assert (ledger.tokens, ledger.texts_sent, ledger.open) == (100, 1, ())
    admit(limits, CENT)


def test_request_that_was_never_sent_costs_nothing(make_limits):
    limits = make_limits(100, budget=0.01)
    limits.release(admit(limits, CENT))
    admit(limits, CENT)
    assert limits.ledger().may_have_been_billed_usd == pytest.approx(0.01)


def test_settling_twice_counts_once(make_limits):
    limits = make_limits()
    admission = admit(limits, CENT)
    for _ in range(3):
        limits.settle(admission, PAID)
        limits.flush()
    limits.release(admission)
    assert limits.ledger().spent_usd == pytest.approx(0.01)
    assert limits.ledger().answered == 1


def test_many_small_amounts_add_up_exactly(make_limits):
    limits = make_limits(100)
    cost = Cost("model", 1, 1, 1e-8, 60)
    for _ in range(30):
        limits.settle(limits.reserve(cost), Outcome(1e-8, tokens=1, answered=True))
    assert limits.ledger().spent_usd == 3e-7


def test_ledger_gives_a_usage_that_can_be_subtracted(make_limits):
    limits = make_limits()
    before = limits.ledger().usage()
    limits.settle(admit(limits, CENT), PAID)
    limits.add_saving(Saving(cached=3, repeated=2, tokens=50, usd=0.005))
    used = limits.ledger().usage() - before
    assert (used.requests, used.cost_usd, used.texts_sent, used.texts_cached) == (1, 0.01, 1, 3)
    assert limits.ledger().texts_repeated == 2
    assert limits.ledger().saved_usd == pytest.approx(0.005)


def test_reset_begins_again_for_all_workers(make_limits):
    first, second = make_limits(100, budget=0.01), make_limits(100, budget=0.01)
    admit(first, CENT)
    with pytest.raises(BudgetExceededError):
        second.reserve(CENT)
    second.reset()
    admit(first, CENT)
    assert first.ledger().may_have_been_billed_usd == pytest.approx(0.01)


KILLED = """
import os, signal, sys
from nanogpt_core import RedisLimits
from nanogpt_core.http.limits import Cost
limits = RedisLimits(sys.argv[1], sys.argv[2])
limits.reserve(Cost("model", 1, 100, 0.01, timeout=-300.0))
limits.reserve(Cost("model", 1, 100, 0.02, timeout=60.0))
os.kill(os.getpid(), signal.SIGKILL)
"""


ENDED = """
import sys, threading
from nanogpt_core import RedisLimits
from nanogpt_core._runtime.threads import start_thread
from nanogpt_core.http.limits import Cost, Outcome
limits = RedisLimits(sys.argv[1], sys.argv[2], request_log=sys.argv[3])
admission, exiting = limits.reserve(Cost("model", 1, 100, 0.01, timeout=60.0)), threading.Event()
def end_request():
    exiting.wait()
    limits.settle(admission, Outcome(0.01, tokens=100, answered=True))
start_thread(end_request, "worker", exiting)
"""


def test_request_that_ends_while_the_program_exits_is_reported(make_limits, redis, name, tmp_path):
    log = tmp_path / "requests.jsonl"
    subprocess.run([sys.executable, "-c", ENDED, redis.url, name, log], check=True, timeout=GUARD_SECONDS)
    ledger = make_limits().ledger()
    assert (ledger.answered, ledger.open) == (1, ())
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_reservations_of_a_killed_worker_are_shown_apart_and_can_be_released(make_limits, redis, name):
    subprocess.run([sys.executable, "-c", KILLED, redis.url, name], check=False, timeout=GUARD_SECONDS)
    limits = make_limits(budget=0.03)
    ledger = limits.ledger()
    assert ledger.may_have_been_billed_usd == pytest.approx(0.03)
    assert ledger.abandoned_usd == pytest.approx(0.01)
    assert len(ledger.open) == 2
    assert len({request.worker for request in ledger.open}) == 1
    with pytest.raises(BudgetExceededError):
        limits.reserve(CENT)
    assert limits.release_abandoned() == pytest.approx(0.01)
    assert limits.release_abandoned() == 0
    admit(limits, CENT)
    assert limits.ledger().abandoned == ()


def test_request_that_was_released_and_ends_after_all_is_counted(make_limits):
    limits = make_limits()
    admission = admit(limits, Cost("model", 1, 100, 0.01, timeout=-300.0))
    assert limits.release_abandoned() == pytest.approx(0.01)
    for _ in range(2):
        limits.settle(admission, PAID)
        limits.flush()
    assert limits.ledger().spent_usd == pytest.approx(0.01)


def test_request_log_has_a_line_for_each_finished_request(make_limits, tmp_path, monkeypatch):
    path = tmp_path / "requests.jsonl"
    monkeypatch.chdir(tmp_path)
    limits = pickle.loads(pickle.dumps(make_limits(request_log=path.name)))
    monkeypatch.chdir("/")
    limits.settle(admit(limits, CENT), PAID)
    limits.settle(admit(limits, CENT), Outcome(None, error="ServerError"))
    limits.release(admit(limits, CENT))
    limits.flush()
    first, second = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert (first["billed_usd"], first["answered"], first["error"]) == (0.01, True, None)
    assert (second["billed_usd"], second["answered"], second["error"]) == (None, False, "ServerError")
    assert first["id"] != second["id"]
    assert first["model"] == "model"
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600


def test_request_log_is_written_in_the_background_and_blocks_no_event_loop(make_limits, options, tmp_path):
    path = tmp_path / "requests.jsonl"
    embedder = Embedder(**options, limits=make_limits(budget=1.0, request_log=path))

    async def embed():
        with blockbuster_ctx():
            await embedder.aembed(["text"])

    asyncio.run(embed())
    wait_until(path.read_text)
    assert json.loads(path.read_text())["texts"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_writes_no_line_of_its_parent(tmp_path):
    log = RequestLog(tmp_path / "requests.jsonl")
    log.write("id", "worker", CENT, PAID)
    if not (child := os.fork()):
        log.flush()
        os._exit(0)
    os.waitpid(child, 0)
    log.flush()
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == 1


def test_request_log_that_cannot_be_written_costs_no_vectors(make_limits, options, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    limits = make_limits(budget=1.0, request_log=folder / "requests.jsonl")
    (folder / "requests.jsonl").unlink()
    folder.rmdir()
    embedder = Embedder(**options, limits=limits)

    def embed(text):
        assert embedder.embed([text]).shape == (1, 1536)
        limits.flush()

    with pytest.warns(RuntimeWarning, match="request log cannot be written") as caught:
        [embed(text) for text in ("one", "two")]
    assert sum("request log" in str(one.message) for one in caught) == 1
    assert limits.ledger().answered == 2


FULL_DISK = """
import resource, sys, warnings
from nanogpt_core.http.limits import Cost, Outcome
from nanogpt_core.scale.request_log import RequestLog
def write(count):
    for _ in range(count):
        log.write("id", "worker", Cost("model"), Outcome(0.01))
    log.flush()
log = RequestLog(sys.argv[1])
write(1)
sys.dont_write_bytecode = True  # Python would write a part of a module's bytecode, and later fail to read it
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
with warnings.catch_warnings(record=True) as caught:
    write(5)
print(len(caught), caught[0].message)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
write(1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
def test_request_log_on_a_full_disk_warns_and_breaks_one_line(tmp_path):
    path, command = tmp_path / "requests.jsonl", [sys.executable, "-c", FULL_DISK]
    done = subprocess.run([*command, path], check=True, capture_output=True, text=True, timeout=GUARD_SECONDS)
    assert "1 The request log cannot be written" in done.stdout
    first, *_, torn, last = path.read_text().splitlines()
    assert json.loads(first)["model"] == json.loads(last)["model"] == "model"
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)


# --- With an embedder


def test_embedder_counts_in_the_ledger(make_limits, options, call_embed):
    limits = make_limits(budget=1.0)
    embedder = Embedder(**options, limits=limits, cache=MemoryCache())
    call_embed(embedder, ["one", "two", "one"])
    call_embed(embedder, ["one", "three"])
    ledger = limits.ledger()
    assert (ledger.answered, ledger.texts_sent, ledger.texts_cached, ledger.texts_repeated) == (2, 3, 1, 1)
    assert ledger.usage().cost_usd == embedder.usage.cost_usd
    assert ledger.usage().prompt_tokens == embedder.usage.prompt_tokens == 3
    assert ledger.saved_usd > 0
    assert ledger.open == ()


def test_embedders_share_a_budget(make_limits, options, call_embed, sandbox):
    limits = [make_limits(budget=5e-8) for _ in range(2)]
    first, second = (Embedder(**options, limits=one) for one in limits)
    call_embed(first, ["one", "two"])
    with pytest.raises(BudgetExceededError):
        call_embed(second, ["three"])
    assert len(sandbox.requests) == 1


def test_failed_attempts_may_have_been_billed(make_limits, serve, faults, call_embed):
    server = serve(lambda _: faults.response(status=500))
    limits = make_limits()
    embedder = server.embedder("text-embedding-3-small", limits=limits, max_retries=1)
    with pytest.raises(ServerError):
        call_embed(embedder, ["text"])
    ledger = limits.ledger()
    assert (ledger.uncertain, ledger.answered) == (2, 0)
    assert ledger.may_have_been_billed_usd > 0
    assert ledger.open == ()


@pytest.fixture(params=["sync", "async"])
def call_embed(request):
    import asyncio

    if request.param == "sync":
        return lambda embedder, texts: embedder.embed(texts)
    return lambda embedder, texts: asyncio.run(embedder.aembed(texts))


# --- Outages


@pytest.fixture
def own_redis(start_redis):
    return start_redis()


def test_without_redis_the_rate_falls_back_to_the_last_share_with_one_warning(own_redis, name):
    workers = [RedisLimits(own_redis.url, name, 0.5) for _ in range(2)]
    for limits in workers:
        limits.reserve(FREE)
    limits = workers[1]
    own_redis.stop()
    with pytest.warns(RuntimeWarning, match=r"share of the last known rate: 0\.25 requests/s") as caught:
        starts = [limits.reserve(FREE).start for _ in range(3)]
    assert len(caught) == 1
    assert starts[2] - starts[1] == pytest.approx(1 / 0.25 / 0.98, abs=1)
    limits.on_error(refused(99.0), 99.0)
    assert limits.reserve(FREE).delay > 50


def test_without_redis_a_budget_fails_closed(own_redis, name, options, sandbox):
    limits = RedisLimits(own_redis.url, name, budget_usd=1.0)
    embedder = Embedder(**options, limits=limits, max_retries=0)
    embedder.embed(["before"])
    own_redis.stop()
    with pytest.raises(LimitsUnavailableError, match="Nothing was sent"):
        embedder.embed(["while it is away"])
    own_redis.start()
    limits._session.probe_now()
    embedder.embed(["after"])
    assert len(sandbox.requests) == 2


def test_without_redis_at_first_use_nothing_is_sent(name, options, sandbox):
    limits = RedisLimits("redis://127.0.0.1:1", name)
    with pytest.raises(LimitsUnavailableError, match=r"127\.0\.0\.1:1"):
        Embedder(**options, limits=limits, max_retries=0).embed(["text"])
    assert sandbox.requests == []


def test_reason_of_an_outage_is_told_until_the_next_attempt(name):
    limits = RedisLimits("redis://127.0.0.1:1", name)
    for _ in range(2):
        with pytest.raises(LimitsUnavailableError, match=r"127\.0\.0\.1:1: ConnectionError: .*refused"):
            limits.reserve(FREE)


@pytest.mark.parametrize("key", ["state", "open"])
@pytest.mark.parametrize("value", [b"text", {"spent": "text", "id": "1 worker soon 1"}], ids=["text", "hash"])
def test_keys_of_another_program_are_named(redis, name, key, value):
    from redis import Redis

    with Redis.from_url(redis.url) as client:
        full = f"nanogpt:{{{name}}}:{key}"
        client.hset(full, mapping=value) if isinstance(value, dict) else client.set(full, value)
    limits = RedisLimits(redis.url, name, budget_usd=1.0)
    with pytest.raises(ConfigurationError, match="pass another name or prefix"):
        limits.ledger()
    if key == "state":
        with pytest.raises(ConfigurationError, match="pass another name or prefix"):
            limits.check(CENT)
    limits.reset()
    admit(limits, CENT)


def test_server_that_refuses_is_not_asked_again_and_again(redis, name):
    from redis import Redis

    done = f"nanogpt:{{{name}}}:done"
    with Redis.from_url(redis.url) as client:
        client.set(done, b"of another program")
        limits = RedisLimits(redis.url, name)
        limits.add_saving(Saving(cached=1, repeated=0, tokens=1, usd=1e-9))
        wait_until(lambda: not limits._session._flushing)
        client.delete(done)
    assert limits.ledger().texts_cached == 1


def test_budget_survives_a_server_that_lost_its_data(own_redis, name):
    limits = RedisLimits(own_redis.url, name, 100, budget_usd=0.03)
    limits.settle(admit(limits, CENT), PAID)
    open_admission = admit(limits, CENT)
    own_redis.restart()
    limits._session.probe_now()
    admit(limits, CENT)
    with pytest.raises(BudgetExceededError):
        limits.reserve(CENT)
    limits.settle(open_admission, PAID)
    assert limits.ledger().may_have_been_billed_usd == pytest.approx(0.03)


def test_ends_of_requests_are_kept_until_redis_is_back(own_redis, name):
    limits = RedisLimits(own_redis.url, name)
    admit(limits)
    own_redis.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        admission = limits.confirm(limits.reserve(CENT))
    limits.settle(admission, PAID)
    with pytest.raises(LimitsUnavailableError):
        limits.flush()
    own_redis.start()
    assert limits.ledger().spent_usd == pytest.approx(0.01)
    assert limits.ledger().answered == 1


def test_records_of_a_long_outage_take_several_round_trips(own_redis, name):
    limits, observer = RedisLimits(own_redis.url, name), RedisLimits(own_redis.url, name)
    limits.flush()
    own_redis.stop()
    for _ in range(5500):
        limits.add_saving(Saving(cached=1, repeated=0, tokens=1, usd=1e-9))
    own_redis.start()
    limits.flush()
    commands = observer._session.run(lambda client: client.info("commandstats"))
    assert commands["cmdstat_evalsha"]["calls"] >= 6
    assert observer.ledger().texts_cached == 5500


def test_learned_rate_survives_a_server_that_lost_its_data(own_redis, name):
    limits = RedisLimits(own_redis.url, name)
    limits.on_error(refused(0.0), 0.0, admit(limits))
    limits.flush()
    learned = limits.ledger().requests_per_second
    own_redis.restart()
    limits._session.probe_now()
    assert limits.ledger().requests_per_second == pytest.approx(learned, rel=0.1)
    assert learned < 24


# --- Servers: password, cluster


def test_password_is_used_and_never_shown(start_redis, name, monkeypatch):
    server = start_redis("--requirepass", "open sesame")
    url = f"redis://:open%20sesame@127.0.0.1:{server.port}"
    limits = RedisLimits(url, name)
    admit(limits)
    pickled = pickle.dumps(limits)
    for shown in (repr(limits), str(limits._settings), str(pickled)):
        assert "sesame" not in shown
    with pytest.raises(ConfigurationError, match="NANOGPT_REDIS_PASSWORD"):
        pickle.loads(pickled).reserve(FREE)
    monkeypatch.setenv("NANOGPT_REDIS_PASSWORD", "open sesame")
    admit(pickle.loads(pickled))
    with pytest.raises(ConfigurationError, match="refuses") as caught:
        RedisLimits(f"redis://:wrong-word@127.0.0.1:{server.port}", name).reserve(FREE)
    assert "wrong-word" not in str(caught.value)


def test_empty_password_in_the_url_is_none(redis, name):
    admit(RedisLimits(redis.url.replace("redis://", "redis://:@"), name))


def test_keys_of_a_name_are_in_one_slot_of_a_cluster(start_redis, name, tmp_path):
    server = start_redis("--cluster-enabled", "yes", "--dir", str(tmp_path))
    from redis import Redis

    client = Redis.from_url(server.url)
    client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    client.close()
    limits = RedisLimits(server.url, name, budget_usd=1.0, cluster=True)
    limits.settle(_until_available(limits), PAID)
    assert limits.ledger().answered == 1
    limits.reset()


def _until_available(limits):
    # A new cluster accepts commands a moment after it has all its slots.
    for _ in range(600):
        try:
            return limits.reserve(CENT)
        except LimitsUnavailableError:
            threading.Event().wait(0.1)
            limits._session.probe_now()
    raise AssertionError("the cluster never accepted a command")


# --- Copies, pickles, forks


def test_copies_are_the_same_object(make_limits):
    limits = make_limits()
    assert copy.copy(limits) is limits
    assert copy.deepcopy(limits) is limits


def test_pickle_is_one_more_worker_of_the_same_limits(make_limits):
    limits = make_limits(budget=0.02)
    twin = pickle.loads(pickle.dumps(limits))
    assert twin._session.worker != limits._session.worker
    admit(limits, CENT)
    admit(twin, CENT)
    with pytest.raises(BudgetExceededError):
        limits.reserve(CENT)
    assert limits.ledger().workers == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_process_is_one_more_worker(make_limits):
    limits = make_limits()
    admission = admit(limits, CENT)

    def child():
        limits.settle(limits.reserve(CENT), PAID)
        limits.flush()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(GUARD_SECONDS)
    assert process.exitcode == 0
    limits.settle(admission, PAID)
    ledger = limits.ledger()
    assert (ledger.answered, ledger.workers) == (2, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_process_that_ends_at_once_reports_its_last_request(make_limits, tmp_path):
    limits = make_limits(request_log=tmp_path / "requests.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
        process = multiprocessing.get_context("fork").Process(target=lambda: limits.settle(limits.reserve(CENT), PAID))
        process.start()
        process.join(GUARD_SECONDS)
    assert process.exitcode == 0
    ledger = limits.ledger()
    assert (ledger.answered, ledger.open) == (1, ())
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == 1


def test_worker_counts_again_with_its_first_request_of_a_later_second(make_limits):
    limits = make_limits()
    admit(limits)
    session, workers = limits._session, limits._keys[redis_scripts.KEYS.index("workers")]
    session.run(lambda client: client.zadd(workers, {session.worker: 0}))
    session.last_reply = session.last_reply._replace(now=session.last_reply.now - redis_scripts.MICROSECONDS)
    admit(limits)
    assert session.run(lambda client: client.zscore(workers, session.worker)) >= session.last_reply.now


def test_worker_counts_at_once_and_until_a_minute_after_its_last_request(make_limits):
    limits, other = make_limits(), make_limits()
    admit(limits)
    session, workers = limits._session, limits._keys[redis_scripts.KEYS.index("workers")]
    minute = 60 * redis_scripts.MICROSECONDS
    seen = {"gone": session.last_reply.now - minute - 1, "not yet gone": session.last_reply.now}
    session.run(lambda client: client.zadd(workers, seen))
    admit(other)
    assert other._session.last_reply.workers == 3


def number_of_waiting(limits):
    """Return the number of threads that wait for the next round trip."""
    trip = limits._session._trip
    return 0 if trip.is_closed else len(trip.requests)


def start_while_scripts_wait(client, limits, threads):
    """Start threads that reserve: the server holds the first one's script, so the others wait for the next trip."""
    client.client_pause(GUARD_SECONDS * 1000, all=False)
    threads[0].start()
    wait_until(lambda: client.info("clients")["blocked_clients"] == 1)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: number_of_waiting(limits) == len(threads) - 1)


def test_threads_that_wait_share_a_round_trip(redis, name):
    limits = RedisLimits(f"{redis.url}?socket_timeout={GUARD_SECONDS}", name, 1000, 1.0)
    admitted = [limits.reserve(CENT)]
    threads = [threading.Thread(target=lambda: admitted.append(limits.reserve(CENT))) for _ in range(16)]
    with contextlib.closing(limits._session._address.connect()) as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        start_while_scripts_wait(client, limits, threads)
        client.client_unpause()
        for thread in threads:
            thread.join(GUARD_SECONDS)
        after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert after - before == 2  # the first thread's, and one for the others
    assert len({admission.start for admission in admitted}) == 17
    assert limits.ledger().may_have_been_billed_usd == pytest.approx(0.17)


def test_threads_that_share_a_failed_round_trip_get_errors_of_their_own(start_redis):
    server = start_redis()
    limits = RedisLimits(f"{server.url}?socket_timeout={GUARD_SECONDS}", "failing", 1000, 1.0)
    limits.reserve(CENT)
    errors = []

    def work():
        with pytest.raises(LimitsUnavailableError) as caught:
            limits.reserve(CENT)
        errors.append(caught.value)

    threads = [threading.Thread(target=work) for _ in range(3)]
    with contextlib.closing(limits._session._address.connect()) as client:
        start_while_scripts_wait(client, limits, threads)
        server.stop()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert len({id(error) for error in errors}) == 3


def test_interrupted_thread_lets_those_that_wait_with_it_continue(redis, name):
    limits = RedisLimits(f"{redis.url}?socket_timeout={GUARD_SECONDS}", name, 1000)
    admitted, interrupted = [limits.reserve(FREE)], []

    def work():
        try:
            admitted.append(limits.reserve(FREE))
        except KeyboardInterrupt:
            interrupted.append(threading.get_ident())

    threads = [threading.Thread(target=work, daemon=True) for _ in range(5)]
    with contextlib.closing(limits._session._address.connect()) as client:
        start_while_scripts_wait(client, limits, threads[:2])
        for thread in threads[2:]:
            thread.start()
        wait_until(lambda: number_of_waiting(limits) == 4)
        # The second thread will send the requests of the three that came later, once the server answers the first.
        sender = ctypes.c_ulong(threads[1].ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(sender, ctypes.py_object(KeyboardInterrupt))
        client.client_unpause()
        for thread in threads:
            thread.join(GUARD_SECONDS)
    assert interrupted == [threads[1].ident]
    assert len({admission.start for admission in admitted}) == 5


def test_thread_that_is_interrupted_at_any_call_lets_those_that_wait_with_it_continue(make_limits):
    limits = make_limits(1000)
    admit(limits)  # imports modules

    def start_others(others, is_over):
        with limits._session._round_trip:
            wait_until(lambda: is_over.is_set() or number_of_waiting(limits) == 1)
            for thread in others:
                thread.start()
            wait_until(lambda: is_over.is_set() or number_of_waiting(limits) == 4)

    for number in itertools.count(1):
        calls, reached, is_over = itertools.count(1), [], threading.Event()

        def trace(frame, _event, _argument, calls=calls, reached=reached, number=number):
            # Python runs signal handlers when a function begins.
            if "site-packages" not in frame.f_code.co_filename and next(calls) == number:
                reached.append(frame.f_code.co_name)
                raise KeyboardInterrupt

        others = [threading.Thread(target=limits.reserve, args=(FREE,), daemon=True) for _ in range(3)]
        starter = threading.Thread(target=start_others, args=(others, is_over))
        starter.start()
        wait_until(limits._session._round_trip.locked)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            limits.reserve(FREE)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
            is_over.set()
        for thread in (starter, *others):
            thread.join(GUARD_SECONDS)
            assert not thread.is_alive(), reached
        if not reached:
            break
    assert number > 20


def test_interrupted_request_leaves_its_reply_to_no_other_request(make_limits, interrupted):
    limits = make_limits(budget=1.0)
    limits.settle(admit(limits, CENT), PAID)
    limits.flush()
    with interrupted(after=0):
        limits.reserve(CENT)
    with pytest.raises(BudgetExceededError):
        limits.reserve(Cost("model", texts=1, tokens=100, usd=2.0, timeout=60))
    assert limits.reserve(CENT).ready


def test_interrupted_request_gives_its_reservation_back(make_limits, interrupted):
    limits = make_limits(budget=1.0)
    admit(limits, FREE)
    with interrupted(after=0):  # after the server has done it
        limits.reserve(CENT)
    assert limits.ledger().open == ()
    assert limits.ledger().may_have_been_billed_usd == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
@pytest.mark.parametrize("budget", [None, 1.0], ids=["no budget", "budget"])
def test_request_whose_reply_comes_too_late_gives_its_reservation_back(start_redis, name, budget):
    server = start_redis()
    limits, observer = RedisLimits(f"{server.url}?socket_timeout=0.3", name, 10, budget), RedisLimits(server.url, name)
    admit(limits)
    server.signal(signal.SIGSTOP)
    try:
        with warnings.catch_warnings(), contextlib.suppress(LimitsUnavailableError):
            warnings.simplefilter("ignore")
            limits.release(limits.reserve(CENT))
    finally:
        server.signal(signal.SIGCONT)
    limits.flush()  # on a new connection: the server reads the old one first
    assert observer.ledger().open == ()
    assert observer.ledger().may_have_been_billed_usd == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_signal_while_the_server_does_not_answer_ends_the_call_and_is_no_outage(start_redis, name, end_by_signal):
    server = start_redis()
    limits = RedisLimits(f"{server.url}?socket_timeout=60", name)
    admit(limits)
    with end_by_signal(server):
        limits.reserve(CENT)
    assert limits._session.is_reachable
    assert limits.ledger().open == ()


def test_interrupted_ledger_can_be_read_again(make_limits, interrupted):
    limits = make_limits(budget=1.0)
    limits.settle(admit(limits, CENT), PAID)
    limits.flush()
    with interrupted(after=2):  # that of the records, and the first one of the ledger
        limits.ledger()
    assert [limits.ledger().answered for _ in range(2)] == [1, 1]


def test_threads_of_one_worker_get_different_start_times(make_limits):
    limits = make_limits(50)
    starts, barrier = [], threading.Barrier(8)

    def work():
        barrier.wait(GUARD_SECONDS)
        starts.extend(limits.reserve(FREE).start for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert len(starts) == 40
    assert max(starts) - min(starts) > 0


# --- TLS


class TlsProxy:
    """Ends TLS in front of a Redis server, for servers that are built without it; runs in a thread."""

    def __init__(self, port, context):
        self._port, self._context = port, context

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", ssl=self._context))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(GUARD_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GUARD_SECONDS)
        self._loop.close()

    async def _stop(self):
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader, writer):
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(_copy_bytes(reader, server_writer), _copy_bytes(server_reader, writer))
        except asyncio.CancelledError:
            pass
        finally:
            for one in (writer, server_writer):
                one.transport.abort()


async def _copy_bytes(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


def test_tls_with_an_own_certificate_authority(redis, name, tmp_path):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with TlsProxy(redis.port, context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={tmp_path}/"
        limits = RedisLimits(url + "ca.pem", name, 10, 1.0)
        limits.settle(admit(limits, CENT), PAID)
        assert limits.ledger().spent_usd == 0.01
        with pytest.raises(LimitsUnavailableError, match="certificate verify failed"):
            RedisLimits(url + "other.pem", name, 10, 1.0).reserve(CENT)
        limits.flush()
        limits._session._client.close()


# --- Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://x"}, "must begin with redis://"),
        ({"url": ""}, "NANOGPT_REDIS_URL"),
        ({"url": "redis://x?password=secret"}, "before the host"),
        ({"url": "redis://x?decode_responses=true"}, "decode_responses"),
        ({"url": "redis://:secret@x?bogus=1"}, "is not valid: .*bogus"),
        ({"url": "redis://:secret@x?socket_timeout=soon"}, "is not valid: .*socket_timeout"),
        ({"url": "redis://:secret@x?socket_timeout=-1"}, "socket_timeout in the URL .* must be above 0"),
        ({"url": "redis://:secret@x?socket_timeout=1e10"}, "socket_timeout in the URL .* must be above 0 and at most"),
        (
            {"url": "redis://:secret@x?socket_timeout=0", "cluster": True},
            "socket_timeout in the URL .* must be above 0",
        ),
        ({"url": "redis://:secret@x?socket_timeout=soon", "cluster": True}, "is not valid: .*socket_timeout"),
        ({"url": "rediss://:secret@x?socket_connect_timeout=0"}, "socket_connect_timeout in the URL .* above 0"),
        ({"url": "redis://:secret@x:99999"}, "its host or port cannot be read"),
        ({"url": "redis://:secret@[::1"}, "its host or port cannot be read"),
        ({"url": "redis://:secret/@x"}, "its host or port cannot be read"),
        ({"url": "redis://:secret\N{FULLWIDTH NUMBER SIGN}@x"}, "its host or port cannot be read"),
        ({"url": "redis://x/second"}, "number of a database"),
        ({"url": "redis://:p@x/secret@x"}, "number of a database"),
        ({"requests_per_second": 1e300}, "requests_per_second must be at most 1,000,000"),
        ({"budget_usd": 1e300}, "budget_usd must be at most 9,000,000"),
        ({"request_log": "/dev/null/requests.jsonl"}, "request_log cannot be written"),
        ({"request_log": "~no-such-user/requests.jsonl"}, "request_log cannot be"),
        ({"name": "a{b}"}, "name may hold"),
        ({"name": ""}, "name may hold"),
        ({"prefix": "a b"}, "prefix may hold"),
        ({"requests_per_second": 0}, "requests_per_second must be positive"),
        ({"budget_usd": -1}, "budget_usd must be positive"),
    ],
)
def test_invalid_option_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        RedisLimits(**{"url": "redis://127.0.0.1", **options})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("options", [{"url": 7}, {"name": 7}, {"budget_usd": "1"}, {"request_log": 7}, {"cluster": 1}])
def test_option_of_the_wrong_type_is_refused(options):
    with pytest.raises(InvalidTypeError):
        RedisLimits(**{"url": "redis://127.0.0.1", **options})


def test_option_cannot_be_changed_later():
    limits = RedisLimits("redis://127.0.0.1", "a", 10, 1.0)
    for option, value in (("name", "b"), ("requests_per_second", 20), ("budget_usd", 5.0)):
        with pytest.raises(ConfigurationError, match=f"{option} cannot be changed"):
            setattr(limits, option, value)


def test_unknown_attribute_is_refused_with_the_name_that_was_meant():
    with pytest.raises(AttributeError, match=r"^RedisLimits has no attribute 'budget'\. Did you mean 'budget_usd'\?$"):
        RedisLimits("redis://127.0.0.1", "a").budget = 5


@pytest.mark.parametrize(
    ("kind", "words", "remedy"),
    [
        ("MovedError", "5061 127.0.0.1:7001", "Pass cluster=True."),
        ("ResponseError", "WRONGTYPE Operation against a key", "pass another name or prefix"),
        ("ResponseError", "Command # 1 (HGETALL a) of pipeline caused error: WRONGTYPE Operation", "pass another name"),
        ("ResponseError", "min or max is not a float script: 97c0, on @user_script:74.", "pass another name or prefix"),
        ("ResponseError", "user_script:38: attempt to compare nil with number", "pass another name or prefix"),
        ("ResponseError", "ACL failure in script: User a has no permissions to run the 'time' command", "Check user"),
        ("ResponseError", "@user_script: 18: The user executing the script can't run this command", "Check user"),
        ("ResponseError", "DB index is out of range", "number of the database"),
        ("ResponseError", "@user_script: 2: Write commands not allowed after non deterministic", "Redis 5 or later"),
        ("ResponseError", "AUTH called without any password configured", "Check user, password"),
        ("ResponseError", "unknown command 'EVALSHA'", "Redis 5 or later"),
        ("ResponseError", "Error running script (call to f_1): @user_script: 2: -READONLY You can't write", None),
        ("ResponseError", "Error running script (call to f_1): @user_script: 2: -OOM command not allowed", None),
        ("ReadOnlyError", "You can't write against a read only replica.", None),
        ("ResponseError", "MISCONF Redis is configured to save RDB snapshots", None),
        ("BusyLoadingError", "Redis is loading the dataset in memory", None),
        ("ResponseError", "BUSY Redis is busy running a script.", None),
        ("ConnectionError", "max number of clients reached", None),
    ],
)
def test_refusal_has_a_remedy_and_an_outage_is_none(kind, words, remedy):
    from redis import exceptions

    error = server_error(getattr(exceptions, kind)(words), RedisAddress("redis://127.0.0.1"))
    if remedy is None:
        assert error is None
    else:
        assert remedy in error.remedy


def test_server_without_cluster_mode_is_named_and_a_cluster_that_is_away_is_an_outage(redis, name):
    with pytest.raises(ConfigurationError, match="Leave cluster=True out"):
        RedisLimits(redis.url, name, cluster=True).reserve(CENT)
    with pytest.raises(LimitsUnavailableError):
        RedisLimits("redis://127.0.0.1:9", name, cluster=True).reserve(CENT)


@pytest.mark.parametrize(
    "url", ["unix:///run/redis.sock?db=1", "unix://user@/run/redis.sock", "redis://[::1]:1/2", "redis://x:1/2/"]
)
def test_url_keeps_its_form_without_the_password(url):
    from redis.connection import parse_url

    address = RedisAddress(url.replace("user@", "user:secret@"))
    assert address.url == url
    assert parse_url(address.url).get("path") in {None, "/run/redis.sock"}


def test_url_comes_from_the_environment(redis, name, monkeypatch):
    monkeypatch.setenv("NANOGPT_REDIS_URL", redis.url)
    admit(RedisLimits(name=name))


# --- The same algorithm as in one process


def test_constants_of_the_rate_in_lua_are_those_of_the_rate_limiter():
    lua = Path(redis_scripts.__file__).with_name("lua") / "admit.lua"
    lines = re.findall(r"^local ([A-Z_, ]+) = (.+)$", lua.read_text(encoding="utf-8"), re.MULTILINE)
    found = {
        name: float(value.removesuffix(" * SECOND"))
        for names, values in lines
        for name, value in zip(names.split(", "), values.split(", "), strict=True)
    }
    own = {
        name.removeprefix("_").removesuffix("_SECONDS"): value
        for name, value in vars(rate_limiter).items()
        if name.isupper() and isinstance(value, float | int)
    }
    del own["RESOLUTION"]  # of a clock of this process
    assert found == own


@pytest.mark.parametrize("rate", [None, 3.0, 30.0])
def test_rate_of_redis_and_process_are_the_same(make_limits, rate):
    limiter, limit = RateLimiter(), RateCap(Endpoint(None, "https://limits.invalid"), rate)
    limiter.join(limit)
    limits = make_limits(rate)
    for _ in range(6):
        (own, _), shared = limiter.reserve(), limits.reserve(FREE)
        limiter.on_error(refused(0.0), 0.0, own)
        limits.on_error(refused(0.0), 0.0, shared)
        limits.flush()
        assert limits.ledger().requests_per_second == pytest.approx(limiter.rate, rel=0.05)


@pytest.mark.parametrize("accepted", [3, 20])
def test_growth_after_a_first_refusal_is_that_of_the_process(make_limits, accepted):
    limiter, limits = RateLimiter(), make_limits()
    for _ in range(accepted + 1):
        (own, _), shared = limiter.reserve(), limits.reserve(FREE)
    limiter.on_error(refused(0.0), 0.0, own)
    limits.on_error(refused(0.0), 0.0, shared)
    limits.flush()
    growth = limits._session.run(lambda client: client.hget(limits._keys[0], "growth"))
    assert float(growth) == pytest.approx(limiter._growth)


@pytest.mark.parametrize("gathers", [False, True])
def test_start_times_of_redis_and_process_are_the_same(make_limits, gathers):
    limiter, limit = RateLimiter(), RateCap(Endpoint(None, "https://limits.invalid"), 5.0)
    limiter.join(limit)
    limits = make_limits(5.0)
    for one in (limiter, limits):  # all start times are after the pause, and do not depend on the time of the call
        one.on_error(ServerError("busy", status=503, retry_after=100.0), 100.0)
    limits.flush()
    own = [limiter.reserve(gathers=gathers)[0] for _ in range(12)]
    for _ in own:
        limits.reserve(Cost(gathers=gathers))
    found = limits._session.run(lambda client: client.zrange(limits._keys[2], 0, -1, withscores=True))
    shared = [microseconds / 1e6 for _, microseconds in found]
    assert [one - shared[0] for one in shared] == pytest.approx([one - own[0] for one in own], abs=1e-3)


def test_without_redis_a_request_that_waits_keeps_its_start_time_and_notices_a_pause(own_redis, name):
    limits = RedisLimits(own_redis.url, name, 1)
    admit(limits)
    first, second = limits.reserve(CENT), limits.reserve(CENT)
    own_redis.stop()
    assert limits.confirm(first).ready
    limits.on_error(refused(30.0), 30.0)
    again = limits.confirm(second)
    assert not again.ready
    assert again.delay == pytest.approx(30, abs=20)


def test_worker_that_was_away_lets_the_others_return_first(own_redis, name):
    limits = RedisLimits(own_redis.url, name)
    admit(limits)
    own_redis.stop()
    with fake_clock(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limits.reserve(FREE)
        own_redis.start()
        clock.sleep(2)
        waiting = limits.reserve(FREE)
    assert not waiting.ready
    assert waiting.delay == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("reach", [RedisLimits.ledger, RedisLimits.flush], ids=["ledger", "flush"])
def test_worker_that_was_away_lets_the_others_return_first_when_asked_for_its_state(own_redis, name, reach):
    limits = RedisLimits(own_redis.url, name)
    admit(limits)
    own_redis.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limits.reserve(FREE)
    own_redis.start()
    reach(limits)
    assert limits._session.run(lambda client: client.hget(limits._keys[0], "paused"))


def test_dropped_limits_close_their_connections_without_the_garbage_collector(own_redis, name):
    limits = RedisLimits(own_redis.url, name, budget_usd=1.0)
    admit(limits)
    client = weakref.ref(limits._session._client)
    own_redis.stop()
    with pytest.raises(LimitsUnavailableError):
        limits.flush()
    gc.disable()
    try:
        with contextlib.suppress(LimitsUnavailableError):
            limits.reserve(CENT)
        del limits
        session_is_gone = client() is None
    finally:
        gc.enable()
    assert session_is_gone


def test_request_that_was_admitted_without_redis_keeps_to_the_shared_rate_once_it_is_back(own_redis, name):
    workers = [RedisLimits(own_redis.url, name, 0.01) for _ in range(2)]
    for limits in workers:
        limits.flush()
    own_redis.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        local = [limits.reserve(CENT) for limits in workers]
    own_redis.start()
    for limits in workers:
        limits.flush()
    again = [limits.confirm(one) for limits, one in zip(workers, local, strict=True)]
    assert again[0].delay <= 1  # the second in which all workers return
    assert again[1].delay > 50
    assert {one.worker for one in workers[0].ledger().open} == {limits._session.worker for limits in workers}


def test_close_reports_and_ends_the_connection_until_the_next_request(start_redis, name):
    server = start_redis()
    limits, observer = RedisLimits(server.url, name, budget_usd=1), RedisLimits(server.url, name)
    limits.close()  # nothing to close yet
    limits.settle(admit(limits, CENT), PAID)
    limits.close()
    wait_until(lambda: len(observer._session.run(lambda client: client.client_list())) == 1)
    assert observer.ledger().spent_usd == 0.01
    assert limits.ledger().spent_usd == 0.01
    server.stop()
    limits.settle(admit(RedisLimits(start_redis().url, name), CENT), PAID)
    limits.close()  # without the server
    observer.close()

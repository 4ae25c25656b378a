"""Retries: the generator with a scripted runner, delays, and the Retry-After header."""

import math
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.clock import Cancellation, Deadline, fake_clock
from nanogpt_core.errors import (
    BadRequestError,
    ConnectionFailedError,
    NanoGPTError,
    QuotaExceededError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.rate_limiter import ProcessLimits, RateCap, RateLimiter
from nanogpt_core.http.retry import (
    BASE_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    backoff_delay,
    parse_retry_after,
    reset_message,
    send_with_retries,
    wait_for_start,
)
from nanogpt_core.http.runner import Wait

SEND = "send"


def server_error(retry_after=None):
    return ServerError("broken", status=503, retry_after=retry_after)


def rate_limited(retry_after=None):
    return RateLimitError("refused", status=429, retry_after=retry_after)


class Runner:
    """Runs :func:`send_with_retries`: gives each attempt the next result of a script, and records all actions."""

    def __init__(self, *script, max_retries=5, cancellation=None, limiter=None):
        self.script, self.actions = list(script), []
        self.limiter = limiter or RateLimiter()
        self.cancellation = cancellation or Cancellation()
        self.limiters_asked = 0
        self.steps = send_with_retries(
            self.attempt,
            limits=ProcessLimits(self.limiter_of_process),
            max_retries=max_retries,
            cancellation=self.cancellation,
        )

    def limiter_of_process(self):
        self.limiters_asked += 1
        return self.limiter

    def attempt(self, admission):
        assert admission.ready
        result = yield SEND
        if isinstance(result, BaseException):
            raise result
        return result

    def run(self):
        answer = None
        try:
            while True:
                action = self.steps.send(answer)
                self.actions.append(action)
                if isinstance(action, Wait):
                    clock.sleep(action.seconds)
                    answer = None
                else:
                    answer = self.script.pop(0)
        except StopIteration as end:
            return end.value

    @property
    def attempts(self):
        return self.actions.count(SEND)

    @property
    def waits(self):
        return [action.seconds for action in self.actions if isinstance(action, Wait)]


@pytest.fixture(autouse=True)
def skipped():
    with fake_clock() as skipped:
        yield skipped


# --- The generator


def test_success_takes_one_attempt_and_no_wait():
    runner = Runner("result")
    assert runner.run() == "result"
    assert runner.actions == [SEND]


@pytest.mark.parametrize("error", [server_error(), ConnectionFailedError("reset"), rate_limited(), rate_limited(0.5)])
def test_transient_error_is_retried_after_a_wait(error):
    runner = Runner(error, "result")
    assert runner.run() == "result"
    assert runner.attempts == 2
    assert isinstance(runner.actions[1], Wait)


@pytest.mark.parametrize(
    "error",
    [
        BadRequestError("wrong", status=400),
        QuotaExceededError("used up", status=429, retry_after=1.0),
        rate_limited(MAX_RETRY_AFTER_SECONDS + 1),
        server_error(math.inf),
        ValueError("a bug"),
    ],
)
def test_permanent_error_is_raised_at_once(error):
    runner = Runner(error)
    with pytest.raises(type(error)) as caught:
        runner.run()
    assert caught.value is error
    assert runner.actions == [SEND]


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_last_error_is_raised_when_retries_are_used_up(max_retries):
    errors = [server_error() for _ in range(max_retries + 1)]
    runner = Runner(*errors, max_retries=max_retries)
    with pytest.raises(ServerError) as caught:
        runner.run()
    assert caught.value is errors[-1]
    assert runner.attempts == max_retries + 1
    assert runner.actions[-1] == SEND, "waited for an attempt that is not made"


def test_limiter_is_looked_up_for_each_attempt():
    runner = Runner(server_error(), "result")
    runner.run()
    assert runner.limiters_asked == 5  # two attempts, each with a reservation, and one error


def test_limiter_learns_of_the_last_error_too():
    runner = Runner(rate_limited(30.0), max_retries=0)
    with pytest.raises(RateLimitError):
        runner.run()
    assert runner.limiter.reserve()[1] == pytest.approx(30, abs=1)


def test_retry_after_is_waited_for_once():
    runner = Runner(rate_limited(7.0), "result")
    runner.run()
    assert sum(runner.waits) == pytest.approx(7, abs=0.1)


def test_retry_that_would_end_after_the_deadline_is_not_waited_for(skipped):
    runner = Runner(server_error(30.0), cancellation=Cancellation(Deadline.after(20)))
    with pytest.raises(ServerError):
        runner.run()
    assert skipped.seconds == 0


def test_deadline_that_has_passed_sends_nothing():
    cancellation = Cancellation(Deadline.after(1))
    clock.sleep(2)
    runner = Runner(cancellation=cancellation)
    with pytest.raises(RequestTimeoutError, match="deadline"):
        runner.run()
    assert runner.actions == []


def test_deadline_bounds_the_wait_for_a_start_time(skipped):
    runner = Runner(cancellation=Cancellation(Deadline.after(5)))
    runner.limiter.on_error(rate_limited(60.0), 60.0)
    with pytest.raises(RequestTimeoutError, match="deadline"):
        runner.run()
    assert skipped.seconds == pytest.approx(5, abs=0.5)


def test_stop_signal_sends_nothing():
    runner = Runner()
    runner.cancellation.stop.set()
    with pytest.raises(RequestTimeoutError, match="Cancelled"):
        runner.run()
    assert runner.actions == []


def test_stop_signal_during_an_attempt_ends_the_retries():
    runner = Runner(server_error())
    steps = runner.steps
    assert next(steps) == SEND
    runner.cancellation.stop.set()
    with pytest.raises(ServerError):
        steps.send(server_error())


def test_stop_signal_during_a_wait_ends_the_retries():
    runner = Runner()
    steps = runner.steps
    assert next(steps) == SEND
    assert isinstance(steps.send(server_error()), Wait)
    runner.cancellation.stop.set()
    with pytest.raises(RequestTimeoutError, match="Cancelled"):
        next(steps)


# --- Start times that are given back


@pytest.fixture
def full():
    """A limiter whose next start time is a second away, and the limit that it keeps to."""
    limiter, limit = RateLimiter(), RateCap(Endpoint(None, "https://limits.invalid"), 1.0)
    limiter.join(limit)
    limiter.confirm(limiter.reserve()[0])
    return limiter, limit


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
def test_exception_thrown_into_a_wait_gives_the_start_time_back(full, error):
    limiter, _ = full
    steps = wait_for_start(ProcessLimits(lambda: limiter), Cancellation())
    delay = next(steps).seconds
    assert delay > 0
    with pytest.raises(error):
        steps.throw(error())
    assert limiter.reserve()[1] <= delay


def test_closed_generator_gives_the_start_time_back(full):
    limiter, _ = full
    runner = Runner(limiter=limiter)
    delay = next(runner.steps).seconds
    runner.steps.close()
    assert limiter.reserve()[1] <= delay


def test_cancelled_call_gives_the_start_time_back(full):
    limiter, _ = full
    cancellation = Cancellation()
    steps = wait_for_start(ProcessLimits(lambda: limiter), cancellation)
    delay = next(steps).seconds
    cancellation.stop.set()
    with pytest.raises(RequestTimeoutError):
        next(steps)
    assert limiter.reserve()[1] <= delay


def test_pause_that_begins_during_the_wait_is_waited_for_too(full):
    limiter, _ = full
    steps = wait_for_start(ProcessLimits(lambda: limiter), Cancellation())
    clock.sleep(next(steps).seconds)
    limiter.on_error(rate_limited(20.0), 20.0)
    second = next(steps)
    assert second.seconds == pytest.approx(20, abs=0.5)
    clock.sleep(second.seconds)
    limiter.on_error(rate_limited(3.0), 3.0)
    assert next(steps).seconds == pytest.approx(3, abs=0.5)
    clock.sleep(3)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value.start == pytest.approx(clock.now(), abs=0.5)


# --- Delays


@given(st.integers(0, 10**6))
@pytest.mark.parametrize(("error", "base"), [(server_error(), BASE_BACKOFF_SECONDS), (rate_limited(), 1.0)])
def test_backoff_is_bounded(error, base, attempt):
    assert 0 <= backoff_delay(attempt, error) <= min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(attempt, 20))


@pytest.mark.parametrize("attempt", [0, 3, 10])
def test_backoff_uses_the_whole_range(attempt):
    most = min(MAX_BACKOFF_SECONDS, BASE_BACKOFF_SECONDS * 2**attempt)
    delays = [backoff_delay(attempt, server_error()) for _ in range(300)]
    assert min(delays) < most / 4
    assert max(delays) > most * 3 / 4


@given(st.floats(0, MAX_RETRY_AFTER_SECONDS), st.integers(1, 100))
def test_retry_after_is_kept_exactly_at_first_and_with_jitter_later(seconds, attempt):
    assert backoff_delay(0, rate_limited(seconds)) == seconds
    assert seconds <= backoff_delay(attempt, rate_limited(seconds)) <= seconds + MAX_BACKOFF_SECONDS


@given(st.floats(MAX_RETRY_AFTER_SECONDS, exclude_min=True), st.integers(0, 100))
def test_long_retry_after_allows_no_retry(seconds, attempt):
    assert backoff_delay(attempt, rate_limited(seconds)) is None


@given(st.integers(0, 100))
def test_permanent_error_allows_no_retry(attempt):
    assert backoff_delay(attempt, NanoGPTError("wrong")) is None


# --- Retry-After

NUMBERS = st.one_of(st.integers(0, 10**9), st.floats(0, 1e9))


@given(NUMBERS)
def test_retry_after_in_seconds(number):
    assert parse_retry_after({"retry-after": str(number)}) == number


@given(NUMBERS, st.text())
def test_retry_after_in_milliseconds_comes_first(number, other):
    assert parse_retry_after({"retry-after-ms": str(number), "retry-after": other}) == number / 1000


@given(st.floats(max_value=0, exclude_max=True), NUMBERS)
def test_negative_milliseconds_fall_back_to_seconds(milliseconds, seconds):
    assert parse_retry_after({"retry-after-ms": str(milliseconds), "retry-after": str(seconds)}) == seconds


@given(st.integers(-(10**8), 10**8), st.sampled_from([timezone.utc, timezone(timedelta(hours=5.5)), None]))
def test_retry_after_as_a_date(seconds, zone):
    moment = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    value = format_datetime(moment.astimezone(zone)) if zone else format_datetime(moment.replace(tzinfo=None))
    assert parse_retry_after({"retry-after": value}) == pytest.approx(max(0, seconds), abs=30)


@pytest.mark.parametrize("hours", [-2, 0, 2])
def test_retry_after_as_a_date_is_read_by_the_clock_of_the_service(hours):
    now = datetime.now(timezone.utc) + timedelta(hours=hours)
    date, value = (format_datetime(now + timedelta(seconds=seconds), usegmt=True) for seconds in (0, 30))
    assert parse_retry_after({"retry-after": value, "date": date}) == 30


def test_retry_after_as_an_http_date():
    moment = datetime.now(timezone.utc) + timedelta(seconds=100)
    value = format_datetime(moment, usegmt=True)
    assert parse_retry_after({"retry-after": value}) == pytest.approx(100, abs=30)


@given(st.text())
@example("")
@example("nan")
@example("-1")
@example("-inf")
@example("soon")
@example("Mon, 32 Jan 2024 00:00:00 GMT")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("1, 2, 3")
@example(" ")
def test_any_header_gives_none_or_a_number_from_zero(value):
    for name in ("retry-after", "retry-after-ms"):
        seconds = parse_retry_after({name: value, "date": value})
        assert seconds is None or seconds >= 0


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "Mon, 32 Jan 2024 00:00:00 GMT"])
def test_header_without_a_meaning_is_ignored(value):
    assert parse_retry_after({"retry-after": value}) is None
    assert parse_retry_after({"retry-after-ms": value}) is None
    assert parse_retry_after({}) is None


def test_header_names_of_a_response_may_have_any_case():
    assert parse_retry_after(httpx.Headers({"Retry-After": "3"})) == 3
    assert parse_retry_after(httpx.Headers([("Retry-After", "3"), ("Retry-After", "5")])) == 3


# --- The sentence about the reset


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Try again in 0 s ("),
        (59.6, "Try again in 1 min ("),
        (61, "Try again in 1 min 1 s ("),
        (3600, "Try again in 1 h ("),
        (90061, "Try again in 25 h 1 min ("),
    ],
)
def test_reset_message_says_when_to_try_again(seconds, words):
    message = reset_message(seconds)
    assert message.startswith(words)
    assert message.endswith(" UTC).")


@pytest.mark.parametrize("seconds", [None, math.inf, 1e10])
def test_reset_message_is_empty_without_a_usable_time(seconds):
    assert reset_message(seconds) == ""


@given(st.floats(0))
def test_reset_message_takes_any_time(seconds):
    assert isinstance(reset_message(seconds), str)

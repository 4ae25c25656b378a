"""Retries and rate limiting: one flow for embeddings and chat, without I/O.

:func:`send_with_retries` is a generator. It yields :class:`Wait` for each sleep, and passes on everything that a single
attempt yields. :mod:`~nanogpt_core.http.runner` performs these actions, so sync and async share every decision.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

from nanogpt_core._runtime.clock import Cancellation
from nanogpt_core._runtime.log import describe, logger
from nanogpt_core._runtime.threads import call_into
from nanogpt_core.errors import (
    BudgetExceededError,
    NanoGPTError,
    RateLimitError,
    ServerError,
    StatusError,
)
from nanogpt_core.http.limits import FREE, Admission, Cost, SharedLimits
from nanogpt_core.http.runner import Run, Wait

T = TypeVar("T")

BASE_BACKOFF_SECONDS = 0.5
"""Upper bound of the first delay, in seconds. Each attempt doubles it (exponential backoff with full jitter)."""

MAX_BACKOFF_SECONDS = 20.0
"""Upper bound of all delays, in seconds, unless the service asks for a longer one."""

MAX_RETRY_AFTER_SECONDS = 60.0
"""Longest ``Retry-After``, in seconds, that is waited for. A longer one ends the call at once, with an error that says
when to try again."""

_BASE_RATE_LIMIT_BACKOFF_SECONDS = 1.0
_LOGGED_WAIT_SECONDS = 1.0
_MAX_RESET_SECONDS = 366 * 86_400  # one year; a longer time is not shown
_MAX_DOUBLINGS = 10  # 0.5 s * 2**10 is far above MAX_BACKOFF_SECONDS; without a bound, floats would overflow


def send_with_retries(
    attempt: Callable[[Admission], Generator[Any, Any, T]],
    *,
    limits: SharedLimits,
    max_retries: int,
    cancellation: Cancellation,
    cost: Cost = FREE,
    admission: Admission | None = None,
    may_retry: Callable[[NanoGPTError], bool] = lambda _: True,
) -> Generator[Any, Any, T]:
    """Run ``attempt`` until it succeeds, each time within the budget and at a start time of the limits.

    ``attempt`` returns the generator of one attempt, which raises :class:`~nanogpt_core.NanoGPTError` if it fails, and
    settles its ``cost``. With a confirmed ``admission``, the first attempt starts at once. Transient errors are retried
    for which ``may_retry`` returns True.

    Raises:
        BudgetExceededError: The next attempt would exceed the budget. Its cause is the error of the last one.
        NanoGPTError: The error of the last attempt: it is not retried, or the retries are used up, or the deadline
            comes before the next attempt.
        RequestTimeoutError: The deadline has passed, or the stop signal is set, before an attempt begins.
    """
    failed, last = 0, None
    while True:
        try:
            if admission is None:
                admission = yield from wait_for_start(limits, cancellation, cost)
            return (yield from attempt(admission))
        except BudgetExceededError as error:
            raise error from last
        except NanoGPTError as error:
            last, delay = error, backoff_delay(failed, error)
            if delay is None:
                raise
            if admission is not None:
                limits.on_error(error, delay, admission)
            if failed >= max_retries or not may_retry(error) or not cancellation.leaves_time_for(delay):
                raise
            failed += 1
            of = f" of {cost.model}" if cost.model else ""
            logger.info("Retry %d of %d%s in %.2f s after %s", failed, max_retries, of, delay, describe(error))
        admission = None
        yield Wait(delay)


def wait_for_start(
    limits: SharedLimits, cancellation: Cancellation, cost: Cost = FREE
) -> Generator[Wait | Run, Any, Admission]:
    """Reserve the cost of a request in the budget, and wait for its start time. The request starts now.

    Raises:
        BudgetExceededError: The cost would exceed the budget.
        RequestTimeoutError: The call ends before the start time. Start time and cost are given back, as after every
            exception that is thrown in.
    """
    admission = yield from _call_limits(limits, partial(limits.reserve, cost))
    try:
        while True:
            if admission.delay > 0:
                if admission.delay > _LOGGED_WAIT_SECONDS:
                    logger.info("Waiting %.1f s for the rate limit", admission.delay)
                yield Wait(cancellation.remaining(admission.delay))
            cancellation.check()
            if admission.ready:
                return admission
            admission = yield from _call_limits(limits, partial(limits.confirm, admission))
    except BaseException:
        limits.release(admission)
        raise


def _call_limits(limits: SharedLimits, function: Callable[[], Admission]) -> Generator[Run, Any, Admission]:
    """Return the admission that a method of the limits gives; one that may block runs in a thread."""
    if not limits.may_block:
        return function()
    result: Future[Admission] = Future()
    try:
        yield Run(partial(call_into, result, function))
    except BaseException:  # the caller was cancelled, and the thread may still run
        result.add_done_callback(partial(_release, limits))
        raise
    return result.result()


def _release(limits: SharedLimits, result: Future[Admission]) -> None:
    if result.exception() is None:
        limits.release(result.result())


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``retry-after-ms`` or ``Retry-After`` (a number or a date) asks for, at least 0.

    None if there is no such header, or its value is negative or cannot be parsed. The mapping is case-insensitive, or
    its names are in lower case.
    """
    milliseconds = _parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _parse_number((value or "").partition(",")[0])  # a header that is there twice
    moment = _parse_date(value)
    if seconds is None and moment is not None:
        # By the service's own clock if it tells the time: this machine's may be wrong.
        now = _parse_date(headers.get("date"))
        seconds = max(0.0, moment - (time.time() if now is None else now))
    return seconds


def _parse_date(value: str | None) -> float | None:
    """Return the seconds since 1970 that a date in a header stands for; None if it is none."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        date = parsedate_to_datetime(value or "")
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    return None


def _parse_number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if number >= 0 else None  # False for NaN


def backoff_delay(attempt: int, error: NanoGPTError) -> float | None:
    """Return the seconds until the next attempt, after ``attempt`` failed ones before this one; None to stop."""
    if not error.transient:
        return None
    retry_after = error.retry_after if isinstance(error, StatusError) else None
    if retry_after is not None and retry_after > MAX_RETRY_AFTER_SECONDS:
        return None
    base = _BASE_RATE_LIMIT_BACKOFF_SECONDS if isinstance(error, RateLimitError) else BASE_BACKOFF_SECONDS
    # Full jitter spreads workers that failed at the same time.
    jitter = random.uniform(0.0, min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(attempt, _MAX_DOUBLINGS)))  # noqa: S311
    if retry_after is None:
        return jitter
    # First exactly as the service asks. If that fails too, many clients came back at once: jitter spreads them.
    return retry_after + jitter if attempt else retry_after


def may_be_billed(error: BaseException) -> bool:
    """Return whether an attempt that failed with ``error`` may have been billed.

    One that was refused, or never sent, costs nothing.
    """
    if isinstance(error, NanoGPTError) and error.unsent:
        return False
    return not isinstance(error, StatusError) or isinstance(error, ServerError)


def reset_message(seconds: float | None) -> str:
    """Return a sentence that says when to try again; empty if ``seconds`` is None or more than a year."""
    if seconds is None or seconds > _MAX_RESET_SECONDS:
        return ""
    moment = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "min"), (left if not hours else 0, "s"))
    span = " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
    return f"Try again in {span} ({moment:%Y-%m-%d %H:%M:%S} UTC)."

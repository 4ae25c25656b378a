"""Whether to try again, and when. Pure but for the dice."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

from nanogpt_core.errors import NanoGPTError, RateLimitError, StatusError

__all__ = ["FIRST_BACKOFF", "LONGEST_BACKOFF", "LONGEST_WAIT", "backoff_delay", "reset_words", "retry_after"]

FIRST_BACKOFF = 0.5
"""Seconds: the first wait is a random part of this, and each further one of twice as much as the one before."""

LONGEST_BACKOFF = 20.0
"""Seconds: the most that a wait is a random part of."""

LONGEST_WAIT = 60.0
"""Seconds: a service that asks for a longer wait gets an error instead, which says when to come again."""

_RATE_BACKOFF = 1.0
_FORETELLABLE = 366 * 86_400


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``retry-after-ms`` or ``Retry-After`` (a number or a date) ask for; None for neither.

    What cannot be meant (negative, not a number, no date) counts as nothing said.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            date = parsedate_to_datetime(value)
            date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
            seconds = max(0.0, date.timestamp() - time.time())
    return seconds


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if number >= 0 else None  # not so for NaN


def backoff_delay(attempt: int, error: NanoGPTError) -> float | None:
    """Return the seconds to wait before the next attempt; None where there should be none.

    Args:
        attempt: Attempts that failed before this one, counted from 0.
        error: Why this one failed.
    """
    if not error.transient:
        return None
    told = error.retry_after if isinstance(error, StatusError) else None
    if told is not None and told > LONGEST_WAIT:
        return None
    first = _RATE_BACKOFF if isinstance(error, RateLimitError) else FIRST_BACKOFF
    # Full jitter spreads the workers that failed together. Beyond 2**10 the bound is reached anyway.
    jitter = random.uniform(0.0, min(LONGEST_BACKOFF, first * 2.0 ** min(attempt, 10)))  # noqa: S311
    if told is None:
        return jitter
    # Who is told to wait, waits just that; who did so in vain came together with too many others.
    return told + jitter if attempt else told


def reset_words(seconds: float | None) -> str:
    """Return when to come again, in words; empty where that is not known."""
    if seconds is None or seconds > _FORETELLABLE:
        return ""
    moment = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "min"), (left if not hours else 0, "s"))
    span = " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
    return f"Come again in {span} ({moment:%Y-%m-%d %H:%M:%S} UTC)."

"""The account behind a key: its balance, and its usage by day and model."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from nanogpt_core.errors import ConfigurationError, InvalidTypeError, ReplyError
from nanogpt_core.http.client import fetch
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.error_body import as_sentence, error_message, excerpt
from nanogpt_core.http.secrets import ApiKey, SecretHeaders, hide_key

_MAX_DAYS = 366
"""Maximum number of days of one request for usage (newer documentation)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Balance:
    """The balance of an account. Sources: NanoGPT's documentation of ``POST /api/check-balance``.

    Attributes:
        usd: US dollars; None if the reply does not give them.
        nano: Nano (XNO); None if the reply does not give them.
        reply: The whole reply.
    """

    usd: float | None
    nano: float | None
    reply: Mapping[str, Any] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of one day, of one model, or of both; a number that the reply does not give is None.

    Attributes:
        date: The day, in UTC, as ``YYYY-MM-DD``; None for a sum over days.
        model: The model's label; None for a sum over models.
        requests: Billed requests.
        usd: US dollars after refunds.
        input_tokens: Tokens of texts and prompts.
        output_tokens: Tokens of answers.
    """

    date: str | None
    model: str | None
    requests: int | None
    usd: float | None
    input_tokens: int | None
    output_tokens: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class KeyUsage:
    """Usage of a key. Source: NanoGPT's documentation of ``GET /api/v1/usage``.

    Attributes:
        first: The first day, in UTC, as ``YYYY-MM-DD``.
        last: The last day.
        total: The sum.
        by_day: A row for each day with usage.
        by_model: A row for each model.
        reply: The whole reply.
    """

    first: str
    last: str
    total: UsageRow
    by_day: tuple[UsageRow, ...]
    by_model: tuple[UsageRow, ...]
    reply: Mapping[str, Any] = dataclasses.field(repr=False)


def fetch_balance(api_key: ApiKey = None, base_url: str | None = None) -> Balance:
    """Return the balance of the account that a key belongs to. Blocks: on an event loop, call it in a thread.

    Args:
        api_key: The key. Default: the environment's.
        base_url: The base URL of the API. Default: ``NANOGPT_BASE_URL``, then NanoGPT.

    Raises:
        ConfigurationError: An invalid argument, or no key.
        ReplyError: The reply is not a balance.
        NanoGPTError: The request failed.
    """
    api_key = hide_key(api_key)
    endpoint = Endpoint.resolve(api_key=api_key, base_url=base_url)
    assert endpoint.key is not None  # noqa: S101 - resolve raises without one
    # The path is not below /v1, and its documentation names another header than that of the other paths.
    headers = SecretHeaders({**endpoint.headers, "x-api-key": endpoint.key.get_secret_value()})
    own = Endpoint.resolve(api_key=endpoint.key, base_url=_api_root(endpoint.base_url), headers=headers)
    reply = fetch(own, "/check-balance", _parse_object, body=b"{}")
    if "usd_balance" not in reply and "nano_balance" not in reply:
        raise ReplyError(f"The reply has no balance, but the fields {', '.join(sorted(reply)) or 'none'}.")
    return Balance(_number(reply.get("usd_balance")), _number(reply.get("nano_balance")), reply)


def fetch_usage(
    api_key: ApiKey = None,
    base_url: str | None = None,
    *,
    first: datetime.date | None = None,
    last: datetime.date | None = None,
) -> KeyUsage:
    """Return the usage of a key over days of UTC, by day and by model. Blocks: on an event loop, call it in a thread.

    Args:
        api_key: The key. Default: the environment's.
        base_url: The base URL of the API. Default: ``NANOGPT_BASE_URL``, then NanoGPT.
        first: The first day; only together with ``last``. Default: the service's, the last 30 days.
        last: The last day.

    Raises:
        ConfigurationError: An invalid argument, no key, or a range of days that the service does not take.
        InvalidTypeError: A day that is not a date.
        ReplyError: The reply is not a usage.
        NanoGPTError: The request failed.
    """
    api_key = hide_key(api_key)
    query = _days(first, last)
    endpoint = Endpoint.resolve(api_key=api_key, base_url=base_url)
    reply = fetch(endpoint, f"/usage{query}", _parse_object)
    if not isinstance(reply.get("totals"), dict):
        raise ReplyError(f"The reply has no totals, but the fields {', '.join(sorted(reply)) or 'none'}.")
    return KeyUsage(
        str(reply.get("from", "")),
        str(reply.get("to", "")),
        _row(reply["totals"]),
        _rows(reply.get("byDay")),
        _rows(reply.get("byModel")),
        reply,
    )


def _days(first: datetime.date | None, last: datetime.date | None) -> str:
    for name, day in (("first", first), ("last", last)):
        if day is not None and (not isinstance(day, datetime.date) or isinstance(day, datetime.datetime)):
            raise InvalidTypeError(f"{name} must be a date, not {type(day).__name__}.")
    if first is None and last is None:
        return ""
    if first is None or last is None:
        raise ConfigurationError("A range of days needs its first and its last day.")
    if last < first:
        raise ConfigurationError(f"The last day, {last}, is before the first, {first}.")
    if (last - first).days >= _MAX_DAYS:
        raise ConfigurationError(f"{first} to {last} are more than {_MAX_DAYS} days.", remedy="Ask for fewer.")
    return "?" + urlencode({"from": first.isoformat(), "to": last.isoformat()})


def _parse_object(content: bytes) -> dict[str, Any]:
    from jiter import from_json  # comes with the SDK, which is imported late

    try:
        reply = from_json(content)
    except ValueError as error:
        raise ReplyError(f"The reply is not JSON, but begins {excerpt(content)!r}.") from error
    if not isinstance(reply, dict):
        raise ReplyError(f"The reply is not an object, but begins {excerpt(content)!r}.")
    if words := error_message({"error": reply.get("error")}):
        raise ReplyError(f"The service answered 200 with an error: {as_sentence(words)}")
    return reply


def _api_root(base_url: str) -> str:
    """Return the URL that paths outside of ``/v1`` are below: ``https://nano-gpt.com/api``."""
    parts = urlsplit(base_url)
    segments = parts.path.split("/")
    end = segments.index("api") + 1 if "api" in segments else len(segments) - 1
    return urlunsplit((parts.scheme, parts.netloc, "/".join(segments[:end]), "", ""))


def _rows(value: object) -> tuple[UsageRow, ...]:
    return tuple(_row(row) for row in value if isinstance(row, dict)) if isinstance(value, list) else ()


def _row(row: Mapping[str, Any]) -> UsageRow:
    net = _number(row.get("netCostUsd"))
    return UsageRow(
        date=_text(row.get("date")),
        model=_text(row.get("model")),
        requests=_count(row.get("requests")),
        usd=_number(row.get("costUsd")) if net is None else net,
        input_tokens=_count(row.get("inputTokens")),
        output_tokens=_count(row.get("outputTokens")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

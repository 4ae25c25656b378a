"""``GET /usage``: the usage of the key by day and model, counted from the log of requests."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from nanogpt_core.models.catalog import ModelInfo
from nanogpt_core.sandbox.http_errors import HTTPError
from nanogpt_core.sandbox.request_log import RecordedRequest
from nanogpt_core.sandbox.tokens import count_tokens

_DEFAULT_DAYS = 30
_MAX_DAYS = 366
_COUNTERS = ("requests", "costUsd", "refundedUsd", "netCostUsd", "inputTokens", "outputTokens", "reasoningTokens")


def usage_report(
    requests: Iterable[RecordedRequest], query: Mapping[str, str], models: Mapping[str, ModelInfo]
) -> dict[str, Any]:
    """Return the body of ``GET /usage``. Only answered embeddings requests are billed here; quotes are free.

    Raises:
        HTTPError: The query is not accepted.
    """
    first, last = _range(query)
    groups = sorted(query.get("group_by", "day,model").split(","))
    if groups not in (["day"], ["model"], ["day", "model"]):
        raise HTTPError(400, "group_by must be day, model or day,model.", param="group_by")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for request in requests:
        day = datetime.datetime.fromtimestamp(request.time, datetime.timezone.utc).date()
        if request.inputs and request.status == 200 and first <= day <= last:  # noqa: PLR2004
            _add(rows.setdefault((day.isoformat(), request.model or ""), _empty()), request, models)
    body: dict[str, Any] = {
        "object": "usage",
        "scope": "current_key",
        "apiKey": {"id": 1},
        "from": first.isoformat(),
        "to": last.isoformat(),
        "timezone": "UTC",
        "groupBy": ",".join(groups),
        "totals": _sum(rows.values()),
    }
    if "day" in groups:
        days = dict.fromkeys(day for day, _ in sorted(rows))
        body["byDay"] = [{"date": day, **_sum(row for key, row in rows.items() if key[0] == day)} for day in days]
    if "model" in groups:
        names = dict.fromkeys(model for _, model in sorted(rows))
        body["byModel"] = [
            {"model": name, **_sum(row for key, row in rows.items() if key[1] == name)} for name in names
        ]
    if len(groups) > 1:
        body["byDayModel"] = [{"date": day, "model": model, **row} for (day, model), row in sorted(rows.items())]
    return body


def reported_cost(cost_usd: float, input_tokens: int, output_tokens: int = 0) -> dict[str, Any]:
    """Return the value of ``x_nanogpt_pricing`` in a reply."""
    charged = {"amount": cost_usd, "currency": "USD", "cost": cost_usd, "paymentSource": "USD"}
    return {**charged, "inputTokens": input_tokens, "outputTokens": output_tokens}


def _range(query: Mapping[str, str]) -> tuple[datetime.date, datetime.date]:
    today = datetime.datetime.now(datetime.timezone.utc).date()
    given = [query.get("from"), query.get("to")]
    if given == [None, None]:
        return today - datetime.timedelta(days=_DEFAULT_DAYS - 1), today
    if None in given:
        raise HTTPError(400, "from and to must be provided together.", param="from")
    try:
        first, last = (datetime.date.fromisoformat(str(day)) for day in given)
    except ValueError:
        raise HTTPError(400, "from and to must use YYYY-MM-DD UTC dates.", param="from") from None
    if not first <= last <= today or (last - first).days >= _MAX_DAYS:
        raise HTTPError(400, f"to must be from 'from' to today, and at most {_MAX_DAYS} days after it.", param="to")
    return first, last


def _empty() -> dict[str, Any]:
    return {**dict.fromkeys(_COUNTERS, 0), "totalTokens": 0}


def _add(row: dict[str, Any], request: RecordedRequest, models: Mapping[str, ModelInfo]) -> None:
    tokens = sum(map(count_tokens, request.inputs))
    known = models.get(request.model or "")
    cost = tokens * ((known.usd_per_million_tokens if known else None) or 0.0) / 1e6
    for name, amount in (("requests", 1), ("inputTokens", tokens), ("totalTokens", tokens)):
        row[name] += amount
    for name in ("costUsd", "netCostUsd"):
        row[name] += cost


def _sum(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total = _empty()
    for row in rows:
        for name in total:
            total[name] += row[name]
    return total

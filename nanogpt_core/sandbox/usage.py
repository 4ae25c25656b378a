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
_COUNTERS = (
    "requests",
    "costUsd",
    "refundedUsd",
    "netCostUsd",
    "inputTokens",
    "outputTokens",
    "reasoningTokens",
    "totalTokens",
)


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
    billed = []
    for request in requests:
        day = datetime.datetime.fromtimestamp(request.time, datetime.timezone.utc).date()
        if request.inputs and request.status == 200 and first <= day <= last:  # noqa: PLR2004
            billed.append((day.isoformat(), request.model or "", _numbers(request, models)))

    def total(day: str | None = None, model: str | None = None) -> dict[str, float]:
        rows = [row for one, name, row in billed if day in (None, one) and model in (None, name)]
        return {counter: sum(row.get(counter, 0) for row in rows) for counter in _COUNTERS}

    pairs = sorted({(day, model) for day, model, _ in billed})
    body: dict[str, Any] = {
        "object": "usage",
        "scope": "current_key",
        "apiKey": {"id": 1},
        "from": first.isoformat(),
        "to": last.isoformat(),
        "timezone": "UTC",
        "groupBy": ",".join(groups),
        "totals": total(),
    }
    if "day" in groups:
        body["byDay"] = [{"date": day, **total(day)} for day in sorted({day for day, _ in pairs})]
    if "model" in groups:
        body["byModel"] = [{"model": model, **total(model=model)} for model in sorted({model for _, model in pairs})]
    if len(groups) > 1:
        body["byDayModel"] = [{"date": day, "model": model, **total(day, model)} for day, model in pairs]
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


def _numbers(request: RecordedRequest, models: Mapping[str, ModelInfo]) -> dict[str, float]:
    tokens = sum(map(count_tokens, request.inputs))
    known = models.get(request.model or "")
    cost = tokens * ((known.usd_per_million_tokens if known else None) or 0.0) / 1e6
    return {"requests": 1, "costUsd": cost, "netCostUsd": cost, "inputTokens": tokens, "totalTokens": tokens}

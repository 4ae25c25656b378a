"""The cost of one request: its tokens at a price, or as its reply gives it in ``x_nanogpt_pricing``. Pure functions."""

from __future__ import annotations

import re

_MAX_USD = 1e6  # a higher cost of a request, or price of 1,000,000 tokens, is taken for an error
_DECIMAL = re.compile(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def price(tokens: int | None, usd_per_million_tokens: float | None) -> float | None:
    """Return the price of ``tokens`` in US dollars; None if the count or the price is unknown."""
    if tokens is None or usd_per_million_tokens is None:
        return None
    return round_usd(tokens * usd_per_million_tokens / 1_000_000)


def round_usd(usd: float | None) -> float | None:
    """Round US dollars to twelve digits: the last digits of a float are noise that would show when it is printed."""
    return None if usd is None else float(f"{usd:.12g}")


def parse_cost_usd(pricing: object) -> float | None:
    """Return the cost in US dollars that ``x_nanogpt_pricing`` gives; None if it gives none, or another currency.

    ``amount`` is the amount charged in ``currency``, ``cost`` the cost in the currency of ``paymentSource``. Any of the
    fields may be missing.
    """
    if not isinstance(pricing, dict) or pricing.get("error"):
        return None
    for currency in (pricing.get("currency"), pricing.get("paymentSource")):
        if currency is not None and str(currency).upper() != "USD":
            return None
    costs = (_parse_cost(pricing.get(name)) for name in ("amount", "cost"))
    return next((cost for cost in costs if cost is not None), None)


def _parse_cost(value: object) -> float | None:
    return parse_usd(float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()) else value)


def parse_usd(value: object) -> float | None:
    """Return a number of US dollars from JSON; None if it is no number, or negative or impossibly high."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= _MAX_USD else None

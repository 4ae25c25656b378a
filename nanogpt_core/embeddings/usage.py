"""Token usage and cost estimates."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from nanogpt_core._runtime.fork import ForkSafe

__all__ = ["Estimate", "Usage", "UsageMeter", "price"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of one object since it was created: a snapshot. Usages can be added and subtracted.

    Attributes:
        requests: Requests that the service answered with vectors.
        retries: Attempts after the first of each request.
        prompt_tokens: Tokens billed, as the service counts them; None if a reply did not say.
        cost_usd: US dollars: the costs that replies give, and for other replies their tokens at the model's price. None
            if a reply has neither cost nor tokens, or the price is unknown.
        texts_sent: Texts that were sent and answered; a text that is repeated within a call counts once.
        texts_cached: Texts whose vectors came from the cache.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int | None = 0
    cost_usd: float | None = 0.0
    texts_sent: int = 0
    texts_cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        return self._combine(other, operator.add)

    def __sub__(self, other: Usage) -> Usage:
        return self._combine(other, operator.sub)

    def _combine(self, other: Usage, function: Callable[[Any, Any], Any]) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        pairs = {one.name: (getattr(self, one.name), getattr(other, one.name)) for one in fields(Usage)}
        # An unknown number makes the sum unknown.
        sums: dict[str, Any] = {name: None if None in pair else function(*pair) for name, pair in pairs.items()}
        return Usage(**{**sums, "cost_usd": _round(sums["cost_usd"])})


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens, cost and requests that embedding some texts would take.

    Attributes:
        texts: Texts passed.
        unique: Distinct texts among them.
        cached: Distinct texts whose vectors are in the cache.
        tokens: Tokens of the texts that would be sent.
        cost_usd: ``tokens`` at the model's price, in US dollars; None if the price is unknown.
        requests: Requests that would be sent.
        counting: The method behind ``tokens``: ``"exact"`` (the model's own tokenizer), ``"scaled"`` (the count of
            another tokenizer, scaled up) or ``"bound"`` (from the texts' length).
    """

    texts: int
    unique: int
    cached: int
    tokens: int
    cost_usd: float | None
    requests: int
    counting: str


def price(tokens: int | None, usd_per_million_tokens: float | None) -> float | None:
    """Return the price of ``tokens`` in US dollars; None if the count or the price is unknown."""
    if tokens is None or usd_per_million_tokens is None:
        return None
    return _round(tokens * usd_per_million_tokens / 1_000_000)


def _round(usd: float | None) -> float | None:
    # To twelve digits: the last digits of a float are noise that would show when it is printed.
    return None if usd is None else float(f"{usd:.12g}")


class UsageMeter(ForkSafe):
    """Adds up usage. Thread-safe. Copies and pickles start at 0."""

    def __init__(self, usd_per_million_tokens: float | None) -> None:
        super().__init__()
        self._price = usd_per_million_tokens
        self._requests = self._retries = self._tokens = self._sent = self._cached = 0
        # Costs that replies gave, and tokens of the replies that gave none.
        self._billed_usd, self._tokens_without_cost = 0.0, 0
        self._unknown_tokens = self._unknown_cost = False

    def add_request(
        self, *, texts: int, prompt_tokens: int | None, cost_usd: float | None = None, requests: int = 1
    ) -> None:
        """Count one request that was answered with the vectors of ``texts`` texts.

        Args:
            texts: Texts of this object in the request.
            prompt_tokens: Their tokens, or None if unknown.
            cost_usd: Their cost, or None if the reply does not say.
            requests: 0 for a request that another object counts, because it carried texts of both.
        """
        with self._lock:
            self._requests += requests
            self._sent += texts
            self._tokens += prompt_tokens or 0
            self._unknown_tokens |= prompt_tokens is None
            if cost_usd is not None:
                self._billed_usd += cost_usd
            else:
                self._tokens_without_cost += prompt_tokens or 0
                self._unknown_cost |= prompt_tokens is None or self._price is None

    def add_retry(self) -> None:
        """Count one attempt after the first of a request."""
        with self._lock:
            self._retries += 1

    def add_cached(self, texts: int) -> None:
        """Count texts whose vectors came from the cache."""
        with self._lock:
            self._cached += texts

    def snapshot(self) -> Usage:
        """Return the sums so far."""
        with self._lock:
            tokens = None if self._unknown_tokens else self._tokens
            listed = price(self._tokens_without_cost, self._price) or 0.0
            cost = None if self._unknown_cost else _round(self._billed_usd + listed)
            return Usage(self._requests, self._retries, tokens, cost, self._sent, self._cached)

    def __reduce__(self) -> tuple[type[UsageMeter], tuple[float | None]]:
        return UsageMeter, (self._price,)

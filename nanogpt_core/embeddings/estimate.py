"""Cost estimates."""

from __future__ import annotations

from dataclasses import dataclass


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

"""Tokens, requests, cost and time of texts for a model, without sending anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanogpt_core.cli.console import print_warning
from nanogpt_core.embeddings.planning import pack
from nanogpt_core.models.catalog import MODELS, ModelInfo, near_names
from nanogpt_core.models.pricing import price
from nanogpt_core.models.tokens import TokenCounter

MAX_TEXTS_PER_BATCH = 256
"""Maximum number of texts that a stream puts into a request."""

_REQUESTS_PER_SECOND = 25  # documented by the service
_REQUESTS_IN_FLIGHT = 16
_SECONDS_PER_REQUEST = 1.0  # assumed


class ModelTally:
    """Adds up texts for one model.

    Attributes:
        tokens: Tokens of the texts.
        too_long: Number of texts over the model's token limit.
    """

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self.counter = TokenCounter(model)
        self.tokens = self.too_long = self._requests = 0
        self._batch_size = min(model.batch_size, MAX_TEXTS_PER_BATCH)
        self._weights: list[int] = []

    def add(self, base_tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """Add texts, by their tokens and their lengths in bytes.

        The tokens are those of :func:`nanogpt_core.models.tokens.count_base_tokens`.
        """
        limit = self.model.max_tokens
        for tokens in map(self.counter.scale, base_tokens):
            self.tokens += tokens
            self.too_long += limit is not None and tokens > limit
        self._weights += self.counter.weights(lengths)
        while len(self._weights) >= self._batch_size:
            self._requests += self._packed(self._weights[: self._batch_size])
            del self._weights[: self._batch_size]

    def _packed(self, weights: Sequence[int]) -> int:
        return sum(1 for _ in pack(weights, self._batch_size, self.model.max_request_tokens))

    @property
    def requests(self) -> int:
        """Number of requests."""
        return self._requests + self._packed(self._weights)

    @property
    def usd(self) -> float | None:
        """Cost in US dollars; None if the price is unknown."""
        return price(self.tokens, self.model.usd_per_million_tokens)

    @property
    def minutes(self) -> float:
        """Time in minutes, if 16 requests are in flight, each takes a second, and 25 may start in a second."""
        rate = min(_REQUESTS_PER_SECOND, _REQUESTS_IN_FLIGHT / _SECONDS_PER_REQUEST)
        return self.requests / rate / 60

    def as_json(self) -> dict[str, Any]:
        """Return the sums as a JSON object."""
        return {
            "model": self.model.id,
            "dimensions": self.model.dimensions,
            "tokens": self.tokens,
            "counting": self.counter.kind,
            "requests": self.requests,
            "usd": self.usd,
            "minutes": round(self.minutes, 3),
            "too_long": self.too_long,
        }


def format_usd(usd: float | None) -> str:
    """Return an amount for people: two digits above a dollar, and else the first two that count."""
    if usd is None:
        return "unknown"
    if usd >= 1 or usd == 0:
        return f"${usd:,.2f}"
    digits = max(2, 1 - int(f"{usd:.1e}".partition("e")[2]))
    return f"${usd:.{digits}f}"


def warn_about_unknown_model(name: str) -> None:
    """Print a warning if the catalog does not know a model, with names that are near."""
    if name in MODELS:
        return
    near = near_names(name)
    hint = f" Near names: {', '.join(near)}." if near else ""
    print_warning(f"{name} is not in the packaged list of models: its price and limits are unknown.{hint}")

"""What was spent, and what would be."""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core.errors import BudgetExceededError

__all__ = ["Budget", "Estimate", "Usage", "UsageMeter", "price"]


@dataclass(frozen=True, slots=True)
class Usage:
    """A snapshot of what one object has spent since it was made.

    Attributes:
        requests: Requests that the service answered with vectors.
        retries: Attempts beyond the first of each request.
        prompt_tokens: Tokens billed, as the service counts them; None when a reply did not say.
        cost_usd: ``prompt_tokens`` at the catalogue's price, in US dollars; None when either is unknown.
        texts_sent: Texts that were sent and answered, each repeated text counted once.
        texts_cached: Texts whose vectors came from the cache.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int | None = 0
    cost_usd: float | None = 0.0
    texts_sent: int = 0
    texts_cached: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What embedding some texts would take. Nothing is sent to learn it.

    Attributes:
        texts: Texts given.
        unique: Texts left when repeated ones are counted once.
        cached: Unique texts whose vectors are in the cache.
        tokens: Tokens of the texts that would be sent.
        cost_usd: ``tokens`` at the catalogue's price, in US dollars; None where the price is unknown.
        requests: Requests that would be sent.
        counting: How ``tokens`` was found: ``"exact"`` (the model's own tokenizer), ``"scaled"`` (another tokenizer's
            count, scaled up to be on the safe side) or ``"bound"`` (from the texts' length, on the safe side).
    """

    texts: int
    unique: int
    cached: int
    tokens: int
    cost_usd: float | None
    requests: int
    counting: str


def price(tokens: int | None, usd_per_million_tokens: float | None) -> float | None:
    """Return what ``tokens`` cost in US dollars; None where the count or the price is unknown."""
    if tokens is None or usd_per_million_tokens is None:
        return None
    # To twelve digits: a float's last ones are noise, which would show when it is printed.
    return float(f"{tokens * usd_per_million_tokens / 1_000_000:.12g}")


class Budget(ForkSafe):
    """Keeps what is spent, and may have been, under a limit; exact under threads. A copy or pickle starts at nothing.

    Args:
        limit_usd: US dollars that may be spent; None for no limit.
        usd_per_million_tokens: The model's price.
    """

    def __init__(self, limit_usd: float | None, usd_per_million_tokens: float | None) -> None:
        self._limit = limit_usd
        self._price = usd_per_million_tokens
        self._committed = 0.0
        super().__init__()

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._limit is not None

    def check(self, tokens: int) -> None:
        """Make sure that ``tokens`` can be sent.

        Raises:
            BudgetExceededError: They would go past the limit.
        """
        with self._lock:
            self._check(tokens)

    def reserve(self, tokens: int) -> float:
        """Set the price of ``tokens`` aside and return it, in US dollars.

        Raises:
            BudgetExceededError: They would go past the limit.
        """
        with self._lock:
            self._check(tokens)
            amount = price(tokens, self._price) or 0.0
            self._committed += amount
            return amount

    def settle(self, reserved: float, tokens: int | None) -> None:
        """Replace what was set aside by the price of the tokens that were billed; None keeps it set aside."""
        if tokens is not None:
            with self._lock:
                self._committed += (price(tokens, self._price) or 0.0) - reserved

    def _check(self, tokens: int) -> None:
        cost = price(tokens, self._price) or 0.0
        if self._limit is not None and self._committed + cost > self._limit:
            raise BudgetExceededError(
                f"Sending about {tokens:,} tokens (${cost:.3g}) would go past budget_usd={self._limit:g}; "
                f"${self._committed:.3g} of it are spent or may have been billed for failed attempts.",
                remedy="Send less, or raise budget_usd.",
            )

    def __reduce__(self) -> tuple[type[Budget], tuple[float | None, float | None]]:
        return Budget, (self._limit, self._price)


class UsageMeter(ForkSafe):
    """Adds up usage; exact under threads. A copy or a pickle of it starts at nothing."""

    def __init__(self, usd_per_million_tokens: float | None) -> None:
        super().__init__()
        self._price = usd_per_million_tokens
        self._requests = self._retries = self._tokens = self._sent = self._cached = 0
        self._unknown = False

    def add_request(self, *, texts: int, prompt_tokens: int | None) -> None:
        """Count one request that was answered with the vectors of ``texts`` texts."""
        with self._lock:
            self._requests += 1
            self._sent += texts
            if prompt_tokens is None:
                self._unknown = True
            else:
                self._tokens += prompt_tokens

    def add_retry(self) -> None:
        """Count one attempt beyond a request's first."""
        with self._lock:
            self._retries += 1

    def add_cached(self, texts: int) -> None:
        """Count texts that the cache answered."""
        with self._lock:
            self._cached += texts

    def snapshot(self) -> Usage:
        """Return the sums so far."""
        with self._lock:
            tokens = None if self._unknown else self._tokens
            cost = 0.0 if not self._requests else price(tokens, self._price)
            return Usage(self._requests, self._retries, tokens, cost, self._sent, self._cached)

    def __reduce__(self) -> tuple[type[UsageMeter], tuple[float | None]]:
        return UsageMeter, (self._price,)

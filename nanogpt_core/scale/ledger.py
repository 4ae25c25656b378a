"""The ledger of shared limits: money spent, possibly billed and saved, summed over all workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanogpt_core.observability.usage import Usage

if TYPE_CHECKING:
    from nanogpt_core.scale.redis_scripts import Reply

NANO = 1_000_000_000
"""Amounts are kept as whole billionths of a US dollar, so that sums are exact."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request that was admitted and whose end is not known.

    Attributes:
        id: Its name.
        worker: The process that sends it: host, process id and a random part.
        usd: Reserved US dollars.
        texts: Number of texts.
        abandoned: True if it should have ended long ago: its worker was killed, or cannot reach Redis.
    """

    id: str
    worker: str
    usd: float
    texts: int
    abandoned: bool


@dataclass(frozen=True, slots=True)
class Ledger:
    """Sums over all workers that share limits, also those that were killed: a snapshot.

    Attributes:
        spent_usd: US dollars of the requests that were answered: the costs that replies give, or their tokens at the
            model's price.
        may_have_been_billed_usd: US dollars of requests that failed after they were sent, of open ones, and what was
            committed before Redis lost its data. ``spent_usd`` and this count against the budget.
        saved_usd: US dollars that cache and deduplication saved, by upper estimates of tokens.
        answered: Requests that were answered with vectors.
        refused: Attempts that are not billed: the service refused them with an error status below 500, or no connection
            was made.
        uncertain: Attempts that failed otherwise; they may have been billed.
        tokens: Tokens that were billed for the answered requests.
        texts_sent: Texts that were answered.
        texts_cached: Texts whose vectors came from the cache.
        texts_repeated: Texts that repeated another one of the same call.
        open: Requests whose end is not known.
        workers: Workers that sent a request in the last minute.
        requests_per_second: The present rate over all workers.
    """

    spent_usd: float
    may_have_been_billed_usd: float
    saved_usd: float
    answered: int
    refused: int
    uncertain: int
    tokens: int
    texts_sent: int
    texts_cached: int
    texts_repeated: int
    open: tuple[OpenRequest, ...]
    workers: int
    requests_per_second: float

    @property
    def abandoned(self) -> tuple[OpenRequest, ...]:
        """The open requests that dead workers left; see :meth:`nanogpt_core.RedisLimits.release_abandoned`."""
        return tuple(request for request in self.open if request.abandoned)

    @property
    def abandoned_usd(self) -> float:
        """US dollars of :attr:`abandoned`, a part of ``may_have_been_billed_usd``."""
        return sum(request.usd for request in self.abandoned)

    def usage(self) -> Usage:
        """Return the sums as a :class:`nanogpt_core.Usage`. Its ``retries`` are the attempts that failed."""
        return Usage(
            requests=self.answered,
            retries=self.refused + self.uncertain,
            prompt_tokens=self.tokens,
            cost_usd=self.spent_usd,
            texts_sent=self.texts_sent,
            texts_cached=self.texts_cached,
            uncertain=self.uncertain,
        )


def read_ledger(state: Mapping[bytes, bytes], opened: Mapping[bytes, bytes], reply: Reply) -> Ledger:
    """Return the ledger from the hashes ``state`` and ``open`` of ``lua/state.lua``, and a reply of that moment."""

    def number(name: str) -> int:
        return int(state.get(name.encode(), b"0"))

    return Ledger(
        spent_usd=number("spent") / NANO,
        may_have_been_billed_usd=(number("uncertain_amount") + number("open") + number("restored")) / NANO,
        saved_usd=number("saved") / NANO,
        answered=number("answered"),
        refused=number("refused"),
        uncertain=number("uncertain"),
        tokens=number("tokens"),
        texts_sent=number("texts"),
        texts_cached=number("cached"),
        texts_repeated=number("repeated"),
        open=tuple(_open_request(name, entry, reply.now) for name, entry in opened.items()),
        workers=reply.workers,
        requests_per_second=reply.rate,
    )


def _open_request(name: bytes, entry: bytes, now_microseconds: int) -> OpenRequest:
    amount, worker, abandoned_at, texts = entry.decode().split(" ")
    return OpenRequest(name.decode(), worker, int(amount) / NANO, int(texts), int(abandoned_at) < now_microseconds)

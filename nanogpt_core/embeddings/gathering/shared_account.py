"""The account of a request that several calls share: each call pays for its own texts, and gets a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from nanogpt_core.embeddings.gathering.gatherer import Gatherer
from nanogpt_core.embeddings.gathering.waiting import Item, WaitingCall
from nanogpt_core.embeddings.planning import Batch
from nanogpt_core.embeddings.response import EmbeddingResponse
from nanogpt_core.errors import BudgetExceededError
from nanogpt_core.http.limits import Cost
from nanogpt_core.http.retry import may_be_billed
from nanogpt_core.models.pricing import price, round_usd
from nanogpt_core.observability.observer import CallObserver, RequestTimer


class NoCallLeft(Exception):  # noqa: N818 - no error: there is nothing to send
    """All calls of a batch have ended."""


def make_batch(items: Sequence[Item]) -> Batch:
    """Return the batch of some texts."""
    count = range(len(items))
    return Batch([item.text for item in items], count, count, [item.tokens for item in items])


class SharedAccount:
    """The account of a request that several calls share. Of calls with the same text, the first one pays.

    Attributes:
        items: The texts of the attempt.
    """

    def __init__(self, gatherer: Gatherer, items: Sequence[Item], usd_per_million_tokens: float | None) -> None:
        self._gatherer = gatherer
        self._price = usd_per_million_tokens
        self._all_items = items
        self.items: list[Item] = []
        self._payers: list[WaitingCall] = []  # of the items
        self._reserved: dict[WaitingCall, Cost] = {}
        self._last: BaseException | None = None  # the error of the attempt before
        self._timer = RequestTimer()

    @property
    def first_observer(self) -> CallObserver:
        """The observer of the call that counts the request."""
        return self._payers[0].observer

    def open(self) -> Batch:
        """Reserve the price at each call's budget; a call whose budget refuses fails, and the others go on.

        Raises:
            NoCallLeft: No call waits for any of the texts.
        """
        while True:
            shares = [(item, *share) for item in self._all_items if (share := _payer_of(item)) is not None]
            if not shares:
                raise NoCallLeft
            if self._reserve([(payer, index) for _, payer, index in shares]):
                self.items, self._payers = [item for item, _, _ in shares], [payer for _, payer, _ in shares]
                self._timer.attempts += 1
                return make_batch(self.items)

    def _reserve(self, shares: list[tuple[WaitingCall, int]]) -> bool:
        """Reserve each call's price; False if a call could not pay, and so has left."""
        tokens: dict[WaitingCall, int] = {}
        for call, index in shares:
            if call.budget is not None:
                tokens[call] = tokens.get(call, 0) + call.batch.tokens[index]
        self._reserved = {}
        for call, count in tokens.items():
            cost = Cost(tokens=count, usd=price(count, self._price))
            try:
                call.budget.reserve(cost)  # type: ignore[union-attr] # see above
            except BudgetExceededError as error:
                error.__cause__ = self._last
                self._settle(0.0)
                self._gatherer.fail_call(call, error)
                return False
            self._reserved[call] = cost
        return True

    def _settle(self, usd: float | None) -> None:
        for call, cost in self._reserved.items():
            call.budget.settle(cost, usd)  # type: ignore[union-attr] # it has reserved

    def settle(self, error: BaseException) -> None:
        """Give back the price of a failed attempt, unless it may have been billed."""
        self._last = error
        billed = None if may_be_billed(error) else 0.0
        self._timer.uncertain += billed is None
        self._settle(billed)

    def add_request(self, response: EmbeddingResponse) -> None:
        """Divide tokens and cost among the calls by the sizes of their texts; the request counts for the first one."""
        texts = Counter(self._payers)
        sizes: Counter[WaitingCall] = Counter()
        for item, payer in zip(self.items, self._payers, strict=True):
            sizes[payer] += item.tokens + 1
        tokens = _divide(response.prompt_tokens, list(sizes.values()))
        costs = _shares(response.cost_usd, list(sizes.values()))
        for number, (call, share, cost) in enumerate(zip(sizes, tokens, costs, strict=True)):
            if call in self._reserved and call.budget is not None:
                call.budget.settle(self._reserved[call], cost)
            self._report(
                call,
                texts=texts[call],
                prompt_tokens=share,
                cost_usd=cost,
                request_id=response.request_id,
                shared=number > 0,
            )

    def report_failure(self, error: BaseException) -> None:
        """Report to the calls that would have paid that the request failed."""
        if isinstance(error, NoCallLeft) and self._last is not None:
            error = self._last
        for number, (call, texts) in enumerate(Counter(self._payers).items()):
            self._report(call, texts=texts, error=error, shared=number > 0)

    def _report(self, call: WaitingCall, **fields: Any) -> None:
        try:
            call.observer.report(self._timer, **fields)
        except BaseException as error:  # noqa: BLE001 - of the call's hook, such as SystemExit: only that call ends
            call.error = error


def _payer_of(item: Item) -> tuple[WaitingCall, int] | None:
    """Return the first call that waits for the text and is not about to end, and the text's index in its batch."""
    calls = (each for each in list(item.calls.items()) if not each[0].cancellation.is_late)
    return next(calls, None)


def _divide(total: int | None, sizes: Sequence[int]) -> list[int | None]:
    """Divide ``total`` in proportion to ``sizes``, into whole numbers with the same sum."""
    if total is None:
        return [None] * len(sizes)
    size_of_all = sum(sizes)
    ends = [total * size // size_of_all for size in accumulate(sizes)]
    return [end - start for start, end in pairwise([0, *ends])]


def _shares(total: float | None, sizes: Sequence[int]) -> list[float | None]:
    size_of_all = sum(sizes)
    return [None if total is None else round_usd(total * size / size_of_all) for size in sizes]

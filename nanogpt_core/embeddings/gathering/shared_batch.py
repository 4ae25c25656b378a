"""Sends one gathered batch: the texts of several calls in one request, without doing any I/O itself.

Each call pays for its own texts. If one text can be the reason for a refusal, the batch is divided until that text is
found: only its own call fails.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from nanogpt_core._runtime.clock import NO_DEADLINE, Cancellation, Deadline
from nanogpt_core._runtime.log import describe, logger
from nanogpt_core.embeddings.dispatch import Dispatcher, Steps, failed_outcome, text_too_long
from nanogpt_core.embeddings.gathering.gatherer import Gatherer
from nanogpt_core.embeddings.gathering.shared_account import NoCallLeft, SharedAccount, make_batch
from nanogpt_core.embeddings.gathering.waiting import Carrier, Item, WaitingCall
from nanogpt_core.embeddings.response import EmbeddingResponse
from nanogpt_core.errors import BadRequestError, BudgetExceededError, NanoGPTError, RequestTooLargeError
from nanogpt_core.http.limits import Admission, Outcome
from nanogpt_core.http.text_errors import may_concern_one_text, named_position

# After so many calls have failed one after another, without an answer in between, hardly a text is the reason.
_MAX_FAILED_IN_A_ROW = 3


@dataclass(frozen=True)
class Failure:
    """The failure of a request.

    Attributes:
        error: The error.
        calls: The calls that waited for the texts at that moment.
        named: The text that the service named in it, or None.
        was_late: True if the deadline of all calls had passed.
    """

    error: NanoGPTError
    calls: set[WaitingCall]
    named: Item | None
    was_late: bool


@dataclass(eq=False, repr=False)
class SharedBatch:
    """One gathered batch of a carrier; the gatherer gets its vectors and errors."""

    carrier: Carrier
    gatherer: Gatherer
    dispatcher: Dispatcher
    stop: threading.Event

    def __post_init__(self) -> None:
        self._limits = self.dispatcher.limits
        self._max_retries = self.dispatcher.config.max_retries

    def send(self, items: Sequence[Item], admission: Admission | None) -> Steps[None]:
        """Send the texts, with a confirmed admission for the first attempt, and hand out vectors and errors."""
        parts = [list(items)]
        while parts:
            part = parts.pop()
            batch = make_batch(part)
            if len(part) > 1 and not self.dispatcher.host_capabilities.fits(batch):
                parts += _halves(part)[::-1]
                continue
            _, failure = yield from self._request(part, admission)
            admission = None
            if failure is not None:
                yield from self._isolate(part, failure)

    def _request(
        self, items: Sequence[Item], admission: Admission | None = None
    ) -> Steps[tuple[Sequence[Item], Failure | None]]:
        """Send some of the texts in one request, with retries, and hand out their vectors.

        Return the texts of the last attempt, those that calls still waited for; and the failure if it failed.
        """
        account = SharedAccount(self.gatherer, items, self.dispatcher.usd_per_million_tokens)
        cancellation = Cancellation(_last_deadline(items), self.stop)
        cost = replace(self.dispatcher.cost(make_batch(items)), gathers=True)
        if self.dispatcher.config.limits is None:
            cost = replace(cost, usd=None)  # each call reserves for its own texts: SharedAccount
        try:
            response = yield from self.dispatcher.send_with_encoding(
                partial(self._attempt, account, cancellation), cancellation, cost, self._max_retries, admission
            )
        except BaseException as error:
            account.report_failure(error)
            if isinstance(error, NoCallLeft):
                return [], None
            if not isinstance(error, NanoGPTError):
                raise
            index = named_position(error, len(account.items))
            named = None if index is None else account.items[index]
            calls = {call for item in account.items for call in list(item.calls)}
            return account.items, Failure(error, calls, named, cancellation.is_late)
        with contextlib.suppress(NanoGPTError):  # each call gets the same error
            # Before the calls do, which would all ask the live list at once.
            yield from self.dispatcher.check_dimensions(response, cancellation, account.first_observer)
        self.gatherer.deliver(account.items, response.vectors, response.model)
        return account.items, None

    def _attempt(
        self, account: SharedAccount, cancellation: Cancellation, admission: Admission
    ) -> Steps[EmbeddingResponse]:
        """Make one attempt with the texts that calls still wait for, and settle its cost."""
        self.gatherer.start_request(self.carrier)
        try:
            batch = account.open()
        except NoCallLeft:
            self._limits.release(admission)
            raise
        admission = replace(admission, cost=replace(admission.cost, texts=len(batch.texts)))
        try:
            response = yield from self.dispatcher.request_once(batch, cancellation, account.first_observer)
        except BaseException as error:
            account.settle(error)
            self._limits.settle(admission, failed_outcome(error))
            raise
        account.add_request(response)
        self._limits.settle(admission, Outcome(response.cost_usd, response.prompt_tokens, answered=True))
        return response

    def _isolate(self, items: list[Item], failure: Failure) -> Steps[None]:
        """Find the texts that the service refuses; fail their calls, and answer the others.

        The service may name them. Otherwise the texts are halved until a part that is refused belongs to one call: 13
        requests for 64 calls with a bad text. An error that no text can cause fails all calls.
        """
        left: Failure | None = failure
        if may_concern_one_text(failure.error) and not _is_one_call(items):
            reason = describe(failure.error)
            logger.info("A batch of %d texts of several calls failed with %s: dividing it", len(items), reason)
            items, left = yield from self._isolate_named(items, failure)
        if left is not None:
            yield from self._divide(items, left)

    def _isolate_named(self, items: list[Item], failure: Failure) -> Steps[tuple[list[Item], Failure | None]]:
        """Fail the calls of texts that the service names; return the texts that are left, and their failure.

        If the others are answered, the named text was the reason. Otherwise it is sent by itself: several texts may be
        bad, or the service counts from 1. Its names are used as long as they are right.
        """
        while (named := failure.named) is not None:
            owners = set(named.calls)
            others = [item for item in items if item is not named and set(item.calls) - owners]
            failure_of_others = (yield from self._request(others))[1] if others else None
            refusal = failure
            if failure_of_others is not None and may_concern_one_text(failure_of_others.error):
                _, own_failure = yield from self._request([named])
                if own_failure is None:
                    return others, failure_of_others
                refusal = own_failure
            self._fail_texts([named], refusal)
            if failure_of_others is None:
                return [], None
            items, failure = others, failure_of_others
        return items, failure

    def _divide(self, items: list[Item], refusal: Failure) -> Steps[None]:
        """Send refused texts in halves, and those that are refused again in halves of these."""
        if not isinstance(refusal.error, BadRequestError):
            self._max_retries = 0  # the retries are used up
        parts: list[tuple[list[Item], Failure | None]] = [(items, refusal)]  # each with its failure, if it was sent
        largest: Sequence[Item] = []  # of the parts that were answered
        failed_calls = failed_in_a_row = 0
        while parts:
            part, failure = parts.pop()
            if failure is None:
                sent, failure = yield from self._request(part)
                if failure is None and sent:
                    largest, failed_in_a_row = max(largest, sent, key=len), 0
            if failure is None:
                continue
            is_hardly_about_texts = failed_in_a_row >= _MAX_FAILED_IN_A_ROW
            if not may_concern_one_text(failure.error) or (is_hardly_about_texts and failure.error.transient):
                rest = [item for one, _ in reversed(parts) for item in one]
                self._fail([*part, *rest], replace(failure, calls=refusal.calls | failure.calls))
                return
            if _is_one_call(part):
                self._fail_one_call(part, failure)
                failed_calls, failed_in_a_row = failed_calls + 1, failed_in_a_row + 1
            else:
                smaller = [[item] for item in part] if is_hardly_about_texts else _halves(part)
                parts += [(one, None) for one in reversed(smaller)]
        if largest and not failed_calls and isinstance(refusal.error, RequestTooLargeError):
            self.dispatcher.host_capabilities.learn(make_batch(largest))

    def _fail(self, items: Sequence[Item], failure: Failure) -> None:
        """Fail all calls with these texts; those that joined since, or have more time left, go on by themselves."""
        if isinstance(failure.error, BudgetExceededError):
            self.gatherer.send_separately(items)  # the shared budget may cover some of them
            return
        self.gatherer.send_separately(
            items, lambda call: call not in failure.calls or (failure.was_late and not call.cancellation.is_late)
        )
        self.gatherer.fail(items, failure.error, failure.named)

    def _fail_one_call(self, items: list[Item], failure: Failure) -> None:
        """Fail the call of some texts. If another call has left or joined one, each sends its own again."""
        failed = failure.calls.intersection(call for item in items for call in list(item.calls))
        if len(items) > 1 and (len(failed) > 1 or not all(item.calls for item in items)):
            self.gatherer.send_separately(items)
        else:
            self._fail_texts(items, failure)

    def _fail_texts(self, items: list[Item], failure: Failure) -> None:
        """Fail the calls of a single text, or the one call of several; nothing happens if they were answered."""
        error = failure.error
        if not isinstance(error, RequestTooLargeError):
            self._fail(items, failure)
        elif len(items) == 1 and self.dispatcher.config.on_overflow == "error":
            for item in items:
                for call, index in list(item.calls.items()):
                    self.gatherer.fail_call(call, text_too_long(error, call.batch.positions[index]))
        else:
            self.gatherer.send_separately(items)  # each call truncates or splits them


def _last_deadline(items: Sequence[Item]) -> Deadline:
    """Return the latest deadline of all calls."""
    deadlines = [call.cancellation.deadline for item in items for call in list(item.calls)]
    return max(deadlines, key=lambda deadline: deadline.at, default=NO_DEADLINE)


def _is_one_call(items: Sequence[Item]) -> bool:
    """Return whether at most one call waits for the texts, or there is only one text."""
    return len(items) <= 1 or len({call for item in items for call in list(item.calls)}) <= 1


def _halves(items: list[Item]) -> list[list[Item]]:
    return [items[: len(items) // 2], items[len(items) // 2 :]]

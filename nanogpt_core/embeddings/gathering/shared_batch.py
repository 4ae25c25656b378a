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
from nanogpt_core.embeddings.gathering.bad_text_search import BadTextSearch, Failure, Result, halves, is_one_call
from nanogpt_core.embeddings.gathering.gatherer import Gatherer
from nanogpt_core.embeddings.gathering.shared_account import NoCallLeft, SharedAccount, make_batch
from nanogpt_core.embeddings.gathering.waiting import Carrier, Item
from nanogpt_core.embeddings.planning import is_only_text
from nanogpt_core.embeddings.response import EmbeddingResponse
from nanogpt_core.errors import BudgetExceededError, NanoGPTError, RequestTooLargeError
from nanogpt_core.http.limits import Admission, Outcome
from nanogpt_core.http.text_errors import may_concern_one_text, named_position

# After so many searches for a bad text in which no request succeeded, no further text is searched for.
_MAX_SEARCHES_IN_VAIN = 2


@dataclass(eq=False, repr=False)
class SharedBatch:
    """One gathered batch of a carrier; the gatherer gets its vectors and errors."""

    carrier: Carrier
    gatherer: Gatherer
    dispatcher: Dispatcher
    stop: threading.Event

    def __post_init__(self) -> None:
        self._requests = self._most_requests = 0
        self._limits = self.dispatcher.limits
        self._retries_crashes = True  # False after a crash of the host that outlasted its retries

    def send(self, items: Sequence[Item], admission: Admission | None) -> Steps[None]:
        """Send the texts, with a confirmed admission for the first attempt, and hand out vectors and errors."""
        # The service may refuse each text. Then it costs no more than a request for each.
        self._most_requests = len(items)
        result = yield from self._request(items, admission)
        if result.failure is not None:
            yield from self._isolate(list(items), result.failure)

    def _request(self, items: Sequence[Item], admission: Admission | None = None) -> Steps[Result]:
        """Send some of the texts in one request, with retries, and hand out their vectors."""
        account = SharedAccount(self.gatherer, items, self.dispatcher.usd_per_million_tokens)
        cancellation = Cancellation(_last_deadline(items), self.stop)
        cost = replace(self.dispatcher.cost(make_batch(items)), gathers=True)
        if self.dispatcher.config.limits is None:
            cost = replace(cost, usd=None)  # each call reserves for its own texts: SharedAccount
        self._requests += 1
        try:
            response = yield from self.dispatcher.send_with_encoding(
                partial(self._attempt, account, cancellation), cancellation, cost, admission, self._may_retry
            )
        except BaseException as error:
            account.report_failure(error)
            if isinstance(error, NoCallLeft):
                return Result([], None)
            if not isinstance(error, NanoGPTError):
                raise
            if error.transient and may_concern_one_text(error):
                self._retries_crashes = False  # they are used up
            index = named_position(error, len(account.items))
            named = None if index is None else account.items[index]
            calls = {call for item in account.items for call in list(item.calls)}
            return Result(account.items, Failure(error, calls, named=named, was_late=cancellation.is_late))
        with contextlib.suppress(NanoGPTError):  # each call gets the same error
            # Checked here too: otherwise, all calls would ask the live list at once.
            yield from self.dispatcher.check_dimensions(response, cancellation, account.first_observer)
        self.gatherer.deliver(account.items, response.vectors, response.model)
        return Result(account.items, None)

    def _may_retry(self, error: NanoGPTError) -> bool:
        """Return whether to retry an error. A text that crashes the host uses up the retries of only one request."""
        return self._retries_crashes or not may_concern_one_text(error)

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

        The service may name them. Otherwise binary search: a half that succeeds leaves the other one as the suspect,
        without a request for it, and the halves beside the suspects go together in one request at the end. 64 texts
        with a bad one take at most 8 requests. Texts of one call need no search: it fails if one of them does. Nor do
        errors that no text can cause: all calls fail.
        """
        if is_one_call(items):
            self._fail_one_call(items, failure)
            return
        if not may_concern_one_text(failure.error):
            self._fail(items, failure)
            return
        reason = describe(failure.error)
        logger.info("A batch of %d texts of several calls failed with %s: dividing it", len(items), reason)
        items, left = yield from self._isolate_named(items, failure)
        searches_in_vain = 0
        while left is not None and searches_in_vain < _MAX_SEARCHES_IN_VAIN:
            search = BadTextSearch(items, left)
            left = yield from self._isolate_one(search)
            items = search.others
            searches_in_vain += not search.answered
        if left is None:
            return
        # Hardly a matter of one text.
        if left.error.transient:
            self._fail(items, left)
            return
        for item in items:
            result = yield from self._request([item])
            if result.failure is not None:
                self._fail_texts([item], result.failure)

    def _isolate_named(self, items: list[Item], failure: Failure) -> Steps[tuple[list[Item], Failure | None]]:
        """Fail the calls of texts that the service names; return the texts that are left, and their failure.

        If the others are answered, the named text was the reason. Otherwise it is sent by itself: several texts may be
        bad, or the service counts from 1. Its names are used as long as they are right.
        """
        while (named := failure.named) is not None:
            owners = set(named.calls)
            others = [item for item in items if item is not named and set(item.calls) - owners]
            failure_of_others = (yield from self._request(others)).failure if others else None
            refusal = failure
            if failure_of_others is not None and may_concern_one_text(failure_of_others.error):
                alone = yield from self._request([named])
                if alone.failure is None:
                    return others, failure_of_others
                refusal = alone.failure
            self._fail_texts([named], refusal)
            if failure_of_others is None:
                return [], None
            items, failure = others, failure_of_others
        return items, failure

    def _isolate_one(self, search: BadTextSearch) -> Steps[Failure | None]:
        """Fail the calls of one bad text; return the failure of a request with the other texts, if there was one."""
        while not search.is_over:
            one_by_one = self._requests >= self._most_requests
            part = search.suspects[:1] if one_by_one else halves(search.suspects)[0]
            search.narrow(part, (yield from self._request(part)))
        suspects, others, failure = search.suspects, search.others, search.failure
        if not may_concern_one_text(failure.error):
            self._fail([*suspects, *others], replace(failure, calls=search.calls | failure.calls))
            return None
        failure_of_others: Failure | None = None
        if others:
            result = yield from self._request(others)
            search.note(others, result)
            failure_of_others = result.failure
        if not search.is_certain:
            failure = yield from self._confirm(search)
        self._fail_one_call(suspects, failure)
        return failure_of_others

    def _confirm(self, search: BadTextSearch) -> Steps[Failure]:
        """Send the suspects by themselves: if they are good, their calls are answered. Return the last failure."""
        result = yield from self._request(search.suspects)
        if result.failure is None and search.answered and isinstance(search.failure.error, RequestTooLargeError):
            self.dispatcher.host_capabilities.learn(make_batch(search.refused), make_batch(search.answered))
        search.note(search.suspects, result)
        return result.failure or search.failure

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
                    positions = call.batch.positions
                    too_long = text_too_long(error, positions[index], is_only=is_only_text(positions))
                    self.gatherer.fail_call(call, too_long)
        else:
            self.gatherer.send_separately(items)  # each call truncates or splits them


def _last_deadline(items: Sequence[Item]) -> Deadline:
    """Return the latest deadline of all calls."""
    deadlines = [call.cancellation.deadline for item in items for call in list(item.calls)]
    return max(deadlines, key=lambda deadline: deadline.at, default=NO_DEADLINE)

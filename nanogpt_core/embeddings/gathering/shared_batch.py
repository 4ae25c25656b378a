"""Sends one gathered batch: the texts of several calls in one request, without doing any I/O itself.

Each call pays for its own texts. If one text can be the reason for a refusal, the batch is divided until that text is
found: only its own call fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from nanogpt_core._runtime.clock import Deadline
from nanogpt_core._runtime.log import describe, logger
from nanogpt_core.embeddings.dispatch import Dispatcher, Steps, failed_outcome, text_too_long
from nanogpt_core.embeddings.gathering.gatherer import Gatherer
from nanogpt_core.embeddings.gathering.shared_account import NoCallLeft, SharedAccount, make_batch
from nanogpt_core.embeddings.gathering.waiting_call import Carrier, Item
from nanogpt_core.embeddings.response import EmbeddingResponse
from nanogpt_core.errors import BadRequestError, BudgetExceededError, NanoGPTError, RequestTooLargeError
from nanogpt_core.http.limits import Admission, SharedLimits
from nanogpt_core.http.retry import Cancellation
from nanogpt_core.http.text_errors import may_concern_one_text, named_position

__all__ = ["SharedBatch"]

# After so many searches for a bad text in which no request succeeded, no further text is searched for.
_MAX_SEARCHES_IN_VAIN = 2


class SharedBatch:
    """One gathered batch.

    Args:
        carrier: Sends the batch.
        gatherer: Gets the vectors and errors.
        dispatcher: Sends requests.
        limits: The rate limit; also the budget if several processes share it.
        cancellation: The stop signal of the carrier.
        items: The texts.
    """

    def __init__(
        self,
        carrier: Carrier,
        gatherer: Gatherer,
        dispatcher: Dispatcher,
        limits: SharedLimits,
        *,
        cancellation: Cancellation,
        items: Sequence[Item],
    ) -> None:
        self._carrier = carrier
        self._gatherer = gatherer
        self._dispatcher = dispatcher
        self._limits = limits
        self._cancellation = cancellation
        self._items = items
        self._requests = 0
        self._answered = False  # True if a request of the present search succeeded
        self._named: Item | None = None  # the text that the service named when it refused the last request
        self._has_skipped = False  # True if a request went without a text whose calls had left
        self._was_late = False  # True if the deadline of its calls ended the last request that failed
        self._max_retries = dispatcher.config.max_retries
        # The service may refuse each text. Then it costs no more than a request for each.
        self._most_requests = len(items)

    def send(self, admission: Admission | None) -> Steps[None]:
        """Send the batch, and hand out vectors and errors.

        Args:
            admission: A confirmed admission for the first attempt.
        """
        parts = [list(self._items)]
        while parts:
            part = parts.pop()
            batch = make_batch(part)
            if len(part) > 1 and not self._dispatcher.host_capabilities.fits(batch):
                parts += _halves(part)[::-1]
                continue
            error = yield from self._try(part, admission)
            admission = None
            if error is not None:
                yield from self._isolate(part, error)

    def _try(self, items: Sequence[Item], admission: Admission | None = None) -> Steps[NanoGPTError | None]:
        """Send some of the texts in one request; return the error if it fails."""
        account = SharedAccount(self._gatherer, items, self._dispatcher.usd_per_million_tokens)
        cancellation = Cancellation(_last_deadline(items), self._cancellation.stop)
        self._requests += 1
        self._named = None

        def attempt(admission: Admission) -> Steps[EmbeddingResponse]:
            self._gatherer.start_request(self._carrier)
            try:
                batch = account.open()
            except NoCallLeft:
                self._limits.release(admission)
                raise
            admission = replace(admission, cost=replace(admission.cost, texts=len(batch.texts)))  # some may have left
            try:
                response = yield from self._dispatcher.request_once(batch, cancellation, account.first_observer)
            except BaseException as error:
                account.settle(error)
                self._limits.settle(admission, failed_outcome(error))
                raise
            account.add_request(response)
            self._limits.settle(admission, self._dispatcher.outcome(response))
            return response

        try:
            response = yield from self._dispatcher.send_with_encoding(
                attempt,
                limits=self._limits,
                cancellation=cancellation,
                cost=replace(self._dispatcher.cost(make_batch(items)), gathers=True),
                admission=admission,
                max_retries=self._max_retries,
            )
        except BaseException as error:
            account.report_failure(error)
            if isinstance(error, NoCallLeft):
                return None
            if not isinstance(error, NanoGPTError):
                raise
            self._was_late = cancellation.deadline is not None and cancellation.deadline.remaining() <= 0
            position = named_position(error, len(account.items))
            self._named = None if position is None else account.items[position]
            return error
        finally:
            self._has_skipped = self._has_skipped or len(account.items) < len(items)
        self._answered = True
        self._gatherer.deliver(account.items, response.vectors, response.model)
        return None

    def _isolate(self, items: list[Item], error: NanoGPTError) -> Steps[None]:
        """Find the texts that the service refuses; fail their calls, and answer the others.

        The service may name them. Otherwise binary search: a half that succeeds leaves the other one as the suspect,
        without a request for it, and the halves beside the suspects go together in one request at the end. 64 texts
        with a bad one take at most 8 requests. Texts of one call need no search: it fails if one of them does. Nor do
        errors that no text can cause: all calls fail.
        """
        if _is_one_call(items):
            self._fail_one_call(items, error)
            return
        if not may_concern_one_text(error):
            self._fail(items, error)
            return
        logger.info("A batch of %d texts of several calls failed with %s: dividing it", len(items), describe(error))
        items, rest_error = yield from self._isolate_named(items, error)
        if rest_error is None:
            return
        error = rest_error
        searches_in_vain = 0
        while searches_in_vain < _MAX_SEARCHES_IN_VAIN:
            self._answered = False
            if not isinstance(error, BadRequestError):
                self._max_retries = 0  # the retries are used up
            items, error_of_others = yield from self._isolate_one(items, error)
            if error_of_others is None:
                return
            error = error_of_others
            searches_in_vain += not self._answered
        # Hardly a matter of one text.
        if error.transient:
            self._fail(items, error)
            return
        for item in items:
            refusal = yield from self._try([item])
            if refusal is not None:
                self._fail_texts([item], refusal)

    def _isolate_named(self, items: list[Item], error: NanoGPTError) -> Steps[tuple[list[Item], NanoGPTError | None]]:
        """Fail the calls of texts that the service names; return the texts that are left, and their error.

        If the others are answered, the named text was the reason. Otherwise it is sent by itself: several texts may be
        bad, or the service counts from 1. Its names are used as long as they are right.
        """
        while (named := self._named) is not None:
            owners = set(named.calls)
            others = [item for item in items if item is not named and set(item.calls) - owners]
            error_of_others = (yield from self._try(others)) if others else None
            named_next, refusal = self._named, error
            if error_of_others is not None and may_concern_one_text(error_of_others):
                alone = yield from self._try([named])
                if alone is None:
                    return others, error_of_others
                refusal = alone
            self._fail_texts([named], refusal)
            if error_of_others is None:
                return [], None
            items, error, self._named = others, error_of_others, named_next
        return items, error

    def _isolate_one(self, items: list[Item], error: NanoGPTError) -> Steps[tuple[list[Item], NanoGPTError | None]]:
        """Fail the calls of one bad text; return the texts that are left, and the error of a request with them."""
        suspects, others = items, list[Item]()
        refused, answered = items, list[Item]()  # the smallest and the largest part
        self._has_skipped = False
        enough = self._requests + 1 + math.ceil(math.log2(len(items)))  # requests; see _isolate()
        while not _is_one_call(suspects) and may_concern_one_text(error):
            half, rest = _halves(suspects) if self._requests < self._most_requests else (suspects[:1], suspects[1:])
            refusal = yield from self._try(half)
            if refusal is None:
                suspects, answered = rest, max(answered, half, key=len)
            else:
                suspects, others, refused, error = half, rest + others, half, refusal
        if not may_concern_one_text(error):
            self._fail([*suspects, *others], error)
            return [], None
        owners = {call for item in suspects for call in list(item.calls)}
        error_of_others = (yield from self._try(others)) if others else None
        if others and error_of_others is None:
            answered = max(answered, others, key=len)
        # The number of texts can be the reason, or their tokens, or a temporary failure.
        is_certain = len(answered) >= len(refused) and not (error.transient or isinstance(error, RequestTooLargeError))
        if self._has_skipped or (len(refused) > 1 and not (is_certain and self._requests >= enough)):
            refusal = yield from self._try(suspects)
            if refusal is None and isinstance(error, RequestTooLargeError):
                self._dispatcher.host_capabilities.learn(make_batch(answered))
            error = refusal or error
        if len(suspects) > 1:
            # Calls that joined meanwhile have some of these texts only, perhaps good ones.
            self._gatherer.send_separately(suspects, lambda call: call not in owners)
        self._fail_one_call(suspects, error)
        return others, error_of_others

    def _fail(self, items: Sequence[Item], error: NanoGPTError) -> None:
        """Fail all calls with these texts; those with more time than the request had go on by themselves."""
        if isinstance(error, BudgetExceededError):
            self._gatherer.send_separately(items)  # the shared budget may cover some of them
            return
        if self._was_late:
            self._gatherer.send_separately(items, lambda call: not call.is_late)
        self._gatherer.fail(items, error)

    def _fail_one_call(self, items: list[Item], error: NanoGPTError) -> None:
        """Fail the call of some texts. If another call has left one of them, that may be the bad one."""
        if len(items) > 1 and not all(item.calls for item in items):
            self._gatherer.send_separately(items)
        else:
            self._fail_texts(items, error)

    def _fail_texts(self, items: list[Item], error: NanoGPTError) -> None:
        """Fail the calls of a single text, or the one call of several; nothing happens if they were answered."""
        if not isinstance(error, RequestTooLargeError):
            self._fail(items, error)
        elif len(items) == 1 and self._dispatcher.config.on_overflow == "error":
            for item in items:
                for call, position in list(item.calls.items()):
                    self._gatherer.fail_call(call, text_too_long(error, call.batch.positions[position]))
        else:
            self._gatherer.send_separately(items)  # each call truncates or splits them


def _is_one_call(items: list[Item]) -> bool:
    return len(items) <= 1 or len({call for item in items for call in list(item.calls)}) <= 1


def _halves(items: list[Item]) -> tuple[list[Item], list[Item]]:
    return items[: len(items) // 2], items[len(items) // 2 :]


def _last_deadline(items: Sequence[Item]) -> Deadline | None:
    """Return the latest deadline of all calls; None if a call has none."""
    deadlines = [call.cancellation.deadline for item in items for call in list(item.calls)]
    if not deadlines or None in deadlines:
        return None
    return max((deadline for deadline in deadlines if deadline), key=lambda deadline: deadline.at)

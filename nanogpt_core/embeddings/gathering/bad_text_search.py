"""Binary search for the text that a service refuses in a gathered batch. No I/O: the caller sends the requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanogpt_core.embeddings.gathering.waiting import Item, WaitingCall
from nanogpt_core.errors import NanoGPTError, RequestTooLargeError
from nanogpt_core.http.text_errors import may_concern_one_text


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
    named: Item | None = None
    was_late: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a request.

    Attributes:
        sent: The texts of the last attempt: those that calls still waited for.
        failure: The failure; None if the request was answered, or if there was no text to send.
    """

    sent: Sequence[Item]
    failure: Failure | None


class BadTextSearch:
    """The search for one bad text.

    Args:
        items: The texts of a request that failed, of several calls.
        failure: Its failure.

    Attributes:
        calls: The calls that waited for the texts at the first failure.
        suspects: The texts that hold the bad one.
        others: The texts beside them that no request has answered.
        refused: The texts of the smallest request that failed.
        failure: The failure of that request.
        answered: The texts of the largest request that was answered, also those whose calls had left.
    """

    def __init__(self, items: list[Item], failure: Failure) -> None:
        self.calls = failure.calls
        self.suspects = items
        self.others: list[Item] = []
        self.refused = items
        self.failure = failure
        self.answered: Sequence[Item] = []
        self._unsent_texts = 0
        self._spare_requests = math.ceil(math.log2(len(items)))

    @property
    def is_over(self) -> bool:
        """True if the suspects belong to one call, or if the error is not about one text."""
        return is_one_call(self.suspects) or not may_concern_one_text(self.failure.error)

    @property
    def is_certain(self) -> bool:
        """True if the suspects are the reason for the failure, and need no request of their own to show it."""
        if self._unsent_texts:
            return False  # the bad text can have left with its call
        if len(self.refused) == 1:
            return True
        # The number of texts can be the reason, or their tokens, or a temporary failure.
        error = self.failure.error
        if error.transient or isinstance(error, RequestTooLargeError) or len(self.answered) < len(self.refused):
            return False
        return self._spare_requests < 0  # else one more request does not exceed the number in SharedBatch._isolate()

    def narrow(self, part: list[Item], result: Result) -> None:
        """Note the result of a request with the first of the suspects."""
        self.note(part, result)
        rest = self.suspects[len(part) :]
        if result.failure is None:
            self.suspects = rest
        else:
            self.suspects, self.others = part, rest + self.others
            self.refused, self.failure = part, result.failure

    def note(self, items: Sequence[Item], result: Result) -> None:
        """Note the result of a request with any of the texts."""
        self._spare_requests -= 1
        self._unsent_texts += len(items) - len(result.sent)
        if result.failure is None and result.sent:
            self.answered = max(self.answered, items, key=len)


def is_one_call(items: Sequence[Item]) -> bool:
    """Return whether at most one call waits for the texts, or there is only one text."""
    return len(items) <= 1 or len({call for item in items for call in list(item.calls)}) <= 1


def halves(items: list[Item]) -> tuple[list[Item], list[Item]]:
    """Return the first and the second half of the texts; the second is larger by one if their number is odd."""
    return items[: len(items) // 2], items[len(items) // 2 :]

"""Gets one request's vectors: when to send it, when to send it again, when to split it. No input or output of its own.

:meth:`Dispatcher.dispatch` is a generator that says what it needs done and is handed the result or the error;
:mod:`~nanogpt_core.embeddings.runner` does these things, so that sync and async share every decision.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nanogpt_core.embeddings.batch import Batch, HostLimits
from nanogpt_core.embeddings.response import DimensionsCheck, EmbeddingResponse, parse_embeddings
from nanogpt_core.embeddings.runner import Action, Run, Send, Step, Yield
from nanogpt_core.embeddings.usage import Budget, UsageMeter
from nanogpt_core.errors import (
    BadRequestError,
    BudgetExceededError,
    DimensionsError,
    ModelNotFoundError,
    NanoGPTError,
    RequestTooLargeError,
    ServerError,
    StatusError,
    TextTooLongError,
    bare,
)
from nanogpt_core.http.rate_limiter import RateLimiter
from nanogpt_core.http.retry import CallLimits, send_with_retries, wait_for_turn
from nanogpt_core.models.catalog import near_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CallContext", "Dispatcher", "Receiver"]

# A reply's bytes: a number takes at most so many, in base64 or written out; and what is around the vectors.
_BYTES_A_NUMBER = 32
_WIDEST = 8192
_BYTES_AROUND = 1 << 20


class Receiver(Protocol):
    """Where vectors go."""

    def room(self, batch: Batch) -> NDArray[np.float32] | None:
        """Return where a request's vectors may be written before they are checked, or None."""

    def accept(self, batch: Batch, reply: EmbeddingResponse) -> Iterator[None]:
        """Take the vectors of one request, part by part, as what is returned is run through."""

    @property
    def keeps_on_disk(self) -> bool:
        """Whether :meth:`keep` may block."""

    def keep(self, batch: Batch, reply: EmbeddingResponse) -> None:
        """CacheLookup them for later calls."""


class CallContext:
    """State that the batches of one call share.

    Args:
        receiver: Takes the vectors.
        limits: Deadline and stop signal of the call.
    """

    def __init__(self, receiver: Receiver, limits: CallLimits) -> None:
        self.receiver = receiver
        self.limits = limits


@dataclass(frozen=True)
class Dispatcher:
    """How one object gets its requests answered.

    Attributes:
        parameters: What goes into each request beside texts and encoding: ``model``, ``dimensions``, ``user``.
        host: What is known about the host.
        guard: Checks the width of each reply.
        meter: Counts requests and retries.
        budget: Holds back what would cost too much.
        limiter: Tells when a request may start; asked anew for each, since a fork gives a process its own.
        max_retries: Attempts beyond the first that one request may take.
        timeout: Seconds that one attempt may take.
    """

    parameters: dict[str, Any]
    host: HostLimits
    guard: DimensionsCheck
    meter: UsageMeter
    budget: Budget
    limiter: Callable[[], RateLimiter]
    max_retries: int
    timeout: float

    @property
    def _model(self) -> str:
        model: str = self.parameters["model"]
        return model

    def dispatch(self, batch: Batch, call: CallContext) -> Step:
        """Have ``batch`` sent, in parts where it must be, until all its vectors are with the call's receiver.

        Raises:
            NanoGPTError: It cannot be answered.
        """
        largest = yield from self._in_parts(batch, call)
        if len(largest.texts) < len(batch.texts):
            # Only now, since a refusal can also be about one text, which then ends the call.
            self.host.took(largest)

    def _in_parts(self, batch: Batch, call: CallContext) -> Generator[Action, bytes, Batch]:
        """Return the part with the most texts that was taken as a whole."""
        if self.host.fits(batch):
            try:
                reply = yield from self._attempts(batch, call)
            except RequestTooLargeError as error:
                if len(batch.texts) == 1:
                    raise _too_long(error, batch) from error
            else:
                self.meter.add_request(texts=len(batch.texts), prompt_tokens=reply.prompt_tokens)
                for _ in call.receiver.accept(batch, reply):
                    yield Yield()
                if call.receiver.keeps_on_disk:
                    yield Run(lambda: call.receiver.keep(batch, reply))
                else:
                    call.receiver.keep(batch, reply)
                return batch
        first, second = batch.halves()
        taken = (yield from self._in_parts(first, call)), (yield from self._in_parts(second, call))
        return max(taken, key=lambda part: len(part.texts))

    def _attempts(self, batch: Batch, call: CallContext) -> Generator[Action, bytes, EmbeddingResponse]:
        """Send one batch until it is answered; with float lists if the host refuses base64."""
        last: NanoGPTError | None = None

        def attempt() -> Generator[Action, bytes, EmbeddingResponse]:
            nonlocal last
            if last is not None:
                self.meter.add_retry()
            try:
                return (yield from self._attempt(batch, call, last))
            except NanoGPTError as error:
                last = error
                raise

        while True:
            encoding = self.host.encoding
            try:
                return (
                    yield from send_with_retries(
                        attempt, limiter=self.limiter, max_retries=self.max_retries, limits=call.limits
                    )
                )
            except BadRequestError as error:
                if not _refuses_base64(error, encoding):
                    raise
                self.host.encoding = "float"
            except ModelNotFoundError as error:
                _suggest_names(error, self._model)
                raise

    def _attempt(
        self, batch: Batch, call: CallContext, last: NanoGPTError | None
    ) -> Generator[Action, bytes, EmbeddingResponse]:
        try:
            reserved = self.budget.reserve(sum(batch.tokens)) if self.budget.limited else 0.0
        except BudgetExceededError as error:
            raise error from last
        try:
            body = yield self._send(batch, self.host.encoding, call)
            response = _read(body, len(batch.texts), call.receiver.room(batch))
            yield from self._check_width(response, call)
        except NanoGPTError as error:
            self.budget.settle(reserved, 0 if _never_billed(error) else None)
            raise
        self.budget.settle(reserved, response.prompt_tokens)
        return response

    def _send(self, batch: Batch, encoding: str, call: CallContext) -> Send:
        import orjson

        body = orjson.dumps({"input": list(batch.texts), "encoding_format": encoding, **self.parameters})
        numbers = len(batch.texts) * max(self.guard.width or _WIDEST, 1)
        return Send("/embeddings", body, call.limits.remaining(self.timeout), _BYTES_AROUND + numbers * _BYTES_A_NUMBER)

    def _check_width(self, reply: EmbeddingResponse, call: CallContext) -> Generator[Action, bytes, None]:
        width = reply.vectors.shape[1]
        try:
            self.guard.accept(width)
        except DimensionsError:
            if self.guard.knows_live_list:
                raise
            # The packaged table may be out of date; the live list is the service's own word.
            self.guard.add_source((yield from self._live_width(call)))
            self.guard.accept(width)

    def _live_width(self, call: CallContext) -> Generator[Action, bytes, int | None]:
        from nanogpt_core.models.listing import MOST_BYTES, parse_model_list

        yield from wait_for_turn(self.limiter(), call.limits)
        try:
            found = parse_model_list(
                (yield Send("/embedding-models", None, call.limits.remaining(self.timeout), MOST_BYTES))
            )
        except NanoGPTError:
            return None
        row = found.get(self._model)
        return row.dimensions if row else None


def _read(body: bytes, count: int, room: NDArray[np.float32] | None) -> EmbeddingResponse:
    try:
        return parse_embeddings(body, count, room)
    except NanoGPTError as error:
        raise bare(error)  # noqa: B904 - without the frames that hold the reply


def _refuses_base64(error: BadRequestError, encoding: str) -> bool:
    words = f"{error.detail} {error.code} {error.param}".lower()
    return encoding == "base64" and error.status in (400, 422) and ("encoding_format" in words or "base64" in words)


def _never_billed(error: NanoGPTError) -> bool:
    return isinstance(error, StatusError) and not isinstance(error, ServerError)


def _suggest_names(error: ModelNotFoundError, model: str) -> None:
    near = [name for name in near_names(model) if name != model]
    if near:
        error.remedy = f"Did you mean {' or '.join(near)}? list_models() tells what there is."


def _too_long(error: RequestTooLargeError, batch: Batch) -> TextTooLongError:
    return TextTooLongError(
        f"The service refuses the text at position {batch.positions[0]} as too long: {error.detail}.".replace(
            "..", "."
        ),
        remedy='Shorten it, or pass on_overflow="truncate" or on_overflow="split".',
        positions=batch.positions,
    )

"""Gets one request's vectors: what to send, when to send it again, when to split it. No input or output of its own.

:func:`deliver` is a generator that says what it needs done (:class:`Send`, :class:`Wait`) and is handed the result or
the error; :func:`drive` and :func:`adrive` do these things, so that sync and async share every decision.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from nanogpt_core.catalogue import near_names
from nanogpt_core.errors import (
    BadRequestError,
    ConnectionFailedError,
    ModelNotFoundError,
    NanoGPTError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    StatusError,
    TextTooLongError,
)
from nanogpt_core.reply import DamagedReplyError, Reply, WidthError, WidthGuard, read_reply
from nanogpt_core.transport import Transport
from nanogpt_core.usage import UsageMeter

__all__ = ["Delivery", "Job", "Send", "Wait", "adrive", "drive"]

Step = Generator["Send | Wait", bytes, None]

_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 20.0
_LONGEST_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class Send:
    """Have this sent: a POST of ``body``, or a GET where it is None."""

    path: str
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Have so many seconds go by."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be: its texts, and for each its row in the result and its position in the caller's list."""

    texts: Sequence[str]
    rows: Sequence[int]
    positions: Sequence[int]

    def half(self, first: bool) -> Job:
        """Return the first or the second half."""
        middle = len(self.texts) // 2
        part = slice(None, middle) if first else slice(middle, None)
        return Job(self.texts[part], self.rows[part], self.positions[part])


class Delivery:
    """How one object gets its requests answered.

    Args:
        model: The model's name on the wire.
        dimensions: The ``dimensions`` to ask for, or None.
        user: The ``user`` to name, or None.
        guard: Checks the width of each reply.
        meter: Counts requests and retries.
        max_retries: Attempts beyond the first that one request may take.
    """

    def __init__(
        self,
        *,
        model: str,
        dimensions: int | None,
        user: str | None,
        guard: WidthGuard,
        meter: UsageMeter,
        max_retries: int,
    ) -> None:
        self._parameters: dict[str, Any] = {"model": model}
        if dimensions is not None:
            self._parameters["dimensions"] = dimensions
        if user is not None:
            self._parameters["user"] = user
        self._model = model
        self._guard = guard
        self._meter = meter
        self._max_retries = max_retries
        self._encoding = "base64"
        self._asked_live_list = False

    def deliver(self, job: Job, accept: Callable[[Job, Reply], None]) -> Step:
        """Have ``job`` sent until its vectors are there, and hand them to ``accept``.

        Raises:
            NanoGPTError: It cannot be answered.
        """
        try:
            reply = yield from self._attempts(job)
        except RequestTooLargeError as error:
            if len(job.texts) == 1:
                raise _too_long(error, job) from error
            yield from self.deliver(job.half(first=True), accept)
            yield from self.deliver(job.half(first=False), accept)
            return
        self._meter.add_request(texts=len(job.texts), prompt_tokens=reply.prompt_tokens)
        accept(job, reply)

    def _attempts(self, job: Job) -> Generator[Send | Wait, bytes, Reply]:
        attempt = 0
        while True:
            encoding = self._encoding
            try:
                reply = read_reply((yield Send("/embeddings", self._body(job, encoding))), len(job.texts))
                yield from self._check_width(reply)
            except ModelNotFoundError as error:
                near = [name for name in near_names(self._model) if name != self._model]
                if near:
                    error.remedy = f"Did you mean {' or '.join(near)}? list_models() tells what there is."
                raise
            except BadRequestError as error:
                if not _refuses_base64(error, encoding):
                    raise
                self._encoding = "float"
            except (ServerError, RateLimitError, ConnectionFailedError, DamagedReplyError) as error:
                if attempt >= self._max_retries or not _worth_retrying(error):
                    raise
                yield Wait(_backoff(attempt, error))
                attempt += 1
            else:
                return reply
            self._meter.add_retry()

    def _body(self, job: Job, encoding: str) -> bytes:
        import orjson  # needed at the first request only

        return orjson.dumps({"input": list(job.texts), "encoding_format": encoding, **self._parameters})

    def _check_width(self, reply: Reply) -> Step:
        width = reply.vectors.shape[1]
        try:
            self._guard.accept(width)
        except WidthError:
            if self._asked_live_list:
                raise
            self._asked_live_list = True
            # The packaged table may be out of date; the live list is the service's own word.
            self._guard.add_source((yield from self._live_width()))
            self._guard.accept(width)

    def _live_width(self) -> Generator[Send, bytes, int | None]:
        from nanogpt_core.live import read_live_list

        try:
            body = yield Send("/embedding-models")
            found = read_live_list(body).get(self._model)
        except NanoGPTError:
            return None
        return found.dimensions if found else None


def _refuses_base64(error: BadRequestError, encoding: str) -> bool:
    words = f"{error.detail} {error.code}".lower()
    return encoding == "base64" and error.status in (400, 422) and ("encoding_format" in words or "base64" in words)


def _worth_retrying(error: NanoGPTError) -> bool:
    if isinstance(error, QuotaExceededError):
        return False
    return not (isinstance(error, StatusError) and (error.retry_after or 0) > _LONGEST_RETRY_AFTER)


def _backoff(attempt: int, error: NanoGPTError) -> float:
    if isinstance(error, StatusError) and error.retry_after is not None:
        return max(0.0, error.retry_after)
    # Full jitter spreads the workers that failed together.
    return random.uniform(0.0, min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2**attempt))  # noqa: S311


def _too_long(error: RequestTooLargeError, job: Job) -> TextTooLongError:
    return TextTooLongError(
        f"The service refuses the text at position {job.positions[0]} as too long: {error.detail}.".replace("..", "."),
        remedy='Shorten it, or pass on_overflow="truncate" or on_overflow="split".',
        positions=job.positions,
    )


def drive(step: Step, transport: Transport) -> None:
    """Do what ``step`` asks for until it is done."""
    try:
        action = next(step)
        while True:
            try:
                result = transport.send(action.path, action.body) if isinstance(action, Send) else _sleep(action)
            except NanoGPTError as error:
                action = step.throw(error)
            else:
                action = step.send(result)
    except StopIteration:
        return


async def adrive(step: Step, transport: Transport) -> None:
    """Do what ``step`` asks for until it is done, without blocking the event loop."""
    try:
        action = next(step)
        while True:
            try:
                result = await transport.asend(action.path, action.body) if isinstance(action, Send) else b""
                if isinstance(action, Wait):
                    await asyncio.sleep(action.seconds)
            except NanoGPTError as error:
                action = step.throw(error)
            else:
                action = step.send(result)
    except StopIteration:
        return


def _sleep(action: Wait) -> bytes:
    time.sleep(action.seconds)
    return b""

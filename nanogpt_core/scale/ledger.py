"""The ledger of shared limits: money spent, possibly billed and saved, summed over all workers; and a request log."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.limits import Cost, Outcome
from nanogpt_core.observability.usage import Usage

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


def read_ledger(
    state: Mapping[bytes, bytes],
    opened: Mapping[bytes, bytes],
    now_microseconds: int,
    workers: int,
    requests_per_second: float,
) -> Ledger:
    """Return the ledger from the hashes in Redis that ``lua/state.lua`` describes.

    Args:
        state: The hash ``state``.
        opened: The hash ``open``.
        now_microseconds: The server's time.
        workers: Number of workers.
        requests_per_second: The present rate.
    """

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
        open=tuple(_open_request(id, entry, now_microseconds) for id, entry in opened.items()),  # noqa: A001
        workers=workers,
        requests_per_second=requests_per_second,
    )


def _open_request(name: bytes, entry: bytes, now_microseconds: int) -> OpenRequest:
    amount, worker, abandoned_at, texts = entry.decode().split(" ")
    return OpenRequest(name.decode(), worker, int(amount) / NANO, int(texts), int(abandoned_at) < now_microseconds)


class RequestLog(ForkSafe):
    """Appends one JSON line to a file for each request that has ended. Threads and processes may share the file.

    Args:
        path: The file. It is created with mode 0600.

    Raises:
        InvalidTypeError: ``path`` is not a path.
        ConfigurationError: It names the folder of a user who does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidTypeError(f"request_log must be a path, not {type(path).__name__}.")
        try:
            resolved = Path(str.__str__(os.fspath(path))).expanduser().absolute()
        except (OSError, RuntimeError) as error:  # no current folder, no such user
            raise ConfigurationError(f"request_log cannot be resolved: {error}", remedy="Pass another path.") from error
        self.path = resolved
        """The path, absolute: a worker may have another working folder."""
        self._lines: deque[bytes] = deque()
        self._is_torn = False
        self._warnings = DistinctWarnings()
        super().__init__()

    def _in_child(self) -> None:
        self._lines.clear()  # the parent writes them

    def check(self) -> None:
        """Create the file if there is none.

        Raises:
            ConfigurationError: It cannot be written.
        """
        try:
            self._append(b"")
        except (OSError, ValueError) as error:  # ValueError: a null character in its name
            raise ConfigurationError(f"request_log cannot be written: {error}.", remedy="Pass another path.") from error

    def write(self, name: str, worker: str, cost: Cost, outcome: Outcome) -> None:
        """Add a line for :meth:`flush`; does not block, since event loops call it.

        Args:
            name: The request's name.
            worker: The process.
            cost: Expected cost.
            outcome: The end of the request.
        """
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "id": name,
            "worker": worker,
            "model": cost.model,
            "texts": cost.texts,
            "reserved_usd": cost.usd,
            "billed_usd": outcome.usd,
            "tokens": outcome.tokens,
            "answered": outcome.answered,
            "error": outcome.error or None,
        }
        self._lines.append(json.dumps(line).encode() + b"\n")

    def flush(self) -> None:
        """Write all lines; if the file cannot be written, warn once, and drop them: their requests are paid for.

        A line that was written in part stays, and the next one begins after it.
        """
        lines = []
        with contextlib.suppress(IndexError):  # several threads may do this
            while True:
                lines.append(self._lines.popleft())
        try:
            if lines:
                self._append(b"".join(lines))
        except OSError as error:
            self._warnings.warn(f"The request log cannot be written: {error}; continuing without its lines.")

    def _append(self, data: bytes) -> None:
        # One write in append mode: lines of several processes do not mix, unless the disk is full.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if self._is_torn and data:
                data = b"\n" + data
            while data:
                data = data[os.write(file, data) :]
                self._is_torn = bool(data)  # if the next write fails, the file ends within a line
        finally:
            os.close(file)

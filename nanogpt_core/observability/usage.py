"""Usage: sums over requests, of one object or of all calls in a block."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from typing import Any

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core.models.pricing import round_usd
from nanogpt_core.observability.records import RequestRecord


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of one object since it was created, or of a :func:`track_usage` block. Usages can be added and subtracted.

    Attributes:
        requests: Requests that the service answered.
        retries: Attempts after the first of each request.
        prompt_tokens: Tokens billed, as the service counts them; None if a reply did not say.
        cost_usd: US dollars: the costs that replies give, and for other replies of embeddings their tokens at the
            model's price. None if a reply has no cost and its price is unknown.
        texts_sent: Texts that were sent and answered; a text that is repeated within a call counts once.
        texts_cached: Texts whose vectors came from the cache.
        completion_tokens: Tokens billed for answers of chat; None if a reply did not say.
        uncertain: Attempts that failed and may have been billed, and streams that were left before their end. Their
            tokens and costs are not known, and not in the sums.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int | None = 0
    cost_usd: float | None = 0.0
    texts_sent: int = 0
    texts_cached: int = 0
    completion_tokens: int | None = 0
    uncertain: int = 0

    def __add__(self, other: Usage) -> Usage:
        return self._combine(other, operator.add)

    def __sub__(self, other: Usage) -> Usage:
        return self._combine(other, operator.sub)

    def _combine(self, other: Usage, function: Callable[[Any, Any], Any]) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        pairs = {one.name: (getattr(self, one.name), getattr(other, one.name)) for one in fields(Usage)}
        # An unknown number makes the sum unknown.
        sums: dict[str, Any] = {name: None if None in pair else function(*pair) for name, pair in pairs.items()}
        return Usage(**{**sums, "cost_usd": round_usd(sums["cost_usd"])})


class UsageMeter(ForkSafe):
    """Adds up records. Thread-safe. Copies and pickles start at 0."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, Any] = asdict(Usage())

    def add(self, record: RequestRecord) -> None:
        """Count one record."""
        with self._lock:
            if record.cached:
                self._add(texts_cached=record.texts)
                return
            if not record.shared:
                self._add(retries=record.attempts - 1, uncertain=record.uncertain)
            if record.error is None:
                self._add(
                    requests=int(not record.shared),
                    texts_sent=record.texts,
                    prompt_tokens=record.prompt_tokens,
                    completion_tokens=record.completion_tokens,
                    cost_usd=record.cost_usd,
                )

    def _add(self, **numbers: float | None) -> None:
        for name, number in numbers.items():
            total = self._sums[name]
            self._sums[name] = None if total is None or number is None else total + number

    def snapshot(self) -> Usage:
        """Return the sums so far."""
        with self._lock:
            return Usage(**{**self._sums, "cost_usd": round_usd(self._sums["cost_usd"])})

    def __reduce__(self) -> tuple[type[UsageMeter], tuple[()]]:
        return UsageMeter, ()


class TrackedUsage(Usage):
    """The usage of a :func:`track_usage` block: it grows with each request. ``usage + Usage()`` is a snapshot."""

    __slots__ = ("_meter",)

    _meter: UsageMeter

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_meter", UsageMeter())

    def add(self, record: RequestRecord) -> None:
        """Count one record."""
        with self._meter._lock:
            self._meter.add(record)
            sums = self._meter.snapshot()
            for field in fields(Usage):
                object.__setattr__(self, field.name, getattr(sums, field.name))  # the class is frozen for all others

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and self + Usage() == other + Usage()

    __hash__ = None  # type: ignore[assignment]


active_trackers: ContextVar[tuple[TrackedUsage, ...]] = ContextVar("nanogpt_usage_trackers", default=())
"""The usages of all :func:`track_usage` blocks that this thread or task is in."""


class track_usage:  # noqa: N801 - used as a function
    """Sum up the usage of all calls that begin in a block, of all objects and both frameworks, chat included.

    ``with track_usage() as usage:`` or ``async with``; blocks can be nested. It is a context variable: tasks and
    ``asyncio.to_thread`` inherit it, and so do the threads that this project starts. Other threads do not; start them
    with ``contextvars.copy_context().run``. A call that is in progress when the block ends still counts.

    ``usage`` is a :class:`Usage` that grows with each request, and stays readable after the block.

    Example:
        >>> with track_usage() as usage:
        ...     embedder.embed(["Bees make honey."])
        >>> usage.requests, usage.cost_usd
        (1, 8e-08)
    """

    def __init__(self) -> None:
        self._usages: list[TrackedUsage] = []

    def __enter__(self) -> TrackedUsage:
        usage = TrackedUsage()
        self._usages.append(usage)
        active_trackers.set((*active_trackers.get(), usage))
        return usage

    def __exit__(self, *_: object) -> None:
        # Not by the token of set(): blocks in two generators of one thread may overlap, and a test fixture, for
        # example, may leave its block in another context than it entered.
        ended = self._usages.pop()
        active_trackers.set(tuple(usage for usage in active_trackers.get() if usage is not ended))

    async def __aenter__(self) -> TrackedUsage:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

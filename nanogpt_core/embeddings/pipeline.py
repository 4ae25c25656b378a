"""The calls of one object: each is planned, looked up in the cache, sent in requests, and gathered."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from nanogpt_core._runtime.clock import Deadline
from nanogpt_core._runtime.workers import run_in_tasks, run_in_threads
from nanogpt_core.cache.base import CacheNamespace, EmbeddingCache
from nanogpt_core.cache.lookup import CacheLookup
from nanogpt_core.embeddings.batch import Batch
from nanogpt_core.embeddings.config import Progress, check_batch_size
from nanogpt_core.embeddings.dispatch import CallContext, Dispatcher
from nanogpt_core.embeddings.output import Output
from nanogpt_core.embeddings.planning import Overflow, Plan, make_batches, make_plan
from nanogpt_core.embeddings.progress import reporting
from nanogpt_core.embeddings.results import ResultCollector
from nanogpt_core.embeddings.runner import run_async, run_sync
from nanogpt_core.embeddings.usage import Estimate, price
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.redaction import redacted
from nanogpt_core.http.requester import Requester
from nanogpt_core.http.retry import CallLimits
from nanogpt_core.models.catalog import ModelInfo
from nanogpt_core.models.tokens import TokenCounter

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

__all__ = ["Pipeline"]

R = TypeVar("R")

# Planning fewer texts than this takes less time than handing it to a thread.
_PLAN_IN_LOOP = 200
# What a service needs for so many texts is not much more than what it needs for any request.
_SPREAD = 128


@dataclass(frozen=True)
class Pipeline:
    """How an object's calls are answered.

    Attributes:
        model: What is known about the model.
        counter: Counts its tokens.
        on_overflow: What to do with a text that is over the model's limit.
        dispatcher: Gets one request's vectors.
        transport: Sends it.
        space: Makes the cache's keys.
        cache: Where vectors are kept, or None.
        batch_size: Most texts a request, or None for what suits the model.
        max_concurrency: Requests in flight at once.
        deadline: Seconds that one call may take, or None.
        progress: Whom to tell how far a call is.
    """

    model: ModelInfo
    counter: TokenCounter
    on_overflow: Overflow
    dispatcher: Dispatcher
    transport: Requester
    space: CacheNamespace
    cache: EmbeddingCache | None
    batch_size: int | None
    max_concurrency: int
    deadline: float | None
    progress: Progress

    def embed(
        self,
        form: type[Output[R]],
        texts: list[str],
        batch_size: int | None,
        *,
        show: bool = True,
        first: int = 0,
        stop: threading.Event | None = None,
    ) -> R:
        """Embed texts that have been checked.

        Args:
            form: What to make of the vectors.
            texts: The texts.
            batch_size: Most texts a request, for this call alone.
            show: Whether to tell of progress.
            first: The position of the first text in the caller's row.
            stop: Set when the call should be given up.
        """
        check_batch_size(batch_size)
        deadline = Deadline.after(self.deadline)
        plan = make_plan(texts, self.counter, self.on_overflow, first)
        with self._gathering(form, plan, deadline, show=show) as gathering:
            call = CallContext(gathering, CallLimits(deadline, stop or threading.Event()))
            batches = self._prepare(plan, gathering, batch_size)
            if batches:
                self.transport.client()  # before any request's turn, since that takes its time at first
            run_in_threads([self._task(batch, call) for batch in batches], self.max_concurrency, call.limits.stop)
            return gathering.result()

    async def aembed(
        self,
        form: type[Output[R]],
        texts: list[str],
        batch_size: int | None,
        *,
        show: bool = True,
        first: int = 0,
        turn: asyncio.Lock | None = None,
    ) -> R:
        """Do what :meth:`embed` does, without blocking the event loop.

        Args:
            form: As :meth:`embed`.
            texts: As :meth:`embed`.
            batch_size: As :meth:`embed`.
            show: As :meth:`embed`.
            first: As :meth:`embed`.
            turn: Held while a large reply is read; for calls that are under way together.
        """
        check_batch_size(batch_size)
        deadline = Deadline.after(self.deadline)
        # Little work is done sooner here than handed to a thread; what may touch the disk is handed over.
        hand_over = len(texts) > _PLAN_IN_LOOP
        plan = await _maybe_in_thread(hand_over, make_plan, texts, self.counter, self.on_overflow, first)
        with self._gathering(form, plan, deadline, show=show) as gathering:
            call = CallContext(gathering, CallLimits(deadline))
            on_disk = hand_over or self.cache is not None
            batches = await _maybe_in_thread(on_disk, self._prepare, plan, gathering, batch_size)
            if batches:
                await self.transport.async_client()
            turn = turn or asyncio.Lock()
            await run_in_tasks(
                [self._coroutine(batch, call, turn) for batch in batches], self.max_concurrency, call.limits.stop
            )
            return await _maybe_in_thread(hand_over, gathering.result)

    def _most_items(self, batch_size: int | None, texts: int) -> int:
        told = batch_size or self.batch_size
        # Many requests at once end sooner than a few large ones, as far as there are texts for them.
        return told or min(self.model.batch_size, max(_SPREAD, -(-texts // self.max_concurrency)))

    def _prepare(self, plan: Plan, gathering: ResultCollector[Any], batch_size: int | None) -> list[Batch]:
        found = gathering.look_up()
        self.dispatcher.meter.add_cached(found)
        batches = self._batches(plan, gathering.missing if found else range(len(plan.wire)), batch_size)
        if self.dispatcher.budget.limited:
            self.dispatcher.budget.check(sum(sum(batch.tokens) for batch in batches))
        return batches

    def _batches(self, plan: Plan, rows: Sequence[int], batch_size: int | None) -> list[Batch]:
        most = self._most_items(batch_size, len(rows))
        weights = plan.weights if len(rows) == len(plan.wire) else [plan.weights[row] for row in rows]
        parts = [rows[part.start : part.stop] for part in make_batches(weights, most, self.model.max_request_tokens)]
        return [batch for part in parts for batch in self.dispatcher.host.parts(self._batch(plan, part))]

    def _batch(self, plan: Plan, rows: Sequence[int]) -> Batch:
        texts = plan.wire[rows[0] : rows[-1] + 1] if isinstance(rows, range) else [plan.wire[row] for row in rows]
        # Only a budget needs to know the tokens well.
        tokens = [self.counter.count(text) for text in texts] if self.dispatcher.budget.limited else []
        return Batch(texts, rows, [plan.positions[row] for row in rows], tokens)

    def _store(self, deadline: Deadline) -> CacheLookup | None:
        return None if self.cache is None else CacheLookup(self.cache, self.space, deadline)

    @contextlib.contextmanager
    def _gathering(
        self, form: type[Output[R]], plan: Plan, deadline: Deadline, *, show: bool
    ) -> Iterator[ResultCollector[R]]:
        with redacted(self.transport.endpoint), reporting(self.progress if show else None, plan.texts) as report:
            store = self._store(deadline)
            gathering = ResultCollector(
                form, plan, guard=self.dispatcher.guard, model=self.model.id, store=store, report=report
            )
            try:
                yield gathering
            except NanoGPTError as error:
                gathering.add_to(error)
                raise

    def _task(self, batch: Batch, call: CallContext) -> Callable[[], None]:
        return lambda: run_sync(self.dispatcher.dispatch(batch, call), self.transport, call.limits.stop)

    def _coroutine(
        self, batch: Batch, call: CallContext, turn: asyncio.Lock
    ) -> Callable[[asyncio.Event], Awaitable[None]]:
        return lambda halt: run_async(self.dispatcher.dispatch(batch, call), self.transport, halt, turn)

    def estimate(self, texts: list[str]) -> Estimate:
        """Say what embedding texts, which have been checked, would take."""
        plan = make_plan(texts, self.counter, self.on_overflow)
        store = self._store(Deadline.after(self.deadline))
        found = {row for rows, _ in store.find(plan.wire) for row in rows} if store else set()
        missing = [row for row in range(len(plan.wire)) if row not in found]
        tokens = self.counter.count_all([plan.wire[row] for row in missing])
        return Estimate(
            texts=len(texts),
            unique=len(plan.rows),
            cached=plan.answered_by(found),
            tokens=tokens,
            cost_usd=price(tokens, self.model.usd_per_million_tokens),
            requests=len(self._batches(plan, missing, None)),
            counting=self.counter.kind,
        )


async def _maybe_in_thread(in_thread: bool, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    if in_thread:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)

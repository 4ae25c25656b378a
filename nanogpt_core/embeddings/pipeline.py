"""One call of an embedder, from checked texts to vectors: plan, look up the cache, send batches, collect results."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from nanogpt_core._runtime.clock import NO_DEADLINE, Cancellation, Deadline
from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core._runtime.validation import check_number
from nanogpt_core._runtime.workers import call_in_thread, require_event_loop, run_in_tasks, run_in_threads
from nanogpt_core.cache.base import CacheNamespace
from nanogpt_core.cache.lookup import CacheLookup
from nanogpt_core.embeddings.config import EmbedderConfig
from nanogpt_core.embeddings.dispatch import Call, Dispatcher, Steps
from nanogpt_core.embeddings.gathering.small_call import GatheringDispatcher
from nanogpt_core.embeddings.gathering.waiting import Lane
from nanogpt_core.embeddings.planning import Batch, Plan, make_batches, make_plan
from nanogpt_core.embeddings.response import DimensionsCheck
from nanogpt_core.embeddings.results import ArrayOutput, ListOutput, ResultCollector, track_progress
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.client import HttpClient, Lifetime
from nanogpt_core.http.limits import Budget, Saving
from nanogpt_core.http.rate_limiter import ProcessLimits, RateCap
from nanogpt_core.http.runner import run_async, run_sync
from nanogpt_core.http.secrets import redacted
from nanogpt_core.models.catalog import MAX_ITEMS
from nanogpt_core.models.pricing import price
from nanogpt_core.models.tokens import Counting, TokenCounter, byte_lengths
from nanogpt_core.observability.observer import CallObserver, Observer
from nanogpt_core.observability.usage import UsageMeter

P = ParamSpec("P")
R = TypeVar("R")

# Planning fewer texts takes less time than handing the work to a thread.
_MAX_TEXTS_PLANNED_IN_LOOP = 200
# A service needs as long for fewer texts. So batches are not made smaller to send several at once, and the batch of a
# call that has no more may be gathered with those of other calls.
_SMALL_BATCH_TEXTS = 128

# Modules that make requests and read replies. HttpClient imports them before the first request, with its own.
_MODULES = ("jiter", "numpy", "orjson", "pybase64")


class Pipeline:
    """Answers the calls of one embedder. Safe in threads, after a fork, and on one event loop after another."""

    def __init__(
        self, config: EmbedderConfig, meter: UsageMeter, budget: Budget | None, learned_dimensions: int | None = None
    ) -> None:
        model = config.model_row
        self.config = config
        self.counter = TokenCounter(model)
        self.dimensions_check = DimensionsCheck(model, config.dimensions, learned_dimensions)
        self.lifetime = Lifetime()
        self.client = HttpClient(config.endpoint, config.http_client, config.http_async_client, self.lifetime, _MODULES)
        self.namespace = CacheNamespace(config.endpoint.base_url, model.id, config.dimensions)
        self.observer = Observer("embeddings", config.endpoint, config.on_request, meter)
        self._rate_cap = RateCap(config.endpoint, config.requests_per_second)
        process_limits = ProcessLimits(self._rate_cap.limiter, budget)
        self.limits = process_limits if config.limits is None else config.limits
        self._warnings = DistinctWarnings()
        self.dispatcher = Dispatcher(config, self.dimensions_check, self.limits)
        self.gathering_dispatcher = GatheringDispatcher(self.dispatcher, process_limits, self.client)

    def embed(
        self,
        texts: list[str],
        *,
        as_lists: bool = False,
        batch_size: int | None = None,
        first: int | Sequence[int] = 0,
        show_progress: bool = True,
        stop: threading.Event | None = None,
        stream_observer: CallObserver | None = None,
    ) -> Any:
        """Embed checked texts.

        ``first`` is the position of the first text in the caller's list or stream, or the position of each. Another
        thread sets ``stop`` when the call should end. ``stream_observer`` is the observer of the stream that this call
        is a part of.
        """
        if batch_size is not None:
            check_number("batch_size", batch_size, 1, MAX_ITEMS)
        with self._observed(stream_observer) as observer:
            deadline = NO_DEADLINE
            if self.config.deadline is not None:
                self.client.get_ready()  # importing the SDK, which takes most of a second, must not take its time
                deadline = Deadline.after(self.config.deadline)
            cancellation = Cancellation(deadline, stop or threading.Event())
            plan = make_plan(texts, self.counter, self.config.on_overflow, first)
            with self._collecting(plan, cancellation, observer, as_lists, show_progress) as call:
                dispatches = self._prepare_dispatches(plan, call, batch_size, lane=None)
                if dispatches:  # importing the SDK must not take time of a slot, an attempt or a start
                    self.client.get_ready()
                if len(dispatches) == 1:  # as run_in_threads() does, without its queue
                    run_sync(dispatches[0], self.client.send, cancellation.stop)
                else:
                    tasks = [partial(run_sync, each, self.client.send, cancellation.stop) for each in dispatches]
                    run_in_threads(tasks, self.config.max_concurrency, cancellation.stop)
                return call.results.finish()

    async def aembed(
        self,
        texts: list[str],
        *,
        as_lists: bool = False,
        batch_size: int | None = None,
        first: int | Sequence[int] = 0,
        show_progress: bool = True,
        stream_observer: CallObserver | None = None,
    ) -> Any:
        """Embed checked texts without blocking the event loop; arguments as for :meth:`embed`."""
        if batch_size is not None:
            check_number("batch_size", batch_size, 1, MAX_ITEMS)
        loop = require_event_loop()
        blocks = self._may_block(texts)
        with self._observed(stream_observer) as observer:
            deadline = NO_DEADLINE
            if self.config.deadline is not None:
                await self.client.aget_ready()
                deadline = Deadline.after(self.config.deadline)
            cancellation = Cancellation(deadline)
            plan = await _run(blocks, make_plan, texts, self.counter, self.config.on_overflow, first)
            with self._collecting(plan, cancellation, observer, as_lists, show_progress) as call:
                dispatches = await _run(blocks, self._prepare_dispatches, plan, call, batch_size, loop)
                if dispatches:
                    await self.client.aget_ready()
                tasks = [partial(run_async, each, self.client.asend) for each in dispatches]
                await run_in_tasks(tasks, self.config.max_concurrency, cancellation.stop)
                return await _run(len(texts) > _MAX_TEXTS_PLANNED_IN_LOOP, call.results.finish)

    def observe(self) -> CallObserver:
        """Return the observer of a call, or of a stream, that begins now.

        Raises:
            ConfigurationError: The embedder was closed.
        """
        self.lifetime.check_open()
        return self.observer.begin_call(self.config.model_row.id)

    def _observed(self, stream_observer: CallObserver | None) -> contextlib.AbstractContextManager[CallObserver]:
        return self.observe() if stream_observer is None else contextlib.nullcontext(stream_observer)

    def _may_block(self, texts: list[str]) -> bool:
        """Return whether planning takes long, touches the disk, or may load or download a tokenizer."""
        return (
            len(texts) > _MAX_TEXTS_PLANNED_IN_LOOP
            or self.config.opened_cache is not None
            or self.limits.budget_usd is not None
            or bool(self.counter.may_be_too_long(byte_lengths(texts)))
        )

    @contextlib.contextmanager
    def _collecting(
        self, plan: Plan, cancellation: Cancellation, observer: CallObserver, as_lists: bool, show_progress: bool
    ) -> Iterator[Call]:
        """Collect the results of a call in this block; an error that ends it gets the completed vectors."""
        cache = self._cache_lookup(cancellation.deadline)
        progress = self.config.progress if show_progress else None
        with track_progress(progress, len(plan.text_positions)) as advance:
            results = ResultCollector(
                plan,
                ListOutput(plan) if as_lists else ArrayOutput(plan),
                dimensions_check=self.dimensions_check,
                model=self.config.model_row.id,
                cache=cache,
                advance=advance,
                warnings=self._warnings,
            )
            try:
                yield Call(results, cancellation, observer)
            except NanoGPTError as error:
                with redacted(self.config.endpoint):
                    results.add_completed_to(error)
                    raise

    def _cache_lookup(self, deadline: Deadline) -> CacheLookup | None:
        cache = self.config.opened_cache
        if cache is None:
            return None
        return CacheLookup(cache, self.namespace, deadline, self._close_cache_if_embedder_closed, self._warnings)

    def close(self) -> None:
        """Close connections that no other object uses, and a cache file that was opened here. Calls under way go on."""
        self._rate_cap.lift()
        self.client.close()
        self._close_cache_if_embedder_closed()

    async def aclose(self) -> None:
        """Do what :meth:`close` does; connections of the running event loop too."""
        self._rate_cap.lift()
        await self.client.aclose()
        if self.config.own_cache is not None:
            await call_in_thread(self._close_cache_if_embedder_closed)  # may write

    def _close_cache_if_embedder_closed(self) -> None:
        cache = self.config.own_cache
        if cache is not None and self.lifetime.is_closed:
            cache.close()

    def _prepare_dispatches(self, plan: Plan, call: Call, batch_size: int | None, lane: Lane) -> list[Steps[None]]:
        """Load cached vectors, check that the budget covers the rest, and return a generator for each batch of it.

        That of a small call may share a request with other calls.
        """
        missing = self._load_cached(plan, call)
        batches = self._make_batches(plan, missing, batch_size)
        if self.limits.budget_usd is not None and batches:
            self.limits.check(self.dispatcher.cost(*batches))
        if self.config.limits is not None:
            self._record_saving(plan, missing)
        is_small = len(batches) == 1 and len(batches[0].texts) <= _SMALL_BATCH_TEXTS
        if is_small and batch_size is None and self.config.coalesce:
            return [self.gathering_dispatcher.dispatch(batches[0], call, lane)]
        return [self.dispatcher.dispatch(batch, call) for batch in batches]

    def _load_cached(self, plan: Plan, call: Call) -> Sequence[int]:
        """Let the call take the vectors that the cache has; return the indices of the request texts without one."""
        if self.config.opened_cache is None:
            return range(len(plan.request_texts))
        started = time.monotonic()
        missing = call.results.load_cached()
        cached = len(plan.request_texts) - len(missing)
        if cached:
            call.observer.dimensions = self.dimensions_check.dimensions
            call.observer.report_cached(cached, time.monotonic() - started)
        return missing

    def _record_saving(self, plan: Plan, missing: Sequence[int]) -> None:
        cached, repeated = len(plan.request_texts) - len(missing), len(plan.text_positions) - len(plan.request_index_of)
        if cached or repeated:
            # By the mean of the call: a repeated text can be of any length.
            tokens = sum(plan.weights) - sum(plan.weights[index] for index in missing)
            tokens += round(repeated * sum(plan.weights) / len(plan.request_index_of))
            usd = price(tokens, self.config.model_row.usd_per_million_tokens)
            self.limits.add_saving(Saving(cached, repeated, tokens, usd))

    def _make_batches(self, plan: Plan, request_indices: Sequence[int], batch_size: int | None) -> list[Batch]:
        per_request = -(-len(request_indices) // self.config.max_concurrency)
        default = min(self.config.model_row.batch_size, max(_SMALL_BATCH_TEXTS, per_request))
        return make_batches(
            plan,
            request_indices,
            max_items=batch_size or self.config.batch_size or default,
            max_tokens=self.config.model_row.max_request_tokens,
            host_capabilities=self.dispatcher.host_capabilities,
            # Only a budget needs exact counts.
            count=None if self.limits.budget_usd is None else self.counter.count,
        )

    def check_lengths(self, texts: list[str]) -> None:
        """Raise the error for checked texts that are too long, if ``on_overflow`` is ``"error"``."""
        if self.config.on_overflow == "error":
            make_plan(texts, self.counter)

    def estimate(self, texts: list[str]) -> Estimate:
        """Return tokens, cost and requests that embedding checked texts would take."""
        plan = make_plan(texts, self.counter, self.config.on_overflow)
        done = bytearray(len(plan.request_texts))
        cache = self._cache_lookup(Deadline.after(self.config.deadline))
        for found, _ in cache.find(plan.request_texts) if cache else ():
            for index in found:
                done[index] = 1
        missing = [index for index, is_done in enumerate(done) if not is_done]
        tokens = sum(self.counter.count(plan.request_texts[index]) for index in missing)
        return Estimate(
            texts=len(texts),
            unique=len(plan.request_index_of),
            cached=sum(plan.is_complete(index, done) for index in range(len(plan.request_index_of))),
            tokens=tokens,
            cost_usd=price(tokens, self.config.model_row.usd_per_million_tokens),
            requests=len(self._make_batches(plan, missing, None)),
            counting=self.counter.kind,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens, cost and requests that embedding some texts would take.

    Attributes:
        texts: Texts passed.
        unique: Distinct texts among them.
        cached: Distinct texts whose vectors are in the cache.
        tokens: Tokens of the texts that would be sent.
        cost_usd: ``tokens`` at the model's price, in US dollars; None if the price is unknown.
        requests: Requests that would be sent.
        counting: The method behind ``tokens``: ``"exact"`` (the model's own tokenizer), ``"scaled"`` (the count of
            another tokenizer, scaled up) or ``"bound"`` (from the texts' length).
    """

    texts: int
    unique: int
    cached: int
    tokens: int
    cost_usd: float | None
    requests: int
    counting: Counting


async def _run(in_thread: bool, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    if in_thread:
        return await call_in_thread(function, *args, **kwargs)
    return function(*args, **kwargs)

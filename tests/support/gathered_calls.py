"""Calls that gather while a server holds the first request, and shared limits within this process."""

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from nanogpt_core.embeddings.gathering.waiting import running_loop
from nanogpt_core.errors import LimitsUnavailableError, NanoGPTError
from nanogpt_core.http.limits import Budget
from nanogpt_core.http.rate_limiter import ProcessLimits, RateLimiter

GUARD_SECONDS = 60
MODEL = "text-embedding-3-small"
WIDTH = 8


class Held:
    """A fault server that holds the request with the text "first" until ``released`` is set."""

    def __init__(self, serve, faults, answer=None):
        self.faults = faults
        self.released = threading.Event()
        self.others = answer or (lambda _seen: None)
        self.server = serve(self._answer)

    def _answer(self, seen):
        if seen.texts[0] == "first":
            assert self.released.wait(GUARD_SECONDS)
        return self.others(seen) or self.faults.good(seen)

    def embedder(self, **options):
        rate = {} if "limits" in options else {"requests_per_second": 1000}
        return self.server.embedder(MODEL, **{"dimensions": WIDTH, "max_concurrency": 1, **rate, **options})

    def right(self, vector, text):
        return np.array_equal(np.asarray(vector, np.float32), self.faults.vector_of(text, WIDTH))

    @property
    def sent(self):
        """The texts of each request after the first one."""
        return [seen.texts for seen in self.server.requests if seen.texts != ["first"]]

    def queue_of(self, embedder):
        return embedder._pipeline.gathering_dispatcher.gatherer()

    def wait_for_queue(self, embedder, count):
        until = time.monotonic() + GUARD_SECONDS
        while self.queue_of(embedder).queued_texts != count:
            assert time.monotonic() < until, "the calls did not queue"
            time.sleep(0)

    async def await_queue(self, embedder, count):
        until = time.monotonic() + GUARD_SECONDS
        while self.queue_of(embedder).queued_texts != count:
            assert time.monotonic() < until, "the calls did not queue"
            await asyncio.sleep(0)


def in_threads(held, calls, queued):
    """Make calls, (embedder, texts) each, in threads while the first request is held; return vectors and errors."""
    first, *others = calls

    def run(call):
        embedder, texts = call
        try:
            return embedder.embed_query(texts) if isinstance(texts, str) else embedder.embed(texts)
        except (NanoGPTError, asyncio.CancelledError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as executor:
        futures = [executor.submit(run, first)]
        try:
            held.server.wait_for(lambda: held.server.in_flight == 1)
            for number, call in enumerate(others, 1):
                futures.append(executor.submit(run, call))
                if queued is None:
                    held.wait_for_queue(call[0], number)  # in this order
            if queued is not None:
                held.wait_for_queue(first[0], queued)
        finally:
            held.released.set()
        return [future.result(GUARD_SECONDS) for future in futures]


def in_tasks(held, calls, queued):
    """Make the calls as :func:`in_threads`, in tasks of one event loop."""

    async def run(call):
        embedder, texts = call
        return await (embedder.aembed_query(texts) if isinstance(texts, str) else embedder.aembed(texts))

    async def main():
        tasks = [asyncio.ensure_future(run(calls[0]))]
        await asyncio.to_thread(held.server.wait_for, lambda: held.server.in_flight == 1)
        tasks += [asyncio.ensure_future(run(call)) for call in calls[1:]]
        await held.await_queue(calls[0][0], len(calls) - 1 if queued is None else queued)
        held.released.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(main())


class LimitsInProcess(ProcessLimits):
    """Shared limits that may block, as those of a network do: never on an event loop. They keep a ledger.

    Attributes:
        open: Costs of the attempts that have not ended, by name.
        ended: Costs and outcomes of the others, by name; the outcome of one that was not sent is None.
        failures: So many of the next reservations fail, since the limits cannot be reached.
        gate: Reservations wait until it is set, as it is at first.
    """

    may_block = True

    def __init__(self, budget_usd=None):
        limiter = RateLimiter()
        super().__init__(lambda: limiter, None if budget_usd is None else Budget(budget_usd))
        self.names = itertools.count()
        self.open, self.ended, self.failures = {}, {}, 0
        self.gate, self.reserving = threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def check(self, cost):
        assert running_loop() is None
        super().check(cost)

    def reserve(self, cost):
        assert running_loop() is None
        self.reserving.release()
        assert self.gate.wait(GUARD_SECONDS)
        if self.failures:
            self.failures -= 1
            raise LimitsUnavailableError("The limits are away.")
        admission = replace(super().reserve(cost), id=str(next(self.names)))
        self.open[admission.id] = cost
        return admission

    def confirm(self, admission):
        assert running_loop() is None
        return super().confirm(admission)

    def release(self, admission):
        super().release(admission)  # calls settle()
        self.ended[admission.id] = (admission.cost, None)

    def settle(self, admission, outcome):
        assert admission.cost.usd == self.open.pop(admission.id).usd
        super().settle(admission, outcome)
        self.ended[admission.id] = (admission.cost, outcome)

    def counts(self):
        """Return the number of answered attempts, and their texts and tokens."""
        assert not self.open
        answered = [(cost, outcome) for cost, outcome in self.ended.values() if outcome and outcome.answered]
        return len(answered), sum(cost.texts for cost, _ in answered), sum(outcome.tokens for _, outcome in answered)

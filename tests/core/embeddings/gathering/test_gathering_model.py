"""Any interleaving of calls, replies, failures, cancellations and deadlines gives each call its own result.

Calls and carriers are generators that do no I/O, so a Hypothesis state machine can run them step by step in any order.
The decisions are those of sync and of async code; calls of threads and of two event loops take part. A second machine
has calls with shared limits, which can be away for a moment.
"""

import asyncio
import base64
import contextlib
import itertools
import json
from collections import Counter
from functools import partial
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from length import usual_or_long
from nanogpt_core import Embedder
from nanogpt_core._runtime import clock
from nanogpt_core._runtime.clock import NO_DEADLINE, Cancellation, Deadline, fake_clock
from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core.embeddings.dispatch import Call
from nanogpt_core.embeddings.gathering import gatherer
from nanogpt_core.embeddings.gathering.carrier import BatchCarrier
from nanogpt_core.embeddings.gathering.small_call import GatheringDispatcher
from nanogpt_core.embeddings.planning import Batch, HostCapabilities, make_batches, make_plan
from nanogpt_core.embeddings.results import ArrayOutput, ResultCollector
from nanogpt_core.errors import (
    BadRequestError,
    BudgetExceededError,
    LimitsUnavailableError,
    NanoGPTError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServerError,
)
from nanogpt_core.http.client import HttpReply, HttpRequest
from nanogpt_core.http.runner import Join, Run, Wait

WIDTH = 4
LOOPS = [asyncio.new_event_loop() for _ in range(2)]
for loop in LOOPS:
    loop.close()  # they only name lanes; nothing runs on them
NUMBERS = itertools.count()
TEXTS = st.lists(st.sampled_from([*"abcdefgh", "bad 1", "bad 2"]), min_size=1, max_size=3, unique=True)


def vector_of(text):
    return np.frombuffer(text.encode().ljust(16, b"!"), dtype=np.uint8)[:WIDTH].astype(np.float32)


class Carrier(BatchCarrier):
    """A carrier that the state machine runs."""

    machine: "Gathering"

    def start(self):
        self.has_started = True
        self.generator = self._carry()
        self.machine.carriers.append(self)
        self.action = None

    def cancel(self):
        self.is_cancelled = True
        self._stop.set()

    def stop(self):
        """End as a task that is cancelled does."""
        self.generator.close()
        self._end()


class OneCall:
    """A call, and the result that it should have."""

    def __init__(self, machine, texts, lane, *, deadline, poor):
        embedder = machine.poor if poor else machine.embedder
        self.texts, self.lane = texts, lane
        self.poor = poor or machine.has_one_budget
        self.cancellation = Cancellation(Deadline.after(deadline) if deadline else NO_DEADLINE)
        pipeline = embedder._pipeline
        plan = make_plan(texts, pipeline.counter)
        self.results = ResultCollector(
            plan,
            ArrayOutput(plan),
            dimensions_check=pipeline.dimensions_check,
            model="lab/model",
            cache=None,
            advance=None,
            warnings=DistinctWarnings(),
        )
        # Made before the host has shown its limit.
        (batch,) = make_batches(
            plan,
            range(len(texts)),
            max_items=len(texts),
            max_tokens=None,
            host_capabilities=HostCapabilities(),
            count=pipeline.counter.count,
        )
        call = Call(self.results, self.cancellation, pipeline.observe())
        self.generator = machine.dispatchers[poor].dispatch(batch, call, lane)
        self.action = None
        self.server_failed = False
        self.limits_were_away = machine.limits_are_away()


class Gathering(RuleBasedStateMachine):
    has_one_budget = False

    def __init__(self):
        super().__init__()
        self.contexts = contextlib.ExitStack()
        self.skipped = self.contexts.enter_context(fake_clock())
        # Only skipped time passes: a slow machine must not decide which slots are free.
        patch = self.contexts.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: 0.0))
        patch.setattr(gatherer, "time", SimpleNamespace(monotonic=clock.now))
        # A gatherer, a rate and a host of its own: an example must not find what one that failed has left.
        options = {"base_url": f"http://127.0.0.1:9/{next(NUMBERS)}/api/v1", "api_key": "k", "max_retries": 1}
        options |= {"dimensions": WIDTH, "max_concurrency": 1}
        self.embedder, self.poor = self.make_embedders(options)
        self.carriers, self.calls = [], []
        machine = self

        class Gathering(GatheringDispatcher):
            def make_carrier(self, lane):
                carrier = super().make_carrier(lane)
                carrier.__class__, carrier.machine = Carrier, machine
                return carrier

        self.dispatchers = {}
        for poor, embedder in ((False, self.embedder), (True, self.poor)):
            pipeline = embedder._pipeline
            limits = pipeline.gathering_dispatcher._process_limits
            self.dispatchers[poor] = Gathering(pipeline.dispatcher, limits, pipeline.client)
        self.gatherer = self.dispatchers[False].gatherer()
        assert self.gatherer is self.dispatchers[True].gatherer()
        self.sent = Counter()

    def make_embedders(self, options):
        make = partial(Embedder, "text-embedding-3-small", **options, requests_per_second=1000)
        return make(), make(budget_usd=2e-7)

    def limits_are_away(self):
        return False

    def teardown(self):
        try:
            for _ in range(10_000):
                running = self.carriers + self.calls
                if not running:
                    break
                for one in running:
                    self.step(one, "right")
                self.gatherer.check_slots()
            assert not self.carriers
            assert not self.calls
            assert self.gatherer.queued_texts == 0
            assert not self.gatherer._under_way
            assert not self.gatherer._waiting_to_start
            assert not self.gatherer._slots._starts
            assert not self.gatherer._queue.lanes
        finally:
            self.contexts.close()

    # --- steps ---

    @initialize(
        texts=st.lists(TEXTS, min_size=4, max_size=8),
        lanes=st.lists(st.integers(0, 2), min_size=8, max_size=8),
        most_texts=st.sampled_from([1, 2, 4, 100]),
        is_known=st.booleans(),
    )
    def begin(self, texts, lanes, most_texts, *, is_known):
        self.most_texts = most_texts
        if is_known:
            count = range(most_texts + 1)
            refused = Batch(["a" for _ in count], count, count, count)
            self.dispatchers[False]._dispatcher.host_capabilities.learn(refused, refused.select(count[:-1]))
        for one, lane in zip(texts, lanes, strict=False):
            self.new_call(one, lane, deadline=None, poor=False)

    @rule(
        texts=TEXTS,
        lane=st.integers(0, 2),
        deadline=st.sampled_from([None, None, 5.0, 500.0]),
        poor=st.sampled_from([False, False, True]),
    )
    def new_call(self, texts, lane, *, deadline, poor):
        call = OneCall(self, texts, [None, *LOOPS][lane], deadline=deadline, poor=poor)
        self.calls.append(call)
        self.step(call, "right")

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), outcome=st.sampled_from(["right", "right", "right", "500", "reset"]))
    def step_a_call(self, data, outcome):
        self.step(data.draw(st.sampled_from(self.calls)), outcome)

    @precondition(lambda self: self.carriers)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["right", "right", "right", "500", "reset"]),
        count=st.sampled_from([1, 1, 1, 2]),
    )
    def step_a_carrier(self, data, outcome, count):
        carrier = data.draw(st.sampled_from(self.carriers))
        for _ in range(count):
            self.step(carrier, outcome)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel_a_call(self, data):
        call = data.draw(st.sampled_from(self.calls))
        self.calls.remove(call)
        call.generator.close()

    @precondition(lambda self: self.carriers)
    @rule(data=st.data())
    def cancel_a_carrier(self, data):
        carrier = data.draw(st.sampled_from(self.carriers))
        self.carriers.remove(carrier)
        carrier.stop()

    @rule(seconds=st.sampled_from([1.0, 5.0]))
    def pass_time(self, seconds):
        self.skipped.advance(seconds)

    # --- the runner ---

    def step(self, one, outcome):
        """Perform the action of a generator, and run it to its next one."""
        if one not in self.carriers and one not in self.calls:
            return
        action = one.action
        if isinstance(one, OneCall) and isinstance(action, Join) and not action.event.done:
            self.skipped.advance(0.01)
            self.gatherer.check_slots()
        try:
            result = None if action is None else self.perform(action, outcome)
            if isinstance(result, NanoGPTError):
                one.action = one.generator.throw(result)
            else:
                one.action = one.generator.send(result)
        except StopIteration:
            self.finish(one, None)
        except NanoGPTError as error:
            self.finish(one, error)

    def perform(self, action, outcome):
        """Return the result of an action, or its error."""
        if isinstance(action, HttpRequest):
            return self.answer(action, outcome)
        if isinstance(action, Run):
            try:
                action.function()
            except NanoGPTError as error:
                return error
        if isinstance(action, Wait):
            self.skipped.advance(action.seconds)
        return HttpReply(b"")

    def answer(self, action, outcome):
        texts = json.loads(action.body)["input"]
        self.sent.update(texts)
        failed = ServerError("no", status=500) if outcome == "500" else RequestTimeoutError("no")
        if outcome != "right":
            for call in self.calls:
                # A connection that is lost ends the search for a bad text, for all calls of the batch.
                concerns = outcome == "reset" or bool(set(call.texts) & set(texts))
                call.server_failed = call.server_failed or concerns
            return failed
        if len(texts) > self.most_texts:
            return RequestTooLargeError("too many", status=413)
        if any(text.startswith("bad") for text in texts):
            return BadRequestError("bad text", status=400)
        data = [
            {"index": index, "embedding": base64.b64encode(vector_of(text).tobytes()).decode()}
            for index, text in enumerate(texts)
        ]
        return HttpReply(json.dumps({"data": data, "usage": {"prompt_tokens": len(texts)}}).encode())

    def finish(self, one, error):
        if isinstance(one, Carrier):
            self.carriers.remove(one)
            one._end()
            return
        self.calls.remove(one)
        if error is None:
            assert not any(text.startswith("bad") for text in one.texts)
            vectors = one.results.finish()
            assert (vectors == [vector_of(text) for text in one.texts]).all()
        elif isinstance(error, BadRequestError):
            assert any(text.startswith("bad") for text in one.texts)
        elif isinstance(error, BudgetExceededError):
            assert one.poor
        elif isinstance(error, LimitsUnavailableError):
            assert one.limits_were_away
        elif one.cancellation.is_late:
            assert isinstance(error, NanoGPTError)
        else:
            assert one.server_failed, repr(error)


class GatheringWithLimits(Gathering):
    has_one_budget = True

    def make_embedders(self, options):
        self.shared = self.limits_in_process(budget_usd=4e-7)
        embedder = Embedder("text-embedding-3-small", **options, limits=self.shared)
        return embedder, embedder

    def limits_are_away(self):
        return self.shared.failures > 0

    @rule(failures=st.integers(1, 4))
    def lose_limits(self, failures):
        self.shared.failures = failures
        for call in self.calls:
            call.limits_were_away = True

    def teardown(self):
        super().teardown()
        assert not self.shared.open
        sent = [(cost, outcome) for cost, outcome in self.shared.ended.values() if outcome]
        spent = sum(cost.usd if outcome.usd is None else outcome.usd for cost, outcome in sent)
        assert self.shared.budget._committed == pytest.approx(spent)


@pytest.fixture(autouse=True, scope="module")
def _limits_in_process(gathering):
    GatheringWithLimits.limits_in_process = gathering.LimitsInProcess


TestGathering = Gathering.TestCase
TestGathering.settings = settings(max_examples=usual_or_long(20, 80), stateful_step_count=60, deadline=None)
TestGatheringWithLimits = GatheringWithLimits.TestCase
TestGatheringWithLimits.settings = settings(max_examples=usual_or_long(10, 40), stateful_step_count=60, deadline=None)

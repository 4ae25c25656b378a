"""The hook ``on_request`` of an embedder: one record for each finished request, in the context of its call."""

import asyncio
import contextvars
import copy
import functools
import logging
import pickle
import threading
from dataclasses import FrozenInstanceError

import pytest

from nanogpt_core import Embedder, MemoryCache, Usage
from nanogpt_core._runtime import clock
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import InvalidTypeError, NanoGPTError, RequestTooLargeError
from nanogpt_core.observability.usage import UsageMeter
from nanogpt_core.sandbox import Fault

GUARD_SECONDS = 60
MODEL = "text-embedding-3-small"


def embedder_of(sandbox, hook):
    return Embedder(MODEL, api_key=sandbox.api_key, base_url=sandbox.base_url, on_request=hook)


def added_up(records):
    meter = UsageMeter()
    for record in records:
        meter.add(record)
    return meter.snapshot()


def test_record_holds_model_tokens_cost_and_request_id(sandbox_with, embed):
    records = []
    embedder = embedder_of(sandbox_with(report_cost=True), records.append)
    embed(embedder, ["a first text", "a second text"])
    (record,) = records
    assert (record.kind, record.model, record.texts, record.attempts) == ("embeddings", MODEL, 2, 1)
    assert record.prompt_tokens == embedder.usage.prompt_tokens > 0
    assert record.completion_tokens == record.uncertain == 0
    assert record.cost_usd == embedder.usage.cost_usd > 0
    assert record.seconds > 0
    assert record.request_id.startswith("sandbox-")
    assert (record.cached, record.shared, record.error) == (False, False, None)
    with pytest.raises(FrozenInstanceError):
        record.texts = 3


def test_duration_of_a_request_is_without_the_time_of_the_cache(make, embed):
    class Slow(MemoryCache):
        def put_many(self, entries):
            clock.sleep(1000)
            super().put_many(entries)

    records = []
    with fake_clock():
        embed(make(on_request=records.append, cache=Slow()), ["a text"])
    assert records[0].seconds < 1000


def test_each_batch_of_a_call_has_a_record(make, embed):
    records = []
    embedder = make(on_request=records.append, batch_size=2)
    embed(embedder, [f"text {number}" for number in range(5)])
    assert sorted(record.texts for record in records) == [1, 2, 2]
    assert added_up(records) == embedder.usage


def test_retries_are_attempts_of_one_record(sandbox_with, embed):
    records = []
    embedder = embedder_of(sandbox_with(faults=[Fault(503), Fault(429)]), records.append)
    with fake_clock():
        embed(embedder, ["a text"])
    (record,) = records
    assert (record.attempts, record.uncertain, record.error) == (3, 1, None)  # the 503 may have been billed
    assert (embedder.usage.requests, embedder.usage.retries, embedder.usage.uncertain) == (1, 2, 1)


def test_failed_request_has_a_record_with_the_name_of_its_error(scripted, faults, embed):
    records = []
    server = scripted(faults.response({"error": "no"}, 401, X_Request_ID="r-1"), faults.RESET)
    embedder = server.embedder(on_request=records.append)
    for _ in range(2):
        with pytest.raises(NanoGPTError):
            embed(embedder, ["a text"])
    refused, lost = records
    assert (refused.error, refused.request_id) == ("AuthenticationError", "r-1")
    assert (refused.prompt_tokens, refused.cost_usd, refused.uncertain) == (0, 0.0, 0)
    assert lost.error == "ConnectionFailedError"
    assert (lost.prompt_tokens, lost.cost_usd, lost.uncertain) == (None, None, 1)  # it may have been billed
    assert embedder.usage == Usage(uncertain=1)


def test_split_batch_has_a_record_of_the_refusal_and_of_each_half(sandbox_with, embed):
    records = []
    embedder = embedder_of(sandbox_with(item_limits={MODEL: 2}), records.append)
    embed(embedder, ["a", "b", "c", "d"])
    assert [(record.texts, record.error) for record in records] == [
        (4, RequestTooLargeError.__name__),
        (2, None),
        (2, None),
    ]


def test_vectors_from_the_cache_have_a_record_without_attempts(make, embed):
    records = []
    embedder = make(on_request=records.append, cache=MemoryCache())
    embed(embedder, ["a", "b"])
    embed(embedder, ["a", "b", "c"])
    assert [(record.texts, record.cached, record.attempts) for record in records] == [
        (2, False, 1),
        (2, True, 0),
        (1, False, 1),
    ]
    assert records[1].cost_usd == records[1].prompt_tokens == 0
    assert added_up(records) == embedder.usage


def test_call_that_sends_nothing_has_no_record(make, embed):
    records = []
    embedder = make(on_request=records.append)
    embed(embedder, [])
    with pytest.raises(NanoGPTError):
        embed(embedder, [" "])
    assert records == []


@pytest.mark.parametrize("window", [1, 4])
def test_streams_report_each_request(make, window):
    records = []
    embedder = make(on_request=records.append, max_concurrency=window)
    texts = [f"text {number}" for number in range(6)]

    async def run():
        return [batch async for batch in embedder.astream(texts, batch_size=2)]

    assert len(list(embedder.stream(texts, batch_size=2))) == len(asyncio.run(run())) == 3
    assert [record.texts for record in records] == [2] * 6
    assert added_up(records) == embedder.usage


def test_cancelled_request_has_a_record(serve, faults):
    records, released = [], threading.Event()

    def answer(seen):
        released.wait(GUARD_SECONDS)
        return faults.good(seen)

    server = serve(answer)
    embedder = server.embedder(on_request=records.append, coalesce=False)

    async def run():
        task = asyncio.ensure_future(embedder.aembed(["a text"]))
        await asyncio.to_thread(server.wait_for, lambda: server.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()

    asyncio.run(run())
    (record,) = records
    assert (record.error, record.uncertain, record.cost_usd) == ("Cancelled", 1, None)


def test_hook_that_raises_breaks_no_call_and_is_logged_once(make, embed, caplog):
    def hook(_record):
        raise ValueError("the hook's own")

    embedder = make(on_request=hook)
    for text in "abc":
        assert len(embed(embedder, [text])) == 1
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert warning.name == "nanogpt_core"
    assert "on_request" in warning.message
    assert "the hook's own" in caplog.text  # with its traceback


def test_hook_that_returns_a_coroutine_is_logged_once(make, embed, caplog):
    async def late(_model):
        raise AssertionError("never run")

    embedder = make(on_request=lambda record: late(record.model))
    for text in "ab":
        assert len(embed(embedder, [text])) == 1
    assert len([one for one in caplog.records if one.levelno == logging.WARNING]) == 1
    assert "InvalidTypeError: on_request returned a coroutine" in caplog.text


user = contextvars.ContextVar("user")


@pytest.mark.parametrize("form", ["embed", "stream"])
def test_hook_sees_the_context_variables_of_its_call(make, form):
    found = []
    embedder = make(on_request=lambda record: found.append((user.get(), record.texts)), batch_size=1)

    def work(name, texts):
        user.set(name)
        list(embedder.embed(texts) if form == "embed" else embedder.stream(texts))

    for name, texts in (("Ann", ["a", "b"]), ("Bob", ["c", "d", "e"])):
        contextvars.copy_context().run(work, name, texts)
    assert sorted(found) == [("Ann", 1)] * 2 + [("Bob", 1)] * 3


@pytest.mark.parametrize("hook", [5, "print"])
def test_hook_that_is_no_function_is_refused(hook):
    with pytest.raises(InvalidTypeError, match="on_request"):
        Embedder(api_key="k", on_request=hook)


def test_coroutine_function_as_a_hook_is_refused():
    async def hook(record):
        pass

    class Hook:
        async def __call__(self, record):
            pass

    for one in (hook, Hook()):
        with pytest.raises(InvalidTypeError, match="plain function"):
            Embedder(api_key="k", on_request=one)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"on_request": lambda: None}, "on_request is called with a RequestRecord"),
        ({"on_request": lambda one, more: (one, more)}, "on_request is called with a RequestRecord"),
        ({"progress": lambda done: done}, "progress is called with done and total"),
        ({"progress": lambda done, total, *, label: (done, total, label)}, "progress is called with done and total"),
    ],
)
def test_function_that_cannot_take_the_arguments_is_refused(option, words):
    with pytest.raises(InvalidTypeError, match=words):
        Embedder(api_key="k", **option)


def test_function_with_defaults_and_wrappers_and_builtin_functions_are_accepted(make):
    def progress(done, total, label="texts"):
        pass

    @functools.wraps(progress)
    def wrapper(*call):
        progress(call[0], 3)

    for function in (progress, wrapper, print, functools.partial(print, "at"), max):
        make(progress=function)
    make(on_request=functools.wraps(progress)(lambda record: record))
    make(on_request=[].append)


def test_pickles_and_copies_keep_the_hook(make):
    embedder = make(on_request=print)  # a function that can be pickled
    for twin in (pickle.loads(pickle.dumps(embedder)), copy.copy(embedder), copy.deepcopy(embedder)):
        assert twin._pipeline.observer.hook is print

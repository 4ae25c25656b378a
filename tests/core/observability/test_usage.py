"""Usage: sums of records, and ``track_usage`` over threads, tasks, objects and nested blocks."""

import asyncio
import contextvars
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_core import MemoryCache, Usage, track_usage
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.observability.records import RequestRecord
from nanogpt_core.observability.usage import UsageMeter

GUARD_SECONDS = 60

COUNTS = st.none() | st.integers(0, 10_000)
RECORDS = st.lists(
    st.builds(
        RequestRecord,
        kind=st.sampled_from(["embeddings", "chat"]),
        model=st.just("m"),
        texts=st.integers(0, 5),
        prompt_tokens=COUNTS,
        completion_tokens=COUNTS,
        cost_usd=st.none() | st.integers(0, 1000).map(lambda number: number / 1024),
        seconds=st.just(0.0),
        attempts=st.integers(1, 4),
        uncertain=st.integers(0, 2),
        cached=st.booleans(),
        shared=st.booleans(),
        error=st.none() | st.just("ServerError"),
    )
)


def sum_of(records):
    meter = UsageMeter()
    for record in records:
        meter.add(record)
    return meter.snapshot()


@settings(max_examples=50)
@given(RECORDS, RECORDS)
def test_usage_of_all_records_is_the_sum_of_its_parts(some, others):
    both, one, other = sum_of(some + others), sum_of(some), sum_of(others)
    assert both == one + other
    known = {field: value for field, value in vars_of(both).items() if value is not None}
    assert vars_of(both - other).items() >= {(field, value) for field, value in vars_of(one).items() if field in known}


def vars_of(usage):
    return {name: getattr(usage, name) for name in Usage.__dataclass_fields__}


def test_costs_without_noise_in_their_last_digits():
    record = RequestRecord("embeddings", "m", 1, 1, 0, 0.1, 0.0, 1)
    assert sum_of([record] * 3).cost_usd == 0.3


def test_tracked_usage_is_live_and_stays_readable(make, embed):
    embedder = make()
    with track_usage() as usage:
        assert usage == Usage()
        embed(embedder, ["a text"])
        assert usage == embedder.usage
        embed(embedder, ["another text", "and one more"])
    assert usage == embedder.usage
    assert (usage.requests, usage.texts_sent) == (2, 3)
    assert usage.cost_usd > 0
    embed(embedder, ["after the block"])
    assert usage.requests == 2


def test_tracked_usage_can_be_added_subtracted_and_copied(make):
    embedder = make()
    with track_usage() as usage:
        embedder.embed(["a"])
        before = usage + Usage()
        embedder.embed(["b", "c"])
        assert (usage - before).texts_sent == 2
        for twin in (copy.copy(usage), pickle.loads(pickle.dumps(usage))):
            assert twin == usage == twin + Usage()
    assert before.texts_sent == 1


def test_nested_blocks_count_in_each_other(make, embed):
    embedder, other = make(), make("BAAI/bge-m3")
    with track_usage() as outer:
        embed(embedder, ["a"])
        with track_usage() as inner:
            embed(other, ["b"])
        embed(embedder, ["c"])
    assert outer == embedder.usage + other.usage
    assert inner == other.usage


def test_block_that_an_error_ends_counts_no_further_calls(scripted, faults, embed):
    embedder = scripted(faults.response({"error": "no"}, 500)).embedder()
    with pytest.raises(NanoGPTError), track_usage() as usage:
        embed(embedder, ["a"])
    embed(embedder, ["b"])
    assert usage == Usage(uncertain=1)


def test_cached_texts_are_counted(make, embed):
    embedder = make(cache=MemoryCache())
    embed(embedder, ["a", "b"])
    with track_usage() as usage:
        embed(embedder, ["a", "b"])
    assert usage == Usage(texts_cached=2)


@pytest.mark.parametrize("window", [1, 4])
def test_batches_in_threads_of_this_project_are_counted(make, window):
    embedder = make(batch_size=1, max_concurrency=window)
    with track_usage() as usage:
        embedder.embed(["a", "b", "c", "d"])
        stream = embedder.stream(["e", "f", "g"])
        next(stream)
        list(stream)
    assert usage == embedder.usage
    assert usage.requests == 7


def test_tasks_are_counted_each_in_its_own_block(make):
    embedder = make()

    async def one(count):
        async with track_usage() as usage:
            await asyncio.gather(*(embedder.aembed([f"text {count} {number}"]) for number in range(count)))
        return usage

    async def run():
        async with track_usage() as total:
            usages = await asyncio.gather(*map(one, range(1, 5)))
        return total, usages

    total, usages = asyncio.run(run())
    assert [usage.texts_sent for usage in usages] == [1, 2, 3, 4]
    assert sum(usages, start=Usage()) == total == embedder.usage


def test_to_thread_inherits_the_block_and_other_threads_do_not(make):
    embedder = make()
    with track_usage() as usage, ThreadPoolExecutor(1) as pool:
        asyncio.run(asyncio.to_thread(embedder.embed, ["a"]))
        pool.submit(contextvars.copy_context().run, embedder.embed, ["b"]).result(GUARD_SECONDS)
        assert usage.texts_sent == 2
        thread = threading.Thread(target=contextvars.Context().run, args=(embedder.embed, ["c"]))
        thread.start()
        thread.join(GUARD_SECONDS)
    assert usage.texts_sent == 2


def test_block_that_is_left_in_another_context_raises_nothing(make):
    block = track_usage()
    usage = contextvars.copy_context().run(block.__enter__)
    contextvars.copy_context().run(block.__exit__, None, None, None)
    make().embed(["a"])
    assert usage == Usage()


def test_blocks_of_generators_may_overlap(make):
    embedder = make()

    def answers():
        with track_usage() as usage:
            yield usage

    first, second = answers(), answers()
    one, two = next(first), next(second)
    first.close()
    embedder.embed(["a"])
    assert (one.texts_sent, two.texts_sent) == (0, 1)
    second.close()
    embedder.embed(["b"])
    assert (one.texts_sent, two.texts_sent) == (0, 1)

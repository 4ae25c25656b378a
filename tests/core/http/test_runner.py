"""Running generators on an event loop; the tests of embeddings and chat cover everything else."""

import asyncio
import threading

import pytest

from nanogpt_core.http.client import HttpReply
from nanogpt_core.http.runner import Run, Yield, run_async

LARGE = 1 << 20


@pytest.mark.parametrize("caches", [True, False])
async def test_large_replies_are_parsed_one_after_another_also_after_they_were_cached(caches):
    order, cached = [], threading.Barrier(2)

    async def send(_request):
        await asyncio.sleep(0)
        return HttpReply(b"x" * LARGE, None)

    def parse(name):
        reply = yield "request"
        assert len(reply.body) == LARGE
        if caches:
            yield Run(lambda: cached.wait(60))
        for _ in range(3):
            order.append(name)
            yield Yield()

    await asyncio.gather(*(run_async(parse(name), send) for name in "ab"))
    assert sorted(order[:3]) in (["a"] * 3, ["b"] * 3)


async def test_cancelled_task_stores_a_reply_that_waits_to_be_parsed():
    stored, made = [], []
    received = asyncio.Event()

    async def send(_request):
        received.set()
        return HttpReply(b"x" * LARGE, None)

    def make_lists():
        yield "request"
        while not made:
            yield Yield()

    def parse():
        reply = yield "request"
        yield Run(lambda: stored.append(len(reply.body)))
        yield "another request"

    other = asyncio.ensure_future(run_async(make_lists(), send))
    await received.wait()
    received.clear()
    task = asyncio.ensure_future(run_async(parse(), send))
    await received.wait()
    await asyncio.sleep(0)
    received.clear()
    task.cancel()
    await asyncio.sleep(0)
    assert stored == []
    made.append(True)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored == [LARGE]
    assert not received.is_set()
    await other
    await run_async(parse(), send)  # the next reply is parsed, too
    assert stored == [LARGE, LARGE]


@pytest.mark.parametrize("then", ["end", "error", "request", "run"])
async def test_event_loop_has_a_turn_after_each_large_reply_that_was_parsed(then):
    loop, arrived, turns = asyncio.get_running_loop(), asyncio.Event(), [0]

    def count_turns():
        turns[0] += 1
        counting[0] = loop.call_soon(count_turns)

    counting = [loop.call_soon(count_turns)]

    async def send(request):
        await arrived.wait()  # all replies arrive in one turn
        return HttpReply(b"x" * (LARGE if request == "large" else 1), None)

    def parse():
        yield "large"
        parsed_in.append(turns[0])
        if then == "error":
            raise ValueError
        if then == "request":
            yield "small"
        if then == "run":
            yield Run(lambda: None)

    parsed_in = []
    tasks = [asyncio.ensure_future(run_async(parse(), send)) for _ in range(4)]
    await asyncio.sleep(0)
    arrived.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    counting[0].cancel()
    assert len(set(parsed_in)) == 4
    assert {type(result) for result in results} == {ValueError if then == "error" else type(None)}

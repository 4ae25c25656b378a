"""Running generators on an event loop; the tests of embeddings and chat cover everything else."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from importlib.util import find_spec

import pytest

from nanogpt_core.http.client import HttpReply
from nanogpt_core.http.runner import Run, Yield, run_async

LARGE = 1 << 20


async def test_cancelled_task_stores_a_reply_that_waits_while_lists_are_made():
    stored, received = [], asyncio.Event()

    async def send(_request):
        received.set()
        return HttpReply(b"x" * LARGE, None)

    def make_lists():
        yield "request"
        while not stored:
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
    received.clear()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored == [LARGE]
    assert not received.is_set()
    await other


@pytest.mark.parametrize("then", ["end", "error", "request", "run", "lists"])
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
            parsed_in.append(turns[0])
        for _ in range(3 if then == "lists" else 0):
            yield Yield()
            parsed_in.append(turns[0])

    parsed_in = []
    tasks = [asyncio.ensure_future(run_async(parse(), send)) for _ in range(4)]
    await asyncio.sleep(0)
    arrived.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    counting[0].cancel()
    assert len(set(parsed_in)) == len(parsed_in) == {"run": 8, "lists": 16}.get(then, 4)
    assert {type(result) for result in results} == {ValueError if then == "error" else type(None)}


NESTED = """
import asyncio, nest_asyncio
from nanogpt_core.http.client import HttpReply
from nanogpt_core.http.runner import run_async

nest_asyncio.apply()

async def send(_request):
    return HttpReply(b"x" * (1 << 20), None)

def parse(in_hook):
    yield "request"
    if not in_hook:
        asyncio.get_event_loop().run_until_complete(run_async(parse(in_hook=True), send))
    print("parsed")

asyncio.run(run_async(parse(in_hook=False), send))
"""


@pytest.mark.skipif(find_spec("nest_asyncio") is None, reason="nest_asyncio is not installed")
def test_hook_may_run_the_event_loop_again_while_a_large_reply_is_parsed():
    # In a process of its own: nest_asyncio changes all event loops.
    ended = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["parsed", "parsed"]


def test_event_loops_of_many_threads_parse_large_replies_and_are_released():
    loops, barrier, failures = weakref.WeakSet(), threading.Barrier(8), []

    async def send(_request):
        return HttpReply(b"x" * LARGE, None)

    def parse():
        yield "request"
        yield Yield()

    async def parse_several():
        loops.add(asyncio.get_running_loop())
        await asyncio.gather(*(run_async(parse(), send) for _ in range(3)))

    def work():
        try:
            for _ in range(20):
                barrier.wait(60)
                asyncio.run(parse_several())
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    del threads, thread
    gc.collect()
    assert len(loops) == 0

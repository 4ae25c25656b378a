"""Cancellations that are held back: raised once, at a wait for the network or at the end."""

import asyncio
import sys

import anyio
import pytest

from nanogpt_core._runtime import task_cancellation
from nanogpt_core._runtime.task_cancellation import hold_cancellation, interruptible, raising_held_back


async def take_turns(seen):
    for _ in range(3):
        await asyncio.sleep(0)
    seen.append("turns")


async def wait_briefly(seen):
    await asyncio.get_running_loop().run_in_executor(None, seen.append, "waited")


async def wait_in_an_interruptible_part(seen):
    await take_turns(seen)
    with interruptible():
        await asyncio.Event().wait()


async def cancelled(coroutine):
    """Run a coroutine in a task that is cancelled after a turn of the event loop; return the task when it has ended."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    task.cancel("reason")
    await asyncio.wait([task], timeout=60)
    return task


@pytest.mark.parametrize(
    ("work", "done"),
    [
        (take_turns, ["turns", "after"]),
        (wait_briefly, ["waited", "after"]),
        (wait_in_an_interruptible_part, ["turns"]),
    ],
)
def test_cancellation_is_raised_in_an_interruptible_part_or_at_the_end_of_the_block(work, done):
    async def run(seen):
        with raising_held_back():
            await hold_cancellation(work(seen))
            seen.append("after")
        seen.append("never")

    async def main():
        seen = []
        task = await cancelled(run(seen))
        assert task.cancelled()
        await asyncio.get_running_loop().shutdown_default_executor()
        assert seen == done

    asyncio.run(main())


def test_hold_in_an_interruptible_part_holds_back_too():
    async def run(seen):
        with raising_held_back(), interruptible():
            await hold_cancellation(take_turns(seen))

    async def main():
        seen = []
        task = await cancelled(run(seen))
        assert (task.cancelled(), seen) == (True, ["turns"])

    asyncio.run(main())


def test_task_does_not_inherit_a_cancellation_that_is_held_back():
    async def run_in_child():
        with raising_held_back():
            return "went on"

    async def run(children):
        with raising_held_back():
            await hold_cancellation(take_turns([]))
            children.append(asyncio.ensure_future(run_in_child()))

    async def main():
        children = []
        task = await cancelled(run(children))
        assert task.cancelled()
        assert await children[0] == "went on"

    asyncio.run(main())


@pytest.mark.parametrize("cancels", ["asyncio", "anyio"])
def test_long_wait_is_interrupted_after_a_while(monkeypatch, cancels):
    # As in a mock of a slow service, in place of the network.
    monkeypatch.setattr(task_cancellation, "_MAX_HOLD_SECONDS", 0.01)

    async def answer_slowly(seen):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("interrupted")
            raise

    async def run(seen):
        with anyio.move_on_after(0 if cancels == "anyio" else None):
            await hold_cancellation(answer_slowly(seen))
        return "went on"

    async def main():
        seen = []
        task = asyncio.ensure_future(run(seen))
        await asyncio.sleep(0)
        if cancels == "asyncio":
            task.cancel()
        await asyncio.wait([task], timeout=60)
        assert seen == ["interrupted"]
        assert task.cancelled() if cancels == "asyncio" else task.result() == "went on"

    asyncio.run(main())


async def fail():
    await asyncio.sleep(0)
    raise ValueError("mine")


def test_error_of_what_is_awaited_passes():
    async def main():
        with pytest.raises(ValueError, match="mine"):
            await hold_cancellation(fail())

    asyncio.run(main())


def test_error_does_not_swallow_a_cancellation_that_is_held_back():
    async def run():
        with raising_held_back():
            await hold_cancellation(fail())

    async def main():
        task = await cancelled(run())
        assert task.cancelled()

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() came with Python 3.11")
@pytest.mark.parametrize("work", [take_turns, wait_in_an_interruptible_part])
def test_cancellation_that_is_held_back_counts_once(work):
    async def run_out_of_time():
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            loop.call_soon(limit.reschedule, loop.time())
            with raising_held_back():
                await hold_cancellation(work([]))

    async def main():
        with pytest.raises(TimeoutError):
            await run_out_of_time()
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # raises a cancellation that was left behind

    asyncio.run(main())

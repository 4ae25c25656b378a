"""Runs the requests of one call at once: in threads, or in tasks of the running event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

__all__ = ["in_tasks", "in_threads"]


def in_threads(tasks: Sequence[Callable[[], None]], most: int, stop: threading.Event) -> None:
    """Run all tasks, at most so many at once; raise the first failure after those under way have ended.

    Args:
        tasks: What to run.
        most: How many at once.
        stop: Set when the others should give up.
    """
    if len(tasks) == 1 or most == 1:
        for task in tasks:
            task()
        return
    if not tasks:
        return
    executor = ThreadPoolExecutor(min(most, len(tasks)), thread_name_prefix="nanogpt")
    futures = [executor.submit(task) for task in tasks]
    try:
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    except BaseException:
        # Ctrl-C: requests under way go on by themselves and are kept, but nobody waits for them here.
        stop.set()
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    failure = next((error for future in futures if future in done and (error := future.exception())), None)
    if failure is not None:
        stop.set()
    executor.shutdown(wait=True, cancel_futures=True)
    if failure is not None:
        raise failure


async def in_tasks(
    tasks: Sequence[Callable[[asyncio.Event], Awaitable[None]]], most: int, stop: threading.Event
) -> None:
    """Run all tasks, at most so many at once; raise the first failure after those under way have ended.

    When this is cancelled, so are the tasks under way.

    Args:
        tasks: What to run; each is given an event that cuts its waits short.
        most: How many at once.
        stop: Set when the others should give up.
    """
    queue = iter(tasks)
    halt = asyncio.Event()

    async def work() -> None:
        try:
            for task in queue:
                if halt.is_set():
                    return
                await task(halt)
        except BaseException:
            stop.set()
            halt.set()
            raise

    workers = [asyncio.ensure_future(work()) for _ in range(min(most, len(tasks)))]
    try:
        if workers:
            await asyncio.wait(workers)
    finally:
        for worker in workers:
            worker.cancel()
        failures = await asyncio.gather(*workers, return_exceptions=True)
    failure = next((failure for failure in failures if failure is not None), None)
    if failure is not None:
        raise failure

"""Runs the requests of one call at once: in threads, or in tasks of the running event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

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
    # Plain threads, which are daemons where the caller's is one. The interpreter's exit waits for all that an executor
    # was given, whoever gave it, and an executor takes nothing more from then on.
    queue, lock, failures = iter(tasks), threading.Lock(), list[BaseException]()

    def work() -> None:
        try:
            while not failures:
                with lock:
                    task = next(queue, None)
                if task is None:
                    return
                task()
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)
            stop.set()

    workers = [threading.Thread(target=work, name=f"nanogpt-{number}") for number in range(min(most, len(tasks)))]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException as error:
        # Ctrl-C: requests under way go on by themselves and are kept, but nobody waits for them here.
        failures.append(error)
        stop.set()
        raise
    if failures:
        raise failures[0]


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
    failures: list[BaseException] = []

    async def work() -> None:
        try:
            for task in queue:
                if halt.is_set():
                    return
                await task(halt)
        except BaseException as error:
            # In the order in which they came: the later ones may only say that they gave up because of the first.
            failures.append(error)
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
        await asyncio.gather(*workers, return_exceptions=True)
    if failures:
        raise failures[0]

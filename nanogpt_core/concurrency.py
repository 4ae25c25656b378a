"""Runs the requests of one call at once: in threads, or in tasks of the running event loop.

Requests at once hide the time that the service takes. Where it takes hardly any, they only get into each other's way,
for room in the processor's memory and for the interpreter. So one begins, and others join while the process is waiting
more than working.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

__all__ = ["in_tasks", "in_threads"]


_LOOK_AFTER = 0.002  # seconds
_JOIN_AFTER = 0.025  # seconds: whatever the process does; it may be busy with other things
_BUSY = 0.5


class _Crew:
    """Tells when one more should join.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 1
        self._joined = self._looked = time.monotonic()
        self._worked = time.process_time()

    @property
    def complete(self) -> bool:
        """Whether nobody can join any more."""
        return self._size >= self._most

    def grows(self) -> bool:
        """Whether one joins now; asked every few milliseconds."""
        now, worked = time.monotonic(), time.process_time()
        waiting = worked - self._worked < _BUSY * (now - self._looked)
        self._looked, self._worked = now, worked
        if waiting or now - self._joined > _JOIN_AFTER:
            self._size += 1
            self._joined = now
            return True
        return False


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
    none_left = threading.Event()

    def work() -> None:
        try:
            while not failures:
                with lock:
                    task = next(queue, None)
                if task is None:
                    break
                task()
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)
            stop.set()
        none_left.set()

    workers: list[threading.Thread] = []

    def join_in() -> None:
        workers.append(threading.Thread(target=work, name=f"nanogpt-{len(workers)}"))
        workers[-1].start()

    try:
        join_in()
        crew = _Crew(min(most, len(tasks)))
        while not crew.complete and not none_left.wait(_LOOK_AFTER):
            if crew.grows():
                join_in()
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

    workers: list[asyncio.Future[None]] = []
    try:
        if tasks:
            workers.append(asyncio.ensure_future(work()))
        crew = _Crew(min(most, len(tasks)))
        while not crew.complete:
            # The first to end has found nothing left to do, or has failed.
            ended, _ = await asyncio.wait(workers, timeout=_LOOK_AFTER, return_when=asyncio.FIRST_COMPLETED)
            if ended:
                break
            if crew.grows():
                workers.append(asyncio.ensure_future(work()))
        if workers:
            await asyncio.wait(workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if failures:
        raise failures[0]

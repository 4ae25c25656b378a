"""Runs the requests of one call at once: in threads, or in tasks of the running event loop.

Requests at once hide the time that the service takes. Where it takes hardly any, they only get into each other's way,
for room in the processor's memory and for the interpreter. So one begins, and others join while there is more waiting
than working.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

__all__ = ["GRACE", "park_if_exiting", "run_in_tasks", "run_in_threads", "start_thread"]

GRACE = 3.0
"""Seconds that requests under way get to end, when whoever began them has gone away: by Ctrl-C, or out of a stream."""

_LOOK_AFTER = 0.002  # seconds
_BUSY = 0.8


class _Crew:
    """Tells when one more should join.

    Args:
        most: How many there may be.
        worked: Returns the seconds that they have kept a processor busy, all together.
    """

    def __init__(self, most: int, worked: Callable[[], float]) -> None:
        self._most = most
        self._size = 1
        self._clock = worked
        self._looked = time.monotonic()
        self._worked = worked()

    @property
    def complete(self) -> bool:
        """Whether nobody can join any more."""
        return self._size >= self._most

    def grows(self) -> bool:
        """Whether one joins now; asked every few milliseconds."""
        now, worked = time.monotonic(), self._clock()
        waiting = worked - self._worked < _BUSY * (now - self._looked)
        self._looked, self._worked = now, worked
        self._size += waiting
        return waiting


class _Worker(threading.Thread):
    stop: threading.Event
    _clock: int | None = None

    def run(self) -> None:
        # A thread asks for its own clock: for one that has ended, that is not allowed.
        if hasattr(time, "pthread_getcpuclockid"):
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        super().run()

    @property
    def worked(self) -> float:
        """Seconds that it has kept a processor busy; 0 where the system does not tell."""
        try:
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        except OSError:  # it has ended
            return 0.0


def start_thread(work: Callable[[], None], name: str, stop: threading.Event) -> _Worker:
    """Begin a thread; the interpreter's exit sets ``stop`` and waits for it, but no longer than :data:`GRACE`.

    An ordinary one would hold up the exit until its request's time is over, however long a service hangs; a daemon is
    stopped at once, although its vectors may be about to come in. An executor's exit waits for all that it was given.
    """
    thread = _Worker(target=work, name=name, daemon=True)
    thread.stop = stop
    thread.start()
    return thread


_exiting = threading.Event()


def park_if_exiting() -> None:
    """Stay here for good where the interpreter is exiting and this is a daemon thread.

    Its work was stopped, which is no failure to tell anybody of.
    """
    if _exiting.is_set() and threading.current_thread().daemon:
        threading.Event().wait()


@atexit.register
def _wait_for_threads() -> None:
    _exiting.set()
    until = time.monotonic() + GRACE
    workers = [thread for thread in threading.enumerate() if isinstance(thread, _Worker)]
    for worker in workers:
        worker.stop.set()
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))


def run_in_threads(tasks: Sequence[Callable[[], None]], most: int, stop: threading.Event) -> None:
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

    workers: list[_Worker] = []

    def join_in() -> None:
        workers.append(start_thread(work, f"nanogpt-{len(workers)}", stop))

    try:
        join_in()
        crew = _Crew(min(most, len(tasks)), lambda: sum(worker.worked for worker in workers))
        while not crew.complete and not none_left.wait(_LOOK_AFTER):
            if crew.grows():
                join_in()
        for worker in workers:
            worker.join()
    except BaseException as error:
        # Ctrl-C: nobody waits for the requests under way here; what comes in while the process lives is kept.
        failures.append(error)
        stop.set()
        raise
    if failures:
        park_if_exiting()
        raise failures[0]


async def run_in_tasks(
    tasks: Sequence[Callable[[asyncio.Event], Awaitable[None]]], most: int, stop: threading.Event
) -> None:
    """Run all tasks, at most so many at once; raise the first failure after those under way have ended.

    When this is cancelled, so are the tasks under way.

    Args:
        tasks: What to run; each is given an event that cuts its waits short.
        most: How many at once.
        stop: Set when the others should give up.
    """
    halt = asyncio.Event()
    if len(tasks) == 1:
        await _alone(tasks[0](halt), stop)
        return
    queue = iter(tasks)
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
        crew = _Crew(min(most, len(tasks)), time.thread_time)
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


async def _alone(task: Awaitable[None], stop: threading.Event) -> None:
    # Without a task of the event loop's, whose making, waking and ending take five turns of the loop.
    try:
        await task
    except BaseException:
        stop.set()
        raise

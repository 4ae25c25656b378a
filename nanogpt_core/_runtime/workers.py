"""Runs the batches of one call concurrently, in threads or in tasks, and functions that block beside an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Generic, ParamSpec, TypeVar

from nanogpt_core._runtime.threads import NoThreadError, call_into, lacks_threads, park_if_exiting, start_thread
from nanogpt_core.errors import ConfigurationError

P = ParamSpec("P")
T = TypeVar("T")


def run_in_threads(tasks: Sequence[Callable[[], None]], max_workers: int, stop: threading.Event) -> None:
    """Run all tasks in threads; raise the first failure after the tasks in progress have ended.

    The failure sets ``stop``: tasks in progress should end soon, and no further task starts. A single task runs in the
    calling thread. So do all tasks if the process may not start a thread.
    """
    queue, lock, failures = iter(tasks), threading.Lock(), list[BaseException]()

    def work() -> None:
        try:
            while not failures:
                with lock:
                    task = next(queue, None)
                if task is None:
                    return
                task()
        except BaseException as error:  # noqa: BLE001 - raised in the calling thread below
            failures.append(error)
            stop.set()

    count = min(max_workers, len(tasks))
    threads = list[threading.Thread]()
    try:
        with contextlib.suppress(NoThreadError):  # for example because of a limit on processes
            for number in range(count) if count > 1 else ():
                threads.append(start_thread(work, f"nanogpt-{number}", stop))
        if not threads:
            work()
        for thread in threads:
            thread.join()
    except BaseException as error:
        # Ctrl-C: do not wait for the requests in flight. Their vectors are cached if they arrive in time.
        failures.append(error)
        stop.set()
        raise
    if failures:
        park_if_exiting()
        raise failures[0]


async def run_in_tasks(
    tasks: Sequence[Callable[[asyncio.Event], Awaitable[None]]], max_workers: int, stop: threading.Event
) -> None:
    """Run all tasks on the running event loop; raise the first failure after the tasks in progress have ended.

    Each task gets an event that ends its waits early. The failure sets ``stop``, and so does cancelling this coroutine,
    which cancels the tasks in progress.
    """
    queue, halt, failures = iter(tasks), asyncio.Event(), list[BaseException]()

    async def work() -> None:
        try:
            for task in queue:
                if halt.is_set():
                    return
                await task(halt)
        except BaseException as error:
            failures.append(error)
            stop.set()
            halt.set()
            raise

    if len(tasks) <= 1:
        # Without a task of its own: creating and waking one costs several turns of the event loop.
        await work()
        return
    workers = [asyncio.ensure_future(work()) for _ in range(min(max_workers, len(tasks)))]
    try:
        await asyncio.wait(workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if failures:
        raise failures[0]


def require_event_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
        ConfigurationError: There is none, or it is one of another library.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConfigurationError(
            "The async methods need a running asyncio event loop.",
            remedy="Use asyncio (or uvloop); under trio, call the sync methods in a thread.",
        ) from error


async def run_in_thread(function: Callable[[], None]) -> None:
    """Call ``function`` in a thread. If this coroutine is cancelled, the function still runs to its end."""
    # Not call_in_thread: cancelling that drops a function that no thread has started yet, and with it paid vectors.
    await asyncio.shield(_start_in_executor(function))


async def call_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of ``function``, called in a thread as by ``asyncio.to_thread``.

    If the process may not start another thread, or the interpreter is exiting, it is called in this one.
    """
    return await _start_in_executor(partial(function, *args, **kwargs))


def _start_in_executor(function: Callable[[], T]) -> asyncio.Future[T]:
    loop, call = require_event_loop(), _CalledOnce(function)
    try:
        return loop.run_in_executor(None, call)
    except RuntimeError as error:
        if not lacks_threads(error):
            raise
    future: asyncio.Future[T] = loop.create_future()
    future.set_result(call())
    return future


class _CalledOnce(Generic[T]):
    """A function that is called once, in the context of its maker; further calls return the same.

    An executor that could not start a thread keeps the function, and calls it when another of its threads is free.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = partial(contextvars.copy_context().run, function)
        self._lock = threading.Lock()
        self._outcome: Future[T] = Future()

    def __call__(self) -> T:
        with self._lock:
            if not self._outcome.done():
                call_into(self._outcome, self._function)
        return self._outcome.result()

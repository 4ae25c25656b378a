"""Holds back the cancellation of a task while a library is in the middle of its bookkeeping.

The reason is in docs/adr/0005-cancellations-wait-for-the-connection-pool.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

# Bookkeeping takes a few turns of the event loop. What takes longer is not ours, such as a mock of a slow service.
_MAX_HOLD_SECONDS = 1.0

_is_interruptible: ContextVar[bool] = ContextVar("nanogpt_is_interruptible", default=False)
_held_back: ContextVar[asyncio.CancelledError | None] = ContextVar("nanogpt_held_back", default=None)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a cancellation interrupt a part of the coroutine that :func:`hold_cancellation` awaits.

    Raises:
        CancelledError: A cancellation was held back until now.
    """
    raise_held_back()
    token = _is_interruptible.set(True)
    try:
        yield
    finally:
        _is_interruptible.reset(token)


@types.coroutine
def hold_cancellation(coroutine: Coroutine[Any, Any, T]) -> Generator[Any, None, T]:
    """Await ``coroutine``; a cancellation of the task interrupts only its :func:`interruptible` parts.

    A cancellation that comes at another time is raised when the next such part begins, or after a wait of a second. If
    it is still held back at the end, the caller must raise it: with :func:`raise_held_back`, once it has stored or
    closed the result.
    """
    token = _is_interruptible.set(False)
    resume: Callable[[], Any] = partial(coroutine.send, None)
    try:
        while True:
            awaited = resume()
            resume = partial(coroutine.send, None)
            try:
                if _is_interruptible.get():
                    yield awaited
                else:
                    yield from _wait_out(awaited)
            except BaseException as error:  # noqa: BLE001 - raised in the coroutine
                resume = partial(coroutine.throw, error)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        _is_interruptible.reset(token)


@contextlib.contextmanager
def raising_held_back() -> Iterator[None]:
    """Raise a cancellation that is still held back at the end of the block.

    One that was held back before the block belongs to the task whose context this one has copied, and is dropped.
    """
    _held_back.set(None)
    try:
        yield
    finally:
        raise_held_back()


def raise_held_back() -> None:
    """Raise the cancellation that is held back, if there is one."""
    if (cancelled := _held_back.get()) is not None:
        _held_back.set(None)
        raise cancelled


async def _wait_out(future: asyncio.Future[Any] | None) -> None:
    """Wait for ``future``, or for one turn of the event loop if it is None, and hold a cancellation back meanwhile."""
    if future is None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            _held_back.set(error)
        return
    until = math.inf
    while not future.done():
        now = asyncio.get_running_loop().time()
        if _held_back.get() is not None:
            until = min(until, now + _MAX_HOLD_SECONDS)  # anyio cancels again in each turn
        if until <= now:
            future.cancel()
            raise_held_back()
        try:
            await asyncio.wait([future], timeout=None if until == math.inf else until - now)
        except asyncio.CancelledError as error:
            _held_back.set(error)

"""Runs a generator that decides and does no I/O, in a thread or on an event loop: a call of embeddings or of chat.

Such a generator yields an action and receives its result, or the error that the action raised. Actions are
:class:`Wait`, :class:`Run`, :class:`Yield` and :class:`Join`; everything else is a request to send.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.loop_turns import take_turn
from nanogpt_core._runtime.task_cancellation import hold_cancellation, raise_held_back, raising_held_back
from nanogpt_core._runtime.workers import run_in_thread
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.client import LARGE_REPLY_BYTES, HttpReply

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait:
    """Sleep for ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """Call a function that may block; on an event loop, in a thread."""

    function: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Yield:
    """Let an event loop run its other tasks before the work goes on."""


class Joinable(Protocol):
    """An event that threads and event loops can wait for."""

    def wait(self, seconds: float) -> None:
        """Wait in a thread, at most ``seconds``."""

    async def wait_async(self, seconds: float) -> None:
        """Wait on the event loop, at most ``seconds``."""


@dataclass(frozen=True, slots=True)
class Join:
    """Wait at most ``seconds`` for work that another thread or task does."""

    event: Joinable
    seconds: float


def run_sync(steps: Generator[Any, Any, T], send: Callable[[Any], Any], stop: threading.Event | None = None) -> T:
    """Run a generator in this thread, and return its result.

    ``send`` sends a request that the generator yields, and returns the reply; ``stop`` ends waits early.
    """
    try:
        action = next(steps)
        while True:
            result = None
            try:
                if isinstance(action, Wait):
                    clock.sleep(action.seconds, stop)
                elif isinstance(action, Run):
                    action.function()
                elif isinstance(action, Join):
                    action.event.wait(action.seconds)
                elif not isinstance(action, Yield):
                    result = send(action)
            except NanoGPTError as error:
                action = steps.throw(error)
            else:
                action = steps.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def run_async(
    steps: Generator[Any, Any, T],
    send: Callable[[Any], Awaitable[Any]],
    stop: asyncio.Event | None = None,
) -> T:
    """Run a generator on the running event loop, and return its result; see :func:`run_sync`.

    Large replies to embedding requests are parsed one after another. In between, the event loop gets its turn.
    """
    with raising_held_back():
        try:
            return await _run_steps(steps, send, stop)
        finally:
            steps.close()


async def _run_steps(
    steps: Generator[Any, Any, T], send: Callable[[Any], Awaitable[Any]], stop: asyncio.Event | None
) -> T:
    is_large = False
    try:
        action = next(steps)
        while True:
            try:
                result = await _perform(action, send, stop)
            except NanoGPTError as error:
                action = steps.throw(error)
                continue
            # A large reply waits for a turn again after its vectors were cached.
            if result is not None or not isinstance(action, Run):
                is_large = isinstance(result, HttpReply) and len(result.body) >= LARGE_REPLY_BYTES
            if not is_large:
                action = steps.send(result)
                continue
            if result is None:
                raise_held_back()  # the vectors are stored
                await take_turn()
            else:
                await hold_cancellation(take_turn())  # a cancellation here would lose vectors that are paid for
            action = steps.send(result)
            while isinstance(action, Yield):
                await asyncio.sleep(0)
                await asyncio.sleep(0)  # other calls that wait for a turn go first
                await take_turn()
                action = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def _perform(action: Any, send: Callable[[Any], Awaitable[Any]], stop: asyncio.Event | None) -> Any:
    # Not before a Run, which stores vectors that are paid for, or the Yield in front of it.
    if not isinstance(action, (Run, Yield)):
        raise_held_back()
    if isinstance(action, Wait):
        await clock.async_sleep(action.seconds, stop)
    elif isinstance(action, Run):
        await run_in_thread(action.function)
    elif isinstance(action, Join):
        await action.event.wait_async(action.seconds)
    elif isinstance(action, Yield):
        await asyncio.sleep(0)
    else:
        return await send(action)
    return None

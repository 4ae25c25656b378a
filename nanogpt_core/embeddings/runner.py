"""Does what a dispatcher wants done, in a thread or in an event loop.

A dispatcher is a generator that decides and does nothing: it yields :class:`Send`, :class:`Wait`, :class:`Do` or
:class:`Yield`, and is handed the result or the error.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from nanogpt_core._runtime import clock
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.requester import Requester
from nanogpt_core.http.retry import Wait

__all__ = ["Action", "Run", "Send", "Step", "Yield", "run_async", "run_sync"]

# A reply that takes a millisecond to read.
_LARGE = 1 << 18


@dataclass(frozen=True, slots=True)
class Send:
    """Have this sent: a POST of ``body``, or a GET where it is None; the result is the reply's bytes."""

    path: str
    body: bytes | None
    seconds: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """Have this called, where it may block."""

    work: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Yield:
    """Let an event loop do what else there is to do, before work goes on that takes a while."""


Action = Send | Wait | Run | Yield
Step = Generator[Action, bytes, None]


def run_sync(step: Step, transport: Requester, stop: threading.Event) -> None:
    """Do what ``step`` asks for until it is done; cut waits short when ``stop`` is set."""
    try:
        action = next(step)
        while True:
            # Not in a variable, which tools that print tracebacks would show: a reply may repeat the key.
            result = deque[bytes]()
            try:
                result.append(_do(action, transport, stop))
            except NanoGPTError as error:
                action = step.throw(error)
            else:
                action = step.send(result.pop())
    except StopIteration:
        return


def _do(action: Action, transport: Requester, stop: threading.Event) -> bytes:
    if isinstance(action, Send):
        return transport.send(action.path, action.body, action.seconds, action.most_bytes)
    if isinstance(action, Wait):
        clock.sleep(action.seconds, stop)
    elif isinstance(action, Run):
        action.work()
    return b""


async def run_async(step: Step, transport: Requester, stop: asyncio.Event, turn: asyncio.Lock) -> None:
    """Do what ``step`` asks for until it is done, without blocking the event loop; as :func:`run_sync`.

    Replies may come in together. Large ones are read one after another, as they are given ``turn``, and in between the
    event loop goes on.
    """
    try:
        action = next(step)
        while True:
            result = deque[bytes]()  # see above
            try:
                result.append(await _ado(action, transport, stop))
            except NanoGPTError as error:
                action = step.throw(error)
                continue
            if len(result[0]) < _LARGE:
                action = step.send(result.pop())
                continue
            async with turn:
                try:
                    action = step.send(result.pop())
                    while isinstance(action, Yield):
                        await asyncio.sleep(0)
                        action = step.send(b"")
                finally:
                    await asyncio.sleep(0)
    except StopIteration:
        return


async def _ado(action: Action, transport: Requester, stop: asyncio.Event) -> bytes:
    if isinstance(action, Send):
        return await transport.asend(action.path, action.body, action.seconds, action.most_bytes)
    if isinstance(action, Wait):
        await clock.async_sleep(action.seconds, stop)
    elif isinstance(action, Yield):
        await asyncio.sleep(0)
    else:
        # Not to_thread, which takes back what no thread has begun: whoever cancels the call keeps what it has got.
        work = contextvars.copy_context().run
        try:
            future = asyncio.get_running_loop().run_in_executor(None, work, action.work)
        except RuntimeError:  # the interpreter is about to exit, and begins no threads any more
            action.work()
        else:
            await asyncio.shield(future)
    return b""

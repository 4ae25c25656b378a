"""Runs a dispatch generator, in a thread or on an event loop.

A dispatch generator decides and does no I/O. It yields an action (:class:`Send`, :class:`Yield`, :class:`Join`,
:class:`~nanogpt_core.http.retry.Run` or :class:`~nanogpt_core.http.retry.Wait`) and receives its result, or the error
that the action raised.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.workers import run_in_thread
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.client import HttpClient, HttpReply
from nanogpt_core.http.retry import Run, Wait

__all__ = ["Action", "Dispatch", "Join", "Joinable", "Send", "Yield", "run_async", "run_sync"]

# Parsing a reply of this size takes about a millisecond.
_LARGE_REPLY_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Send:
    """Send one request; the result is the reply.

    Attributes:
        path: Path below the base URL.
        body: JSON to POST; None for a GET.
        timeout: Seconds that the attempt may take in total.
        max_bytes: Maximum size of the reply.
    """

    path: str
    body: bytes | None
    timeout: float
    max_bytes: int


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
    """Wait for work that another thread or task does.

    Attributes:
        event: The event to wait for.
        seconds: Maximum time to wait.
    """

    event: Joinable
    seconds: float


Action = Send | Wait | Run | Yield | Join
Dispatch = Generator[Action, HttpReply, None]
_NO_REPLY = HttpReply(b"")


def run_sync(dispatch: Dispatch, client: HttpClient, stop: threading.Event) -> None:
    """Run ``dispatch`` in this thread; ``stop`` ends its waits early."""
    try:
        action = next(dispatch)
        while True:
            try:
                result = _perform(action, client, stop)
            except NanoGPTError as error:
                action = dispatch.throw(error)
            else:
                action = dispatch.send(result)
    except StopIteration:
        return
    finally:
        dispatch.close()


def _perform(action: Action, client: HttpClient, stop: threading.Event) -> HttpReply:
    if isinstance(action, Send):
        return client.send(action.path, action.body, action.timeout, action.max_bytes)
    if isinstance(action, Wait):
        clock.sleep(action.seconds, stop)
    elif isinstance(action, Run):
        action.function()
    elif isinstance(action, Join):
        action.event.wait(action.seconds)
    return _NO_REPLY


async def run_async(dispatch: Dispatch, client: HttpClient, halt: asyncio.Event, parsing: asyncio.Lock) -> None:
    """Run ``dispatch`` on the running event loop; ``halt`` ends its waits early.

    Large replies are parsed one after another, under the lock ``parsing``. In between, the event loop gets its turn.
    """
    try:
        action = next(dispatch)
        while True:
            try:
                result = await _perform_async(action, client, halt)
            except NanoGPTError as error:
                action = dispatch.throw(error)
                continue
            if len(result.body) < _LARGE_REPLY_BYTES:
                action = dispatch.send(result)
                continue
            async with parsing:
                try:
                    action = dispatch.send(result)
                    while isinstance(action, Yield):
                        await asyncio.sleep(0)
                        action = dispatch.send(_NO_REPLY)
                finally:
                    await asyncio.sleep(0)
    except StopIteration:
        return
    finally:
        dispatch.close()


async def _perform_async(action: Action, client: HttpClient, halt: asyncio.Event) -> HttpReply:
    if isinstance(action, Send):
        return await client.asend(action.path, action.body, action.timeout, action.max_bytes)
    if isinstance(action, Wait):
        await clock.async_sleep(action.seconds, halt)
    elif isinstance(action, Run):
        await run_in_thread(action.function)
    elif isinstance(action, Join):
        await action.event.wait_async(action.seconds)
    else:
        await asyncio.sleep(0)
    return _NO_REPLY

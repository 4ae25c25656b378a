"""Turns of an event loop for work that blocks it for milliseconds: one such piece of work in each turn."""

from __future__ import annotations

import asyncio
import threading


class _ThreadState(threading.local):
    """The state of one thread, and so of the event loop that runs in it.

    Attributes:
        busy_loop: The event loop, if its present turn is taken.
    """

    busy_loop: asyncio.AbstractEventLoop | None = None


_thread_state = _ThreadState()


async def take_turn() -> None:
    """Wait for a turn of the running event loop that no other call has taken.

    No lock: the work of a turn can end with the loop, and a hook in it may run the loop again, as nest_asyncio allows.
    """
    loop = asyncio.get_running_loop()
    while _thread_state.busy_loop is loop:  # noqa: ASYNC110 - nothing tells of the next turn but that it comes
        await asyncio.sleep(0)
    _thread_state.busy_loop = loop
    loop.call_soon(_end_turn)


def _end_turn() -> None:
    _thread_state.busy_loop = None

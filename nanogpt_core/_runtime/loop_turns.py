"""Turns of an event loop for work that blocks it for milliseconds: one such piece of work in each turn."""

from __future__ import annotations

import asyncio
import weakref

# Event loops whose present turn is taken.
_busy_loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


async def take_turn() -> None:
    """Wait for a turn of the running event loop that no other call has taken.

    No lock: the work of a turn can end with the loop, and a hook in it may run the loop again, as nest_asyncio allows.
    """
    loop = asyncio.get_running_loop()
    while loop in _busy_loops:  # noqa: ASYNC110 - no event tells when the next turn begins
        await asyncio.sleep(0)
    _busy_loops.add(loop)
    loop.call_soon(_busy_loops.discard, loop)

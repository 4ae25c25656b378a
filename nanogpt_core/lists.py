"""Lists of floats out of a matrix, which the frameworks want, without waking the garbage collector for them.

Python's collector looks through each new list several times, number by number, and finds nothing: floats hold nothing.
For many vectors that takes as long as making the lists. So it is held back while a part of them is made, at most a
tenth of a second, and what is new is then counted as old, which it looks through seldom. Both concern the whole
process; setting ``hold_back_collector`` to False leaves the collector alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ato_lists", "hold_back_collector", "to_lists"]

hold_back_collector = True
"""Whether the garbage collector may be held back while lists are made."""

_PART = 2048  # vectors
_PART_IN_LOOP = 256  # vectors: about ten milliseconds


def to_lists(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Return the rows of a matrix as lists of floats.

    Args:
        vectors: ``(n, d)`` float32.
    """
    lists: list[list[float]] = []
    for start in range(0, len(vectors), _PART):
        with _collector_held_back():
            lists += vectors[start : start + _PART].tolist()
    return lists


async def ato_lists(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Do what :func:`to_lists` does, and let the event loop go on in between."""
    lists: list[list[float]] = []
    for start in range(0, len(vectors), _PART_IN_LOOP):
        if start:
            await asyncio.sleep(0)
        with _collector_held_back():
            lists += vectors[start : start + _PART_IN_LOOP].tolist()
    return lists


class _Hold:
    """Who holds the collector back; the last one lets it go on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.was_on = False

    def begin(self) -> None:
        with self.lock:
            if not self.holders:
                self.was_on = gc.isenabled()
                gc.disable()
            self.holders += 1

    def end(self) -> None:
        with self.lock:
            self.holders -= 1
            if not self.holders and self.was_on:
                # What is frozen by somebody else must stay so, and thawing thaws all.
                if hasattr(gc, "freeze") and not gc.get_freeze_count():
                    gc.freeze()
                    gc.unfreeze()
                gc.enable()

    def forget(self) -> None:
        # The threads that held it are not in this child of a fork.
        if self.holders and self.was_on:
            gc.enable()
        self.__init__()  # type: ignore[misc]


_hold = _Hold()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_hold.forget)


@contextlib.contextmanager
def _collector_held_back() -> Iterator[None]:
    if not hold_back_collector:
        yield
        return
    _hold.begin()
    try:
        yield
    finally:
        _hold.end()

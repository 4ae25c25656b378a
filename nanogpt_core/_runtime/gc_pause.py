"""A pause of Python's garbage collector while lists of floats are made; see docs/adr/0050-pause-gc-for-lists.md."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

__all__ = ["gc_paused"]


class _Pause:
    """Counts the threads that need the pause; the last one ends it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.was_enabled = False

    def begin(self) -> None:
        with self.lock:
            if not self.holders:
                self.was_enabled = gc.isenabled()
                gc.disable()
            self.holders += 1

    def end(self) -> None:
        with self.lock:
            self.holders -= 1
            if not self.holders and self.was_enabled:
                gc.enable()

    def reset_in_child(self) -> None:
        # The threads that held the pause do not exist in a forked child.
        if self.holders and self.was_enabled:
            gc.enable()
        self.__init__()  # type: ignore[misc]


_pause = _Pause()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pause.reset_in_child)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector of this process in the block. Blocks may nest and overlap between threads."""
    _pause.begin()
    try:
        yield
    finally:
        _pause.end()

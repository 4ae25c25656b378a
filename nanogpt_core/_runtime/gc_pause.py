"""Python's garbage collector, held back for a moment while much is made that holds no circles.

It looks through each new list or dictionary several times, number by number, and finds nothing. So it is held back
while a part of a reply is read or a part of the lists is made, at most a tenth of a second. That concerns the whole
process; setting ``hold_back_collector`` to False leaves the collector alone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator

__all__ = ["gc_paused", "hold_back_collector"]

hold_back_collector = True
"""Whether the garbage collector may be held back."""

_LONGEST = 0.1


class _Hold:
    """Who holds the collector back; the last one lets it go on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.was_on = False
        self.ages = False
        self.since = 0.0

    def begin(self, *, made_to_last: bool) -> bool:
        """Hold it back, or return False where others have done so for too long already, one after another."""
        with self.lock:
            if not self.holders:
                self.was_on, self.ages, self.since = gc.isenabled(), False, time.monotonic()
                gc.disable()
            elif time.monotonic() - self.since > _LONGEST:
                return False
            self.holders += 1
            self.ages = self.ages or made_to_last
            return True

    def end(self) -> None:
        with self.lock:
            self.holders -= 1
            if not self.holders and self.was_on:
                # What is frozen by somebody else must stay so, and thawing thaws all.
                if self.ages and hasattr(gc, "freeze") and not gc.get_freeze_count():
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
def gc_paused(*, made_to_last: bool = False) -> Iterator[None]:
    """Hold the collector back in this block.

    Args:
        made_to_last: Whether what is made in it lives on. It then counts as old, which the collector looks through
            seldom, as does all else that was made since it was last at work.
    """
    if not hold_back_collector or not _hold.begin(made_to_last=made_to_last):
        yield
        return
    try:
        yield
    finally:
        _hold.end()

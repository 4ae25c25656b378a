"""Fork safety: locks that a fork finds free, and imports that a fork does not interrupt.

A lock that another thread holds at the fork would never be released in the child. Neither would the lock of a module
that another thread is importing.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Iterable

__all__ = ["ForkSafe", "import_modules"]


class ForkSafe:
    """An object with a lock, ``_lock``, that a fork finds free and leaves free, whatever other threads do."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        with _living_lock:
            _living.add(self)

    def _before_fork(self) -> None:
        """Called with the lock held, before the fork."""

    def _in_child(self) -> None:
        """Called in the child, where no other thread is."""


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
_living_lock = threading.Lock()


def _before_fork() -> None:
    _living_lock.acquire()
    for one in _living:
        one._lock.acquire()
        one._before_fork()


def _after_in_parent() -> None:
    for one in _living:
        one._lock.release()
    _living_lock.release()


def _after_in_child() -> None:
    # New locks, since a server that forks in C may not have told beforehand.
    global _living_lock  # noqa: PLW0603
    _living_lock = threading.Lock()
    for one in _living:
        one._lock = threading.RLock()
        one._in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


class _Imports(ForkSafe):
    def __init__(self) -> None:
        super().__init__()
        self._done: set[str] = set()

    def run(self, names: Iterable[str]) -> None:
        if self._done.issuperset(names):
            return
        with self._lock:
            for name in names:
                importlib.import_module(name)
            self._done.update(names)


_imports = _Imports()


def import_modules(names: Iterable[str]) -> None:
    """Import modules; a fork in another thread waits until the import is complete."""
    _imports.run(names)

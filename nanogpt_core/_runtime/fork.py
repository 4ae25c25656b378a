"""Locks that a fork leaves free: a lock that another thread holds at the fork would never be released in the child."""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["ForkSafe"]


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

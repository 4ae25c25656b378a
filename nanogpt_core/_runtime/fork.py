"""Fork safety: locks that a fork finds free, and imports that a fork does not interrupt.

A lock that another thread holds at the fork would never be released in the child. Neither would the lock of a module
that another thread is importing.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from nanogpt_core.errors import ConfigurationError

T = TypeVar("T")


class ForkSafe:
    """An object with a lock, ``_lock``, that a fork finds free and leaves free."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        with _living_lock:
            _living.add(self)

    def _before_fork(self) -> None:
        """Called with the lock held, before the fork."""

    def _in_child(self) -> None:
        """Called in the child, where no other thread is."""


class Registry(ForkSafe, Generic[T]):
    """Objects that are in use, by a digest of their options."""

    def __init__(self) -> None:
        super().__init__()
        self._objects: weakref.WeakValueDictionary[bytes, T] = weakref.WeakValueDictionary()

    def get(self, digest: bytes, make: Callable[[], T]) -> T:
        """Return the object of a digest, which is made if there is none."""
        with self._lock:
            found = self._objects.get(digest)
            if found is None:
                found = self._objects[digest] = make()
            return found


def check_process(process: int) -> None:
    """Check that a stream goes on in the process that began it: threads and connections do not survive a fork.

    Raises:
        ConfigurationError: It goes on in another one.
    """
    if os.getpid() != process:
        raise ConfigurationError(
            "This stream was begun before a fork, in another process.", remedy="Begin a stream in this process."
        )


_living: weakref.WeakSet[ForkSafe] = weakref.WeakSet()
_living_lock = threading.Lock()


def _before_fork() -> None:
    """Acquire every lock. Never wait for one while another is held: the thread that holds it may want that other."""
    busy: ForkSafe | None = None
    while (busy := _acquire_all(busy)) is not None:
        busy._lock.acquire()


def _acquire_all(held: ForkSafe | None) -> ForkSafe | None:
    """Acquire every lock but that of ``held``, which this thread has waited for.

    It is kept, since a thread that uses it all the time would take it again before this one.

    Returns:
        None; or, if another thread holds one of the locks, its object, with no lock acquired.
    """
    _living_lock.acquire()
    acquired = [] if held is None else [held]
    for one in _living:
        if one is held:
            continue
        if not one._lock.acquire(blocking=False):
            for other in acquired:
                other._lock.release()
            _living_lock.release()
            return one
        acquired.append(one)
    for one in acquired:
        one._before_fork()
    return None


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


_first_uses = ForkSafe()
_imported: set[str] = set()


def delay_forks() -> AbstractContextManager[bool | None]:
    """Return the lock that forks wait for; hold it around first uses of libraries with locks of their own."""
    return _first_uses._lock


def import_modules(names: Collection[str]) -> None:
    """Import modules; a fork in another thread waits until the import is complete."""
    if not _imported.issuperset(names):
        with delay_forks():
            for name in names:
                importlib.import_module(name)
            _imported.update(names)

"""The cache in SQLite: one file, safe for threads, processes, forks and kills.

Write-ahead logging lets readers go on while one process writes; a commit that a kill interrupts is undone at the next
opening. A cache file that is damaged is set aside and a new one begun; another program's database is left alone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core.cache.sqlite_file import (
    BUSY_SECONDS,
    FAILURES,
    connect,
    identity_of,
    locked,
    make_ready,
    place_of,
    set_aside,
    tells_of_damage,
    tells_of_lock,
)
from nanogpt_core.errors import ConfigurationError

__all__ = ["SQLiteCache"]

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], T]

_KEYS_A_QUERY = 900  # SQLite before 3.32 takes at most 999 parameters
_KEEP = 0.9
_TURNS = 3
# While another program keeps the file locked, nobody waits long for it a second time.
_BUSY_AGAIN = 0.1
# To note that an entry was used is not worth waiting for longer.
_BUSY_NOTING = 0.1


class SQLiteCache(ForkSafe):
    """A cache in a SQLite file. Threads, processes and forks may share it, and it may be killed at any moment.

    A file that cannot be read or written (no rights, full disk, another program's database) is said once in a warning,
    and the call goes on without it; what a read-only file holds is still read. A damaged file is renamed to
    ``<name>.corrupt-<number>``, with a warning, and a new one begun. Pickles and copies open the same file.

    A file that another program keeps locked is waited for, 10 seconds at most and for a quarter of the time that
    the call's ``deadline`` leaves; then the call goes on without it, and later ones wait a tenth of a second, until it
    is free again.

    Args:
        path: The file. Its folder is made where it does not exist, for the owner alone (0700); so is the file (0600).
        max_bytes: Most bytes of keys and entries to keep; the least recently used go first. What other processes add
            in the meantime is noticed a little later. Default: no limit.

    Raises:
        ConfigurationError: An argument that cannot be right.
        InvalidTypeError: An argument of the wrong type.
    """

    _connection: sqlite3.Connection | None = None

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise ConfigurationError(f"max_bytes must be at least 1, not {max_bytes}.")
        self.path = place_of(path)
        self._max_bytes = max_bytes
        self._warned = False
        self._identity: tuple[int, int] | None = None
        self._size: int | None = None
        self._patience = {"read": BUSY_SECONDS, "written": BUSY_SECONDS}
        super().__init__()

    # SQLite keeps a list of the locks that the process holds. A fork copies the list, but not the locks: a child that
    # has the file open, or opens it anew, would believe to hold locks that it does not. So it is closed for the fork.
    def _before_fork(self) -> None:
        self.close()

    def _in_child(self) -> None:
        if self._connection is not None:
            _strays.append(self._connection)
            self._connection = None

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the entries there are for ``keys``.

        Raises:
            TimeoutError: Another program keeps the file locked.
        """
        return self._do(lambda database: self._get(database, keys), {}, "read")

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """CacheLookup entries in one transaction, and make room where the cache is over its limit.

        Raises:
            TimeoutError: Another program keeps the file locked.
        """
        if entries:
            self._do(lambda database: self._put(database, entries), None, "written")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _do(self, work: Work[T], otherwise: T, verb: str) -> T:
        seconds = clock.seconds_left(self._patience[verb])
        until = time.monotonic() + seconds
        # A thread that waits for the file holds this lock; the others must not wait for longer because of it.
        if not self._lock.acquire(timeout=seconds):
            raise self._kept_locked(seconds)
        try:
            for turn in range(_TURNS):
                try:
                    result = work(self._open(max(0.0, until - time.monotonic())))
                except FAILURES as error:
                    if tells_of_lock(error):
                        self._patience[verb] = _BUSY_AGAIN
                        raise self._kept_locked(seconds) from error
                    if turn == _TURNS - 1 or not self._mend(error, again=turn > 0):
                        self._warn(f"cannot be {verb} ({getattr(error, 'strerror', None) or error})")
                        break
                else:
                    self._patience[verb] = BUSY_SECONDS
                    return result
            return otherwise
        finally:
            self._lock.release()

    def _kept_locked(self, seconds: float) -> TimeoutError:
        return TimeoutError(f"{self.path} is kept locked by another program, for more than {seconds:.2g} seconds")

    def _open(self, seconds: float) -> sqlite3.Connection:
        if self._connection is not None and self._identity != identity_of(self.path):
            # Somebody deleted the file, or another process set it aside: what is written to it now would be lost.
            self.close()
        if self._connection is None:
            make_ready(self.path, seconds)
            self._size = None
            self._identity = identity_of(self.path)
            self._connection = connect(self.path, seconds)
        _let_wait(self._connection, seconds)
        return self._connection

    def _get(self, database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for part in _parts(keys):
            marks = ",".join("?" * len(part))
            # By way of the rows' numbers, in whose order entries lie on the disk, so that each page is read once. In a
            # damaged file an entry may come up as a number or as text.
            rows = f"SELECT rowid FROM nanogpt_entries WHERE key IN ({marks})"  # noqa: S608
            query = f"SELECT key, entry FROM nanogpt_entries WHERE rowid IN ({rows}) AND typeof(entry) = 'blob'"  # noqa: S608
            found.update(database.execute(query, part))
        if self._max_bytes is not None and found:
            with contextlib.suppress(sqlite3.OperationalError), database:  # a read-only cache still reads
                _let_wait(database, clock.seconds_left(_BUSY_NOTING))
                database.execute("BEGIN IMMEDIATE")
                used = time.time_ns()
                database.executemany(
                    "UPDATE nanogpt_entries SET used = ? WHERE key = ?", [(used, key) for key in found]
                )
        return found

    def _put(self, database: sqlite3.Connection, entries: Mapping[bytes, bytes]) -> None:
        used = time.time_ns()
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT OR REPLACE INTO nanogpt_entries VALUES (?, ?, ?)", [(k, e, used) for k, e in entries.items()]
            )
            size = self._size
            if self._max_bytes is not None:
                added = sum(len(key) + len(entry) for key, entry in entries.items())
                size = self._make_room(database, self._max_bytes, added)
        self._size = size

    def _make_room(self, database: sqlite3.Connection, most: int, added: int) -> int:
        # Adding up the whole table each time would cost more than storing; what others add is seen at the next count.
        if self._size is not None and self._size + added <= most:
            return self._size + added
        size: int
        (size,) = database.execute(
            "SELECT coalesce(sum(length(key) + length(entry)), 0) FROM nanogpt_entries"
        ).fetchone()
        # Down to nine tenths, so that not every further entry has to make room for itself.
        excess, gone = size - int(most * _KEEP) if size > most else 0, []
        for row, length in database.execute(
            "SELECT rowid, coalesce(length(key) + length(entry), 0) FROM nanogpt_entries ORDER BY used, rowid"
        ):
            if excess <= 0:
                break
            gone.append((row,))
            excess -= length
            size -= length
        database.executemany("DELETE FROM nanogpt_entries WHERE rowid = ?", gone)
        return size

    def _mend(self, error: Exception, *, again: bool) -> bool:
        """Do what may help: open the file anew, or set it aside first; return whether to try again."""
        cut_short = getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHORT_READ"  # known since Python 3.11
        damaged = tells_of_damage(error, self.path) or (again and cut_short)
        if not damaged and not cut_short:
            return False
        self.close()
        if not damaged:
            return True  # a log that was cut short under an open connection is read rightly by a new one
        try:
            with locked(self.path.parent, clock.seconds_left(BUSY_SECONDS)):
                # Where it is another file by now, some other process was first, and what is there is new.
                if self._identity == identity_of(self.path):
                    aside = set_aside(self.path)
                    warnings.warn(
                        f"The embedding cache {self.path} is damaged ({error}). It was set aside as {aside}; a new one "
                        "is begun.",
                        RuntimeWarning,
                        stacklevel=2,
                    )
        except OSError:
            return False
        return True

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"The embedding cache {self.path} {what}; going on without it.", RuntimeWarning, stacklevel=2)

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def __reduce__(self) -> tuple[type[SQLiteCache], tuple[str, int | None]]:
        return SQLiteCache, (str(self.path), self._max_bytes)

    def __repr__(self) -> str:
        return f"SQLiteCache({str(self.path)!r})"


# Connections that a fork carried over untold. SQLite allows neither their use nor their closing.
_strays: list[sqlite3.Connection] = []


def _let_wait(database: sqlite3.Connection, seconds: float) -> None:
    database.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _KEYS_A_QUERY):
        yield keys[start : start + _KEYS_A_QUERY]

"""An embedding cache in one SQLite file, safe for threads, processes, forks and kills.

In write-ahead mode readers continue while one process writes, and a commit that a kill interrupts is undone at the next
opening. A damaged cache file is set aside and a new one is created; another program's database stays unchanged.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from nanogpt_core._runtime.clock import current_attempt
from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.log import logger, warn
from nanogpt_core._runtime.signals import raised_by_signal_handler
from nanogpt_core._runtime.validation import check_positive
from nanogpt_core.cache.damage import is_ambiguous, is_damage, may_be_damage, reading_fails, set_aside
from nanogpt_core.cache.network_drive import network_file_system
from nanogpt_core.cache.sqlite_file import (
    BUSY_SECONDS,
    FAILURES,
    connect,
    create_if_missing,
    file_identity,
    folder_lock,
    is_locked,
    resolve_path,
    wait_while_locked,
)

T = TypeVar("T")

_KEYS_PER_QUERY = 900  # SQLite before 3.32 takes at most 999 parameters
_KEPT_SHARE = 0.9  # of max_bytes, after entries were evicted
_ATTEMPTS = 3  # one, one with the file reopened, one with a new file
# After a call has waited in vain for a locked file, later calls wait only this long, until the file is free again.
_BUSY_AGAIN_SECONDS = 0.1


class SQLiteCache(ForkSafe):
    """An embedding cache in a SQLite file, shared by threads, processes and forks.

    The process may be killed at any moment. If the file cannot be read or written (missing rights, full disk, another
    program's database), the cache warns once and the call continues without it; a read-only file is still read. A
    damaged file is renamed to ``<name>.corrupt-<number>``, with a warning, and a new one is created. Pickles and copies
    open the same file.

    A call waits for a file that another program keeps locked for at most 10 seconds and at most a quarter of the time
    until the call's ``deadline``, and then continues without it; later calls wait 0.1 seconds, until the file is free.

    Keep the file on a local disk: SQLite's write-ahead log needs memory that all processes share, and locks that work.
    A path on a network drive (NFS, SMB) gives a warning.

    The constructor looks at the path and opens nothing: a few system calls. If a program forbids even these on an event
    loop, as LangGraph's development server does, make the object before the loop runs, or with ``asyncio.to_thread``.

    Args:
        path: The file. A missing folder is created with mode 0700, the file with mode 0600.
        max_bytes: Maximum number of bytes of keys and entries to keep; the least recently used are evicted first.
            Entries that other processes add are counted with a delay. Default: no limit.

    Raises:
        ConfigurationError: ``path`` is a folder or cannot be a file, or ``max_bytes`` is below 1.
        InvalidTypeError: An argument of the wrong type.
    """

    keeps_deadline = True
    _connection: sqlite3.Connection | None = None

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        check_positive("max_bytes", max_bytes, at_least=1)
        self.path = resolve_path(path)
        self._max_bytes = max_bytes
        self._warned = False
        self._identity: tuple[int, int] | None = None
        self._total_bytes: int | None = None  # of keys and entries, as far as known
        self._wait_seconds = {"read": BUSY_SECONDS, "written": BUSY_SECONDS}
        super().__init__()
        file_system = network_file_system(self.path)
        if file_system is not None:
            warn(
                f"The embedding cache {self.path} is on a network drive ({file_system}). If several machines use the "
                "file at once, SQLite can damage it. Use a local disk."
            )

    # SQLite keeps a list of the locks that the process holds. A fork copies the list, but not the locks: a child that
    # has the file open, or reopens it, would rely on locks that it does not hold. So the file is closed before a fork.
    def _before_fork(self) -> None:
        self.close()

    def _in_child(self) -> None:
        if self._connection is not None:
            _abandoned.append(self._connection)
            self._connection = None

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the entries found for ``keys``.

        Raises:
            TimeoutError: Another program keeps the file locked.
        """
        return self._run(lambda database: self._get(database, keys), {}, "read")

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries in one transaction, and evict others if the cache is over its limit.

        Raises:
            TimeoutError: Another program keeps the file locked.
        """
        if entries:
            self._run(lambda database: self._put(database, entries), None, "written")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T], default: T, verb: str) -> T:
        """Run ``work`` on the open file, and wait while another process has it locked.

        The wait is here and not in SQLite, which would keep ``_lock`` meanwhile: a fork handler needs that lock. If the
        file cannot be used, the result is ``default``, with a warning.

        Raises:
            TimeoutError: The file is still locked.
        """
        wait = _time_to_wait(self._wait_seconds[verb])
        try:
            result = wait_while_locked(partial(self._run_once, work, default, verb), wait)
        except FAILURES as error:
            if is_locked(error):
                self._wait_seconds[verb] = _BUSY_AGAIN_SECONDS
            elif not isinstance(error, TimeoutError) or raised_by_signal_handler(error):
                raise
            raise TimeoutError(
                f"{self.path} is kept locked by another program or thread, for more than {wait:.2g} seconds"
            ) from error
        self._wait_seconds[verb] = BUSY_SECONDS
        return result

    def _run_once(self, work: Callable[[sqlite3.Connection], T], default: T, verb: str, seconds: float) -> T:
        if not self._lock.acquire(timeout=seconds):
            raise TimeoutError("Another thread uses the file")
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    return work(self._open())
                except FAILURES as error:
                    if is_locked(error) or raised_by_signal_handler(error):
                        raise
                    if attempt == _ATTEMPTS - 1 or not self._recover(error, reopened=attempt > 0):
                        self._warn(f"cannot be {verb} ({getattr(error, 'strerror', None) or error})")
                        break
            return default
        finally:
            self._lock.release()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._identity != file_identity(self.path):
            # The file was deleted, or another process set it aside: entries written to it now would be lost.
            self.close()
        if self._connection is None:
            create_if_missing(self.path)
            self._total_bytes = None
            self._identity = file_identity(self.path)
            self._connection = connect(self.path, seconds=0)
        return self._connection

    def _get(self, database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some_keys = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some_keys))
            # Selected by rowid, the order of the entries on the disk: each page is read once. In a damaged file an
            # entry may come up as a number or as text.
            rows = f"SELECT rowid FROM nanogpt_entries WHERE key IN ({marks})"  # noqa: S608
            query = f"SELECT key, entry FROM nanogpt_entries WHERE rowid IN ({rows}) AND typeof(entry) = 'blob'"  # noqa: S608
            found.update(database.execute(query, some_keys))
        if self._max_bytes is not None and found:
            # Skipped if the file is read-only or locked for writing: the order of eviction is then less exact.
            with contextlib.suppress(sqlite3.OperationalError), database:
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
            total = self._total_bytes
            if self._max_bytes is not None:
                added = sum(len(key) + len(entry) for key, entry in entries.items())
                total = self._evict(database, self._max_bytes, added)
        self._total_bytes = total

    def _evict(self, database: sqlite3.Connection, max_bytes: int, added: int) -> int:
        """Delete the least recently used entries if the cache is over its limit; return the bytes that remain."""
        # Adding up the whole table each time would cost more than storing the entries.
        if self._total_bytes is not None and self._total_bytes + added <= max_bytes:
            return self._total_bytes + added
        total: int
        (total,) = database.execute(
            "SELECT coalesce(sum(length(key) + length(entry)), 0) FROM nanogpt_entries"
        ).fetchone()
        if total <= max_bytes:
            return total
        # More than necessary is deleted: otherwise each later entry would cause an eviction of its own.
        excess, evicted = total - int(max_bytes * _KEPT_SHARE), []
        # Times in the future come first: a clock that was ahead must not make its entries outlast all later ones.
        oldest_first = database.execute(
            "SELECT rowid, coalesce(length(key) + length(entry), 0) FROM nanogpt_entries "
            "ORDER BY used <= ?, used, rowid",
            (time.time_ns(),),
        )
        for row, length in oldest_first:
            if excess <= 0:
                break
            evicted.append((row,))
            excess -= length
            total -= length
        database.executemany("DELETE FROM nanogpt_entries WHERE rowid = ?", evicted)
        return total

    def _recover(self, error: Exception, *, reopened: bool) -> bool:
        """Close the file, and set it aside if it is damaged; return whether to try again.

        Raises:
            BlockingIOError: Another process is setting the file aside.
        """
        opened = self._connection is not None
        if self._identity is None or self._identity != file_identity(self.path):
            # Another process set the file aside or deleted it meanwhile.
            self.close()
            return True
        if is_damage(error):
            self.close()
        elif may_be_damage(error, self.path):
            self.close()
            if not reopened:
                return True
            # Once a warning was given, the file is not searched for damage again in every call.
            if is_ambiguous(error) and (
                self._warned or not reading_fails(self.path, _time_to_wait(BUSY_SECONDS), opened=opened)
            ):
                return False
        else:
            return False
        try:
            with folder_lock(self.path.parent):
                if self._identity == file_identity(self.path):
                    aside = set_aside(self.path)
                    logger.info("The embedding cache %s is damaged, and was set aside as %s", self.path, aside)
                    warn(
                        f"The embedding cache {self.path} is damaged ({error or type(error).__name__}). It was set "
                        f"aside as {aside}; a new file is created."
                    )
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            warn(f"The embedding cache {self.path} {problem}; continuing without it.")

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def __reduce__(self) -> tuple[type[SQLiteCache], tuple[str, int | None]]:
        return SQLiteCache, (str(self.path), self._max_bytes)

    def __repr__(self) -> str:
        return f"SQLiteCache({str(self.path)!r})"


def _time_to_wait(seconds: float) -> float:
    """Return ``seconds``, or the time that the call's deadline leaves to the cache if that is less; at least 0."""
    return max(0.0, min(seconds, current_attempt.get().deadline - time.monotonic()))


# Connections copied by a fork without a call of `_before_fork`. SQLite allows neither their use nor their closing.
_abandoned: list[sqlite3.Connection] = []

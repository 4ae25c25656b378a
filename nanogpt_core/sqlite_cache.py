"""The cache in SQLite: one file, safe for threads, processes and kills.

Write-ahead logging lets readers go on while one process writes; a commit that a kill interrupts is undone at the next
opening. A file that SQLite finds corrupt is set aside and a new one begun.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanogpt_core.cache import is_width_note, vector_of, width_of
from nanogpt_core.errors import ConfigurationError, InvalidTypeError

__all__ = ["CacheReport", "SQLiteCache", "clear_cache", "export_cache", "inspect_cache", "verify_cache"]

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], T]

_SCHEMA = "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, entry BLOB NOT NULL, used INTEGER NOT NULL)"
_BUSY_SECONDS = 60.0
_KEYS_A_QUERY = 900  # SQLite before 3.32 takes at most 999 parameters
_KEEP = 0.9


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What is in a cache file.

    Attributes:
        path: The file.
        entries: Vectors in it.
        bytes: Size of the file and of its log.
        widths: How many vectors there are of each width.
        unsound: Entries whose checksum or width is wrong; None where they were not looked at.
        damage: What SQLite's own check finds, empty where it finds nothing; None where it was not run.
    """

    path: Path
    entries: int
    bytes: int
    widths: Mapping[int, int]
    unsound: int | None = None
    damage: tuple[str, ...] | None = None

    @property
    def clean(self) -> bool:
        """Whether a check was run and found nothing."""
        return self.unsound == 0 and self.damage == ()


class SQLiteCache:
    """A cache in a SQLite file. Threads and processes may share it, and it may be killed at any moment.

    A file that cannot be written (read-only, full disk) is said once in a warning, and the call goes on; what the file
    holds is still read. Pickles and copies open the same file.

    Args:
        path: The file. Its folder is made where it does not exist, for the owner alone (0700); so is the file (0600).
        max_bytes: Most bytes of entries to keep; the least recently used go first. Default: no limit.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidTypeError(f"A cache's path must be a str or a Path, not {type(path).__name__}.")
        if not os.fspath(path):
            raise ConfigurationError("A cache's path is empty.")
        if max_bytes is not None and max_bytes < 1:
            raise ConfigurationError(f"max_bytes must be at least 1, not {max_bytes}.")
        self.path = Path(path).expanduser().absolute()
        self._max_bytes = max_bytes
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._size: int | None = None
        self._warned = False

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the sound entries there are for ``keys``."""
        return self._do(lambda database: self._get(database, keys), {}, "read")

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries in one transaction, and make room where the cache is over its limit."""
        if entries:
            self._do(lambda database: self._put(database, entries), None, "written")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    def _do(self, work: Work[T], otherwise: T, verb: str) -> T:
        if self._process != os.getpid():
            # SQLite forbids carrying a connection over a fork, even to close it.
            _strays.append(self._connection)
            self._forget()
        with self._lock:
            for _ in range(2):
                try:
                    return work(self._open())
                except sqlite3.DatabaseError as error:
                    if not _is_corrupt(error):
                        self._warn(f"cannot be {verb} ({error})")
                        return otherwise
                    self._set_aside(error)
                except OSError as error:
                    self._warn(f"cannot be {verb} ({error.strerror or error})")
                    return otherwise
            return otherwise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            _make_private(self.path)
            self._identity = _identity(self.path)
            self._connection = _connect(self.path)
        return self._connection

    def _get(self, database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for part in _parts(keys):
            marks = ",".join("?" * len(part))
            found.update(database.execute(f"SELECT key, entry FROM entries WHERE key IN ({marks})", part))  # noqa: S608
        if self._max_bytes is not None and found:
            with contextlib.suppress(sqlite3.OperationalError), database:  # a read-only cache still reads
                database.execute("BEGIN IMMEDIATE")
                used = time.time_ns()
                database.executemany("UPDATE entries SET used = ? WHERE key = ?", [(used, key) for key in found])
        return found

    def _put(self, database: sqlite3.Connection, entries: Mapping[bytes, bytes]) -> None:
        used = time.time_ns()
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", [(k, e, used) for k, e in entries.items()]
            )
            if self._max_bytes is not None:
                added = sum(len(key) + len(entry) for key, entry in entries.items())
                self._make_room(database, self._max_bytes, added)

    def _make_room(self, database: sqlite3.Connection, most: int, added: int) -> None:
        # Adding up the whole table each time would cost more than storing; what others add is seen at the next count.
        self._size = None if self._size is None else self._size + added
        if self._size is not None and self._size <= most:
            return
        (self._size,) = database.execute("SELECT coalesce(sum(length(key) + length(entry)), 0) FROM entries").fetchone()
        # Down to nine tenths, so that not every further entry has to make room for itself.
        excess, gone = self._size - int(most * _KEEP) if self._size > most else 0, []
        for key, length in database.execute(
            "SELECT key, length(key) + length(entry) FROM entries ORDER BY used, rowid"
        ):
            if excess <= 0:
                break
            gone.append((key,))
            excess -= length
            self._size -= length
        database.executemany("DELETE FROM entries WHERE key = ?", gone)

    def _set_aside(self, error: Exception) -> None:
        mine = self._identity
        self.close()
        if mine != _identity(self.path):
            return  # another process set it aside already, and what is there now is new
        aside = f"{self.path.name}.corrupt-{time.time_ns()}"
        # The log goes first: once the file is gone, another process may begin a new one with a log of its own.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(self.path.with_name(aside + suffix))
        warnings.warn(
            f"The embedding cache {self.path} is corrupt ({error}). It was set aside as {aside}; a new one is begun.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"The embedding cache {self.path} {what}; going on without it.", RuntimeWarning, stacklevel=2)

    def __reduce__(self) -> tuple[type[SQLiteCache], tuple[str, int | None]]:
        return SQLiteCache, (str(self.path), self._max_bytes)

    def __repr__(self) -> str:
        return f"SQLiteCache({str(self.path)!r})"


# Connections that a fork carried over. SQLite allows neither their use nor their closing here.
_strays: list[sqlite3.Connection | None] = []


def _make_private(path: Path) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        # SQLite gives its log the rights of the file itself.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        if os.access(path, os.W_OK):
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(_SCHEMA)
        database.execute("SELECT 1 FROM entries LIMIT 1")
    except BaseException:
        database.close()
        raise
    return database


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    # Python 3.10 does not tell SQLite's error code.
    return any(words in str(error) for words in ("malformed", "not a database", "file is encrypted"))


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _KEYS_A_QUERY):
        yield keys[start : start + _KEYS_A_QUERY]


@contextlib.contextmanager
def _existing(path: str | os.PathLike[str]) -> Iterator[tuple[Path, sqlite3.Connection]]:
    place = Path(path).expanduser().absolute()
    if not place.is_file():
        raise ConfigurationError(f"There is no cache file at {place}.")
    try:
        with contextlib.closing(_connect(place)) as database:
            yield place, database
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"The cache file {place} cannot be read: {error}.") from error


def _report(place: Path, database: sqlite3.Connection, **checks: Any) -> CacheReport:
    # The entry's first four bytes are its width; a note of a width alone has eight bytes and is no vector.
    heads = database.execute("SELECT substr(entry, 1, 4), count(*) FROM entries WHERE length(entry) > 8 GROUP BY 1")
    widths = {int.from_bytes(head, "little"): count for head, count in heads}
    files = (place, place.with_name(place.name + "-wal"))
    size = sum(file.stat().st_size for file in files if file.exists())
    return CacheReport(place, sum(widths.values()), size, widths, **checks)


def inspect_cache(path: str | os.PathLike[str]) -> CacheReport:
    """Say what is in a cache file, without checking it.

    Raises:
        ConfigurationError: There is no such file, or it is no cache.
    """
    with _existing(path) as (place, database):
        return _report(place, database)


def verify_cache(path: str | os.PathLike[str]) -> CacheReport:
    """Check every entry of a cache file, and the file itself. A damaged entry is never returned as a vector anyway.

    Raises:
        ConfigurationError: There is no such file, or it is no cache.
    """
    with _existing(path) as (place, database):
        found = tuple(row[0] for row in database.execute("PRAGMA integrity_check") if row[0] != "ok")
        unsound = sum(width_of(key, entry) is None for key, entry in database.execute("SELECT key, entry FROM entries"))
        return _report(place, database, unsound=unsound, damage=found)


def export_cache(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Write the sound vectors of a cache file into a NumPy ``.npz`` file, and return how many there are.

    For each width d it holds ``keys_d``, ``(n, 32)`` uint8, and ``vectors_d``, ``(n, d)`` float32.

    Raises:
        ConfigurationError: There is no such cache file, or it is no cache.
    """
    import numpy as np

    found: dict[int, tuple[list[bytes], list[bytes]]] = {}
    with _existing(path) as (_, database):
        for key, entry in database.execute("SELECT key, entry FROM entries ORDER BY key"):
            width = width_of(key, entry)
            if width is not None and not is_width_note(entry):
                keys, entries = found.setdefault(width, ([], []))
                keys.append(key)
                entries.append(entry)
    arrays = {}
    for width, (keys, entries) in found.items():
        arrays[f"keys_{width}"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        arrays[f"vectors_{width}"] = np.stack([vector_of(entry) for entry in entries])
    np.savez(target, **arrays)  # type: ignore[arg-type] # the stub takes a keyword of savez for any of ours
    return sum(len(keys) for keys, _ in found.values())


def clear_cache(path: str | os.PathLike[str]) -> int:
    """Remove every entry of a cache file, give the space back, and return how many vectors there were.

    Raises:
        ConfigurationError: There is no such file, or it is no cache.
    """
    with _existing(path) as (place, database):
        count = _report(place, database).entries
        database.execute("DELETE FROM entries")
        database.execute("VACUUM")
        return count

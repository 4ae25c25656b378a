"""The cache in SQLite: one file, safe for threads, processes, forks and kills.

Write-ahead logging lets readers go on while one process writes; a commit that a kill interrupts is undone at the next
opening. A cache file that is damaged is set aside and a new one begun; another program's database is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sqlite3
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanogpt_core.cache import is_width_note, vector_of, width_of
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.forking import ForkSafe

__all__ = ["CacheReport", "SQLiteCache", "clear_cache", "export_cache", "inspect_cache", "verify_cache"]

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], T]

_SCHEMA = "CREATE TABLE nanogpt_entries (key BLOB PRIMARY KEY, entry BLOB NOT NULL, used INTEGER NOT NULL)"
_APPLICATION = 0x4E_61_6E_6F  # "Nano", in the file's header: tells a cache from another program's database
_LAYOUT = 1
# Five vectors of 1,536 numbers share a page; pages of SQLite's usual 4 KiB would spread each over a chain of three.
_PAGE_BYTES = 32_768
_LOG_BYTES = 64 * 1024 * 1024
_BUSY_SECONDS = 60.0
_KEYS_A_QUERY = 900  # SQLite before 3.32 takes at most 999 parameters
_KEEP = 0.9
_TURNS = 3
# SQLite's words about a damaged file may quote from it, and then not be text.
_FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)


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


class SQLiteCache(ForkSafe):
    """A cache in a SQLite file. Threads, processes and forks may share it, and it may be killed at any moment.

    A file that cannot be read or written (no rights, full disk, another program's database) is said once in a warning,
    and the call goes on without it; what a read-only file holds is still read. A damaged file is renamed to
    ``<name>.corrupt-<number>``, with a warning, and a new one begun. Pickles and copies open the same file.

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
        self.path = _place(path)
        self._max_bytes = max_bytes
        self._warned = False
        self._identity: tuple[int, int] | None = None
        self._size: int | None = None
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
        """Return the entries there are for ``keys``."""
        return self._do(lambda database: self._get(database, keys), {}, "read")

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries in one transaction, and make room where the cache is over its limit."""
        if entries:
            self._do(lambda database: self._put(database, entries), None, "written")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _do(self, work: Work[T], otherwise: T, verb: str) -> T:
        with self._lock:
            for turn in range(_TURNS):
                try:
                    return work(self._open())
                except _FAILURES as error:
                    if turn == _TURNS - 1 or not self._mend(error, again=turn > 0):
                        self._warn(f"cannot be {verb} ({getattr(error, 'strerror', None) or error})")
                        break
            return otherwise

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._identity != _identity(self.path):
            # Somebody deleted the file, or another process set it aside: what is written to it now would be lost.
            self.close()
        if self._connection is None:
            _make_ready(self.path)
            self._size = None
            self._identity = _identity(self.path)
            self._connection = _connect_patiently(self.path)
        return self._connection

    def _get(self, database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for part in _parts(keys):
            marks = ",".join("?" * len(part))
            rows = database.execute(f"SELECT rowid FROM nanogpt_entries WHERE key IN ({marks})", part)  # noqa: S608
            # In the order in which they lie on the disk, so that each page is read once.
            places = ",".join([str(row) for (row,) in rows if isinstance(row, int)])
            # In a damaged file an entry may come up as a number or as text.
            query = f"SELECT key, entry FROM nanogpt_entries WHERE rowid IN ({places}) AND typeof(entry) = 'blob'"  # noqa: S608
            found.update(database.execute(query))
        if self._max_bytes is not None and found:
            with contextlib.suppress(sqlite3.OperationalError), database:  # a read-only cache still reads
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
        damaged = _tells_of_damage(error, self.path) or (again and cut_short)
        if not damaged and not cut_short:
            return False
        self.close()
        if not damaged:
            return True  # a log that was cut short under an open connection is read rightly by a new one
        try:
            with _locked(self.path.parent):
                # Where it is another file by now, some other process was first, and what is there is new.
                if self._identity == _identity(self.path):
                    aside = _set_aside(self.path)
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


class _DamagedError(sqlite3.DatabaseError):
    """What SQLite itself would not notice, or would call by another name."""


class _ForeignError(sqlite3.DatabaseError):
    """The file is another program's database, or that of a later version."""


def _place(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InvalidTypeError(f"A cache's path must be a str or a Path, not {type(path).__name__}.")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ConfigurationError("A cache's path is empty or holds a null character.")
    try:
        # Where it is a link, SQLite's log is beside the file that it leads to.
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # no such user, no current folder, links in a circle
        raise ConfigurationError(f"The cache's path {os.fspath(path)!r} leads nowhere: {error}") from error


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


# Nothing here opens the file by itself once SQLite may have it open: POSIX drops all locks that a process has on a file
# as soon as it closes the file once, however often it has it open.


def _make_ready(path: Path) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_missing(path):
        with _locked(path.parent):
            if _is_missing(path):
                _begin(path)


def _is_missing(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "It is not a file")
    return status.st_size == 0


def _begin(path: Path) -> None:
    # Somebody may have deleted the file alone, and left the log that belonged to it.
    for suffix in ("-wal", "-shm", "-journal", ".new"):
        _beside(path, suffix).unlink(missing_ok=True)
    new = _beside(path, ".new")
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # SQLite gives its log the same rights
    with contextlib.closing(_open_file(new, "mode=rw")) as database:
        database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {_LAYOUT}")
        database.execute(_SCHEMA)
        database.execute("PRAGMA journal_mode = WAL")
    # So that nobody ever sees half of it; and who has an empty file open in its place does not get in its way.
    new.replace(path)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _connect_patiently(path: Path) -> sqlite3.Connection:
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return _connect(path)
        except sqlite3.OperationalError as error:
            # While several processes begin a file or switch on its log, SQLite does not wait by itself.
            if not ("locked" in str(error) or "locking" in str(error)) or time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.001, 0.05))  # noqa: S311


def _connect(path: Path) -> sqlite3.Connection:
    _refuse_foreign(path)
    try:
        return _prepared(path, "mode=rw", write=True)
    except sqlite3.OperationalError as error:
        if not _tells_of_rights(error):
            raise
        with contextlib.suppress(sqlite3.OperationalError):
            return _prepared(path, "mode=ro", write=False)
        # In a folder that cannot be written SQLite cannot make the log that it wants even for reading.
        log = _beside(path, "-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _prepared(path, "immutable=1", write=False)


def _prepared(path: Path, how: str, *, write: bool) -> sqlite3.Connection:
    database = _open_file(path, how)
    try:
        if database.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            raise _DamagedError("its header is damaged")
        try:
            database.execute("SELECT key, entry, used FROM nanogpt_entries LIMIT 1")
        except sqlite3.OperationalError as error:
            # Another layout names its table otherwise.
            if "no such table" in str(error) and database.execute("PRAGMA user_version").fetchone() > (_LAYOUT,):
                raise _ForeignError("it was made by a later version of nanogpt-rag, and is left alone") from error
            raise
        if write:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        database.close()
        raise
    return database


def _open_file(path: Path, how: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.as_uri()}?{how}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    database.text_factory = bytes  # in a damaged file a blob may come up as text, which need not be UTF-8
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA cell_size_check = ON")
    return database


def _refuse_foreign(path: Path) -> None:
    # As if on a medium that cannot change: SQLite then neither locks the file, nor looks at its log, nor begins one.
    with contextlib.closing(_open_file(path, "immutable=1")) as database:
        try:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'nanogpt_entries'").fetchone()
            pages = database.execute("PRAGMA page_count").fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return  # nothing can be told this way; whoever opens it finds out
    if pages == (0,):
        raise _DamagedError("it is too short")
    if application != _APPLICATION and tables == (0,):
        raise _ForeignError("it is another program's database, and is left alone")


def _tells_of_damage(error: Exception, path: Path) -> bool:
    # Python 3.10 does not tell SQLite's error code.
    words = ("malformed", "not a database", "no such table", "no such column", "unsupported file format")
    if "readonly" in str(error):
        # A damaged header can say so too.
        files = [path.parent, *(_beside(path, suffix) for suffix in ("", "-wal", "-shm"))]
        effective = os.access in os.supports_effective_ids
        return all(os.access(file, os.W_OK, effective_ids=effective) for file in files if file.exists())
    return isinstance(error, (_DamagedError, UnicodeDecodeError)) or any(said in str(error) for said in words)


def _tells_of_rights(error: Exception) -> bool:
    return any(words in str(error) for words in ("readonly", "unable to open", "access permission"))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder: of all processes only one begins a file in it, or sets one aside."""
    try:
        import fcntl
    except ImportError:  # Windows, where a file in use can be neither deleted nor renamed
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _set_aside(path: Path) -> str:
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    # The log goes first: once the file is gone, another process may begin a new one with a log of its own.
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            _beside(path, suffix).rename(_beside(aside, suffix))
    return aside.name


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _KEYS_A_QUERY):
        yield keys[start : start + _KEYS_A_QUERY]


@contextlib.contextmanager
def _existing(path: str | os.PathLike[str]) -> Iterator[tuple[Path, sqlite3.Connection]]:
    place = _place(path)
    if not place.is_file():
        raise ConfigurationError(f"There is no cache file at {place}.")
    try:
        if not place.stat().st_size:
            raise _ForeignError("it is empty")
        with contextlib.closing(_connect_patiently(place)) as database:
            yield place, database
    except _FAILURES as error:
        raise ConfigurationError(f"The cache file {place} cannot be used: {error}.") from error


def _report(place: Path, database: sqlite3.Connection, **checks: Any) -> CacheReport:
    # The entry's first four bytes are its width; a note of a width alone has eight bytes and is no vector.
    heads = database.execute(
        "SELECT substr(entry, 1, 4), count(*) FROM nanogpt_entries WHERE length(entry) > 8 GROUP BY 1"
    )
    widths = {int.from_bytes(head, "little"): count for head, count in heads}
    files = (place, _beside(place, "-wal"))
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
        ConfigurationError: There is no such file, it is no cache, or it is damaged so that nothing can be read.
    """
    with _existing(path) as (place, database):
        damage = []
        unsound = 0
        try:
            found = (row[0].decode(errors="replace") for row in database.execute("PRAGMA integrity_check"))
            damage += [words for words in found if words != "ok"]
            for key, entry in database.execute("SELECT key, entry FROM nanogpt_entries"):
                unsound += width_of(key, entry) is None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            damage.append(str(error))
        try:
            return _report(place, database, unsound=unsound, damage=tuple(damage))
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            size = place.stat().st_size
            return CacheReport(place, 0, size, {}, unsound=unsound, damage=tuple(damage))


def export_cache(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Write the sound vectors of a cache file into a NumPy ``.npz`` file, and return how many there are.

    For each width d it holds ``keys_d``, ``(n, 32)`` uint8, and ``vectors_d``, ``(n, d)`` float32.

    Raises:
        ConfigurationError: There is no such cache file, or it is no cache, or ``target`` cannot be written.
    """
    import numpy as np

    found: dict[int, tuple[list[bytes], list[bytes]]] = {}
    with _existing(path) as (_, database):
        for key, entry in database.execute("SELECT key, entry FROM nanogpt_entries ORDER BY key"):
            width = width_of(key, entry)
            if width is not None and not is_width_note(entry):
                keys, entries = found.setdefault(width, ([], []))
                keys.append(key)
                entries.append(entry)
    arrays = {}
    for width, (keys, entries) in found.items():
        arrays[f"keys_{width}"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        arrays[f"vectors_{width}"] = np.stack([vector_of(entry) for entry in entries])
    try:
        np.savez(target, **arrays)  # type: ignore[arg-type] # the stub takes a keyword of savez for any of ours
    except OSError as error:
        raise ConfigurationError(f"Cannot write to {os.fspath(target)}: {error}.") from error
    return sum(len(keys) for keys, _ in found.values())


def clear_cache(path: str | os.PathLike[str]) -> int:
    """Remove every entry of a cache file, give the space back, and return how many vectors there were.

    Raises:
        ConfigurationError: There is no such file, or it is no cache.
    """
    with _existing(path) as (place, database):
        count = _report(place, database).entries
        database.execute("DELETE FROM nanogpt_entries")
        database.execute("VACUUM")
        return count

"""The file of a SQLite cache: begun whole, opened safely, told from other programs' files, set aside when damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from nanogpt_core.errors import ConfigurationError, InvalidTypeError

__all__ = [
    "BUSY_SECONDS",
    "FAILURES",
    "DamagedError",
    "ForeignError",
    "beside",
    "connect",
    "identity_of",
    "locked",
    "make_ready",
    "place_of",
    "set_aside",
    "tells_of_damage",
    "tells_of_lock",
]

_SCHEMA = "CREATE TABLE nanogpt_entries (key BLOB PRIMARY KEY, entry BLOB NOT NULL, used INTEGER NOT NULL)"
_APPLICATION = 0x4E_61_6E_6F  # "Nano", in the file's header: tells a cache from another program's database
_LAYOUT = 1
# Five vectors of 1,536 numbers share a page; pages of SQLite's usual 4 KiB would spread each over a chain of three.
_PAGE_BYTES = 32_768
_MEMORY_KIB = 16_384  # the index of some 300,000 keys, which are looked up all over it
_LOG_BYTES = 64 * 1024 * 1024
BUSY_SECONDS = 10.0
"""How long to wait for other processes that are at the file."""
# SQLite's words about a damaged file may quote from it, and then not be text.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)


class DamagedError(sqlite3.DatabaseError):
    """What SQLite itself would not notice, or would call by another name."""


class ForeignError(sqlite3.DatabaseError):
    """The file is another program's database, or that of a later version."""


def place_of(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a cache file.

    Raises:
        InvalidTypeError: It is no path.
        ConfigurationError: It leads nowhere.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InvalidTypeError(f"A cache's path must be a str or a Path, not {type(path).__name__}.")
    if os.fspath(path) == ":memory:":
        raise ConfigurationError("A cache's path names a file.", remedy="For a cache in memory pass MemoryCache().")
    if not os.fspath(path) or "\0" in os.fspath(path):
        raise ConfigurationError("A cache's path is empty or holds a null character.")
    try:
        # Where it is a link, SQLite's log is beside the file that it leads to.
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # no such user, no current folder, links in a circle
        raise ConfigurationError(f"The cache's path {os.fspath(path)!r} leads nowhere: {error}") from error


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to a cache file, such as its log."""
    return path.with_name(path.name + suffix)


# Nothing here opens the file by itself once SQLite may have it open: POSIX drops all locks that a process has on a file
# as soon as it closes the file once, however often it has it open.


def make_ready(path: Path, seconds: float) -> None:
    """Make the folder and an empty cache file, where they are missing; wait ``seconds`` for others that do so."""
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_missing(path):
        with locked(path.parent, seconds):
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
        beside(path, suffix).unlink(missing_ok=True)
    new = beside(path, ".new")
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # SQLite gives its log the same rights
    with contextlib.closing(_open_file(new, "mode=rw", BUSY_SECONDS)) as database:
        database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        database.execute(f"PRAGMA application_id = {_APPLICATION}")
        database.execute(f"PRAGMA user_version = {_LAYOUT}")
        database.execute(_SCHEMA)
        database.execute("PRAGMA journal_mode = WAL")
    # So that nobody ever sees half of it; and who has an empty file open in its place does not get in its way.
    new.replace(path)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from a later one at the same path; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def connect(path: Path, seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Open a cache file, to write where that is allowed, and wait ``seconds`` for other processes that are at it."""
    until = time.monotonic() + seconds
    while True:
        try:
            return _connect_once(path, max(0.0, until - time.monotonic()))
        except sqlite3.OperationalError as error:
            # While several processes begin a file or switch on its log, SQLite does not wait by itself.
            if not tells_of_lock(error) or time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.001, 0.05))  # noqa: S311


def _connect_once(path: Path, seconds: float) -> sqlite3.Connection:
    _refuse_foreign(path)
    try:
        return _prepared(path, "mode=rw", seconds, write=True)
    except sqlite3.OperationalError as error:
        if not _tells_of_rights(error):
            raise
        with contextlib.suppress(sqlite3.OperationalError):
            return _prepared(path, "mode=ro", seconds, write=False)
        # In a folder that cannot be written SQLite cannot make the log that it wants even for reading.
        log = beside(path, "-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _prepared(path, "immutable=1", seconds, write=False)


def _prepared(path: Path, how: str, seconds: float, *, write: bool) -> sqlite3.Connection:
    database = _open_file(path, how, seconds)
    try:
        if database.execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            raise DamagedError("its header is damaged")
        try:
            database.execute("SELECT key, entry, used FROM nanogpt_entries LIMIT 1")
        except sqlite3.OperationalError as error:
            # Another layout names its table otherwise.
            if "no such table" in str(error) and database.execute("PRAGMA user_version").fetchone() > (_LAYOUT,):
                raise ForeignError("it was made by a later version of nanogpt-rag, and is left alone") from error
            raise
        database.execute(f"PRAGMA cache_size = {-_MEMORY_KIB}")
        if write:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        database.close()
        raise
    return database


def _open_file(path: Path, how: str, seconds: float) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{path.as_uri()}?{how}", uri=True, timeout=seconds, isolation_level=None, check_same_thread=False
    )
    database.text_factory = bytes  # in a damaged file a blob may come up as text, which need not be UTF-8
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA cell_size_check = ON")
    return database


def _refuse_foreign(path: Path) -> None:
    # As if on a medium that cannot change: SQLite then neither locks the file, nor looks at its log, nor begins one.
    with contextlib.closing(_open_file(path, "immutable=1", 0)) as database:
        try:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'nanogpt_entries'").fetchone()
            pages = database.execute("PRAGMA page_count").fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return  # nothing can be told this way; whoever opens it finds out
    if pages == (0,):
        raise DamagedError("it is too short")
    if application != _APPLICATION and tables == (0,):
        raise ForeignError("it is another program's database, and is left alone")


def tells_of_damage(error: Exception, path: Path) -> bool:
    """Whether an error says that the file is damaged."""
    # Python 3.10 does not tell SQLite's error code.
    words = ("malformed", "not a database", "no such table", "no such column", "unsupported file format")
    if "readonly" in str(error):
        # A damaged header can say so too.
        files = [path.parent, *(beside(path, suffix) for suffix in ("", "-wal", "-shm"))]
        effective = os.access in os.supports_effective_ids
        return all(os.access(file, os.W_OK, effective_ids=effective) for file in files if file.exists())
    return isinstance(error, (DamagedError, UnicodeDecodeError)) or any(said in str(error) for said in words)


def tells_of_lock(error: Exception) -> bool:
    """Whether an error says that another process holds the file for too long."""
    # Python 3.10 does not tell SQLite's error code.
    said = isinstance(error, sqlite3.OperationalError) and any(word in str(error) for word in ("locked", "locking"))
    return said or isinstance(error, BlockingIOError)


def _tells_of_rights(error: Exception) -> bool:
    return any(words in str(error) for words in ("readonly", "unable to open", "access permission"))


@contextlib.contextmanager
def locked(folder: Path, seconds: float) -> Iterator[None]:
    """Hold a lock on the folder: of all processes only one begins a file in it, or sets one aside.

    Raises:
        BlockingIOError: Another process has held it for ``seconds``.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where a file in use can be neither deleted nor renamed
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0.001, 0.05))  # noqa: S311
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
    finally:
        os.close(handle)


def set_aside(path: Path) -> str:
    """Rename a damaged file and what belongs to it; return the new name."""
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    # The log goes first: once the file is gone, another process may begin a new one with a log of its own.
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            beside(path, suffix).rename(beside(aside, suffix))
    return aside.name

"""The file of a SQLite cache: creating, opening and checking it.

Only :func:`wait_while_locked` waits for other processes, and a connection that was opened with seconds to wait: a
caller that holds a lock must not keep a fork waiting.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from nanogpt_core._runtime.validation import check_path
from nanogpt_core.errors import ConfigurationError

T = TypeVar("T")

try:
    import fcntl
except ImportError:  # Windows, where a file in use can be neither deleted nor renamed
    fcntl = None  # type: ignore[assignment]

_SCHEMA = "CREATE TABLE nanogpt_entries (key BLOB PRIMARY KEY, entry BLOB NOT NULL, used INTEGER NOT NULL)"
_APPLICATION_ID = 0x4E_61_6E_6F  # "Nano", in the file's header: distinguishes a cache from another program's database
_SCHEMA_VERSION = 1
PAGE_BYTES = 32_768
"""Five vectors of 1,536 numbers share a page; pages of SQLite's usual 4 KiB would spread each over a chain of three."""
_PAGE_CACHE_KIB = 16_384  # holds the index of some 300,000 keys, which are looked up all over it
_LOG_BYTES = 64 * 1024 * 1024
BUSY_SECONDS = 10.0
"""Time to wait for other processes that use the file, in seconds."""
# SQLite's message about a damaged file may quote from it, and then is not UTF-8.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://|file:", re.IGNORECASE)
_RIGHTS_MESSAGES = ("readonly", "unable to open", "access permission")


class DamagedError(sqlite3.DatabaseError):
    """Damage that SQLite does not notice, or reports as another error."""


class ForeignError(sqlite3.DatabaseError):
    """The file is another program's database, or that of a later version."""


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a cache file.

    Raises:
        InvalidTypeError: It is not a path.
        ConfigurationError: No file can be at this path: it is a folder, or its name is too long.
    """
    name = check_path("A cache's path", path)
    if _URL.match(name):
        raise ConfigurationError(
            "A cache's path must not be a URL.", remedy="Pass the path of a file; for Redis pass RedisCache(url)."
        )
    if name == ":memory:":
        raise ConfigurationError("A cache's path names a file.", remedy="For a cache in memory pass MemoryCache().")
    try:
        # SQLite's log is beside the file that a link leads to.
        resolved = Path(name).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # no such user, no current folder, links in a circle
        raise ConfigurationError(f"The cache's path {name!r} cannot be resolved: {error}") from error
    try:
        mode = resolved.stat().st_mode
    except OSError as error:
        # Missing files and folders are created at the first use. If that fails, as below a file, a warning says so.
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ConfigurationError(
                f"The cache's path {resolved} cannot be a file: {error.strerror}.", remedy="Name a file in a folder."
            ) from error
        return resolved
    if stat.S_ISDIR(mode):
        raise ConfigurationError(
            f"The cache's path {resolved} is a folder.",
            remedy=f"Name a file in it, such as {resolved / 'vectors.sqlite'}.",
        )
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"The cache's path {resolved} is not a regular file.")
    return resolved


def sibling(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to a cache file, such as its log."""
    return path.with_name(path.name + suffix)


def backoff_seconds() -> float:
    """Return a random time to wait before the next attempt to use a locked file, in seconds."""
    return random.uniform(0.001, 0.02)  # noqa: S311


# Only SQLite opens the file once it may have it open: POSIX drops all locks that a process has on a file as soon as the
# process closes it once, however often it has it open.


def create_if_missing(path: Path) -> None:
    """Make the folder and an empty cache file, if they are missing."""
    if not path.parent.is_dir():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    if _is_missing(path):
        with folder_lock(path.parent):
            if _is_missing(path):
                _create(path)


def _is_missing(path: Path) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "It is not a file")
    return status.st_size == 0


def _create(path: Path) -> None:
    new = sibling(path, ".new")
    try:
        # The file may have been deleted without the log that belonged to it.
        for suffix in ("-wal", "-shm", "-journal", ".new"):
            sibling(path, suffix).unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # SQLite gives its log the same mode
    except (FileExistsError, PermissionError) as error:
        if fcntl is None:  # no lock on the folder: another process may be creating the file
            raise BlockingIOError(errno.EAGAIN, "Another process is creating the file") from error
        raise
    with contextlib.closing(open_file(new, "mode=rw", BUSY_SECONDS)) as database:
        database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        database.execute(_SCHEMA)
        database.execute("PRAGMA journal_mode = WAL")
    # Renamed when it is complete: no process ever opens an unfinished file.
    new.replace(path)


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which distinguish a file from a later one at the same path; None if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def wait_while_locked(work: Callable[[float], T], seconds: float) -> T:
    """Do ``work``, which takes the seconds left, again and again for so many seconds while the file is locked.

    SQLite's own wait does not cover processes that create the file or switch on its log.
    """
    give_up_at, slept = time.monotonic() + seconds, 0.0
    while True:
        try:
            return work(max(0.0, give_up_at - time.monotonic()))
        except FAILURES as error:
            # The clock may stand still, in tests of programs that freeze it.
            left = min(give_up_at - time.monotonic(), seconds - slept)
            if left <= 0 or not is_locked(error):
                raise
        pause = min(backoff_seconds(), left)
        time.sleep(pause)
        slept += pause


def connect(path: Path, seconds: float) -> sqlite3.Connection:
    """Open a cache file for writing, or for reading if the rights to write are missing.

    Each statement waits for other processes, at most ``seconds``.
    """
    _refuse_foreign(path)
    try:
        return _checked(path, "mode=rw", seconds, write=True)
    except sqlite3.OperationalError as error:
        # Running out of file descriptors also says "unable to open": that must not end in a read-only connection.
        if not any(message in str(error) for message in _RIGHTS_MESSAGES) or is_writable(path):
            raise
        with contextlib.suppress(sqlite3.OperationalError):
            return _checked(path, "mode=ro", seconds, write=False)
        # In a read-only folder SQLite cannot create the log that it needs even for reading.
        log = sibling(path, "-wal")
        if log.exists() and log.stat().st_size:
            raise
        return _checked(path, "immutable=1", seconds, write=False)


def _checked(path: Path, mode: str, seconds: float, *, write: bool) -> sqlite3.Connection:
    identity = file_identity(path)
    database = open_file(path, mode, seconds)
    try:
        if database.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
            raise DamagedError("its header is damaged")
        try:
            database.execute("SELECT key, entry, used FROM nanogpt_entries LIMIT 1")
        except sqlite3.OperationalError as error:
            # Later versions of the schema have another table, or other columns.
            version = database.execute("PRAGMA user_version").fetchone()
            if "no such" in str(error) and version > (_SCHEMA_VERSION,):
                raise ForeignError("it was made by a later version of nanogpt-rag, and stays unchanged") from error
            raise
        database.execute(f"PRAGMA cache_size = {-_PAGE_CACHE_KIB}")
        if write:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        # SQLite opens the log by its name, later than the file: it must not be the log of a new file.
        if identity != file_identity(path):
            raise BlockingIOError(errno.EAGAIN, "Another process set the file aside while it was opened")
    except BaseException:
        database.close()
        raise
    return database


class _Connection(sqlite3.Connection):
    """A connection that is closed when the garbage collector finds it.

    Since Python 3.13, SQLite's own connections give a ResourceWarning then. A cache closes its connection with itself,
    but if both are part of a reference cycle, the collector may begin with the connection.
    """

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # of one that could not be opened
            self.close()


def open_file(path: Path, mode: str, seconds: float) -> sqlite3.Connection:
    """Open a file without checking it; each statement waits ``seconds`` for other processes.

    ``mode`` is a parameter of SQLite's URI, such as ``mode=ro``.
    """
    database = sqlite3.connect(
        f"{path.as_uri()}?{mode}",
        uri=True,
        timeout=seconds,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )
    try:
        database.text_factory = bytes  # in a damaged file a blob may come up as text, which need not be UTF-8
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        database.close()
        raise
    return database


def _refuse_foreign(path: Path) -> None:
    # In immutable mode SQLite neither locks the file, nor reads its log, nor creates one.
    with contextlib.closing(open_file(path, "immutable=1", 0)) as database:
        try:
            (application_id,) = database.execute("PRAGMA application_id").fetchone()
            tables = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'nanogpt_entries'").fetchone()
            pages = database.execute("PRAGMA page_count").fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return  # unreadable in this mode; the usual way of opening reports the cause
    if pages == (0,):
        raise DamagedError("it is too short")
    if application_id != _APPLICATION_ID and tables == (0,):
        raise ForeignError("it is another program's database, and stays unchanged")


def is_locked(error: Exception) -> bool:
    """Return whether an error says that another connection or process holds a lock on the file."""
    # Python 3.10 has no error codes.
    busy = isinstance(error, sqlite3.OperationalError) and any(word in str(error) for word in ("locked", "locking"))
    return busy or isinstance(error, BlockingIOError)


def is_writable(path: Path) -> bool:
    """Return whether this process has the rights to write to the file, its log and its folder."""
    files = [path.parent, *(sibling(path, suffix) for suffix in ("", "-wal", "-shm"))]
    effective = os.access in os.supports_effective_ids
    return all(os.access(file, os.W_OK, effective_ids=effective) for file in files if file.exists())


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder: only one process at a time creates a file in it, or sets one aside.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if fcntl is None:
        yield  # type: ignore[unreachable]
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)

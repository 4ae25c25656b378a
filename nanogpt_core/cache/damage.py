"""Damage of a cache file: recognising it by the errors of SQLite, and setting the file aside."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
from pathlib import Path

from nanogpt_core.cache.sqlite_file import FAILURES, PAGE_BYTES, DamagedError, is_writable, open_file, sibling

_MESSAGES = ("malformed", "not a database", "unsupported file format")


def is_damage(error: Exception) -> bool:
    """Return whether an error proves that the file is damaged."""
    if isinstance(error, (DamagedError, UnicodeDecodeError)):
        return True
    # Python 3.10 raises this class without a message if SQLite's message is not UTF-8.
    unreadable_message = type(error) is sqlite3.DatabaseError and not str(error)
    return unreadable_message or any(message in str(error) for message in _MESSAGES)


def may_be_damage(error: Exception, path: Path) -> bool:
    """Return whether an error means damage if it comes again after reopening the file.

    A log that was truncated under an open connection is read correctly by a new one. A damaged header can make SQLite
    report a file as read-only. A missing table or column can be the work of a later version of this package, which
    opening the file tells.
    """
    if "readonly" in str(error):
        return is_writable(path)
    was_truncated = getattr(error, "sqlite_errorname", None) == "SQLITE_IOERR_SHORT_READ"
    return was_truncated or "no such" in str(error) or is_ambiguous(error)


def is_ambiguous(error: Exception) -> bool:
    """Return whether damage or a full disk can be the cause.

    :func:`reading_fails` then tells damage from a full disk. Python 3.10 has no error codes:
    docs/adr/0021-damaged-cache-files-without-error-codes.md.
    """
    return not hasattr(error, "sqlite_errorname") and "disk I/O error" in str(error)


def reading_fails(path: Path, seconds: float, *, opened: bool) -> bool:
    """Return whether SQLite fails to read the file; one that takes longer than ``seconds`` counts as readable.

    If SQLite could not open it, only a full disk is ruled out.
    """
    if not opened:
        return _has_space(path.parent)
    give_up_at = time.monotonic() + seconds
    shared_memory = sibling(path, "-shm")
    if shared_memory.exists() and shared_memory.stat().st_size:
        mode = "mode=ro"
    else:  # SQLite creates this file, which fails on a full disk
        mode = "mode=rw" if _has_space(path.parent) else "immutable=1"
    try:
        with contextlib.closing(open_file(path, mode, 0)) as database:
            database.set_progress_handler(lambda: time.monotonic() > give_up_at, 10_000)  # steps of SQLite's VM
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() != (b"ok",))
    except FAILURES as error:
        return is_damage(error) or "disk I/O error" in str(error)


def _has_space(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2 * PAGE_BYTES))  # more than SQLite writes to open a file
            file.flush()
    except OSError:
        return False
    return True


def set_aside(path: Path) -> str:
    """Rename a damaged file and the files that belong to it; return the new name."""
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    # The log goes first: once the file is gone, another process may create a new one with a log of its own.
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            sibling(path, suffix).rename(sibling(aside, suffix))
    return aside.name

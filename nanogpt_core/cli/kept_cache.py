"""A cache file that a command relies on: unlike ``SQLiteCache``, it says if it cannot be written."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from nanogpt_core.cache.damage import is_damage, may_be_damage
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.cache.sqlite_file import (
    BUSY_SECONDS,
    FAILURES,
    ForeignError,
    connect,
    create_if_missing,
    wait_while_locked,
)
from nanogpt_core.errors import ConfigurationError

_SQLITE_FORMAT = b"SQLite format 3\0"
_REMEDY = "Move it away, or name another file."


class KeptCache(SQLiteCache):
    """A :class:`nanogpt_core.SQLiteCache` that a command relies on; it is created with its folder if it is missing.

    Attributes:
        failure: The error of the first write that failed, or None. The embedder continues without a cache then.

    Raises:
        OSError: The file cannot be created or written.
        ConfigurationError: ``path`` is a folder, or a file of another program. ``SQLiteCache`` would warn of another
            program's database, and take a file of another format for a damaged cache, and rename it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.failure: OSError | None = None
        if _format_of(self.path) not in {b"", _SQLITE_FORMAT}:
            raise ConfigurationError(f"{self.path} is no cache: it is no SQLite file.", remedy=_REMEDY)
        try:
            wait_while_locked(self._create_and_check, BUSY_SECONDS)
        except ForeignError as error:
            raise ConfigurationError(f"{self.path} is no cache: {error}.", remedy=_REMEDY) from None
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"The cache cannot be used ({error})", str(self.path)) from None
        for each in (self.path, self.path.parent):  # SQLite writes its log beside the file
            if not os.access(each, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(each))

    def _create_and_check(self, seconds: float) -> None:
        create_if_missing(self.path)
        try:
            connect(self.path, seconds).close()
        except FAILURES as error:
            if not (is_damage(error) or may_be_damage(error, self.path)):
                raise
            # ``SQLiteCache`` sets a damaged file aside when it is used.

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries, and check that they are there: ``SQLiteCache`` only warns if it cannot be written."""
        super().put_many(entries)
        last = next(reversed(list(entries)), None)
        if last is not None and last not in self.get_many([last]):
            self.failure = OSError(errno.EIO, "The cache cannot be written", str(self.path))
            raise self.failure


def _format_of(path: Path) -> bytes:
    """Return the beginning of a file, which names its format; empty if there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_FORMAT))
    except FileNotFoundError:
        return b""

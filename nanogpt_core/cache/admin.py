"""Functions to inspect, verify, export and clear a cache file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.validation import check_path
from nanogpt_core.cache.base import decode_entry, entry_dimensions
from nanogpt_core.cache.sqlite_file import (
    BUSY_SECONDS,
    FAILURES,
    ForeignError,
    connect,
    resolve_path,
    sibling,
    wait_while_locked,
)
from nanogpt_core.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CacheReport:
    """The contents of a cache file.

    Attributes:
        path: The file.
        entries: Number of vectors.
        bytes: Size of the file and of its log, in bytes.
        widths: Number of vectors by their dimensions.
        unsound: Number of entries with a wrong checksum or length; None if they were not checked.
        damage: Messages of SQLite's own check, empty if it finds nothing; None if it was not run.
    """

    path: Path
    entries: int
    bytes: int
    widths: Mapping[int, int]
    unsound: int | None = None
    damage: tuple[str, ...] | None = None

    @property
    def clean(self) -> bool:
        """True if a check was run and found nothing; False without a check."""
        return self.unsound == 0 and self.damage == ()


@contextlib.contextmanager
def _existing(path: str | os.PathLike[str]) -> Iterator[tuple[Path, sqlite3.Connection]]:
    file = resolve_path(path)
    if not file.is_file():
        raise ConfigurationError(f"There is no cache file at {file}.")
    try:
        if not file.stat().st_size:
            raise ForeignError("it is empty")
        with contextlib.closing(wait_while_locked(partial(connect, file), BUSY_SECONDS)) as database:
            yield file, database
    except FAILURES as error:
        raise ConfigurationError(f"The cache file {file} cannot be used: {error}.") from error


def _report(path: Path, database: sqlite3.Connection, **checks: Any) -> CacheReport:
    # An entry begins with its dimensions, four bytes; one of eight bytes is a header without a vector.
    heads = database.execute(
        "SELECT substr(entry, 1, 4), count(*) FROM nanogpt_entries WHERE length(entry) > 8 GROUP BY 1"
    )
    widths = {int.from_bytes(head, "little"): count for head, count in heads}
    files = (path, sibling(path, "-wal"))
    size = sum(file.stat().st_size for file in files if file.exists())
    return CacheReport(path, sum(widths.values()), size, widths, **checks)


def inspect_cache(path: str | os.PathLike[str]) -> CacheReport:
    """Count the vectors of a cache file, without checking them.

    Raises:
        ConfigurationError: There is no such file, or it is not a cache.
    """
    with _existing(path) as (file, database):
        return _report(file, database)


def verify_cache(path: str | os.PathLike[str]) -> CacheReport:
    """Check every entry of a cache file, and the file itself. A damaged entry is never returned as a vector.

    Raises:
        ConfigurationError: There is no such file, it is not a cache, or it is too damaged to be read.
    """
    with _existing(path) as (file, database):
        damage = []
        unsound = 0
        try:
            found = (row[0].decode(errors="replace") for row in database.execute("PRAGMA integrity_check"))
            damage += [message for message in found if message != "ok"]
            for key, entry in database.execute("SELECT key, entry FROM nanogpt_entries"):
                unsound += entry_dimensions(key, entry) is None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            damage.append(str(error))
        try:
            return _report(file, database, unsound=unsound, damage=tuple(damage))
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            size = file.stat().st_size
            return CacheReport(file, 0, size, {}, unsound=unsound, damage=tuple(damage))


def export_cache(path: str | os.PathLike[str], target: str | os.PathLike[str]) -> int:
    """Write the valid vectors of a cache file into a NumPy ``.npz`` file, and return their number.

    It has two arrays for each number of dimensions d, whose names end with that number: for 1536, ``keys_1536``,
    ``(n, 32)`` uint8, and ``vectors_1536``, ``(n, 1536)`` float32.

    Raises:
        ConfigurationError: There is no such cache file, or it is not a cache, or ``target`` cannot be written.
        InvalidTypeError: An argument is not a path.
    """
    import numpy as np

    name = check_path("target", target)
    found: dict[int, tuple[list[bytes], list[NDArray[np.float32]]]] = {}
    with _existing(path) as (file, database):
        written = Path(os.path.realpath(name if name.endswith(".npz") else f"{name}.npz"))  # as NumPy names it
        if written == file:
            raise ConfigurationError(f"{file} is the cache itself.", remedy="Pass another target.")
        for key, entry in database.execute("SELECT key, entry FROM nanogpt_entries ORDER BY key"):
            vector = decode_entry(key, entry)
            if vector is not None:
                keys, vectors = found.setdefault(len(vector), ([], []))
                keys.append(key)
                vectors.append(vector)
    arrays: dict[str, NDArray[Any]] = {}
    for dimensions, (keys, vectors) in found.items():
        arrays[f"keys_{dimensions}"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        arrays[f"vectors_{dimensions}"] = np.stack(vectors)
    new = sibling(written, ".new")
    try:
        with new.open("wb") as archive:
            np.savez(archive, **arrays)  # type: ignore[arg-type] # the stub types every keyword as savez's own
        new.replace(written)
    except BaseException as error:
        with contextlib.suppress(OSError):
            new.unlink()
        if not isinstance(error, OSError):
            raise
        raise ConfigurationError(f"Cannot write to {name}: {error}.") from error
    return sum(len(keys) for keys, _ in found.values())


def clear_cache(path: str | os.PathLike[str]) -> int:
    """Delete every entry of a cache file, release the space, and return the number of vectors deleted.

    Raises:
        ConfigurationError: There is no such file, or it is not a cache.
    """
    with _existing(path) as (file, database):
        count = _report(file, database).entries
        database.execute("DELETE FROM nanogpt_entries")
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # otherwise only once no other process has the file open
        return count

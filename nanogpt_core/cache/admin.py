"""What is in a cache file: inspect, verify, export and clear it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_core.cache.base import is_width_note, vector_of, width_of
from nanogpt_core.cache.sqlite_file import FAILURES, ForeignError, beside, connect, place_of
from nanogpt_core.errors import ConfigurationError

__all__ = ["CacheReport", "clear_cache", "export_cache", "inspect_cache", "verify_cache"]


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


@contextlib.contextmanager
def _existing(path: str | os.PathLike[str]) -> Iterator[tuple[Path, sqlite3.Connection]]:
    place = place_of(path)
    if not place.is_file():
        raise ConfigurationError(f"There is no cache file at {place}.")
    try:
        if not place.stat().st_size:
            raise ForeignError("it is empty")
        with contextlib.closing(connect(place)) as database:
            yield place, database
    except FAILURES as error:
        raise ConfigurationError(f"The cache file {place} cannot be used: {error}.") from error


def _report(place: Path, database: sqlite3.Connection, **checks: Any) -> CacheReport:
    # The entry's first four bytes are its width; a note of a width alone has eight bytes and is no vector.
    heads = database.execute(
        "SELECT substr(entry, 1, 4), count(*) FROM nanogpt_entries WHERE length(entry) > 8 GROUP BY 1"
    )
    widths = {int.from_bytes(head, "little"): count for head, count in heads}
    files = (place, beside(place, "-wal"))
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

"""The passages of a run, in a temporary SQLite file: memory stays bounded, and repeated texts are found."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.reading.passage import Passage

_SELECT = (
    "SELECT text_id, text, source, number, part, line, page, key, metadata "
    "FROM passages JOIN texts ON texts.id = text_id"
)
_ROWS_PER_INSERT = 1000
_CACHE_KIB = 16_384
_DIGEST_BYTES = 16  # of SHA-256; 2**64 texts until two of them are likely to share one


class Spool:
    """Stores passages in order. One thread only.

    Args:
        path: The file. An existing one is replaced.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._folder = path.parent
        self._database = sqlite3.connect(path, isolation_level=None)
        # Nothing here survives a kill: the input is read again.
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE texts (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, text TEXT)")
        self._database.execute(
            "CREATE TABLE passages (id INTEGER PRIMARY KEY, text_id, source, number, part, line, page, key, metadata)"
        )
        self._hash = hashlib.sha256()
        self.passages = self.texts = self.text_bytes = 0

    @property
    def texts_sha256(self) -> str:
        """SHA-256, in hexadecimal, over the SHA-256 of each passage's text, in order."""
        return self._hash.hexdigest()

    def add_all(self, passages: Iterable[Passage]) -> Iterator[int]:
        """Store passages; yield the number of those stored so far, now and then.

        Raises:
            CommandError: The disk is full.
        """
        passages = iter(passages)
        while block := list(islice(passages, _ROWS_PER_INSERT)):
            try:
                self._add(block)
            except sqlite3.OperationalError as error:
                raise CommandError(f"{self._folder}: The passages cannot be stored ({error}).") from None
            yield self.passages

    def _add(self, passages: list[Passage]) -> None:
        encoded = [passage.text.encode() for passage in passages]
        digests = [hashlib.sha256(text).digest() for text in encoded]
        self._hash.update(b"".join(digests))
        short = [digest[:_DIGEST_BYTES] for digest in digests]
        known = self._text_ids(short)
        new = []
        for digest, passage, text in zip(short, passages, encoded, strict=True):
            if digest not in known:
                self.texts += 1
                self.text_bytes += len(text)
                known[digest] = self.texts
                new.append((self.texts, digest, passage.text))
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO texts VALUES (?, ?, ?)", new)
        self._database.executemany(
            "INSERT INTO passages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (known[digest], row.source, row.number, row.part, row.line, row.page, row.key, row.metadata)
                for digest, row in zip(short, passages, strict=True)
            ],
        )
        self._database.execute("COMMIT")
        self.passages += len(passages)

    def _text_ids(self, digests: list[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for start in range(0, len(digests), 500):
            part = digests[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(self._database.execute(f"SELECT digest, id FROM texts WHERE digest IN ({marks})", part))  # noqa: S608
        return found

    def distinct_texts(self) -> Iterator[str]:
        """Yield each distinct text once, in the order of first occurrence."""
        for (text,) in self._database.execute("SELECT text FROM texts ORDER BY id"):
            yield text

    def rows(self) -> Iterator[tuple[int, Passage]]:
        """Yield all passages in order, each with the number of its text.

        Distinct texts are numbered from 1, in the order of first occurrence.
        """
        for text_id, *fields in self._database.execute(f"{_SELECT} ORDER BY passages.id"):
            yield text_id, Passage(*fields)

    def first_passage(self, text_id: int) -> Passage | None:
        """Return the first passage with a text, for messages; None if there is none."""
        row = self._database.execute(f"{_SELECT} WHERE text_id = ? LIMIT 1", (text_id,)).fetchone()
        return None if row is None else Passage(*row[1:])

    def close(self) -> None:
        """Close the file."""
        self._database.close()

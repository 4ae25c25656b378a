"""The passages of a run, in temporary files: memory stays bounded, and repeated texts are found."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.formats.base import ROWS_PER_BLOCK
from nanogpt_core.cli.reading.passage import Passage

_BUFFER_BYTES = 1 << 20
_CACHE_KIB = 16_384
_DIGEST_BYTES = 16  # of SHA-256; 2**64 texts until two of them are likely to share one


@dataclass(frozen=True, slots=True)
class SpooledBlock:
    """Passages as they were stored together, :data:`ROWS_PER_BLOCK` of them, or fewer in the last block.

    Attributes:
        passages: The passages.
        text_ids: The numbers of their texts. Distinct texts are numbered from 1, in the order of first occurrence.
        known: Number of distinct texts in the blocks before.
        new: Number of distinct texts that no block before holds.
    """

    passages: list[Passage]
    text_ids: list[int]
    known: int
    new: int


class Spool:
    """Stores passages in order. One thread only.

    A block is a line of JSON. With a row of SQLite for each passage, the thread that starts requests spent a third of
    its time on them: each step of SQLite lets other threads run first.

    Args:
        folder: The folder for the files ``passages.jsonl`` and ``texts.sqlite``. Existing ones are replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / "passages.jsonl").open("w+b", buffering=_BUFFER_BYTES)
        index = folder / "texts.sqlite"
        index.unlink(missing_ok=True)
        self._database = sqlite3.connect(index, isolation_level=None)
        # Nothing here survives a kill: the input is read again.
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE texts (digest BLOB PRIMARY KEY, id INTEGER) WITHOUT ROWID")
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
        while block := list(islice(passages, ROWS_PER_BLOCK)):
            with self._naming_folder():
                self._add(block)
            yield self.passages
        with self._naming_folder():
            self._file.flush()  # a full disk is named here, and not where the passages are read

    @contextlib.contextmanager
    def _naming_folder(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandError(f"{self._folder}: The passages cannot be stored ({reason}).") from None

    def _add(self, passages: list[Passage]) -> None:
        encoded = [passage.text.encode() for passage in passages]
        digests = [hashlib.sha256(text).digest() for text in encoded]
        self._hash.update(b"".join(digests))
        short = [digest[:_DIGEST_BYTES] for digest in digests]
        known = self._text_ids(short)
        new = []
        for digest, text in zip(short, encoded, strict=True):
            if digest not in known:
                self.texts += 1
                self.text_bytes += len(text)
                known[digest] = self.texts
                new.append((digest, self.texts))
        rows = [(known[digest], *passage) for digest, passage in zip(short, passages, strict=True)]
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO texts VALUES (?, ?)", new)
        self._database.execute("COMMIT")
        self._file.write(orjson.dumps(rows, option=orjson.OPT_APPEND_NEWLINE))
        self.passages += len(passages)

    def _text_ids(self, digests: list[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for start in range(0, len(digests), 500):
            part = digests[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(self._database.execute(f"SELECT digest, id FROM texts WHERE digest IN ({marks})", part))  # noqa: S608
        return found

    def blocks(self) -> Iterator[SpooledBlock]:
        """Yield all passages in order, in blocks as they were stored."""
        known = 0
        for rows in self._rows():
            text_ids = [row[0] for row in rows]
            new = max(max(text_ids) - known, 0)
            yield SpooledBlock([Passage(*row[1:]) for row in rows], text_ids, known, new)
            known += new

    def distinct_texts(self) -> Iterator[str]:
        """Yield each distinct text once, in the order of first occurrence."""
        known = 0
        for rows in self._rows():
            for text_id, text, *_ in rows:
                if text_id > known:
                    known = text_id
                    yield text

    def first_passage(self, text_id: int) -> Passage | None:
        """Return the first passage with a text, for messages; None if there is none."""
        rows = (row for rows in self._rows() for row in rows if row[0] == text_id)
        row = next(rows, None)
        return None if row is None else Passage(*row[1:])

    def _rows(self) -> Iterator[list[list[Any]]]:
        """Yield the lines: for each passage, the number of its text and its fields."""
        place = 0
        while True:
            self._file.seek(place)  # there may be several readers
            line = self._file.readline()
            if not line:
                return
            place += len(line)
            rows = orjson.loads(line)
            del line  # as large as the texts
            yield rows

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError):  # closing writes what a full disk has refused already
            self._file.close()
        self._database.close()

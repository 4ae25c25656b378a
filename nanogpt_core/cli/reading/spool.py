"""The passages of a run, in temporary files: memory stays bounded, and repeated texts are found."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.formats.base import ROWS_PER_BLOCK
from nanogpt_core.cli.reading.passage import Passage

_BUFFER_BYTES = 1 << 20
_MAX_CHARACTERS_PER_BLOCK = 4 << 20  # a run holds some ten blocks
_CACHE_KIB = 16_384
_DIGEST_BYTES = 16  # of SHA-256; 2**64 texts until two of them are likely to share one


@dataclass(frozen=True, slots=True)
class SpooledBlock:
    """Passages as they were stored together: at most :data:`ROWS_PER_BLOCK`.

    Attributes:
        text_ids: The numbers of their texts. Distinct texts are numbered from 1, in the order of first occurrence.
        known: Number of distinct texts in the blocks before.
        new: Number of distinct texts that no block before holds.
    """

    passages: list[Passage]
    text_ids: list[int]
    known: int
    new: int


class Spool:
    """Stores passages in order, in ``passages.jsonl`` and ``texts.sqlite``, which are replaced. One thread only.

    A block is a line of JSON, a list for each field: with a list for each passage, the garbage collector took longer
    than parsing. With a row of SQLite for each passage, the thread that starts requests spent a third of its time on
    them: each step of SQLite lets other threads run first.
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
        self._database.execute("CREATE TABLE row_ids (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._hash, self._rows_hash = hashlib.sha256(), hashlib.sha256()
        self.passages = self.texts = self.text_bytes = self.repeated_ids = 0

    @property
    def texts_sha256(self) -> str:
        """SHA-256, in hexadecimal, over the SHA-256 of each passage's text, in order."""
        return self._hash.hexdigest()

    @property
    def rows_sha256(self) -> str:
        """SHA-256, in hexadecimal, over all passages with their IDs, places and metadata."""
        return self._rows_hash.hexdigest()

    def add_all(self, passages: Iterable[Passage]) -> Iterator[int]:
        """Store passages; yield the number of those stored so far, now and then.

        Raises:
            CommandError: The disk is full.
        """
        for block in _blocks(passages):
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
        columns = ([known[digest] for digest in short], *zip(*passages, strict=True))
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO texts VALUES (?, ?)", new)
        # The other IDs are made of file and number.
        ids = [
            (hashlib.sha256(passage.id.encode()).digest()[:_DIGEST_BYTES],)
            for passage in passages
            if passage.key is not None
        ]
        stored = self._database.executemany("INSERT OR IGNORE INTO row_ids VALUES (?)", ids).rowcount if ids else 0
        self.repeated_ids += len(ids) - stored
        self._database.execute("COMMIT")
        self._file.write(orjson.dumps(columns, option=orjson.OPT_APPEND_NEWLINE))
        for passage in passages:  # one by one: the hash must not depend on the size of a block
            self._rows_hash.update(orjson.dumps([*passage], option=orjson.OPT_APPEND_NEWLINE))
        self.passages += len(passages)

    def _text_ids(self, digests: list[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for start in range(0, len(digests), 500):
            part = digests[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(self._database.execute(f"SELECT digest, id FROM texts WHERE digest IN ({marks})", part))  # noqa: S608
        return found

    def holds(self, texts: Iterable[str]) -> set[str]:
        """Return those of the texts that a passage has."""
        digests = {text: hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES] for text in texts}
        known = self._text_ids(list(digests.values()))
        return {text for text, digest in digests.items() if digest in known}

    def blocks(self) -> Iterator[SpooledBlock]:
        """Yield all passages in order, in blocks as they were stored."""
        known = 0
        for text_ids, *fields in self._columns():
            new = max(max(text_ids) - known, 0)
            yield SpooledBlock(list(map(Passage, *fields)), text_ids, known, new)
            known += new

    def text_blocks(self) -> Iterator[list[str]]:
        """Yield the distinct texts in the order of first occurrence: those that are new in each block."""
        known = 0
        for text_ids, texts, *_ in self._columns():
            new = {text_id: text for text_id, text in zip(text_ids, texts, strict=True) if text_id > known}
            known += len(new)
            yield list(new.values())

    def distinct_texts(self) -> Iterator[str]:
        """Yield each distinct text once, in the order of first occurrence."""
        return itertools.chain.from_iterable(self.text_blocks())

    def first_passage(self, text_id: int) -> Passage | None:
        """Return the first passage with a text, for messages; None if there is none."""
        for block in self.blocks():
            if text_id in block.text_ids:
                return block.passages[block.text_ids.index(text_id)]
        return None

    def _columns(self) -> Iterator[list[list[Any]]]:
        """Yield the lines: for each block, the numbers of its texts, and a list for each field of its passages."""
        place = 0
        while True:
            self._file.seek(place)  # there may be several readers
            line = self._file.readline()
            if not line:
                return
            place += len(line)
            columns = orjson.loads(line)
            del line  # as large as the texts
            yield columns

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError):  # closing writes what a full disk has refused already
            self._file.close()
        self._database.close()


def _blocks(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Divide passages into blocks; the same passages give the same blocks in each run."""
    block: list[Passage] = []
    characters = 0
    for passage in passages:
        block.append(passage)
        characters += len(passage.text)
        if characters >= _MAX_CHARACTERS_PER_BLOCK or len(block) == ROWS_PER_BLOCK:
            yield block
            block, characters = [], 0
    if block:
        yield block

"""JSON Lines: an object for each row, with the vector as a list of numbers."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import orjson

from nanogpt_core.cli.formats.base import ROWS_PER_BLOCK, Block, Facts, StoredRow, row_fields, stored_row, unreadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VECTOR = "embedding"
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def write(path: Path, facts: Facts, blocks: Iterator[Block]) -> None:  # noqa: ARG001 - it has no place for facts
    """Write JSON Lines; see :class:`nanogpt_core.cli.formats.base.Format`.

    The numbers are the shortest that give the same float32.
    """
    with path.open("wb") as file:
        for block in blocks:
            for passage, vector in zip(block.passages, chain(*block.vectors), strict=True):
                file.write(orjson.dumps({**row_fields(passage), _VECTOR: vector}, option=_OPTIONS))


def load_line(line: bytes, path: Path, place: str) -> Any:
    """Return the value of a line of a file; ``place`` names the line in an error.

    Raises:
        CommandError: It is not JSON.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise unreadable(path, f"cannot be read: {place} is not JSON ({error.msg})") from None


def read_rows(path: Path, numbers: Sequence[int] | None) -> Iterator[StoredRow]:
    """Yield the rows with these numbers, or all; only their lines are parsed."""
    wanted = None if numbers is None else set(numbers)
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if wanted is None or number in wanted:
                yield stored_row(load_line(line, path, f"line {number + 1}"), path, number)


class Reader:
    """Reads JSON Lines."""

    facts = None

    def __init__(self, path: Path) -> None:
        self._path = path
        if _VECTOR not in next(self._lines(), {_VECTOR: None}):
            raise unreadable(path, f"was not written by nanogpt embed: line 1 has no {_VECTOR!r}")

    @property
    def row_count(self) -> int:
        """Number of rows."""
        with self._path.open("rb") as file:
            return sum(1 for _ in file)

    def check_complete(self) -> None:
        """Check that the last line is complete."""
        with self._path.open("rb") as file:
            if self._path.stat().st_size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    self._row(content[content.rfind(b"\n", 0, -1) + 1 :], "the last line")

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield self._row(line, f"line {number}")

    def _row(self, line: bytes, place: str) -> dict[str, Any]:
        row = load_line(line, self._path, place)
        if not isinstance(row, dict):
            raise unreadable(self._path, f"cannot be read: {place} is not a JSON object")
        if not isinstance(row.get(_VECTOR), (list, NoneType)):
            raise unreadable(self._path, f"cannot be read: {place} has no list of numbers in {_VECTOR!r}")
        return row

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors in blocks."""
        import numpy as np

        lists = self._lists()
        width = next((len(each) for each in self._lists() if each), 0)
        missing = [np.nan] * width
        while block := list(islice(lists, ROWS_PER_BLOCK)):
            if not width:
                raise unreadable(self._path, "holds no vector")
            if set(map(len, block)) - {0, width}:
                raise unreadable(self._path, "has vectors of different dimensions")
            try:
                with np.errstate(over="ignore"):  # infinity is no vector either
                    vectors = np.array([each or missing for each in block], dtype=np.float32)
            except (ValueError, TypeError) as error:
                raise unreadable(self._path, f"has a vector with a value that is not a number ({error})") from None
            if vectors.ndim != 2:  # noqa: PLR2004 - rows and dimensions
                raise unreadable(self._path, "has a vector with a value that is not a number (a list)")
            yield vectors

    def _lists(self) -> Iterator[list[Any]]:
        return (row.get(_VECTOR) or [] for row in self._lines())

    def rows(self, numbers: Sequence[int] | None = None) -> Iterator[StoredRow]:
        """Yield rows."""
        return read_rows(self._path, numbers)

"""An array of NumPy, ``(rows, dimensions)`` float32, and the passages in JSON Lines beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.formats.base import ROWS_PER_BLOCK, Block, Facts, StoredRow, row_fields, stored_row, unreadable
from nanogpt_core.cli.formats.json_lines import load_line, read_rows
from nanogpt_core.cli.paths import passages_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write(path: Path, facts: Facts, blocks: Iterator[Block]) -> None:
    """Write an array and its passages; see :class:`nanogpt_core.cli.formats.base.Format`."""
    import numpy as np

    with path.open("wb") as array, passages_path(path).open("wb") as passages:
        header = {"descr": "<f4", "fortran_order": False, "shape": (facts.rows, facts.dimensions)}
        np.lib.format.write_array_header_1_0(array, header)  # type: ignore[no-untyped-call, unused-ignore] # before numpy 2.3
        for block in blocks:
            for part in block.vectors:
                array.write(part.astype("<f4", order="C", copy=False).data)
            passages.writelines(
                orjson.dumps(row_fields(one), option=orjson.OPT_APPEND_NEWLINE) for one in block.passages
            )


class Reader:
    """Reads an array, mapped into memory, and its passages."""

    facts = None

    def __init__(self, path: Path) -> None:
        import numpy as np

        self._path = path
        try:
            with np.errstate(over="ignore"):  # of the product of a wrong shape
                self._array = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call, unused-ignore]
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - NumPy reads the header as Python, and raises as many kinds
            raise unreadable(path, f"is not an array of NumPy ({error})") from None
        if self._array.ndim != 2 or self._array.dtype != np.float32:  # noqa: PLR2004 - rows and dimensions
            raise unreadable(path, "was not written by nanogpt embed: it is not (rows, dimensions) float32")
        if not passages_path(path).exists():
            raise unreadable(path, f"has no passages: {passages_path(path).name} is missing")

    def check_complete(self) -> None:
        """Check that there is a passage for each vector, and that the last one is complete."""
        path = passages_path(self._path)
        lines, last = 0, b""
        with path.open("rb") as file:
            for line in file:
                lines, last = lines + 1, line
        if lines != len(self._array):
            raise unreadable(
                self._path, f"has {counted(len(self._array), 'vector')}, and {path.name} {counted(lines, 'passage')}"
            )
        if lines:
            stored_row(load_line(last, path, f"line {lines}"), path, lines - 1)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of the array in blocks."""
        for start in range(0, len(self._array), ROWS_PER_BLOCK):
            yield self._array[start : start + ROWS_PER_BLOCK]

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return len(self._array)

    def vectors(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some rows."""
        found: NDArray[np.float32] = self._array[list(numbers)]
        return found

    def rows(self, numbers: Sequence[int] | None = None) -> Iterator[StoredRow]:
        """Yield rows."""
        return read_rows(passages_path(self._path), numbers)

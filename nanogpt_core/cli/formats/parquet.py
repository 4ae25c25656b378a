"""Parquet: a row group for each block, vectors as fixed-size lists of float32 without compression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_core.cli.formats.arrow import VECTORS, ArrowReader, make_schema, make_table, reading
from nanogpt_core.cli.formats.base import COLUMNS, ROWS_PER_BLOCK, Block, Facts, StoredRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write(path: Path, facts: Facts, blocks: Iterator[Block]) -> None:
    """Write a Parquet file; see :class:`nanogpt_core.cli.formats.base.Format`."""
    import pyarrow.parquet as pq

    schema = make_schema(facts)
    # Vectors hardly shrink: zstd saves 8 % and takes longer than writing them.
    compression = {**dict.fromkeys(COLUMNS, "zstd"), f"{VECTORS}.list.element": "none"}
    with pq.ParquetWriter(
        path, schema, compression=compression, use_dictionary=["source"], write_statistics=["source"]
    ) as writer:
        for block in blocks:
            writer.write_table(make_table(block, schema), row_group_size=ROWS_PER_BLOCK)


class Reader(ArrowReader):
    """Reads a Parquet file row group by row group."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        with reading(path):
            self._file = pq.ParquetFile(path, memory_map=True)
        super().__init__(path, self._file.schema_arrow)

    def _lists(self) -> Iterator[Any]:
        for number in range(self._file.num_row_groups):
            yield from self._column(number).chunks

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return int(self._file.metadata.num_rows)

    def vectors(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some rows; only the row groups that hold them are read."""
        import numpy as np

        parts = []
        for group, _, wanted in self._groups(numbers):
            block = np.concatenate([self._vectors(chunk) for chunk in self._column(group).chunks])
            parts.append(block[wanted])
        return np.concatenate(parts)

    def rows(self, numbers: Sequence[int] | None = None) -> Iterator[StoredRow]:
        """Yield rows; only the row groups that hold them are read."""
        import pyarrow as pa

        for group, first, wanted in self._groups(numbers):
            with reading(self._output):
                table: Any = self._file.read_row_group(group, columns=self._columns)
            if wanted is not None:  # Table.take() does not know every type
                table = pa.concat_tables([table.slice(row, 1) for row in wanted])
            yield from self._stored_rows(table, first)

    def _column(self, group: int) -> Any:
        with reading(self._output):
            return self._file.read_row_group(group, columns=[VECTORS], use_threads=False).column(VECTORS)

    def _groups(self, numbers: Sequence[int] | None) -> Iterator[tuple[int, int, list[int] | None]]:
        """Yield row groups with the number of their first row, and the rows wanted, counted from it; None for all."""
        first = 0
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            wanted = None if numbers is None else [row - first for row in numbers if first <= row < first + count]
            if wanted is None or wanted:
                yield group, first, wanted
            first += count

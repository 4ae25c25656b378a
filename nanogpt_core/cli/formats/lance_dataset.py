"""Lance: a folder with a dataset, which LanceDB opens too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanogpt_core.cli.formats.arrow import VECTORS, ArrowReader, make_schema, make_table, reading
from nanogpt_core.cli.formats.base import ROWS_PER_BLOCK, Block, Facts, StoredRow


def write(path: Path, facts: Facts, blocks: Iterator[Block]) -> None:
    """Write a dataset; see :class:`nanogpt_core.cli.formats.base.Format`."""
    import lance
    import pyarrow as pa

    schema = make_schema(facts)
    batches = (batch for block in blocks for batch in make_table(block, schema).to_batches())
    lance.write_dataset(pa.RecordBatchReader.from_batches(schema, batches), str(path), mode="create")


class Reader(ArrowReader):
    """Reads a dataset."""

    def __init__(self, path: Path) -> None:
        import lance

        with reading(path):
            self._dataset = lance.dataset(str(path))
            schema = self._dataset.schema
        super().__init__(path, schema)

    @property
    def row_count(self) -> int:
        """Number of rows."""
        with reading(self._output):
            return int(self._dataset.count_rows())

    def _lists(self) -> Iterator[Any]:
        for batch in self._batches([VECTORS]):
            yield batch.column(VECTORS)

    def rows(self, numbers: Sequence[int] | None = None) -> Iterator[StoredRow]:
        """Yield rows."""
        if numbers is not None:
            with reading(self._output):
                table = self._dataset.take(list(numbers), columns=self._columns)
            yield from self._stored_rows(table, 0)
            return
        first = 0
        for batch in self._batches(self._columns):
            yield from self._stored_rows(batch, first)
            first += len(batch)

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        with reading(self._output):
            batches = iter(self._dataset.to_batches(columns=columns, batch_size=ROWS_PER_BLOCK))
        while True:
            with reading(self._output):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

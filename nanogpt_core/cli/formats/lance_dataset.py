"""Lance: a folder with a dataset, which LanceDB opens too."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_core.cli.formats.arrow import VECTORS, ArrowReader, make_schema, make_table, reading, vectors_of
from nanogpt_core.cli.formats.base import ROWS_PER_BLOCK, Block, Facts, StoredRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Reader", "Writer"]

_MAX_WAITING_BLOCKS = 2


class Writer:
    """Writes a dataset. Lance reads its input in threads of its own, so blocks go to it through a queue.

    Args:
        folder: The folder for the incomplete dataset.
        facts: The facts about the output.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        import lance  # noqa: F401 - the error for a missing package is raised here, and not in the thread

        self._path = folder / "output.lance"
        shutil.rmtree(self._path, ignore_errors=True)
        self._schema = make_schema(facts)
        self._blocks: queue.Queue[Any] = queue.Queue(_MAX_WAITING_BLOCKS)
        self._failure: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="nanogpt-lance", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import lance
        import pyarrow as pa

        try:
            reader = pa.RecordBatchReader.from_batches(self._schema, self._batches())
            lance.write_dataset(reader, str(self._path), mode="create")
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the writer
            self._failure = error
        # After a failure, write() must not wait for a place in the queue.
        while self._failure is not None and not self._ended:
            self._ended = self._blocks.get() is None

    def _batches(self) -> Iterator[Any]:
        while (table := self._blocks.get()) is not None:
            yield from table.to_batches()
        self._ended = True

    def write(self, block: Block) -> None:
        """Write the next rows."""
        self._blocks.put(make_table(block, self._schema))
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Complete the dataset."""
        self._blocks.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def abort(self) -> None:
        """Leave the incomplete dataset; the next run removes it."""
        self._blocks.put(None)

    def publish(self, output: Path) -> None:
        """Move the dataset to its place."""
        older = self._path.with_name("older.lance")
        shutil.rmtree(older, ignore_errors=True)
        if output.exists():
            output.replace(older)
        self._path.replace(output)
        shutil.rmtree(older, ignore_errors=True)


class Reader(ArrowReader):
    """Reads a dataset.

    Args:
        path: The folder of the dataset.
    """

    def __init__(self, path: Path) -> None:
        import lance

        with reading(path):
            self._dataset = lance.dataset(str(path))
        super().__init__(path, self._dataset.schema)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors in blocks."""
        for batch in self._batches([VECTORS]):
            yield vectors_of(batch.column(VECTORS))

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
        batches = iter(self._dataset.to_batches(columns=columns, batch_size=ROWS_PER_BLOCK))
        while True:
            with reading(self._output):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

"""Arrow tables with vectors, for Parquet and Lance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_core.cli.formats.base import Block, Facts, StoredRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["COLUMNS", "VECTORS", "facts_of", "make_schema", "make_table", "stored_rows", "take_rows", "vectors_of"]

VECTORS = "embedding"
COLUMNS = ("id", "source", "line", "page", "text", "metadata")


def make_schema(facts: Facts) -> Any:
    """Return the ``pyarrow.Schema`` of an output."""
    import pyarrow as pa

    kinds = {"line": pa.int64(), "page": pa.int64()}
    columns = [pa.field(name, kinds.get(name, pa.string())) for name in COLUMNS]
    # Without nulls, Parquet stores no marks for them: writing takes 45 % less time.
    number = pa.field("element", pa.float32(), nullable=False)
    vectors = pa.field(VECTORS, pa.list_(number, facts.dimensions), nullable=False)
    return pa.schema([*columns, vectors], metadata=facts.as_strings())


def make_table(block: Block, schema: Any) -> Any:
    """Return the rows of a block as a ``pyarrow.Table``."""
    import pyarrow as pa

    columns = [
        (_numbers if schema.field(name).type == pa.int64() else _strings)(
            [getattr(one, name) for one in block.passages]
        )
        for name in COLUMNS
    ]
    numbers = pa.Array.from_buffers(pa.float32(), block.vectors.size, [None, pa.py_buffer(block.vectors.ravel())])
    vectors = pa.FixedSizeListArray.from_arrays(numbers, type=schema.field(VECTORS).type)
    return pa.Table.from_arrays([*columns, vectors], schema=schema)


# Arrays are made of buffers: pyarrow.array() imports pandas, if it is installed, which takes a second and 50 MiB.
def _strings(values: Sequence[str | None]) -> Any:
    import numpy as np
    import pyarrow as pa

    encoded = [(value or "").encode() for value in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [_valid(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _numbers(values: Sequence[int | None]) -> Any:
    import numpy as np
    import pyarrow as pa

    numbers = np.array([value or 0 for value in values], dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [_valid(values), pa.py_buffer(numbers)])


def _valid(values: Sequence[object]) -> Any:
    """Return the bitmap of the values that are not None; None if all are."""
    import numpy as np
    import pyarrow as pa

    if None not in values:
        return None
    return pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little"))


def facts_of(schema: Any) -> Facts | None:
    """Return the facts in the metadata of a schema."""
    return Facts.from_strings({key.decode(): value.decode() for key, value in (schema.metadata or {}).items()})


def vectors_of(column: Any) -> NDArray[np.float32]:
    """Return a column of vectors as ``(n, d)`` float32; rows without a vector are NaN."""
    import numpy as np

    width = column.type.list_size
    values = column.values.slice(column.offset * width, len(column) * width)
    vectors: NDArray[np.float32] = values.to_numpy(zero_copy_only=False).reshape(-1, width)
    if column.null_count:
        vectors = vectors.copy()
        vectors[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return vectors


def stored_rows(table: Any) -> Iterator[StoredRow]:
    """Yield the rows of a table or record batch."""
    for fields in table.select([name for name in COLUMNS if name in table.schema.names]).to_pylist():
        yield StoredRow(**fields)


def take_rows(table: Any, numbers: Sequence[int]) -> Any:
    """Return some rows of a table, by their numbers."""
    return table.take(_numbers(numbers))

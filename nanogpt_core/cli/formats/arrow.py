"""Arrow tables with vectors, for Parquet and Lance."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from nanogpt_core.cli.formats.base import COLUMNS, Block, Facts, StoredRow, row_fields, stored_row, unreadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTORS = "embedding"


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
    from pyarrow import json

    # By way of JSON: pyarrow.array() imports pandas, if it is installed, which takes a second and 50 MiB.
    lines = b"".join(orjson.dumps(row_fields(one), option=orjson.OPT_APPEND_NEWLINE) for one in block.passages)
    passages = json.read_json(
        pa.BufferReader(lines),
        json.ReadOptions(use_threads=False, block_size=len(lines)),
        json.ParseOptions(explicit_schema=pa.schema([schema.field(name) for name in COLUMNS])),
    )
    kind = schema.field(VECTORS).type
    vectors = pa.chunked_array([_lists(part, kind) for part in block.vectors], type=kind)
    return pa.Table.from_arrays([*passages.columns, vectors], schema=schema)


def _lists(vectors: NDArray[np.float32], kind: Any) -> Any:
    import pyarrow as pa

    numbers = pa.Array.from_buffers(pa.float32(), vectors.size, [None, pa.py_buffer(vectors.ravel())])
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind)


@contextlib.contextmanager
def reading(output: Path) -> Iterator[None]:
    """Turn an error of Arrow or Lance about a file, or about a value that Python cannot hold, into one line.

    Raises:
        CommandError: Such an error.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, ArithmeticError, LookupError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # For example missing rights: the file itself may be good.
            raise OSError(error.errno, os.strerror(error.errno), str(output)) from None
        # Lance adds places in its own source: ", /home/..."
        reason = " ".join(str(error).split()).partition(", /")[0].partition(". ")[0].rstrip(".")
        raise unreadable(output, f"cannot be read ({reason})") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Lance, which is written in Rust; the class cannot be imported
            raise
        raise unreadable(output, f"cannot be read (Lance failed: {error})") from None


class ArrowReader(ABC):
    """The part of a reader that Parquet and Lance share.

    Attributes:
        facts: Facts in the metadata of the schema, or None.

    Raises:
        CommandError: The file does not hold passages and vectors.
    """

    def __init__(self, output: Path, schema: Any) -> None:
        missing = [name for name in ("id", "text", VECTORS) if name not in schema.names]
        if missing or not _holds_vectors(schema.field(VECTORS).type):
            raise unreadable(output, f"was not written by nanogpt embed: it has no {', '.join(missing) or 'vectors'}")
        self._output = output
        self._columns = [name for name in COLUMNS if name in schema.names]
        # Other programs store bytes of any kind there.
        metadata = {
            key.decode(errors="replace"): value.decode(errors="replace")
            for key, value in (schema.metadata or {}).items()
        }
        self.facts = Facts.from_strings(metadata)

    def check_complete(self) -> None:  # noqa: B027 - it has nothing to do
        """Do nothing: an incomplete file cannot be opened, and each row has both."""

    @abstractmethod
    def _lists(self) -> Iterator[Any]:
        """Yield the arrays of lists with the vectors, in order."""

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors in blocks."""
        yield from map(self._vectors, self._lists())

    @cached_property
    def _dimensions(self) -> int:
        """Dimensions of the first vector.

        Raises:
            CommandError: There is none.
        """
        lengths = (length for column in self._lists() for length in _lengths(column) if length)
        dimensions = next(lengths, 0)
        if not dimensions:
            raise unreadable(self._output, "holds no vector")
        return dimensions

    def _vectors(self, column: Any) -> NDArray[np.float32]:
        """Return an array of lists as ``(n, d)`` float32; rows without a vector are NaN."""
        import numpy as np

        lengths = _lengths(column)
        if set(lengths) - {0, self._dimensions}:
            raise unreadable(self._output, "has vectors of different dimensions")
        numbers = column.flatten()
        # to_numpy() imports pandas, if it is installed, which takes 35 MB.
        values = numbers.to_numpy(zero_copy_only=False) if numbers.null_count else np.from_dlpack(numbers)
        with np.errstate(over="ignore"):  # of float64: infinity is no vector either
            found: NDArray[np.float32] = values.astype(np.float32, copy=False).reshape(-1, self._dimensions)
        if len(found) == len(column):
            return found
        vectors = np.full((len(column), self._dimensions), np.nan, dtype=np.float32)
        vectors[np.array(lengths) > 0] = found
        return vectors

    def _stored_rows(self, table: Any, first: int) -> Iterator[StoredRow]:
        """Yield the rows of a table or record batch, the first of which has number ``first``."""
        with reading(self._output):
            rows = table.select(self._columns).to_pylist()
        for number, fields in enumerate(rows, first):
            yield stored_row(fields, self._output, number)


def _holds_vectors(kind: Any) -> bool:
    import pyarrow as pa

    # pandas and polars write lists of any length.
    is_list = any(is_kind(kind) for is_kind in (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list))
    return is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _lengths(column: Any) -> list[int]:
    """Return the length of each list of an array; 0 for null."""
    return [length or 0 for length in column.value_lengths().to_pylist()]

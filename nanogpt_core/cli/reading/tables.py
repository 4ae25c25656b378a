"""Records with fields: JSON Lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from nanogpt_core.cli.reading.text_files import MAX_CHARACTERS, BadTextError, open_text, undecodable

__all__ = ["Record", "read_csv", "read_jsonl", "read_parquet"]

Record = tuple[int, Mapping[str, Any] | BadTextError]
"""Line or number of a record, counted from 1, and its fields; or the reason for which it cannot be read."""

_ROWS_PER_READ = 1024


def read_jsonl(file: BinaryIO) -> Iterator[Record]:
    """Yield the objects of a file with one JSON object in a line.

    Raises:
        BadTextError: The file does not hold such lines.
    """
    for number in itertools.count(1):
        line = file.readline(MAX_CHARACTERS)
        if not line:
            return
        if len(line) == MAX_CHARACTERS:
            raise BadTextError("the line is longer than 64 MiB: the file is not JSON Lines", number)
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.isspace():
            yield number, _json_object(line, number)


def _json_object(line: bytes, number: int) -> Mapping[str, Any] | BadTextError:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if number == 1 and line.lstrip().startswith(b"["):
            raise BadTextError("is a JSON array, not JSON Lines; convert it with: jq -c '.[]'") from None
        return BadTextError(f"is not JSON ({error.msg}, column {error.colno})")
    if isinstance(value, dict):
        return value
    if number == 1 and isinstance(value, list):
        raise BadTextError("is a JSON array, not JSON Lines; convert it with: jq -c '.[]'")
    return BadTextError(f"is not a JSON object but {_KINDS.get(type(value), 'a number')}")


_KINDS: dict[type, str] = {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


def read_csv(file: BinaryIO, encoding: str, *, tabs: bool = False) -> Iterator[Record]:
    """Yield the rows of a CSV file, by the names in its first row.

    The delimiter is a comma, or a semicolon if the first row has more of them.

    Args:
        file: The file.
        encoding: Its encoding.
        tabs: True if tabs separate the fields.

    Raises:
        BadTextError: The file is not a text, or has no first row.
    """
    with open_text(file, encoding, newline="") as stream:
        head = stream.readline(MAX_CHARACTERS)
        delimiter = "\t" if tabs else ";" if head.count(";") > head.count(",") else ","
        csv.field_size_limit(MAX_CHARACTERS)
        rows = csv.reader(itertools.chain([head], stream), delimiter=delimiter, strict=True)
        names: list[str] | None = None
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield line, BadTextError(f"is not CSV ({error})")
                continue
            except UnicodeDecodeError as error:
                raise BadTextError(f"is not {stream.encoding}: {error.reason}", line) from None
            if row is None:
                return
            bad = undecodable("".join(row))
            if bad is not None:
                yield line, BadTextError(f"is not {encoding} (byte {bad[1]}); see --encoding")
            elif names is None:
                names = row
            elif row:
                yield line, _csv_record(row, names)


def _csv_record(row: list[str], names: list[str]) -> Mapping[str, Any] | BadTextError:
    if len(row) != len(names):
        return BadTextError(f"has {len(row)} fields, and the first row {len(names)}")
    return dict(zip(names, row, strict=True))


def read_parquet(path: Path | None, file: BinaryIO, columns: list[str]) -> Iterator[Record]:
    """Yield the rows of a Parquet file.

    Args:
        path: The file; None for standard input.
        file: The opened file.
        columns: The columns to read.

    Raises:
        BadTextError: The file is not Parquet, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path if path is not None else io.BytesIO(file.read()))
        missing = [column for column in columns if column not in table.schema_arrow.names]
        if missing:
            raise BadTextError(
                f"has no column {', '.join(missing)}; it has {', '.join(table.schema_arrow.names) or 'none'}"
            )
        number = 0
        for batch in table.iter_batches(_ROWS_PER_READ, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowException as error:
        raise BadTextError(f"is not Parquet ({str(error).partition('. ')[0]})") from None

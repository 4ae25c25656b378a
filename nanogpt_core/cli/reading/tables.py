"""Records with fields: JSON Lines, JSON, CSV and Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import orjson

from nanogpt_core._runtime.json_values import parse_json
from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.reading.text_files import MAX_CHARACTERS, BadTextError, find_bad_byte, open_text, readline

Record = tuple[int, Mapping[str, Any] | BadTextError]
"""Line or number of a record, counted from 1, and its fields; or the reason for which it cannot be read."""

_KINDS: dict[type, str] = {
    list: "a list",
    dict: "an object",
    str: "a string",
    bool: "a boolean",
    bytes: "binary",
    type(None): "null",
    int: "a number",
    float: "a decimal number",
}
"""Types of values in messages."""

_ROWS_PER_READ = 1024
_MAX_NAMES_SHOWN, _MAX_NAME_CHARACTERS = 8, 40


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
            line = _without_bom(line)
            if line.lstrip().startswith(b"["):
                raise BadTextError("is a JSON array, not JSON Lines; pass --format json")
        if not line.isspace():
            yield number, _record_of_line(line)


def _record_of_line(line: bytes) -> Mapping[str, Any] | BadTextError:
    try:
        return _record(parse_json(line))
    except orjson.JSONDecodeError as error:
        return BadTextError(f"is not JSON ({error.msg}, column {error.colno})")


def read_json(file: BinaryIO) -> Iterator[Record]:
    """Yield the objects of a file with one JSON array of objects, or with one object.

    Raises:
        BadTextError: The file is not JSON, or too large to be read as a whole.
    """
    content = file.read(MAX_CHARACTERS + 1)
    if len(content) > MAX_CHARACTERS:
        raise BadTextError("is larger than 64 MiB; convert it to JSON Lines with: jq -c '.[]'")
    content = _without_bom(content)
    if not content.strip():
        return
    try:
        value = parse_json(content)
    except orjson.JSONDecodeError as error:
        raise BadTextError(f"is not JSON ({error.msg}, column {error.colno})", error.lineno) from None
    for number, element in enumerate(value if isinstance(value, list) else [value], 1):
        yield number, _record(element)


def kind_of(value: object) -> str:
    """Return the type of a value for a message."""
    return _KINDS.get(type(value)) or f"a {type(value).__name__}"  # such as a date in Parquet


def _record(value: object) -> Mapping[str, Any] | BadTextError:
    if isinstance(value, dict):
        return value
    return BadTextError(f"is not a JSON object but {kind_of(value)}")


def _without_bom(start: bytes) -> bytes:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadTextError("is UTF-16, and JSON is UTF-8; convert it with: iconv -f UTF-16 -t UTF-8")
    return start.removeprefix(codecs.BOM_UTF8)


def read_csv(file: BinaryIO, encoding: str, columns: list[str], *, tabs: bool = False) -> Iterator[Record]:
    """Yield the rows of a CSV file that are not blank, by the names in its first row, which must have the ``columns``.

    The delimiter is a tab if ``tabs``; else a comma, or a semicolon, tab or vertical bar if the first row has more of
    them.

    Raises:
        BadTextError: The file is not a text, or a column is missing or there twice.
    """
    with open_text(file, encoding, newline="") as stream:
        lines = _lines(stream)
        start = []
        for text in lines:
            start.append(text)
            if not text.isspace():
                break
        head = start[-1] if start else ""
        delimiter = "\t" if tabs else max(",;\t|", key=head.count)
        csv.field_size_limit(MAX_CHARACTERS)
        rows = csv.reader(itertools.chain(start, lines), delimiter=delimiter, strict=True)
        names: list[str] | None = None
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield line, BadTextError(f"is not CSV ({error})")
                continue
            if row is None:
                return
            bad = find_bad_byte("".join(row), encoding)
            if bad is not None:
                yield line, BadTextError(bad[1])
            elif names is None:
                if any(map(str.strip, row)):
                    names = row
                    _check_columns(names, columns, line)
            elif len(row) == len(names):
                yield line, dict(zip(names, row, strict=True))
            elif row:
                yield line, BadTextError(f"has {counted(len(row), 'field')}, and the first row {len(names)}")


def _lines(stream: io.TextIOWrapper) -> Iterator[str]:
    for number in itertools.count():
        line = readline(stream, number)
        if not line:
            return
        yield line


def in_words(names: Iterable[str]) -> str:
    """Return the first names of columns or fields for a message, shortened: a file of prose may end in ``.csv``."""
    return ", ".join(name[:_MAX_NAME_CHARACTERS] for name in itertools.islice(names, _MAX_NAMES_SHOWN)) or "none"


def _check_columns(names: list[str], needed: list[str], line: int | None = None) -> None:
    """Check that the names of columns have each that is needed, once. The first one that is needed is the text's.

    Raises:
        BadTextError: They do not.
    """
    missing = [name for name in needed if name not in names]
    if missing:
        option = "; see --field" if missing[0] == needed[0] else ""
        raise BadTextError(f"has no column {', '.join(missing)}; it has {in_words(names)}{option}", line)
    doubled = [name for name in needed if names.count(name) > 1]
    if doubled:
        raise BadTextError(f"has the column {doubled[0]} twice", line)


def read_parquet(file: BinaryIO, columns: list[str]) -> Iterator[Record]:
    """Yield the rows of a Parquet file. A name with dots in ``columns`` is that of a field in a column.

    Raises:
        BadTextError: The file is not Parquet, or a column is missing or there twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        needed = list(dict.fromkeys(name if name in names else name.partition(".")[0] for name in columns))
        _check_columns(names, needed)
        for batch in table.iter_batches(_ROWS_PER_READ, columns=needed):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowException as error:
        raise BadTextError(f"is not Parquet ({str(error).partition('. ')[0]})") from None
    except (ValueError, ArithmeticError, LookupError) as error:  # such as text that is not UTF-8, or the year 10000
        raise BadTextError(f"has a value after row {number} that cannot be read ({error})") from None

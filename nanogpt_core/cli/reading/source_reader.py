"""Reading of one source: its passages in order, and every part of it that cannot be embedded."""

from __future__ import annotations

import codecs
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from typing import Any, BinaryIO

import orjson

from nanogpt_core._runtime.json_values import parse_json
from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.options import InputOptions
from nanogpt_core.cli.reading.chunking import Chunker
from nanogpt_core.cli.reading.passage import NO_TEXT, Passage, Problem
from nanogpt_core.cli.reading.pdf import read_pdf
from nanogpt_core.cli.reading.sources import Source
from nanogpt_core.cli.reading.tables import Record, in_words, kind_of, read_csv, read_json, read_jsonl, read_parquet
from nanogpt_core.cli.reading.text_files import (
    BadTextError,
    check_encoding,
    read_html,
    read_whole,
    segments,
)

MIN_CHUNK_TOKENS = 16
"""Lowest number of tokens of a passage: a sentence."""

_DEFAULT_CHUNK_TOKENS = 400
_DEFAULT_OVERLAP = 0.1  # of the tokens of a passage
_MAX_OVERLAP = 0.5

_RECORD_FORMATS = ("jsonl", "json", "csv", "parquet")
_RECORD_OPTIONS = {"--field", "--id-field", "--keep"}
_ENCODED_FORMATS = ("text", "markdown", "html", "csv")
_LINE_FORMATS = ("jsonl", "csv")
_FORMATS_WITH_OFFSETS = ("pdf", "parquet")  # of parts of the file: a pipe has to be read as a whole first


RecordAdapter = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A function of a record's fields that returns them under other names."""


class SourceReader:
    """Reads sources into passages.

    Attributes:
        used: The options that a source so far was of the right kind for, of those that are for some kinds only.

    Raises:
        CommandError: An invalid option.
    """

    def __init__(
        self,
        options: InputOptions,
        adapt_record: RecordAdapter | None = None,
        default_id_field: str | None = None,
    ) -> None:
        tokens = _DEFAULT_CHUNK_TOKENS if options.chunk_tokens is None else options.chunk_tokens
        overlap = int(tokens * _DEFAULT_OVERLAP) if options.chunk_overlap is None else options.chunk_overlap
        if tokens != 0 and tokens < MIN_CHUNK_TOKENS:
            raise CommandError(f"--chunk-tokens must be 0, or at least {MIN_CHUNK_TOKENS}, not {tokens}.")
        if not 0 <= overlap <= tokens * _MAX_OVERLAP:
            raise CommandError(f"--chunk-overlap must be 0 to half of --chunk-tokens ({tokens}), not {overlap}.")
        check_encoding(options.encoding)
        self.used: set[str] = set()
        self._options = options
        self._id_field = options.id_field or default_id_field
        self._adapt_record = adapt_record
        self._chunker = Chunker(tokens, overlap) if tokens else None
        self._divides_records = options.chunk_tokens is not None and tokens > 0

    def read(self, source: Source) -> Iterator[Passage | Problem]:
        """Yield the passages of a source in order, and its problems."""
        found = False
        try:
            with nullcontext(sys.stdin.buffer) if source.path is None else source.path.open("rb") as file:
                for item in self._read(source, file):
                    found = True
                    yield item
        except BadTextError as error:
            yield Problem(source.name if error.line is None else f"{source.name}:{error.line}", error.reason)
        except OSError as error:
            yield Problem(source.name, error.strerror or str(error))
        else:
            if not found:
                yield Problem(source.name, NO_TEXT)

    def _read(self, source: Source, file: BinaryIO) -> Iterator[Passage | Problem]:
        file_format = source.format or _format_of_start(file)
        if file_format == "json" and _format_of_start(file) == "jsonl":
            file_format = "jsonl"  # many programs write JSON Lines into a file that ends in .json
        self.used |= _RECORD_OPTIONS if file_format in _RECORD_FORMATS else set()
        self.used |= {"--encoding"} if file_format in _ENCODED_FORMATS else set()
        if file_format in _FORMATS_WITH_OFFSETS and not file.seekable():
            file = io.BytesIO(file.read())
        if file_format in _RECORD_FORMATS:
            return self._records(source, file_format, file)
        if file_format == "pdf":
            return self._pages(source, file)
        if file_format == "html":
            return self._divided(source, iter([(None, read_html(file, self._options.encoding))]))
        if self._chunker:
            return self._divided(source, segments(file, self._options.encoding))
        return self._divided(source, iter([(1, read_whole(file, self._options.encoding))]))

    def _divided(self, source: Source, texts: Iterator[tuple[int | None, str]]) -> Iterator[Passage]:
        """Yield the passages of texts, each of which comes with the number of its first line, or None."""
        number = 0
        for first_line, text in texts:
            line, counted = first_line, 0
            for start, passage in self._chunks(text):
                number += 1
                if line is not None:
                    # Passages overlap: the next may begin before the place at which this one ends, never before it.
                    line += text.count("\n", counted, start)
                    counted = start
                yield Passage(passage, source.name, number, line=line)

    def _chunks(self, text: str) -> Iterator[tuple[int, str]]:
        if self._chunker:
            self.used.add("--chunk-overlap")
            return self._chunker.chunks(text)
        stripped = text.strip()
        return iter([(text.index(stripped), stripped)] if stripped else [])

    def _pages(self, source: Source, file: BinaryIO) -> Iterator[Passage | Problem]:
        number = 0
        for page, text in read_pdf(file):
            if not text.strip():
                yield Problem(f"{source.name} page {page}", "has pictures and no text; a scan needs OCR first")
            for _, passage in self._chunks(text):
                number += 1
                yield Passage(passage, source.name, number, page=page)

    def _records(self, source: Source, file_format: str, file: BinaryIO) -> Iterator[Passage | Problem]:
        for number, fields in self._rows(source, file_format, file):
            line = number if file_format in _LINE_FORMATS else None
            place = f"{source.name}#{number}" if line is None else f"{source.name}:{line}"
            try:
                if isinstance(fields, BadTextError):
                    raise fields
                record = fields if self._adapt_record is None else self._adapt_record(fields)
                text, key, metadata = self._text(record), self._key(record), self._metadata(record)
            except BadTextError as error:
                yield Problem(place, error.reason)
                continue
            if not self._divides_records:
                yield Passage(text, source.name, number, line=line, key=key, metadata=metadata)
                continue
            for part, (_, passage) in enumerate(self._chunks(text), 1):
                yield Passage(passage, source.name, number, part, line, key=key, metadata=metadata)

    def _rows(self, source: Source, file_format: str, file: BinaryIO) -> Iterator[Record]:
        if file_format == "jsonl":
            return read_jsonl(file)
        if file_format == "json":
            return read_json(file)
        names = (self._options.field, self._id_field, *self._options.keep)
        columns = list(dict.fromkeys(name for name in names if name is not None))
        if file_format == "csv":
            return read_csv(file, self._options.encoding, columns, tabs=source.name.lower().endswith(".tsv"))
        return read_parquet(file, columns)

    def _text(self, fields: Mapping[str, Any]) -> str:
        text = _value(fields, self._options.field, "; see --field")
        if not isinstance(text, str):
            raise BadTextError(f"field {self._options.field!r} is {_kind(text)}, not a text")
        if not text or text.isspace():
            raise BadTextError(f"field {self._options.field!r} is {'blank' if text else 'empty'}")
        return text

    def _key(self, fields: Mapping[str, Any]) -> str | None:
        if self._id_field is None:
            return None
        key = _value(fields, self._id_field)
        if isinstance(key, bool) or not isinstance(key, (str, int)) or key == "":
            raise BadTextError(f"field {self._id_field!r} is {_kind(key)}, not an ID")
        return str(key)

    def _metadata(self, fields: Mapping[str, Any]) -> str | None:
        if not self._options.keep:
            return None
        kept: dict[str, Any] = dict.fromkeys(self._options.keep)
        for name in kept:
            with suppress(BadTextError):  # many programs leave out a field that has no value
                kept[name] = _value(fields, name)
                self.used.add(f"--keep {name}")
        try:
            return orjson.dumps(kept, default=str).decode()
        except TypeError as error:
            raise BadTextError(f"the kept fields cannot be written as JSON ({error})") from None


def _value(fields: Mapping[str, Any], name: str, remedy: str = "") -> Any:
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise BadTextError(f"has no field {name!r}; it has {in_words(fields)}{remedy}")
        value = value[part]
    return value


def _kind(value: object) -> str:
    return "empty" if value == "" else kind_of(value)


_JSON_START = re.compile(rb'(\[\s*)?\{\s*"')


def _format_of_start(file: BinaryIO) -> str:
    """Return ``"jsonl"`` if a file begins with a line of JSON, ``"json"`` if with other JSON, else ``"text"``."""
    peek = getattr(file, "peek", None)
    start: bytes = peek(1).removeprefix(codecs.BOM_UTF8).lstrip() if peek else b""
    if not _JSON_START.match(start):
        return "text"
    if start.startswith(b"["):
        return "json"
    line, line_end, following = start.partition(b"\n")
    if not line_end or following.startswith(b"{"):
        return "jsonl"
    try:
        parse_json(line)
    except orjson.JSONDecodeError:
        return "json"
    return "jsonl"

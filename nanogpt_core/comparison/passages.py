"""The corpus of a comparison: passages, each of a named source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_core.comparison.files import invalid_line, json_objects, read_text
from nanogpt_core.errors import InvalidInputError, InvalidTypeError

_REMEDY = 'Each line is JSON such as {"source": "...", "text": "..."}'
_NAME_FIELDS = ("source", "id", "_id")


@dataclass(frozen=True)
class Passage:
    """A text to embed, and the name of its source; a source may have several passages."""

    text: str
    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidInputError(f"A passage needs a text, not {self.text!r}.")
        if not isinstance(self.source, str):
            raise InvalidTypeError(f"The source of a passage must be a str, not {type(self.source).__name__}.")


def load_passages(file: str | os.PathLike[str]) -> list[Passage]:
    """Return the passages of a file.

    Args:
        file: JSON lines with the fields ``text`` and ``source`` (or ``id``), a passage each.

    Raises:
        InvalidInputError: There are no passages, or a line is not one; the message names file and line.
        OSError: The file cannot be read.
    """
    path = Path(file)
    found = [_passage(path, number, row) for number, row in json_objects(path, read_text(path), _REMEDY)]
    if not found:
        raise InvalidInputError(f"{path} has no passages.", remedy=_REMEDY)
    return found


def _passage(path: Path, number: int, row: dict[str, Any]) -> Passage:
    record = as_record(row)
    text, name = record.get("text"), record.get("source")
    if not isinstance(text, str) or not text.strip():
        raise invalid_line(path, number, "has no text", _REMEDY)
    if not isinstance(name, str | int):
        raise invalid_line(path, number, "has no source", _REMEDY)
    return Passage(text, str(name))


def as_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of JSON lines with its name, if it has one, as ``source``, and its title before its ``text``."""
    record = dict(row)
    name = next((row[field] for field in _NAME_FIELDS if row.get(field) not in (None, "")), None)
    if name is not None:
        record["source"] = name
    text, title = row.get("text"), row.get("title")
    if isinstance(text, str) and text.strip() and isinstance(title, str) and title.strip():
        record["text"] = f"{title}\n{text}"
    return record

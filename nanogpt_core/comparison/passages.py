"""The corpus of a comparison: passages, each of a named source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_core.comparison.lines import invalid_line, json_objects, read_text
from nanogpt_core.errors import InvalidInputError

_REMEDY = 'Each line is JSON such as {"source": "...", "text": "..."}'
_NAME_FIELDS = ("source", "id", "_id")


@dataclass(frozen=True)
class Passage:
    """A text to embed, and the name of its source; a source may have several passages."""

    text: str
    source: str


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
    name = next((row[field] for field in _NAME_FIELDS if row.get(field) not in (None, "")), None)
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str) or not text.strip():
        raise invalid_line(path, number, "has no text", _REMEDY)
    if not isinstance(name, str | int):
        raise invalid_line(path, number, "has no source", _REMEDY)
    return Passage(f"{title}\n{text}" if isinstance(title, str) and title.strip() else text, str(name))

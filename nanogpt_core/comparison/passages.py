"""The corpus of a comparison: passages, each of a named source."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_core.errors import InvalidInputError

__all__ = ["Passage", "load_passages"]

_EXAMPLE = '{"source": "...", "text": "..."}'
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
    found = list(_from_lines(path))
    if not found:
        raise InvalidInputError(f"{path} has no passages.", remedy=f"Each line is JSON such as {_EXAMPLE}")
    return found


def _from_lines(path: Path) -> Iterator[Passage]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _invalid(path, number, f"is not JSON ({error})") from error
        yield _passage(path, number, row)


def _passage(path: Path, number: int, row: Any) -> Passage:
    if not isinstance(row, dict):
        raise _invalid(path, number, "is not a JSON object")
    name = next((row[field] for field in _NAME_FIELDS if row.get(field) not in (None, "")), None)
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str) or not text.strip():
        raise _invalid(path, number, "has no text")
    if not isinstance(name, str | int):
        raise _invalid(path, number, "has no source")
    return Passage(f"{title}\n{text}" if isinstance(title, str) and title.strip() else text, str(name))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _invalid(file, 1 + error.object.count(b"\n", 0, error.start), "is not UTF-8 text") from error


def _invalid(path: Path, number: int, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}, line {number}, {problem}.",
        remedy=f"Each line is JSON such as {_EXAMPLE}",
        positions=(number - 1,),
    )

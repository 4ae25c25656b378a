"""The corpus of a comparison: passages, each of a named source."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_core.errors import InvalidInputError

__all__ = ["Passage", "load_passages"]

_SUFFIXES = frozenset({".md", ".rst", ".text", ".txt"})
_NAME_FIELDS = ("source", "id", "_id")
_MAX_CHARACTERS = 1500
"""Length of the passages that text files are split into: about 375 tokens of English."""
# Paragraphs, lines, sentences and words, each with the text that joins two of them again.
_BORDERS = (
    (re.compile(r"\n\s*\n"), "\n\n"),
    (re.compile(r"\n"), "\n"),
    (re.compile(r"(?<=[.!?])\s+|(?<=[。！？])"), " "),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Passage:
    """A text to embed, and the name of its source; a source may have several passages."""

    text: str
    source: str


def load_passages(path: str | os.PathLike[str]) -> list[Passage]:
    """Return the passages of a file or folder.

    Args:
        path: JSON lines with the fields ``text`` and ``source`` (or ``id``), a passage each; or a folder of text files
            (``.txt``, ``.md``, ``.rst``), whose passages are named by the path of their file in the folder.

    Raises:
        InvalidInputError: There are no passages, or a line is not one; the message names file and line.
        OSError: A file cannot be read.
    """
    place = Path(path)
    found = list(_from_folder(place) if place.is_dir() else _from_lines(place))
    if not found:
        kinds = ", ".join(sorted(_SUFFIXES))
        raise InvalidInputError(f"{place} has no passages.", remedy=f"A folder needs files that end in {kinds}.")
    return found


def _from_lines(path: Path) -> Iterator[Passage]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
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


def _from_folder(folder: Path) -> Iterator[Passage]:
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in _SUFFIXES and file.is_file():
            name = file.relative_to(folder).as_posix()
            yield from (Passage(text, name) for text in _split(_read(file)))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file} is not UTF-8 text: {error}.") from error


def _invalid(path: Path, number: int, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}, line {number}, {problem}.",
        remedy='Each line is JSON such as {"source": "...", "text": "..."}',
        positions=(number - 1,),
    )


def _split(text: str, borders: Sequence[tuple[re.Pattern[str], str]] = _BORDERS) -> Iterator[str]:
    """Yield ``text`` in passages of limited length, split at the best borders that allow it."""
    text = text.strip()
    if len(text) <= _MAX_CHARACTERS:
        yield from (text,) if text else ()
        return
    if not borders:
        yield from (text[start : start + _MAX_CHARACTERS] for start in range(0, len(text), _MAX_CHARACTERS))
        return
    (border, joint), *rest = borders
    gathered = ""
    for piece in border.split(text):
        joined = f"{gathered}{joint}{piece}" if gathered else piece
        if len(joined) <= _MAX_CHARACTERS:
            gathered = joined
            continue
        yield from _split(gathered)
        gathered = piece
        if len(piece) > _MAX_CHARACTERS:
            yield from _split(piece, rest)
            gathered = ""
    yield from _split(gathered)

"""Files of a comparison: UTF-8 text, JSON lines, errors that name file and line, and writing as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from nanogpt_core._runtime.json_values import parse_json
from nanogpt_core.errors import InvalidInputError


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        InvalidInputError: It is not UTF-8.
        OSError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise invalid_line(path, line, "is not UTF-8 text") from error


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8. It appears as a whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def json_objects(path: Path, text: str, remedy: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object of each line of a text that is not blank, with the number of the line, counted from 1.

    The path of its file and the remedy are for messages.

    Raises:
        InvalidInputError: A line is not a JSON object.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except orjson.JSONDecodeError as error:
            raise invalid_line(path, number, f"is not JSON ({error.msg}, column {error.colno})", remedy) from error
        if not isinstance(row, dict):
            raise invalid_line(path, number, "is not a JSON object", remedy)
        yield number, row


def invalid_line(path: Path, number: int, problem: str, remedy: str = "") -> InvalidInputError:
    """Return the error for a line, counted from 1."""
    return InvalidInputError(f"{path}, line {number}, {problem}.", remedy=remedy, positions=(number - 1,))

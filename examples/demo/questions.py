"""The evaluation's questions: a file of them, each with the sources that answer it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLE = '{"question": "…", "sources": ["…"], "language": "en"}'


@dataclass(frozen=True)
class Question:
    """A question, and the sources of which any answers it."""

    text: str
    sources: tuple[str, ...]
    language: str


def load_questions(file: Path, limit: int | None = None) -> list[Question]:
    """Return the questions of a file.

    Args:
        file: A question a line, as JSON.
        limit: Return so many that are spread over the file.

    Raises:
        ValueError: If the file cannot be read, holds none, or holds what is no question.
    """
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            _check(row)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} cannot be read ({reason}). Each line must be JSON such as {EXAMPLE}") from error
    if not rows:
        raise ValueError(f"{file} holds no questions")
    if limit is not None and limit < len(rows):
        rows = [rows[number * len(rows) // limit] for number in range(limit)]
    return [Question(row["question"], tuple(row["sources"]), row["language"]) for row in rows]


def _check(row: dict[str, Any]) -> None:
    words = [row["question"], row["language"], *row["sources"]]
    # A list left out would make a source of each letter.
    if not isinstance(row["sources"], list) or not row["sources"]:
        raise ValueError(f"no list of sources in {row!r}")
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"something else than words in {row!r}")

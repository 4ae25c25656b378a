"""Questions of the evaluation, each with the sources that answer it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLE = '{"question": "…", "sources": ["…"], "language": "en"}'


@dataclass(frozen=True)
class Question:
    """A question, and its sources; each of them is a right answer."""

    text: str
    sources: tuple[str, ...]
    language: str


def load_questions(file: Path, limit: int | None = None) -> list[Question]:
    """Return the questions of a file.

    Args:
        file: One question per line, as JSON.
        limit: Number of questions to return, spread over the file; None for all.

    Raises:
        ValueError: The file cannot be read, is empty, or has a line that is not a question.
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
    # A string instead of a list would give one source per letter.
    if not isinstance(row["sources"], list) or not row["sources"]:
        raise ValueError(f"no list of sources in {row!r}")
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"empty text or no text in {row!r}")

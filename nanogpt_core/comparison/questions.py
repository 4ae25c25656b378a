"""Questions of a comparison, each with the sources that answer it: read, checked and written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nanogpt_core._runtime.validation import check_list
from nanogpt_core.comparison.files import invalid_line, json_objects, read_text, write_text
from nanogpt_core.errors import InvalidInputError

_REMEDY = 'Each line is JSON such as {"question": "...", "sources": ["..."]}'
_TABLES = {".csv", ".tsv"}
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Question:
    """A question, and the sources that answer it.

    Attributes:
        text: The question.
        sources: Names of the documents that answer it, as in the corpus; at least one.
        language: Its language, for a table by language; empty if unknown.
        synthetic: True if a chat model wrote it.
    """

    text: str
    sources: tuple[str, ...]
    language: str = ""
    synthetic: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidInputError(f"A question needs a text, not {self.text!r}.")
        object.__setattr__(self, "sources", tuple(check_list("sources", self.sources, str)))
        if not self.sources:
            raise InvalidInputError(f"The question {self.text!r} names no source.")


def load_questions(file: str | os.PathLike[str], limit: int | None = None) -> list[Question]:
    """Return the questions of a file.

    Args:
        file: JSON lines with the fields ``question``, ``sources`` (a list of names) and, if known, ``language``; or a
            CSV or TSV file with the columns ``question`` and ``source``, a line for each right source.
        limit: Number of questions to return, spread over the file; None for all.

    Raises:
        InvalidInputError: The file has no questions, or a line is not one; the message names file and line.
        OSError: The file cannot be read.
    """
    path = Path(file)
    text = read_text(path)
    if path.suffix.lower() in _TABLES:
        found = list(_from_table(path, text))
    else:
        found = [_question(path, number, row) for number, row in json_objects(path, text, _REMEDY)]
    if not found:
        raise InvalidInputError(f"{path} has no questions.", remedy=_REMEDY)
    if limit is not None and limit < len(found):
        found = [found[number * len(found) // limit] for number in range(limit)]
    return found


def _question(path: Path, number: int, row: dict[str, Any]) -> Question:
    text, sources, language = row.get("question"), row.get("sources"), row.get("language", "")
    if not isinstance(text, str) or not text.strip():
        raise invalid_line(path, number, "has no question", _REMEDY)
    # A string in place of a list would give one source per letter.
    if not isinstance(sources, list) or not sources or not all(isinstance(s, str) and s.strip() for s in sources):
        raise invalid_line(path, number, "has no list of sources", _REMEDY)
    if not isinstance(language, str):
        raise invalid_line(path, number, "has a language that is not text", _REMEDY)
    return Question(text, tuple(dict.fromkeys(sources)), language, row.get("synthetic") is True)


def _from_table(path: Path, text: str) -> list[Question]:
    names = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=max(_DELIMITERS, key=names.count), strict=True)
    sources: dict[tuple[str, str], list[str]] = {}
    try:
        if not {"question", "source"} <= set(rows.fieldnames or ()):
            raise InvalidInputError(
                f"{path} has the columns {', '.join(rows.fieldnames or ()) or 'none'}.",
                remedy="It needs the columns question and source.",
            )
        for row in rows:
            question, source = (row["question"] or "").strip(), (row["source"] or "").strip()
            if not question or not source:
                raise invalid_line(path, rows.line_num, "has no question or no source")
            sources.setdefault((question, row.get("language") or ""), []).append(source)
    except csv.Error as error:  # for example a field of more than 131,072 characters
        raise invalid_line(path, rows.line_num + 1, f"is not CSV ({error})") from error
    return [Question(text, tuple(dict.fromkeys(names)), language) for (text, language), names in sources.items()]


def check_sources(questions: Sequence[Question], sources: Collection[str]) -> None:
    """Check that the corpus has the sources of every question.

    Raises:
        InvalidInputError: A question names a source that the corpus does not have. ``.positions`` has the number of the
            question, from 0.
    """
    known = set(sources)
    for number, question in enumerate(questions):
        for name in question.sources:
            if name not in known:
                near = get_close_matches(name, known, n=2, cutoff=0.5) or sorted(known)[:2]
                raise InvalidInputError(
                    f"The corpus has no source {name!r}, which question {number + 1} names: {question.text[:80]!r}.",
                    remedy=f"Its sources have names like {' and '.join(map(repr, near))}.",
                    positions=(number,),
                )


def write_questions(questions: Sequence[Question], file: str | os.PathLike[str]) -> None:
    """Write questions as JSON lines, for :func:`load_questions`. The file appears as a whole or not at all."""
    questions = check_list("questions", questions, Question)
    write_text(Path(file), "".join(map(question_line, questions)))


def question_line(question: Question) -> str:
    """Return the line of JSON for a question, with its end."""
    row: dict[str, Any] = {"question": question.text, "sources": list(question.sources)}
    if question.language:
        row["language"] = question.language
    if question.synthetic:
        row["synthetic"] = True
    return json.dumps(row, ensure_ascii=False) + "\n"

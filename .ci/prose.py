"""Check the language of docstrings, comments and Markdown: ``python .ci/prose.py [--list] [PATH ...]``.

Counts idioms that slow readers down, per 1,000 words, and fails if one of them is above its limit. Without paths it
checks all tracked files. Code is not prose: fenced blocks, inline code, links and tables of measurements are left out.
``--list`` prints each hit with its line.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".md"}
GENERATED = {"benchmarks/SCALE.md", "benchmarks/FAULTS.md", "benchmarks/RESULTS.md"}
"""Reports that a program writes; their words are checked in the program."""


@dataclass(frozen=True)
class Rule:
    """An idiom, and the number of times that it may occur.

    Attributes:
        name: The idiom, with the better word.
        pattern: Matches each occurrence.
        limit: Most occurrences per 1,000 words.
        summaries: Check only the first lines of docstrings, and count each hit, not per 1,000 words.
    """

    name: str
    pattern: re.Pattern[str]
    limit: float
    summaries: bool = False


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)


RULES = (
    Rule('"what" as a noun', _words("what"), 1),
    Rule('"where" for "if" or "when"', _words("where"), 1),
    Rule('"alone" for "only"', _words("alone"), 0),
    Rule('"so that"', _words("so that"), 2),
    Rule('"whoever", "nobody" and the like', _words("whoever|whatever|nobody|somebody|everybody|whom"), 1),
    Rule('"answer in a form": structured output', _words(r"answers? in a form"), 0),
    Rule(
        "docstring that begins with a clause",
        re.compile(r"(?:What|Whether|How|When|Who|Why|Where|That)\b(?!\.\w)"),
        0,
        summaries=True,
    ),
)


@dataclass(frozen=True)
class Passage:
    """A piece of prose: a docstring, a comment, or a line of Markdown."""

    file: Path
    line: int
    text: str
    is_docstring: bool = False


def read(file: Path) -> list[Passage]:
    """Return the prose of a file."""
    source = file.read_text(encoding="utf-8")
    return list(_python(file, source) if file.suffix == ".py" else _markdown(file, source))


def _python(file: Path, source: str) -> Iterator[Passage]:
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for number, statement in enumerate(body):
            value = getattr(statement, "value", None)
            text = getattr(value, "value", None)
            # Also the strings after attributes and constants, which document them.
            if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(text, str):
                is_docstring = number == 0 and not isinstance(node, (ast.If, ast.For, ast.While, ast.With, ast.Try))
                yield Passage(file, statement.lineno, re.sub("``.*?``", "", text, flags=re.DOTALL), is_docstring)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#!|# (?:noqa|type:|fmt:)", token.string):
            yield Passage(file, token.start[0], re.sub(r"# noqa: [A-Z0-9, ]+|`[^`]*`", "", token.string))


def _markdown(file: Path, source: str) -> Iterator[Passage]:
    in_code = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield Passage(file, number, re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|“[^”]*”|\"[^\"]*\"", "", line))


def hits(rule: Rule, passages: Iterable[Passage]) -> Iterator[Passage]:
    """Yield the place of each occurrence of an idiom."""
    for passage in passages:
        if not rule.summaries:
            for match in rule.pattern.finditer(passage.text):
                line = passage.line + passage.text[: match.start()].count("\n")
                text = passage.text[max(0, match.start() - 40) : match.end() + 40]
                yield Passage(passage.file, line, " ".join(text.split()))
        elif passage.is_docstring and rule.pattern.match(passage.text):
            yield Passage(passage.file, passage.line, passage.text.splitlines()[0])


def check(passages: list[Passage], *, show: bool = False) -> list[str]:
    """Print the figures of each rule, and return the names of those above their limits."""
    words = sum(len(passage.text.split()) for passage in passages) or 1
    print(f"{words:,} words")
    failed = []
    for rule in RULES:
        found = list(hits(rule, passages))
        rate = len(found) if rule.summaries else 1000 * len(found) / words
        # One hit in a short file is no habit, unless the idiom is forbidden.
        is_above = rate > rule.limit and (len(found) > 1 or rule.limit == 0)
        unit = "" if rule.summaries else " per 1,000 words"
        print(f"  {rule.name:38} {len(found):4}  {rate:5.1f}{unit}, at most {rule.limit:g}{' <-' if is_above else ''}")
        if is_above:
            failed.append(rule.name)
        if is_above or show:
            for hit in found:
                print(f"    {hit.file}:{hit.line}: {hit.text}")
    return failed


def tracked() -> list[Path]:
    """Return the tracked files with prose."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and name not in GENERATED]


def main(words: list[str]) -> None:
    """Check the named files and folders, or all tracked files."""
    named = [Path(word) for word in words if word != "--list"] or tracked()
    files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    passages = [passage for file in files if file.suffix in SUFFIXES and file.is_file() for passage in read(file)]
    if failed := check(passages, show="--list" in words):
        sys.exit(f"Above the limit: {', '.join(failed)}. See the style rules in CONTRIBUTING.md.")


if __name__ == "__main__":
    main(sys.argv[1:])

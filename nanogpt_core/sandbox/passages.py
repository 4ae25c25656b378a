"""Finding the numbered passages and the question in the messages of a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Message", "Passage", "read_context"]

_START = re.compile(r"^[ \t]{0,3}\[(\d{1,4})\](?:[ \t:]+|$)")
_QUESTION = re.compile(r"^[ \t#*]*(?:user )?(?:question|query)[ \t]*\**:\**[ \t]*", re.IGNORECASE)
_QUOTE = re.compile(r"^> ?")
_END = re.compile(
    r"^[ \t#*]*(?:(?:user )?(?:question|query)|(?:helpful |final )?answer|instructions?)[ \t]*\**:"
    r"|^[ \t]*(?:-{3,}|={3,}|</)",
    re.IGNORECASE,
)
_FENCED = re.compile(r"context.*\n-{5,}\n(?P<context>.*?)\n-{5,}", re.IGNORECASE | re.DOTALL)
_CONTEXT = re.compile(
    r"^[ \t#*]*context[ \t]*\**:\**\s*(?P<context>.*?)(?=^[ \t#*]*(?:question|query|answer)\b|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Message:
    """One chat message, reduced to its text."""

    role: str
    text: str


@dataclass(frozen=True)
class Passage:
    """One passage of the context; the number is 0 where it bears none."""

    number: int
    text: str


def read_context(messages: Sequence[Message]) -> tuple[list[Passage], str]:
    """Return the passages of the latest message that holds any, and the question of the latest user message.

    What passages say is never read as anything but text to quote.
    """
    passages: list[Passage] = []
    for message in reversed(messages):
        if message.role != "assistant" and not passages:
            passages = _split(message.text)[0]
    if not passages:
        passages = _unnumbered([message.text for message in messages if message.role != "assistant"])
    asked = next((message.text for message in reversed(messages) if message.role == "user"), "")
    _, before, after = _split(asked)
    return passages, _question(before, after)


def _split(text: str) -> tuple[list[Passage], str, str]:
    """Return the passages of a text, and what stands before the first and after the last of them."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if _START.match(line)]
    if not starts:
        return [], text, ""
    stop = _end_of_last(lines, starts[-1])
    passages = []
    for start, end in zip(starts, [*starts[1:], stop], strict=True):
        match = _START.match(lines[start])
        if match is not None:
            body = [lines[start][match.end() :], *_unquoted(lines[start + 1 : end])]
            passages.append(Passage(int(match[1]), "\n".join(body).strip()))
    return passages, "\n".join(lines[: starts[0]]), "\n".join(lines[stop:])


def _unquoted(lines: Sequence[str]) -> list[str]:
    """Return the lines without the ``"> "`` before each, where all of them have it."""
    filled = [line for line in lines if line.strip()]
    if not filled or not all(line.startswith(">") for line in filled):
        return list(lines)
    return [_QUOTE.sub("", line) for line in lines]


def _unnumbered(texts: Sequence[str]) -> list[Passage]:
    """Return the paragraphs of the latest block of context, as frameworks' own prompts have them without numbers."""
    for text in reversed(texts):
        match = _FENCED.search(text) or _CONTEXT.search(text)
        if match:
            paragraphs = re.split(r"\n\s*\n", match["context"])
            return [Passage(0, paragraph.strip()) for paragraph in paragraphs if paragraph.strip()]
    return []


def _end_of_last(lines: Sequence[str], start: int) -> int:
    # Up to the next number, a blank line is part of a passage; after the last number, prose may follow that is not.
    for i in range(start + 1, len(lines)):
        if not lines[i].strip() or _END.match(lines[i]):
            return i
    return len(lines)


def _question(before: str, after: str) -> str:
    # Text after the passages can be a passage's own: a question that stands before them is surer.
    return _marked(before) or _marked(after) or f"{before}\n{after}".strip()


def _marked(text: str) -> str:
    lines = text.splitlines()
    for i in range(len(lines) - 1, -1, -1):
        match = _QUESTION.match(lines[i])
        if match:
            rest = [lines[i][match.end() :]]
            for line in lines[i + 1 :]:
                if _END.match(line):
                    break
                rest.append(line)
            return "\n".join(rest).strip()
    return ""

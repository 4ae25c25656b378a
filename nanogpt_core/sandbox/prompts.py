"""Prompts of the frameworks: the passages, the question, and an answer that is to be refined.

Text of passages is only quoted, never interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

_START = re.compile(r"^[ \t]{0,3}\[(\d{1,4})\](?:[ \t:]+|$)")
_QUESTION = re.compile(r"^[ \t#*]*(?:user )?(?:question|query)[ \t]*\**:\**[ \t]*", re.IGNORECASE)
_QUOTE = re.compile(r"^> ?")
_END = re.compile(
    r"^[ \t#*]*(?:(?:user )?(?:question|query)|(?:helpful |final |original |new )?answer|instructions?)[ \t]*\**:"
    r"|^[ \t]*(?:-{3,}|={3,}|</)",
    re.IGNORECASE,
)
_FENCED = re.compile(r"context.*\n-{5,}\n(?P<context>.*?)\n-{5,}", re.IGNORECASE | re.DOTALL)
_CONTEXT = re.compile(
    r"^[ \t#*]*(?:new )?context[ \t]*\**:\**\s*(?P<context>.*?)(?=^[ \t#*]*(?:question|query|answer)\b|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
# A sentence about a context or documents, and after a line or a colon all that follows.
_ANNOUNCED = re.compile(
    r"\b(?:context|documents?)\b[^\n]*(?:\n[^\n]*\S[^\n]*)*?(?:\n[ \t]*[-_]{5,}[ \t]*\n|:[ \t]*\n\s*\n)"
    r"(?P<context>.*?)(?=^[ \t]*(?:instructions?|existing answer):|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_AFTER_A_BLANK_LINE = re.compile(r"\bcontext\b.*?\n[ \t]*\n(?P<context>.+)", re.IGNORECASE | re.DOTALL)
_REFINES = re.compile(r"refine the (?:existing|original) answer", re.IGNORECASE)
_EXISTING_ANSWER = re.compile(
    r"^[ \t]*(?:original|existing) answer:[ \t]*(?P<answer>.*?)(?=^[ \t]*(?:new answer|instructions?):|^-{5,}|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_FOLLOW_UP = re.compile(
    r".*\bfollow[- ]up (?:input|message|question)[>:]\s*(?P<question>.*?)\s*<?standalone question[>:]?\s*\Z",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Message:
    """One chat message, reduced to its text."""

    role: str
    text: str


@dataclass(frozen=True)
class Passage:
    """One passage of the context; the number is 0 if it has none."""

    number: int
    text: str


def read_context(messages: Sequence[Message]) -> tuple[list[Passage], str]:
    """Return the passages of the latest message that has any, and the question of the latest user message."""
    passages: list[Passage] = []
    for message in reversed(messages):
        if message.role != "assistant" and not passages:
            passages = _split(message.text)[0]
    if not passages:
        passages = _unnumbered([message for message in messages if message.role != "assistant"])
    _, before, after = _split(_asked(messages))
    return passages, _question(before, after)


def question_to_rewrite(messages: Sequence[Message]) -> str | None:
    """Return the follow-up question that is to be written as a question of its own; None if that is not asked for."""
    match = _FOLLOW_UP.match(messages[-1].text)
    return match["question"] if match else None


def answer_to_refine(messages: Sequence[Message]) -> str:
    """Return an earlier answer that is to be refined with more context; empty if there is none."""
    for position in range(len(messages) - 1, -1, -1):
        text = messages[position].text
        match = _EXISTING_ANSWER.search(text)
        if match:
            return match["answer"].strip()
        if _REFINES.search(text):
            return next((one.text for one in reversed(messages[:position]) if one.role == "assistant"), "")
    return ""


def _asked(messages: Sequence[Message]) -> str:
    texts = [message.text for message in messages if message.role == "user"]
    if len(texts) > 1 and _REFINES.search(texts[-1]) and not _marked(texts[-1]):
        return texts[-2]  # the last message has only more context
    return texts[-1] if texts else ""


def _split(text: str) -> tuple[list[Passage], str, str]:
    """Return the passages of a text, and the text before the first and after the last of them."""
    lines = text.splitlines()
    found = {i: match for i, line in enumerate(lines) if (match := _START.match(line))}
    if not found:
        return [], text, ""
    starts = list(found)
    stop = _end_of_last(lines, starts[-1])
    passages = []
    for (start, match), end in zip(found.items(), [*starts[1:], stop], strict=True):
        body = [lines[start][match.end() :], *_unquoted(lines[start + 1 : end])]
        passages.append(Passage(int(match[1]), "\n".join(body).strip()))
    return passages, "\n".join(lines[: starts[0]]), "\n".join(lines[stop:])


def _unquoted(lines: Sequence[str]) -> list[str]:
    """Return the lines without the ``"> "`` before each, if all of them have it."""
    filled = [line for line in lines if line.strip()]
    if not filled or not all(line.startswith(">") for line in filled):
        return list(lines)
    return [_QUOTE.sub("", line) for line in lines]


def _unnumbered(messages: Sequence[Message]) -> list[Passage]:
    """Return the paragraphs of the latest block of context without numbers, as in the frameworks' own prompts."""
    for message in reversed(messages):
        text = message.text
        match = _FENCED.search(text) or _CONTEXT.search(text) or _ANNOUNCED.search(text)
        if match is None and message.role == "system":
            match = _AFTER_A_BLANK_LINE.search(text)
        if match:
            paragraphs = re.split(r"\n\s*\n", match["context"])
            return [Passage(0, paragraph.strip()) for paragraph in paragraphs if paragraph.strip()]
    return []


def _end_of_last(lines: Sequence[str], start: int) -> int:
    # A blank line ends only the last passage: text that is not a passage may follow it.
    ends = (i for i in range(start + 1, len(lines)) if not lines[i].strip() or _END.match(lines[i]))
    return next(ends, len(lines))


def _question(before: str, after: str) -> str:
    # Text after the passages can belong to a passage: a question before them is more reliable.
    return _marked(before) or _marked(after) or f"{before}\n{after}".strip()


def _marked(text: str) -> str:
    lines = text.splitlines()
    for i in reversed(range(len(lines))):
        if match := _QUESTION.match(lines[i]):
            rest = takewhile(lambda line: not _END.match(line), lines[i + 1 :])
            return "\n".join([lines[i][match.end() :], *rest]).strip()
    return ""

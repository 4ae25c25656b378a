"""The sandbox's fake chat: it answers with the sentences of the context that share most words with the question.

No language model is involved, and every answer begins by saying so. Equal messages give equal answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nanogpt_core.sandbox.fake_vectors import content_words

__all__ = ["PREFIX", "Message", "Passage", "answer", "read_context"]

PREFIX = "[NanoGPT sandbox, not a language model]"
"""The beginning of every answer."""

_NOTHING = "nothing in the given context answers this."
_NO_PASSAGES = "nothing in the given context answers this: there is none (passages numbered [1], or Context:)."
_MAX_QUOTES = 3
_MAX_QUOTE_CHARACTERS = 600
_MIN_SCORE_SHARE = 0.6  # of the best sentence's score, for further quotes
_PASSAGE_WEIGHT = 0.3  # a sentence may refer to its neighbours: "It opens at nine."
_WRAPPED_LINE_CHARACTERS = 50  # a line at least this long was wrapped, and continues in the next one
_LONG_QUESTION_WORDS = 4

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?![a-z])|(?<=[。！？])")

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
    """One passage of the context; the number is 0 if it has none."""

    number: int
    text: str


@dataclass(frozen=True)
class _Sentence:
    passage: int
    text: str
    words: frozenset[str]


def answer(messages: Sequence[Message]) -> str:
    """Return the answer to a chat."""
    passages, question = read_context(messages)
    if not passages:
        return f"{PREFIX} {_NO_PASSAGES}"
    quotes = _best(passages, content_words(question))
    if not quotes:
        return f"{PREFIX} {_NOTHING}"
    return " ".join([PREFIX, *map(_cited, quotes)])


def _cited(quote: _Sentence) -> str:
    return f'"{_short(quote.text)}"' + (f" [{quote.passage}]" if quote.passage else "")


def _best(passages: Sequence[Passage], asked: set[str]) -> list[_Sentence]:
    sentences = [
        _Sentence(passage.number, text, frozenset(content_words(text)))
        for passage in passages
        for text in _sentences(passage.text)
    ]
    weights = _weights(passages, asked)
    shared: dict[int, set[str]] = {}
    for passage in passages:
        shared.setdefault(passage.number, set()).update(asked & content_words(passage.text))
    scored = []
    for position, sentence in enumerate(sentences):
        own = asked & sentence.words
        # One word of a long question in common is more often chance than an answer.
        if own and not (len(asked) >= _LONG_QUESTION_WORDS and len(shared[sentence.passage]) == 1):
            score = _total(weights, own) + _PASSAGE_WEIGHT * _total(weights, shared[sentence.passage])
            scored.append((-score, position, sentence))
    scored.sort(key=lambda entry: entry[:2])
    near = [entry for entry in scored if entry[0] <= _MIN_SCORE_SHARE * scored[0][0]]
    unique: dict[str, _Sentence] = {}
    for _, _, sentence in near:
        unique.setdefault(sentence.text, sentence)
    return list(unique.values())[:_MAX_QUOTES]


def _total(weights: Mapping[str, float], chosen: Iterable[str]) -> float:
    # fsum: the order of a set, and with it the last bit of a plain sum, differs between processes.
    return math.fsum(weights[term] for term in chosen)


def _weights(passages: Sequence[Passage], asked: set[str]) -> dict[str, float]:
    """Return a weight for each word of the question: higher, the fewer passages have it."""
    found = [content_words(passage.text) for passage in passages]
    return {term: math.log(1.0 + (len(found) + 1) / (0.5 + sum(term in one for one in found))) for term in asked}


def _sentences(text: str) -> list[str]:
    joined = []
    for line in text.splitlines():
        joined += [line, " " if len(line.rstrip()) >= _WRAPPED_LINE_CHARACTERS else "\n"]
    parts = (part for line in "".join(joined).split("\n") for part in _SENTENCE_END.split(line))
    return [" ".join(part.split()) for part in parts if part.strip()]


def _short(text: str) -> str:
    return text if len(text) <= _MAX_QUOTE_CHARACTERS else text[:_MAX_QUOTE_CHARACTERS].rsplit(" ", 1)[0] + " …"


def read_context(messages: Sequence[Message]) -> tuple[list[Passage], str]:
    """Return the passages of the latest message that has any, and the question of the latest user message.

    Text of passages is only quoted, never interpreted.
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
    """Return the passages of a text, and the text before the first and after the last of them."""
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
    """Return the lines without the ``"> "`` before each, if all of them have it."""
    filled = [line for line in lines if line.strip()]
    if not filled or not all(line.startswith(">") for line in filled):
        return list(lines)
    return [_QUOTE.sub("", line) for line in lines]


def _unnumbered(texts: Sequence[str]) -> list[Passage]:
    """Return the paragraphs of the latest block of context without numbers, as in the frameworks' own prompts."""
    for text in reversed(texts):
        match = _FENCED.search(text) or _CONTEXT.search(text)
        if match:
            paragraphs = re.split(r"\n\s*\n", match["context"])
            return [Passage(0, paragraph.strip()) for paragraph in paragraphs if paragraph.strip()]
    return []


def _end_of_last(lines: Sequence[str], start: int) -> int:
    # A blank line ends only the last passage: text that is not a passage may follow it.
    for i in range(start + 1, len(lines)):
        if not lines[i].strip() or _END.match(lines[i]):
            return i
    return len(lines)


def _question(before: str, after: str) -> str:
    # Text after the passages can belong to a passage: a question before them is more reliable.
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

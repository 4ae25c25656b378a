"""The sandbox's fake chat: it answers with the sentences of the context that share most words with the question.

No language model is involved, and every answer begins by saying so. Equal messages give equal answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nanogpt_core.sandbox.fake_vectors import content_words
from nanogpt_core.sandbox.prompts import Message, Passage, answer_to_refine, question_to_rewrite, read_context

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

_QUOTED = re.compile(r'"([^"]+)"')
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?![a-z])|(?<=[。！？])")


@dataclass(frozen=True)
class _Sentence:
    passage: int
    text: str
    words: frozenset[str]


def answer(messages: Sequence[Message], hint: str = "", *, needs_script: bool = False) -> str:
    """Return the answer to a chat: quotes; the ``hint`` if there are none, or if the request ``needs_script``."""
    rewritten = question_to_rewrite(messages)
    if rewritten:
        return rewritten  # no answer, but the next query
    passages, question = read_context(messages)
    existing = answer_to_refine(messages)
    passages += [Passage(0, quote) for quote in _QUOTED.findall(existing)]
    quotes = [] if needs_script else _best(passages, content_words(question))
    if quotes:
        return " ".join([PREFIX, *map(_cited, quotes)])
    if hint:
        return f"{PREFIX} {hint}"
    return existing or f"{PREFIX} {_NOTHING if passages else _NO_PASSAGES}"


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
    for sentence in sentences:
        own = asked & sentence.words
        # One word of a long question in common is more often chance than an answer.
        if own and not (len(asked) >= _LONG_QUESTION_WORDS and len(shared[sentence.passage]) == 1):
            score = _total(weights, own) + _PASSAGE_WEIGHT * _total(weights, shared[sentence.passage])
            scored.append((score, sentence))
    scored.sort(key=lambda entry: entry[0], reverse=True)  # equal ones stay in order
    unique: dict[str, _Sentence] = {}
    for score, sentence in scored:
        if score >= _MIN_SCORE_SHARE * scored[0][0]:
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

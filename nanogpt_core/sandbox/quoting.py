"""The sandbox's chat: it answers by quoting the sentences that share most with the question.

There is no language model here, and every answer begins by saying so. The same messages always give the same answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nanogpt_core.sandbox.passages import Message, Passage, read_context
from nanogpt_core.sandbox.words import terms

__all__ = ["PREFIX", "answer"]

PREFIX = "[NanoGPT sandbox, not a language model]"
"""How every answer begins."""

_NOTHING = "nothing in the given context answers this."
_NO_PASSAGES = "nothing in the given context answers this: there is none (passages numbered [1], or Context:)."
_MOST_QUOTES = 3
_LONGEST_QUOTE = 600
_NEAR_BEST = 0.6  # a further sentence is quoted only where it scores this part of the best one
_PASSAGE_SHARE = 0.3  # a sentence may rest on its neighbours: "It opens at nine."
_FULL_LINE = 50  # a line at least this long was broken by its width, not by its end
_MANY_TERMS = 4

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?![a-z])|(?<=[。！？])")


@dataclass(frozen=True)
class _Sentence:
    passage: int
    text: str
    terms: frozenset[str]


def answer(messages: Sequence[Message]) -> str:
    """Return the answer to a chat."""
    passages, question = read_context(messages)
    if not passages:
        return f"{PREFIX} {_NO_PASSAGES}"
    quotes = _best(passages, terms(question))
    if not quotes:
        return f"{PREFIX} {_NOTHING}"
    return " ".join([PREFIX, *map(_cited, quotes)])


def _cited(quote: _Sentence) -> str:
    return f'"{_short(quote.text)}"' + (f" [{quote.passage}]" if quote.passage else "")


def _best(passages: Sequence[Passage], asked: set[str]) -> list[_Sentence]:
    sentences = [
        _Sentence(passage.number, text, frozenset(terms(text)))
        for passage in passages
        for text in _sentences(passage.text)
    ]
    weights = _weights(passages, asked)
    shared: dict[int, set[str]] = {}
    for passage in passages:
        shared.setdefault(passage.number, set()).update(asked & terms(passage.text))
    scored = []
    for position, sentence in enumerate(sentences):
        own = asked & sentence.terms
        # One word of many in common is chance more often than an answer.
        if own and not (len(asked) >= _MANY_TERMS and len(shared[sentence.passage]) == 1):
            score = _total(weights, own) + _PASSAGE_SHARE * _total(weights, shared[sentence.passage])
            scored.append((-score, position, sentence))
    scored.sort(key=lambda entry: entry[:2])
    near = [entry for entry in scored if entry[0] <= _NEAR_BEST * scored[0][0]]
    unique: dict[str, _Sentence] = {}
    for _, _, sentence in near:
        unique.setdefault(sentence.text, sentence)
    return list(unique.values())[:_MOST_QUOTES]


def _total(weights: Mapping[str, float], chosen: Iterable[str]) -> float:
    # fsum: a set's order differs from process to process, and the last bit of a plain sum with it.
    return math.fsum(weights[term] for term in chosen)


def _weights(passages: Sequence[Passage], asked: set[str]) -> dict[str, float]:
    """Return how much each word of the question tells: more, the fewer passages have it."""
    found = [terms(passage.text) for passage in passages]
    return {term: math.log(1.0 + (len(found) + 1) / (0.5 + sum(term in one for one in found))) for term in asked}


def _sentences(text: str) -> list[str]:
    joined = []
    for line in text.splitlines():
        joined += [line, " " if len(line.rstrip()) >= _FULL_LINE else "\n"]
    parts = (part for line in "".join(joined).split("\n") for part in _SENTENCE_END.split(line))
    return [" ".join(part.split()) for part in parts if part.strip()]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE].rsplit(" ", 1)[0] + " …"

"""Division of texts into chunks of a number of tokens, between paragraphs, lines or sentences, with an overlap."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nanogpt_core.models.tokens import count_base_tokens

# A chunk ends at its strongest border after this share of its tokens.
_MIN_FILL_SHARE = 0.6
_HEADING, _PARAGRAPH, _LINE, _SENTENCE, _WORD, _INSIDE = 5, 4, 3, 2, 1, 0
_BORDERS = re.compile(r"\n(?:[^\S\n]*\n)*|(?<=[.!?])[^\S\n]+|(?<=[。！？])(?!\s)")
# A character has at most 4 bytes, and a token at least one.
_MAX_TOKENS_PER_CHARACTER = 4
_MAX_CHARACTERS_PER_WORD = 64  # a longer run without a blank is divided


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence or line, or a part of a long one, in characters; ``border`` is the strength of the border after it."""

    start: int
    end: int
    tokens: int
    border: int


class Chunker:
    """Divides texts into chunks of at most ``tokens``, of which at most ``overlap`` repeat the end of the chunk before.

    Tokens are those of ``cl100k_base``, for all models: the same passages are compared.
    """

    def __init__(self, tokens: int, overlap: int) -> None:
        self._tokens = tokens
        self._overlap = overlap

    def chunks(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the chunks of ``text``, each with the position of its first character; blank ones are left out."""
        rest = self._units(text)
        units: list[_Unit] = []  # from the first unit of the next chunk on
        done = 0  # of them, those that the chunk before has too
        end = 0  # of the chunk before
        while True:
            tokens = sum(unit.tokens for unit in units)
            # A unit more than the chunk can take: it is not the last one.
            while (tokens <= self._tokens or len(units) < done + 2) and (unit := next(rest, None)) is not None:
                units.append(unit)
                tokens += unit.tokens
            if len(units) == done:
                return
            first, last = 0, self._end(units)
            # Units that are put together can have more tokens than their sum: "aa" and "word" 2, "aaword" 3.
            while count_base_tokens(_trimmed(text, units[first:last])[1]) > self._tokens:
                if last > done + 1:
                    last -= 1
                elif first < done:
                    first += 1
                else:
                    break
            start, chunk = _trimmed(text, units[first:last])
            if chunk and start + len(chunk) > end:  # else its new units are blank
                end = start + len(chunk)
                yield start, chunk
            if last == len(units):
                return
            first = self._with_overlap(units, first, last)
            done = last - first
            del units[:first]

    def _end(self, units: list[_Unit]) -> int:
        """Return the unit before which the chunk that begins with the first one ends."""
        total = 0
        best, border = 1, -1
        for number, unit in enumerate(units):
            total += unit.tokens
            if total > self._tokens:
                return best
            if total < _MIN_FILL_SHARE * self._tokens:
                best = number + 1
            elif unit.border >= border:
                best, border = number + 1, unit.border
        return len(units)

    def _with_overlap(self, units: list[_Unit], first: int, last: int) -> int:
        """Return the first unit of the chunk after that of the units ``first`` to ``last``."""
        repeated = 0
        start = last
        while start > first + 1 and repeated + units[start - 1].tokens <= self._overlap:
            start -= 1
            repeated += units[start].tokens
        # Unit ``last`` must fit in too, or the next chunk would end at the same place.
        while start < last and repeated + units[last].tokens > self._tokens:
            repeated -= units[start].tokens
            start += 1
        return start

    def _units(self, text: str) -> Iterator[_Unit]:
        start = 0
        for match in _BORDERS.finditer(text):
            yield from self._unit(text, start, match.end(), _strength(text, match))
            start = match.end()
        if start < len(text):
            yield from self._unit(text, start, len(text), _PARAGRAPH)

    def _unit(self, text: str, start: int, end: int, border: int) -> Iterator[_Unit]:
        unit = text[start:end]
        tokens = 0 if unit.isspace() else count_base_tokens(unit)
        if tokens <= self._tokens:
            yield _Unit(start, end, tokens, border)
            return
        run = max(1, min(_MAX_CHARACTERS_PER_WORD, self._tokens // _MAX_TOKENS_PER_CHARACTER))
        # A word with the blank before it, or a part of a long word; and blanks beyond the first.
        for match in re.compile(rf"\s{{1,{run}}}(?=\s|\Z)|\s?\S{{1,{run}}}").finditer(text, start, end):
            word = text[match.start() : match.end()]
            following = text[match.end() : match.end() + 1]
            strength = border if match.end() == end else _WORD if following.isspace() else _INSIDE
            yield _Unit(match.start(), match.end(), count_base_tokens(word), strength)


def _trimmed(text: str, units: list[_Unit]) -> tuple[int, str]:
    """Return the text of units without blanks at its end and empty lines at its beginning, and its position."""
    start, chunk = units[0].start, text[units[0].start : units[-1].end].rstrip()
    trimmed = chunk.lstrip("\n")
    return start + len(chunk) - len(trimmed), trimmed


def _strength(text: str, border: re.Match[str]) -> int:
    breaks = border[0].count("\n")
    if breaks and text.startswith("#", border.end()):
        return _HEADING
    return (_SENTENCE, _LINE)[breaks] if breaks < 2 else _PARAGRAPH  # noqa: PLR2004 - a blank line is two breaks

"""Words of a text in the form in which they are compared: folded, stemmed, weighed."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from nanogpt_core.sandbox.tokens import CJK

__all__ = ["STOP_WORDS", "is_cjk", "terms", "words"]

_STOP_WORDS = (
    "a about after again all also am an and any are as at be because been before being between both but by can "
    "could did do does doing done down during each either for from further had has have having he her here hers "
    "him his how i if in into is it its itself just many may me might more most much must my no nor not now of "
    "off on once one only or other our out over own please same shall she should so some such tell than that the "
    "their them then there these they this those through to too under until up upon us very was we were what when "
    "where whether which while who whom whose why will with would you your aber als am auch auf aus bei bin bis "
    "das dass dem den der des die doch ein eine einem einen einer eines er es für hat ich im ist kann man mit "
    "nach nicht noch nur oder sich sie sind so und vom von vor war wer wie wird wo zu zum zur al como con cual de "
    "del donde el ella en entre es esta este la las lo los más no para pero por que qué se ser si sin su sus un "
    "una uno y au aux avec ce ces dans du est et il je le les leur mais ne nous ou où par pas plus pour qui sa "
    "ses son sur une vous "
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say little of what a text is about: English, and the commonest of German, Spanish and French."""

_WORD = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+(?:['’][^\W\d_{CJK}]+)?")
_CJK_ONLY = re.compile(rf"[{CJK}]+")
_DOUBLED = re.compile(r"([bdfgmnprt])\1$")
# Longest first; what is left of the word must still be a word.
_SUFFIXES = (
    ("ization", "ize"),
    ("ations", "ate"),
    ("ation", "ate"),
    ("ements", "e"),
    ("ement", "e"),
    ("iness", "y"),
    ("ness", ""),
    ("ings", ""),
    ("edly", ""),
    ("ing", ""),
    ("ies", "y"),
    ("ied", "y"),
    ("ily", "y"),
    ("est", ""),
    ("ed", ""),
    ("ly", ""),
    ("er", ""),
)
_SHORTEST_STEM = 3


def is_cjk(word: str) -> bool:
    """Whether the word is a run of CJK characters."""
    return bool(_CJK_ONLY.fullmatch(word))


def words(text: str) -> list[str]:
    """Return the words of a text in their order, folded and stemmed; CJK characters come singly and in pairs."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        found += _forms(word)
    return found


def terms(text: str) -> set[str]:
    """Return the different words of a text that say what it is about."""
    found = {word for word in words(text) if word not in STOP_WORDS}
    # A single CJK character says little where pairs are at hand.
    pairs = {word for word in found if not (len(word) == 1 and is_cjk(word))}
    return pairs or found


@lru_cache(maxsize=100_000)
def _forms(word: str) -> tuple[str, ...]:
    if not is_cjk(word):
        return (_stem(word),)
    return (*word, *(word[i : i + 2] for i in range(len(word) - 1)))


def _stem(word: str) -> str:
    """Return a word without its English ending, so that "runs", "running" and "run" meet."""
    word = re.sub(r"['’]s?$|['’](?=\w+$)", "", word)
    if word in STOP_WORDS or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("s") and len(word) > _SHORTEST_STEM and not word.endswith(("ss", "us", "is", "ies")):
        word = word[:-1]
    for suffix, put in _SUFFIXES:
        rest = word.removesuffix(suffix)
        if rest != word and len(rest) >= _SHORTEST_STEM and re.search("[aeiouy]", rest):
            word = rest + put
            break
    word = _DOUBLED.sub(r"\1", word)
    return word[:-1] if word.endswith("e") and len(word) > _SHORTEST_STEM else word

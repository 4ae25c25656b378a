"""Fake embedding vectors: texts that share words, stems or parts of words are near each other.

No model is involved. Each word is hashed to a few signed coordinates: the vector of a text depends only on the text,
the model's name and the dimensions, not on the batch, the process or the machine.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nanogpt_core.models.catalog import MODELS
from nanogpt_core.sandbox.tokens import CJK

FloatArray = npt.NDArray[np.float64]

_WORD_COORDINATES = 10  # coordinates per word
_GRAM_COORDINATES = 2  # coordinates per part of a word
_GRAM_WEIGHT = 0.35
_STOP_WEIGHT = 0.08
_CJK_SINGLE_WEIGHT = 0.5
_GRAM_LENGTH = 3  # characters

# The instruction is removed: the same text in every query would make all queries similar.
_INSTRUCTIONS = tuple(
    (prefix, suffix)
    for prefix, _, suffix in (
        row.query_instruction.partition("{query}") for row in MODELS.values() if row.query_instruction
    )
)
_INSTRUCT = re.compile(r"Instruct:[^\n]*\nQuery:")

# English, and the most frequent words of German, Spanish and French.
_STOP_WORD_LIST = (
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
_STOP_WORDS = frozenset(_STOP_WORD_LIST.split())

_WORD = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+(?:['’][^\W\d_{CJK}]+)?")
_CJK_ONLY = re.compile(rf"[{CJK}]+")
_DOUBLED = re.compile(r"([bdfgmnprt])\1$")
# Longest first; the rest of the word must have a vowel and `_MIN_STEM_CHARACTERS`.
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
_MIN_STEM_CHARACTERS = 3


def embed(
    texts: Sequence[str], *, model: str, width: int, dimensions: int | None = None, unit_length: bool = True
) -> npt.NDArray[np.float32]:
    """Return one row for each text.

    Args:
        texts: The texts.
        model: Name of the model; other names give unrelated vectors.
        width: Dimensions of a full vector.
        dimensions: Number of leading coordinates to keep, scaled to length 1 again; None keeps all.
        unit_length: True for rows of Euclidean length 1.

    Returns:
        An array of shape ``(len(texts), dimensions or width)``. No row is zero.
    """
    keep = dimensions or width
    rows = np.empty((len(texts), keep), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        vector = _vector(text, model, width)[:keep]
        # Not np.linalg.norm: BLAS may sum in another order on another machine or address.
        length = math.sqrt(float(np.sum(vector * vector)))
        if length == 0.0:
            vector, length = _fallback_vector(text, model, keep), 1.0
        row[:] = vector / length if unit_length or dimensions else vector
    return rows


def _vector(text: str, model: str, width: int) -> FloatArray:
    text = _without_instruction(text)
    # Texts without any letter or digit are distinguished by their characters.
    counts = Counter(_words(text) or list(text))
    parts = [_features(word, model, width) for word in counts]
    weights = [1.0 if count == 1 else 1.0 + math.log(count) for count in counts.values()]
    coordinates = np.frombuffer(b"".join([part[0] for part in parts]), dtype=np.int64)
    values = np.frombuffer(b"".join([part[1] for part in parts]), dtype=np.float64)
    values = values * np.repeat(weights, [len(part[0]) // 8 for part in parts])
    return np.asarray(np.bincount(coordinates, values, minlength=width), dtype=np.float64)


def _without_instruction(text: str) -> str:
    for prefix, suffix in _INSTRUCTIONS:
        if text.startswith(prefix) and text.endswith(suffix):
            return text[len(prefix) : len(text) - len(suffix)] or text
    return _INSTRUCT.sub("", text, count=1) or text if text.startswith("Instruct:") else text


def _fallback_vector(text: str, model: str, width: int) -> FloatArray:
    """Return a vector for a text whose coordinates cancel out, or are beyond the dimensions kept."""
    vector = np.zeros(width)
    number = int.from_bytes(_digest(text, model, 1), "little")
    vector[(number >> 1) % width] = -1.0 if number & 1 else 1.0
    return vector


@lru_cache(maxsize=100_000)
def _features(word: str, model: str, width: int) -> tuple[bytes, bytes]:
    """Return the coordinates of a word, as int64, and its value at each of them, as float64.

    As bytes: joining the bytes of many words is several times faster than joining arrays.
    """
    weight = _weight(word)
    grams = _grams(word)
    digests = [_digest(word, model, _WORD_COORDINATES), *(_digest(gram, model, _GRAM_COORDINATES) for gram in grams)]
    numbers = np.frombuffer(b"".join(digests), dtype="<u4")
    # The power moves most words to the front: a short prefix of a vector still distinguishes texts.
    positions = ((numbers >> 1) / 2.0**31) ** 1.5 * width
    values = np.full(len(numbers), weight / math.sqrt(_WORD_COORDINATES))
    values[_WORD_COORDINATES:] = weight * _GRAM_WEIGHT / math.sqrt(max(1, len(grams)) * _GRAM_COORDINATES)
    values[(numbers & 1).astype(bool)] *= -1.0
    return positions.astype(np.int64).tobytes(), values.tobytes()


def _weight(word: str) -> float:
    if word in _STOP_WORDS:
        return _STOP_WEIGHT
    return _CJK_SINGLE_WEIGHT if len(word) == 1 and _is_cjk(word) else 1.0


def _grams(word: str) -> list[str]:
    """Return the parts of a word that related words share, with a mark that no word has."""
    if word in _STOP_WORDS or _is_cjk(word) or len(word) < _GRAM_LENGTH:
        return []
    framed = f"<{word[:64]}>"
    return [f"#{framed[i : i + _GRAM_LENGTH]}" for i in range(len(framed) - _GRAM_LENGTH + 1)]


@lru_cache(maxsize=100_000)
def _digest(feature: str, model: str, coordinates: int) -> bytes:
    data = f"{model}\0{feature}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=4 * coordinates).digest()


def _is_cjk(word: str) -> bool:
    """Return True if the word is a run of CJK characters."""
    return bool(_CJK_ONLY.fullmatch(word))


def _words(text: str) -> list[str]:
    """Return the words of a text in order, folded and stemmed; CJK text gives single characters and pairs."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        found += _forms(word)
    return found


def content_words(text: str) -> set[str]:
    """Return the distinct words of a text without stop words."""
    found = {word for word in _words(text) if word not in _STOP_WORDS}
    # Single CJK characters carry little meaning beside pairs.
    pairs = {word for word in found if not (len(word) == 1 and _is_cjk(word))}
    return pairs or found


@lru_cache(maxsize=100_000)
def _forms(word: str) -> tuple[str, ...]:
    if not _is_cjk(word):
        return (_stem(word),)
    return (*word, *(word[i : i + 2] for i in range(len(word) - 1)))


def _stem(word: str) -> str:
    """Return a word without its English ending: "runs" and "running" become "run"."""
    word = re.sub(r"['’]s?$|['’](?=\w+$)", "", word)
    if word in _STOP_WORDS or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("s") and len(word) > _MIN_STEM_CHARACTERS and not word.endswith(("ss", "us", "is", "ies")):
        word = word[:-1]
    for suffix, put in _SUFFIXES:
        rest = word.removesuffix(suffix)
        if rest != word and len(rest) >= _MIN_STEM_CHARACTERS and re.search("[aeiouy]", rest):
            word = rest + put
            break
    word = _DOUBLED.sub(r"\1", word)
    return word[:-1] if word.endswith("e") and len(word) > _MIN_STEM_CHARACTERS else word

"""Vectors made of words: texts that share words, stems or parts of words are near each other.

No model is behind this. Each word is hashed to a few signed coordinates, so that the vector of a text depends on the
text, the model's name and the width alone: not on the batch, the process or the machine.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nanogpt_core.models.catalog import MODELS
from nanogpt_core.sandbox.words import STOP_WORDS, is_cjk, words

__all__ = ["embed"]

FloatArray = npt.NDArray[np.float64]

_WORD_COORDINATES = 10
_GRAM_COORDINATES = 2
_GRAM_WEIGHT = 0.35
_STOP_WEIGHT = 0.08
_CJK_SINGLE_WEIGHT = 0.5
_GRAM_LENGTH = 3

# A query's instruction is the same for every query: left in, it would make all queries alike.
_INSTRUCTIONS = tuple(
    (prefix, suffix)
    for prefix, _, suffix in (
        row.query_instruction.partition("{query}") for row in MODELS.values() if row.query_instruction
    )
)
_INSTRUCT = re.compile(r"Instruct:[^\n]*\nQuery:")


def embed(
    texts: Sequence[str], *, model: str, width: int, dimensions: int | None = None, unit_length: bool = True
) -> npt.NDArray[np.float32]:
    """Return one row for each text.

    Args:
        texts: The texts.
        model: Name of the model; other names give unrelated vectors.
        width: Width of a full vector.
        dimensions: How many leading coordinates to keep, scaled to length 1 again; None keeps all.
        unit_length: Whether rows have Euclidean length 1.

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
            vector, length = _stand_in(text, model, keep), 1.0
        row[:] = vector / length if unit_length or dimensions else vector
    return rows


def _vector(text: str, model: str, width: int) -> FloatArray:
    text = _without_instruction(text)
    # Texts without any letter or digit are told apart by their characters.
    counts = Counter(words(text) or list(text))
    parts = [_features(word, model, width) for word in counts]
    weights = [1.0 if count == 1 else 1.0 + math.log(count) for count in counts.values()]
    where = np.frombuffer(b"".join([part[0] for part in parts]), dtype=np.int64)
    values = np.frombuffer(b"".join([part[1] for part in parts]), dtype=np.float64)
    values = values * np.repeat(weights, [len(part[0]) // 8 for part in parts])
    return np.asarray(np.bincount(where, values, minlength=width), dtype=np.float64)


def _without_instruction(text: str) -> str:
    for prefix, suffix in _INSTRUCTIONS:
        if text.startswith(prefix) and text.endswith(suffix):
            return text[len(prefix) : len(text) - len(suffix)] or text
    return _INSTRUCT.sub("", text, count=1) or text if text.startswith("Instruct:") else text


def _stand_in(text: str, model: str, width: int) -> FloatArray:
    """Return a vector for a text whose coordinates cancel out, or lie outside the part that is kept."""
    vector = np.zeros(width)
    number = int.from_bytes(_digest(text, model, 1), "little")
    vector[(number >> 1) % width] = -1.0 if number & 1 else 1.0
    return vector


@lru_cache(maxsize=100_000)
def _features(word: str, model: str, width: int) -> tuple[bytes, bytes]:
    """Return the coordinates of a word, as int64, and what it adds to each of them, as float64.

    Bytes, because joining the few of many words is several times faster than joining arrays.
    """
    weight = _weight(word)
    grams = _grams(word)
    digests = [_digest(word, model, _WORD_COORDINATES), *(_digest(gram, model, _GRAM_COORDINATES) for gram in grams)]
    numbers = np.frombuffer(b"".join(digests), dtype="<u4")
    # The square moves most words to the front, so that a short prefix of a vector still tells texts apart.
    where = ((numbers >> 1) / 2.0**31) ** 1.5 * width
    values = np.full(len(numbers), weight / math.sqrt(_WORD_COORDINATES))
    values[_WORD_COORDINATES:] = weight * _GRAM_WEIGHT / math.sqrt(max(1, len(grams)) * _GRAM_COORDINATES)
    values[(numbers & 1).astype(bool)] *= -1.0
    return where.astype(np.int64).tobytes(), values.tobytes()


def _weight(word: str) -> float:
    if word in STOP_WORDS:
        return _STOP_WEIGHT
    return _CJK_SINGLE_WEIGHT if len(word) == 1 and is_cjk(word) else 1.0


def _grams(word: str) -> list[str]:
    """Return the parts of a word that related words share, marked so that none of them equals a word."""
    if word in STOP_WORDS or is_cjk(word) or len(word) < _GRAM_LENGTH:
        return []
    framed = f"<{word[:64]}>"
    return [f"#{framed[i : i + _GRAM_LENGTH]}" for i in range(len(framed) - _GRAM_LENGTH + 1)]


@lru_cache(maxsize=100_000)
def _digest(feature: str, model: str, coordinates: int) -> bytes:
    data = f"{model}\0{feature}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=4 * coordinates).digest()

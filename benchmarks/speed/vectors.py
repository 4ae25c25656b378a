"""The texts that are embedded, the vectors that the server answers with, and the check of a client's result.

Texts are English words, about 120 tokens each, without quotes or brackets, and the server counts them without reading
them. Vector i of a request is always the same, and no two are equal: a client's result shows how it split its requests
and if each vector is in its place.
"""

from __future__ import annotations

import base64
import functools
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL = "text-embedding-3-small"
WIDTH = 1536
MOST = 2048  # vectors in a reply
_DIRECTIONS = 32  # of the vectors for vector stores

_SENTENCE = (
    "the of and to in that is was for on with as by at from his her they were which their have been had not but are "
    "this all one would there when who more no if out so said what up its about into than them can only other new some "
    "could time these two may then do first any my now such like our over man me even most made after also did many "
    "before must through back years where much your way well down should because each just those people how too little "
    "state good very make world still own see men work long get here between both life being under never day same "
    "another know while last might us great old year off come since against go came right used take three river water "
    "valley spring house night morning light field north winter summer paper letter stone market street garden window"
)
_WORDS = _SENTENCE.split()


def texts(count: int, words: int = 116, seed: int = 0) -> list[str]:
    """Return ``count`` different texts of so many words and a number."""
    choices = random.Random(seed).choices
    return [f"{number} {' '.join(choices(_WORDS, k=words))}." for number in range(count)]


def short_texts(count: int) -> Iterator[str]:
    """Yield ``count`` different texts of a few words."""
    for number in range(count):
        yield f"{_WORDS[number % len(_WORDS)]} number {number}"


@functools.cache
def vectors() -> NDArray[np.float32]:
    """Return the vectors: ``(2048, 1536)`` float32 of length 1."""
    import numpy as np

    rows = np.random.default_rng(7).standard_normal((MOST, WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def distinct(count: int) -> NDArray[np.float32]:
    """Return ``count`` vectors of which no two are equal, for vector stores: float32 of length 1.

    They vary along few directions, as those of texts do. An index takes several times as long for random ones.
    """
    import numpy as np

    random = np.random.default_rng(8)
    rows = random.standard_normal((count, _DIRECTIONS), dtype=np.float32)
    rows = rows @ random.standard_normal((_DIRECTIONS, WIDTH), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def items_in_base64() -> list[bytes]:
    """Return the vectors as a reply's items, in base64."""
    return [_item(i, in_base64(row)) for i, row in enumerate(vectors())]


def in_base64(row: NDArray[np.float32]) -> str:
    """Return a vector as JSON, in base64."""
    return '"' + base64.b64encode(row.tobytes()).decode() + '"'


def items_in_floats() -> list[bytes]:
    """Return the vectors as a reply's items, in lists of numbers, each as short as float32 allows."""
    import orjson

    return [_item(i, orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY).decode()) for i, row in enumerate(vectors())]


def _item(index: int, embedding: str) -> bytes:
    return f'{{"object":"embedding","index":{index},"embedding":{embedding}}}'.encode()


def check(answer: Any, count: int) -> None:
    """Check a client's answer: a matrix, or a list of lists.

    Raises:
        AssertionError: It does not hold ``count`` vectors of the right width, each in its place.
    """
    import numpy as np

    assert len(answer) == count, f"{len(answer)} vectors for {count} texts"
    known = vectors()
    places = {float(value): i for i, value in enumerate(known[:, 0])}
    assert len(places) == MOST, "two vectors begin alike"
    found = [places[float(np.float32(row[0]))] for row in answer]
    assert found[0] == 0, "the first vector is not the first text's"
    wrong = [i for i in range(1, count) if found[i] not in (found[i - 1] + 1, 0)]
    assert not wrong, f"vectors out of their places, the first at {wrong[0]}"
    for place in (0, count // 2, count - 1):
        assert len(answer[place]) == WIDTH, f"a vector of {len(answer[place])} numbers"
        row = np.asarray(answer[place], dtype=np.float32)
        assert np.array_equal(row, known[found[place]]), f"vector {place} has other numbers"


def in_turn(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut ``items`` into parts of ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))

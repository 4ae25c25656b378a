"""The texts that are sent, and the vectors that are right for them: known to the server and to the judge."""

from __future__ import annotations

import array
import base64
import hashlib
import sys
from collections.abc import Sequence
from typing import Any

MODEL = "text-embedding-3-small"
WIDTH = 1536
KEY = "sk-nano-4f1c9a72-fault-key"
TEXTS = [f"text number {number} of a batch" for number in range(8)]
MANY = [f"text number {number} of many" for number in range(40)]


def vector(text: str, width: int = WIDTH) -> array.array[float]:
    """Return the right vector of ``text``: exact in float32 and short as decimals, different for each text."""
    integers = array.array("h", hashlib.shake_256(text.encode()).digest(2 * width))
    return array.array("f", [number / 32768 for number in integers])


def packed(numbers: Sequence[float]) -> bytes:
    """Return numbers as little-endian float32."""
    floats = array.array("f", numbers)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()


def base64_of(numbers: Sequence[float]) -> str:
    """Return numbers as they are on the wire with ``encoding_format="base64"``."""
    return base64.b64encode(packed(numbers)).decode()


def document(texts: Sequence[str], encoding: str, width: int = WIDTH) -> dict[str, Any]:
    """Return the right reply for ``texts``."""
    rows = [vector(text, width) for text in texts]
    data = [
        {"object": "embedding", "index": index, "embedding": base64_of(row) if encoding == "base64" else list(row)}
        for index, row in enumerate(rows)
    ]
    tokens = 7 * len(texts)
    return {"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def is_right(texts: Sequence[str], vectors: Any) -> bool:
    """Return True if ``vectors`` are the right ones for ``texts``, bit by bit in float32, in order."""
    if len(vectors) != len(texts):
        return False
    return all(packed(list(row)) == packed(vector(text)) for text, row in zip(texts, vectors, strict=True))

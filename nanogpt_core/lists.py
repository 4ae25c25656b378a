"""Lists of floats out of a matrix, which the frameworks want, without waking the garbage collector for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nanogpt_core.collector import held_back

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ato_lists", "to_lists"]

_PART = 2048  # vectors
_PART_IN_LOOP = 256  # vectors: about ten milliseconds


def to_lists(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Return the rows of a matrix as lists of floats.

    Args:
        vectors: ``(n, d)`` float32.
    """
    lists: list[list[float]] = []
    for start in range(0, len(vectors), _PART):
        with held_back(made_to_last=True):
            lists += vectors[start : start + _PART].tolist()
    return lists


async def ato_lists(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Do what :func:`to_lists` does, and let the event loop go on in between."""
    lists: list[list[float]] = []
    for start in range(0, len(vectors), _PART_IN_LOOP):
        if start:
            await asyncio.sleep(0)
        with held_back(made_to_last=True):
            lists += vectors[start : start + _PART_IN_LOOP].tolist()
    return lists

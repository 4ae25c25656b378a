"""Lists of floats out of a matrix, which the frameworks want, without waking the garbage collector for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanogpt_core.collector import held_back

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["to_lists"]

# Vectors, about three milliseconds: in between, other threads, and so an event loop, have their turn.
_PART = 64


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

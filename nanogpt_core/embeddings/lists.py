"""Lists of floats out of a matrix, which the frameworks want, without waking the garbage collector for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nanogpt_core._runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["iter_lists", "to_lists"]

# Vectors: three to ten milliseconds, as long as an event loop and other threads can wait for their turn.
_PART = 64


def iter_lists(vectors: NDArray[np.float32]) -> Iterator[list[list[float]]]:
    """Yield the rows of a matrix as lists of floats, a few rows at a time.

    Args:
        vectors: ``(n, d)`` float32.
    """
    for start in range(0, len(vectors), _PART):
        with gc_paused(made_to_last=True):
            lists = vectors[start : start + _PART].tolist()
        yield lists


def to_lists(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Return all rows of a matrix, ``(n, d)`` float32, as lists of floats."""
    return [numbers for lists in iter_lists(vectors) for numbers in lists]

"""Exact search: the rows of an output whose vectors have the highest cosine with a question's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Hit(NamedTuple):
    """A row that was found: its number, counted from 0, and the cosine, at most 1."""

    row: int
    score: float


def nearest(blocks: Iterable[NDArray[np.float32]], query: NDArray[np.float32], count: int) -> tuple[list[Hit], int]:
    """Find the ``count`` rows with the highest cosines.

    ``blocks`` are the vectors, ``(n, d)`` float32 each; one block is in memory at a time. A row of NaN or of zeros is
    never found. ``query`` is the question's vector, ``(d,)`` float32.

    Returns:
        The rows, the best first, equal ones in the order of the rows; and the number of rows that are never found.
    """
    import numpy as np

    unit = query / np.linalg.norm(query)
    best_rows: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    best_scores: NDArray[np.float32] = np.empty(0, dtype=np.float32)
    first = without_vector = 0
    for block in blocks:
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = (block @ unit) / lengths
        found = np.flatnonzero(np.isfinite(scores))
        without_vector += len(block) - len(found)
        best_rows = np.concatenate([best_rows, found + first])
        best_scores = np.concatenate([best_scores, scores[found]])
        order = np.lexsort((best_rows, -best_scores))[:count]
        best_rows, best_scores = best_rows[order], best_scores[order]
        first += len(block)
    hits = [Hit(int(row), float(score)) for row, score in zip(best_rows, best_scores, strict=True)]
    return hits, without_vector

"""Rankings of sources by their best passage, and the measures of retrieval quality of each question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEPTH = 100
"""Sources in a ranking; MRR counts no source beyond."""

MEASURES = ("nDCG@10", "recall@5", "MRR")
"""The measures; the first one decides."""

_BLOCK_BYTES = 64 << 20  # of scores at a time


def unit_rows(matrix: NDArray[np.float32], dimensions: int | None = None) -> NDArray[np.float32]:
    """Return the first ``dimensions`` columns of ``(n, d)`` vectors, each row scaled to length 1; zeros stay."""
    kept = matrix[:, :dimensions]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    rows: NDArray[np.float32] = (kept / np.where(lengths == 0, 1, lengths)).astype(np.float32, copy=False)
    return rows


def rank_sources(
    queries: NDArray[np.float32], passages: NDArray[np.float32], starts: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Rank sources by the cosine of their best passage.

    Args:
        queries: ``(q, d)``, rows of length 1.
        passages: ``(n, d)``, rows of length 1, ordered by source.
        starts: ``(s,)``, the row of the first passage of each source.

    Returns:
        ``(q, min(s, DEPTH))``: numbers of sources, the best first; of equals the lower number first.
    """
    depth = min(DEPTH, len(starts))
    block = max(1, _BLOCK_BYTES // (4 * max(1, len(passages))))
    ranked = np.empty((len(queries), depth), dtype=np.intp)
    for first in range(0, len(queries), block):
        scores = np.maximum.reduceat(queries[first : first + block] @ passages.T, starts, axis=1)
        if depth < scores.shape[1]:
            best = np.sort(np.argpartition(-scores, depth - 1, axis=1)[:, :depth], axis=1)
        else:
            best = np.broadcast_to(np.arange(depth), scores.shape)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        ranked[first : first + block] = np.take_along_axis(best, order, axis=1)
    return ranked


def measure_quality(ranked: NDArray[np.intp], right: Sequence[Sequence[int]]) -> dict[str, NDArray[np.float64]]:
    """Return each measure, by its name, for each question: ``(q,)`` from 0 to 1.

    Every right source of a question counts as relevant, with grade 1.

    Args:
        ranked: The ranking of :func:`rank_sources`.
        right: The numbers of the right sources of each question.
    """
    import ir_measures
    from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

    objects: dict[str, Any] = dict(zip(MEASURES, (nDCG @ 10, R @ 5, RR), strict=True))
    qrels = [Qrel(str(number), str(source), 1) for number, sources in enumerate(right) for source in sources]
    run = [
        # The score is the place from the end: tools that sort by it again keep this order.
        ScoredDoc(str(number), str(source), float(ranked.shape[1] - place))
        for number, sources in enumerate(ranked)
        for place, source in enumerate(sources)
    ]
    names = {measure: name for name, measure in objects.items()}
    values: dict[str, NDArray[np.float64]] = {name: np.zeros(len(right)) for name in MEASURES}
    for row in ir_measures.iter_calc(list(objects.values()), qrels, run):
        values[names[row.measure]][int(row.query_id)] = row.value
    return values


def first_ranks(ranked: NDArray[np.intp], right: Sequence[Sequence[int]]) -> list[int | None]:
    """Return the place of each question's first right source, counted from 1; None beyond the depth."""
    places: list[int | None] = []
    for sources, wanted in zip(ranked, right, strict=True):
        hits = np.flatnonzero(np.isin(sources, wanted))
        places.append(int(hits[0]) + 1 if len(hits) else None)
    return places

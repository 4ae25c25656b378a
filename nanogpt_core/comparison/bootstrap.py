"""Paired bootstrap over questions: intervals of means, and of differences between variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95
"""Share of resamples within an interval."""

_RESAMPLES = 10_000
_SEED = 20_260
_BLOCK_RESAMPLES = 500  # bounds the memory at many questions


class Interval(NamedTuple):
    """The middle 95 % of a quantity over all resamples."""

    low: float
    high: float


def bootstrap_means(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of ``scores`` over resamples of the questions. The same questions give the same resamples.

    Args:
        scores: ``(q, v)``, a row for each question, a column for each variant. A resample draws whole rows, so
            differences between columns are paired.

    Returns:
        ``(10000, v)``.
    """
    random = np.random.default_rng(_SEED)
    questions = len(scores)
    shares = np.full(questions, 1 / questions)
    blocks = [
        random.multinomial(questions, shares, size=_BLOCK_RESAMPLES) @ scores / questions
        for _ in range(_RESAMPLES // _BLOCK_RESAMPLES)
    ]
    return np.concatenate(blocks)


def interval_of(samples: NDArray[np.float64]) -> Interval:
    """Return the percentile interval of ``(n,)`` resampled values."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))

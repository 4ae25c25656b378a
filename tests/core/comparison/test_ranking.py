"""Rankings and measures, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.comparison.bootstrap import bootstrap_means, interval_of
from nanogpt_core.comparison.ranking import DEPTH, first_ranks, measure_quality, rank_sources, unit_rows


def test_source_is_ranked_by_its_best_passage():
    queries = np.eye(2, dtype=np.float32)
    # Source 0 has two passages, of which the second is the best for the first query.
    passages = unit_rows(np.array([[0, 1], [1, 0], [1, 1], [0.1, 1]], dtype=np.float32))
    assert rank_sources(queries, passages, np.array([0, 2, 3])).tolist() == [[0, 1, 2], [0, 2, 1]]


@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_ranking_equals_sorting_all_sources(sources, questions, seed):
    random = np.random.default_rng(seed)
    queries, passages = random.integers(-2, 3, (questions, 3)), random.integers(-2, 3, (sources, 3))
    found = rank_sources(queries.astype(np.float32), passages.astype(np.float32), np.arange(sources))
    for scores, row in zip(queries @ passages.T, found, strict=True):
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        assert scores[row].tolist() == scores[best].tolist()
        assert len(set(row.tolist())) == len(row) == min(sources, DEPTH)
        if sources <= DEPTH:
            assert row.tolist() == best.tolist()


def test_reduced_rows_have_length_1_and_zeros_stay():
    rows = unit_rows(np.array([[3, 4, 12], [0, 0, 5]], dtype=np.float32), 2)
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0]]


def test_measures_follow_their_definitions():
    ranked = np.array([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 2, 3, 4, 5, 0]])
    right = [[0], [1, 4], [9]]
    values = measure_quality(ranked, right)
    ideal = 1 + 1 / math.log2(3)
    two = (1 / math.log2(3) + 1 / math.log2(6)) / ideal
    assert values["nDCG@10"].tolist() == pytest.approx([1, two, 0])
    assert values["recall@5"].tolist() == pytest.approx([1, 1, 0])
    assert values["MRR"].tolist() == pytest.approx([1, 1 / 2, 0])
    assert first_ranks(ranked, right) == [1, 2, None]


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(10):
        sample = random.normal(0.5, 0.2, (60, 1))
        low, high = interval_of(bootstrap_means(sample)[:, 0])
        hits += low <= 0.5 <= high
    assert hits >= 7  # 95 % of 10; fewer than 7 has a probability below 0.002


def test_interval_holds_the_middle_95_percent():
    assert interval_of(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))


def test_bootstrap_is_paired_and_repeatable():
    random = np.random.default_rng(2)
    first = random.random((50, 1))
    means = bootstrap_means(np.hstack([first, first - 0.01]))
    assert interval_of(means[:, 1] - means[:, 0]) == pytest.approx((-0.01, -0.01))
    assert (bootstrap_means(first) == bootstrap_means(first)).all()
    assert means.shape == (10_000, 2)

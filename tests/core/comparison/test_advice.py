"""Advice: which variant is taken, and which differences are called noise."""

import dataclasses

import numpy as np
import pytest

from nanogpt_core import get_model
from nanogpt_core.comparison.advice import assess, give_advice
from nanogpt_core.comparison.candidates import Candidate, Variant
from nanogpt_core.comparison.measure import Result

RANDOM = np.random.default_rng(3)
NOISE = RANDOM.random(60)


def result(name, scores, *, price=0.02, dimensions=1024, reduced=None, instruction=False):
    info = dataclasses.replace(get_model("BAAI/bge-m3"), id=name, usd_per_million_tokens=price)
    scores = np.clip(np.asarray(scores, dtype=float), 0, 1)
    measures = dict.fromkeys(("nDCG@10", "recall@5", "MRR"), scores)
    variant = Variant(Candidate(name, info), reduced, instruction)
    return Result(variant, reduced or dimensions, measures, [1] * len(scores), 100.0, 0.1)


def advice(*results, **options):
    return give_advice(assess(results), **{"sources": 500, **options})


def test_clear_difference_is_worse_and_a_small_one_is_noise():
    other = np.random.default_rng(4).permutation(NOISE)  # the same mean, but not the same questions
    found = assess([result("best", NOISE + 0.001), result("noise", other), result("worse", NOISE - 0.2)])
    assert [each.verdict for each in found] == ["best", "noise", "worse"]
    assert found[2].difference_interval.high < 0
    low, high = found[1].difference_interval
    assert low < found[1].difference < high
    assert low < 0 < high
    assert found[0].difference == 0


def test_paired_difference_of_every_question_is_never_noise():
    found = assess([result("best", NOISE * 0.9 + 0.02), result("worse", NOISE * 0.9)])
    assert [each.verdict for each in found] == ["best", "worse"]


def test_cheapest_of_equals_is_taken_with_the_reason():
    found = advice(result("dear", NOISE, price=0.13, dimensions=3072), result("cheap", NOISE, price=0.01))
    assert found.summary == "Take cheap."
    assert found.chosen.means["nDCG@10"] == pytest.approx(NOISE.mean())
    assert found.reasons[0] == f"dear is no better: nDCG@10 is {NOISE.mean():.3f} for both."
    text = " ".join(found.reasons)
    assert "$0.01 for a million tokens in place of $0.13" in text
    assert "33% of the space" in text
    free = advice(result("dear", NOISE, price=0.13), result("own", NOISE, price=0.0))
    assert "It costs nothing in place of $0.13 for a million tokens." in free.reasons


def test_best_is_taken_if_all_cheaper_ones_are_worse():
    found = advice(result("dear", NOISE, price=0.13), result("cheap", NOISE - 0.1, price=0.01))
    assert found.summary == "Take dear."
    assert "the highest of 2 variants" in found.reasons[0]
    assert "One variant loses more than 0.02." in found.reasons


def test_smallest_vectors_and_no_instruction_are_taken_at_one_price():
    found = advice(
        result("m", NOISE, instruction=True),
        result("m", NOISE, reduced=256, instruction=True),
        result("m", NOISE, reduced=256),
        result("m", NOISE - 0.3, reduced=64),
    )
    assert found.summary == "Take m with dimensions=256."
    assert any("the smallest vectors" in reason for reason in found.reasons)


def test_instruction_is_named_if_it_is_needed():
    found = advice(result("m", NOISE, reduced=256, instruction=True), result("m", NOISE - 0.3))
    assert found.summary == "Take m with dimensions=256 and its query instruction."


def test_model_without_a_price_is_taken_last():
    assert advice(result("unknown", NOISE, price=None), result("dear", NOISE, price=1.0)).summary == "Take dear."
    assert advice(result("unknown", NOISE, price=None)).summary == "Take unknown."


@pytest.mark.parametrize(("tolerance", "taken"), [(0.0, "dear"), (0.01, "dear"), (0.02, "cheap")])
def test_loss_within_the_tolerance_is_accepted_and_told(tolerance, taken):
    scores = NOISE * 0.9 + 0.02
    found = advice(result("dear", scores, price=0.13), result("cheap", scores - 0.015, price=0.01), tolerance=tolerance)
    assert found.chosen.result.variant.candidate.name == taken
    told = "the loss of 0.015 is more than noise (95 % interval -0.015 to -0.015), but within the accepted 0.02"
    assert (told in found.reasons[0]) is (taken == "cheap")


@pytest.mark.parametrize(("tolerance", "taken"), [(0.02, "dear"), (0.2, "cheap")])
def test_noise_beyond_the_tolerance_is_not_taken(tolerance, taken):
    few = NOISE[:12]
    cheap = np.clip(few + np.tile([0.5, -0.7], 6), 0, 1)
    results = (
        result("dear", few + max(0.0, cheap.mean() - few.mean()) + 0.05, price=0.13),
        result("cheap", cheap, price=0.01),
    )
    assert {each.verdict for each in assess(results)} == {"best", "noise"}
    found = advice(*results, tolerance=tolerance)
    assert found.chosen.result.variant.candidate.name == taken
    told = "One variant loses more than accepted, but within noise: more questions decide."
    assert (told in found.reservations) is (taken == "dear")


def test_reservations_name_few_questions_few_sources_and_synthetic_ones():
    few = advice(result("a", NOISE[:10]), result("b", NOISE[10:20]), sources=5, synthetic=True)
    text = " ".join(few.reservations)
    for words in ("are synthetic", "10 questions are few", "5 sources are few", "To see one of 0.02 takes about"):
        assert words in text
    same = advice(result("a", NOISE), result("b", NOISE))
    assert same.reservations == ()

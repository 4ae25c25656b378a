"""Advice: the model to take, the reasons, and the reservations. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from nanogpt_core._runtime.words import counted
from nanogpt_core.comparison.bootstrap import Interval, bootstrap_means, interval_of
from nanogpt_core.comparison.ranking import MEASURES

if TYPE_CHECKING:
    from nanogpt_core.comparison.measure import Result

SYNTHETIC_NOTE = (
    "The questions are synthetic: a chat model wrote them from the passages that answer them. They repeat words of the "
    "passages more than people do, so real quality is lower, and models may rank otherwise."
)
"""The reservation about questions by a chat model."""

_RELEVANT_DIFFERENCE = 0.02
"""A difference of nDCG@10 that is worth more questions to see."""

_FEW_QUESTIONS = 30
_FEW_SOURCES = 50
_TINY = 1e-9


@dataclass(frozen=True)
class Assessment:
    """One variant beside the best one.

    Attributes:
        result: The measurement.
        means: Each measure over all questions, by its name.
        interval: Of the mean nDCG@10.
        difference: Mean nDCG@10 less the best variant's; 0 or below.
        difference_interval: Of that difference, over the same resamples of questions.
        verdict: ``"best"``; ``"worse"`` if the whole interval of the difference is below 0; else ``"noise"``: these
            questions do not show a difference.
    """

    result: Result
    means: dict[str, float]
    interval: Interval
    difference: float
    difference_interval: Interval
    verdict: str


@dataclass(frozen=True)
class Advice:
    """The variant to take.

    Attributes:
        chosen: The variant.
        summary: One sentence that names it.
        reasons: Sentences that say why.
        reservations: Sentences that limit the advice.
    """

    chosen: Assessment
    summary: str
    reasons: tuple[str, ...]
    reservations: tuple[str, ...]


def assess(results: Sequence[Result]) -> list[Assessment]:
    """Return each result beside the one with the highest nDCG@10, in the order of ``results``."""
    scores = np.stack([result.scores[MEASURES[0]] for result in results], axis=1)
    means, resampled = scores.mean(axis=0), bootstrap_means(scores)
    best = int(np.argmax(means))
    found = []
    for number, result in enumerate(results):
        difference = interval_of(resampled[:, number] - resampled[:, best])
        verdict = "best" if number == best else "worse" if difference.high < 0 else "noise"
        found.append(
            Assessment(
                result,
                {name: float(values.mean()) for name, values in result.scores.items()},
                interval_of(resampled[:, number]),
                float(means[number] - means[best]),
                difference,
                verdict,
            )
        )
    return found


def give_advice(
    assessments: Sequence[Assessment], *, sources: int, tolerance: float = 0.02, synthetic: bool = False
) -> Advice:
    """Return the variant to take: of those that lose no more than the tolerance, the cheapest, then the smallest.

    Args:
        assessments: The variants.
        sources: Number of sources in the corpus.
        tolerance: Loss of nDCG@10 to accept for a lower price or smaller vectors.
        synthetic: True if a chat model wrote the questions.
    """
    best = next(each for each in assessments if each.verdict == "best")
    good = [each for each in assessments if each.difference >= -tolerance]
    chosen = min(good, key=_expense)
    reasons = _reasons(chosen, best, good, assessments, tolerance)
    reservations = _reservations(assessments, good, sources, synthetic)
    return Advice(chosen, f"Take {named(chosen)}.", tuple(reasons), tuple(reservations))


def _expense(each: Assessment) -> tuple[float, int, bool, float]:
    price = each.result.usd_per_million_tokens
    # An instruction costs tokens and care with each query: it is taken only if it is needed.
    needs_care = each.result.variant.instruction
    return math.inf if price is None else price, each.result.dimensions, needs_care, -each.means[MEASURES[0]]


def named(each: Assessment) -> str:
    """Return the variant in words that say how to use it."""
    variant = each.result.variant
    reduced = f" with dimensions={variant.dimensions}" if variant.dimensions else ""
    instruction = (" and" if reduced else " with") + " its query instruction" if variant.instruction else ""
    return f"{variant.candidate.label}{reduced}{instruction}"


def _reasons(
    chosen: Assessment,
    best: Assessment,
    good: Sequence[Assessment],
    assessments: Sequence[Assessment],
    tolerance: float,
) -> Iterator[str]:
    name, quality = MEASURES[0], chosen.means[MEASURES[0]]
    if len(assessments) == 1:
        yield f"Its {name} is {quality:.3f}; there is nothing to compare it with."
    elif chosen is best:
        yield f"It finds the right sources best: {name} is {quality:.3f}, the highest of {_variants(len(assessments))}."
    elif chosen.difference == 0:
        yield f"{named(best)} is no better: {name} is {quality:.3f} for both."
    else:
        low, high = chosen.difference_interval
        interval = f"(95 % interval {low:+.3f} to {high:+.3f})"
        loss = (
            f"the difference of {chosen.difference:+.3f} is noise {interval}"
            if chosen.verdict == "noise"
            else f"the loss of {-chosen.difference:.3f} is more than noise {interval}, but within the accepted "
            f"{tolerance:g}"
        )
        yield f"{named(best)} has the highest {name}, {best.means[name]:.3f}. This one has {quality:.3f}, and {loss}."
    if len(good) > 1:
        yield (
            f"Of {len(good)} variants that lose at most {tolerance:g} {name}, it has the lowest price"
            f"{_smallest(chosen, good)}."
        )
    yield from _savings(chosen.result, best.result)
    worse = len(assessments) - len(good)
    if worse:
        yield f"{_variants(worse).capitalize()} {'loses' if worse == 1 else 'lose'} more than {tolerance:g}."


def _smallest(chosen: Assessment, good: Sequence[Assessment]) -> str:
    same = [e for e in good if e.result.usd_per_million_tokens == chosen.result.usd_per_million_tokens]
    return ", and of those at this price the smallest vectors" if len({e.result.dimensions for e in same}) > 1 else ""


def _savings(ours: Result, theirs: Result) -> Iterator[str]:
    our_price, their_price = ours.usd_per_million_tokens, theirs.usd_per_million_tokens
    if our_price is not None and their_price is not None and our_price != their_price:
        price = f"${our_price:g} for a million tokens" if our_price else "nothing"
        yield f"It costs {price} in place of ${their_price:g}{'' if our_price else ' for a million tokens'}."
    if ours.dimensions < theirs.dimensions:
        yield f"Its vectors take {ours.dimensions / theirs.dimensions:.0%} of the space."


def _reservations(
    assessments: Sequence[Assessment], good: Sequence[Assessment], sources: int, synthetic: bool
) -> Iterator[str]:
    questions = len(assessments[0].result.scores[MEASURES[0]])
    if synthetic:
        yield SYNTHETIC_NOTE
    if questions < _FEW_QUESTIONS:
        yield f"{_few(questions, 'question')}: one of them more or less can change the advice."
    if sources < _FEW_SOURCES:
        yield f"{_few(sources, 'source')}: a right one is near the top by chance, and models look more alike."
    unclear = sum(each.verdict == "noise" and each not in good for each in assessments)
    if unclear:
        lose = "loses" if unclear == 1 else "lose"
        yield f"{_variants(unclear).capitalize()} {lose} more than accepted, but within noise: more questions decide."
    widths = [each.difference_interval.high - each.difference_interval.low for each in assessments]
    seen = median([width / 2 for width in widths if width > _TINY] or [0.0])
    if seen > _RELEVANT_DIFFERENCE:
        needed = math.ceil(questions * (seen / _RELEVANT_DIFFERENCE) ** 2 / 10) * 10
        yield (
            f"With {counted(questions, 'question')}, a difference below about {seen:.2f} cannot be told from noise. To "
            f"see one of {_RELEVANT_DIFFERENCE} takes about {needed:,} questions."
        )


def _few(count: int, noun: str) -> str:
    return f"{counted(count, noun)} {'is' if count == 1 else 'are'} few"


def _variants(count: int) -> str:
    return "one variant" if count == 1 else f"{count} variants"

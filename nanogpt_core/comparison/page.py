"""The page of a comparison: one HTML file without scripts or links to other files, for people who decide."""

from __future__ import annotations

import datetime
import importlib.resources
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from nanogpt_core._runtime.extras import package_version
from nanogpt_core._runtime.words import counted
from nanogpt_core.comparison.advice import SYNTHETIC_NOTE, Assessment, named
from nanogpt_core.comparison.chart import svg_charts
from nanogpt_core.comparison.ranking import DEPTH, MEASURES

if TYPE_CHECKING:
    from nanogpt_core.comparison.measure import Comparison

_MAX_MISSED_SHOWN = 20
_GOOD_RANK = 10
_FLOAT_BYTES = 4


def make_page(comparison: Comparison, *, notice: str = "") -> str:
    """Return the page as HTML.

    Args:
        comparison: The comparison.
        notice: A warning to show first, such as that the vectors are not those of real models.
    """
    css = importlib.resources.files("nanogpt_core.comparison").joinpath("page.css").read_text(encoding="utf-8")
    sections = "\n".join(_sections(comparison, notice))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Which embedding model? {escape(comparison.advice.summary)}</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{sections}\n</main>\n</body>\n</html>\n"
    )


def _sections(comparison: Comparison, notice: str) -> Iterator[str]:
    yield "<h1>Which embedding model?</h1>"
    yield _facts(comparison)
    synthetic = sum(question.synthetic for question in comparison.questions)
    if notice:
        yield f'<p class="warning">{escape(notice)}</p>'
    yield _verdict(comparison)
    if synthetic:
        questions = counted(len(comparison.questions), "question")
        yield (
            f'<p class="warning"><strong>{synthetic} of the {questions} {"is" if synthetic == 1 else "are"} by a chat '
            f"model.</strong> {escape(SYNTHETIC_NOTE)} Check the advice with some of your own.</p>"
        )
    yield _reservations(comparison)
    yield _quality(comparison)
    yield '<h2>Price and dimensions</h2>\n<div class="charts">'
    yield from (f"<figure>{svg}</figure>" for svg in svg_charts(comparison))
    yield "</div>"
    yield _languages(comparison)
    yield _missed(comparison)
    yield _method(comparison)


def _facts(comparison: Comparison) -> str:
    spent = comparison.spent
    cost = "at an unknown price" if spent.cost_usd is None else f"for ${spent.cost_usd:.4f}"
    tokens = "an unknown number of tokens" if spent.prompt_tokens is None else counted(spent.prompt_tokens, "token")
    today = datetime.datetime.now(datetime.timezone.utc).date()
    questions, passages = counted(len(comparison.questions), "question"), counted(comparison.passages, "passage")
    return (
        f'<p class="facts">{questions} over {passages} of '
        f"{counted(comparison.sources, 'source')}. Embedded {tokens} {cost}. {today}, nanogpt-rag "
        f"{escape(package_version())}.</p>"
    )


def _verdict(comparison: Comparison) -> str:
    advice = comparison.advice
    reasons = "\n".join(f"<li>{escape(reason)}</li>" for reason in advice.reasons)
    return (
        f'<section class="verdict">\n<p class="take">Take {_breakable(named(advice.chosen))}.</p>\n'
        f"<ul>\n{reasons}\n</ul>\n<pre>{escape(_code(advice.chosen))}</pre>\n</section>"
    )


def _breakable(name: str) -> str:
    """Return a name as HTML that breaks before its server, and after a slash, rather than anywhere."""
    return escape(name).replace("@", "<wbr>@").replace("/", "/<wbr>")


def _code(chosen: Assessment) -> str:
    variant = chosen.result.variant
    options = [f'"{variant.candidate.info.id}"']
    if variant.dimensions:
        options.append(f"dimensions={variant.dimensions}")
    if variant.instruction:
        options.append('query_instruction="recommended"')
    if variant.candidate.base_url:
        options += [f'base_url="{variant.candidate.base_url}"', 'api_key="..."']
    return f"from nanogpt_core import Embedder\n\nembedder = Embedder({', '.join(options)})"


def _reservations(comparison: Comparison) -> str:
    notes = [note for note in comparison.advice.reservations if note != SYNTHETIC_NOTE]  # it stands above
    notes += comparison.failure_notes
    if not notes:
        return ""
    items = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Before you rely on it</h2>\n<ul>\n{items}\n</ul>"


def _quality(comparison: Comparison) -> str:
    ordered = sorted(comparison.assessments, key=lambda each: -each.means[MEASURES[0]])
    low = min(each.interval.low for each in ordered)
    high = max(each.interval.high for each in ordered)
    head = [MEASURES[0], "95 % interval", "less than the best", *MEASURES[1:], "$ / 1M tokens", "GB / 1M vectors"]
    head += ["passages / s", "ms / question"]
    plain = {"95 % interval", "less than the best"}
    heads = "".join(f"<th{'' if name in plain else ' class=number'}>{escape(name)}</th>" for name in head)
    rows = "\n".join(_row(each, each is comparison.advice.chosen, head, (low, high)) for each in ordered)
    return (
        f'<h2>Quality</h2>\n<table class="cards">\n<thead><tr><th>variant</th>{heads}</tr></thead>\n<tbody>\n{rows}\n'
        "</tbody>\n</table>\n"
        '<p class="note">Noise: these questions do not show that the variant differs from the best one. '
        "Worse: they do.</p>"
    )


def _row(each: Assessment, chosen: bool, head: Sequence[str], span: tuple[float, float]) -> str:
    result, verdict = each.result, each.verdict
    lower, upper = each.difference_interval
    difference = (
        '<span class="best">best</span>'
        if verdict == "best"
        else f'<span class="{verdict}">{each.difference:+.3f} ({verdict}: {lower:+.3f} to {upper:+.3f})</span>'
    )
    cells = [
        f"{each.means[MEASURES[0]]:.3f}",
        _range(each, span),
        difference,
        *(f"{each.means[name]:.3f}" for name in MEASURES[1:]),
        "?" if result.usd_per_million_tokens is None else f"{result.usd_per_million_tokens:g}",
        f"{result.dimensions * _FLOAT_BYTES / 1000:.1f}",
        "cached" if result.passages_per_second is None else f"{result.passages_per_second:,.0f}",
        "cached" if result.query_seconds is None else f"{result.query_seconds * 1000:,.0f}",
    ]
    numbers = [not cell.startswith("<") for cell in cells]
    label = f"{escape(result.variant.label)}{' (taken)' if chosen else ''}"
    shown = "".join(
        f'<td data-label="{escape(name)}"{" class=number" if number else ""}>{cell}</td>'
        for name, cell, number in zip(head, cells, numbers, strict=True)
    )
    return f"<tr{' class=chosen' if chosen else ''}><td>{label}</td>{shown}</tr>"


def _range(each: Assessment, span: tuple[float, float]) -> str:
    low, high = span
    width = (high - low) or 1.0
    start, end, mean = (
        100 * (value - low) / width for value in (each.interval.low, each.interval.high, each.means[MEASURES[0]])
    )
    title = f"{each.interval.low:.3f} to {each.interval.high:.3f}"
    return (
        f'<span class="range {each.verdict}" title="{title}" role="img" aria-label="{title}">'
        f'<i style="left:{start:.1f}%;width:{end - start:.1f}%"></i><b style="left:{mean:.1f}%"></b></span>'
    )


def _languages(comparison: Comparison) -> str:
    languages = sorted({question.language for question in comparison.questions if question.language})
    if len(languages) < 2:  # noqa: PLR2004 - a table of one column says nothing
        return ""
    asked = np.array([question.language for question in comparison.questions])
    heads = "".join(f"<th class=number>{escape(name)} ({int((asked == name).sum())})</th>" for name in languages)
    rows = []
    for each in sorted(comparison.assessments, key=lambda each: -each.means[MEASURES[0]]):
        means = (each.result.scores[MEASURES[0]][asked == name].mean() for name in languages)
        cells = "".join(
            f'<td class=number data-label="{escape(name)}">{mean:.3f}</td>'
            for name, mean in zip(languages, means, strict=True)
        )
        rows.append(f"<tr><td>{escape(each.result.variant.label)}</td>{cells}</tr>")
    return (
        f'<h2>{MEASURES[0]} by language</h2>\n<table class="cards">\n<thead><tr><th>variant</th>{heads}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody>\n</table>"
    )


def _missed(comparison: Comparison) -> str:
    chosen = comparison.advice.chosen
    missed = [
        (question, rank)
        for question, rank in zip(comparison.questions, chosen.result.ranks, strict=True)
        if rank is None or rank > _GOOD_RANK
    ]
    if not missed:
        return f"<h2>Questions that it misses</h2>\n<p>None: a right source is always in the first {_GOOD_RANK}.</p>"
    missed.sort(key=lambda pair: -(pair[1] or DEPTH + 1))
    items = "\n".join(
        f"<li>{escape(question.text)}<span>{escape(', '.join(question.sources))}: "
        f"{f'place {rank}' if rank else f'not in the first {DEPTH}'}</span></li>"
        for question, rank in missed[:_MAX_MISSED_SHOWN]
    )
    more = f"<p>And {len(missed) - _MAX_MISSED_SHOWN} more.</p>" if len(missed) > _MAX_MISSED_SHOWN else ""
    return (
        "<h2>Questions that it misses</h2>\n"
        f"<p>For {len(missed)} of {counted(len(comparison.questions), 'question')} no right source is in the first "
        f"{_GOOD_RANK}. Does the corpus answer them as it is, or is a passage cut badly?</p>\n"
        f'<ol class="missed">\n{items}\n</ol>\n{more}'
    )


def _method(comparison: Comparison) -> str:
    return (
        "<h2>Method</h2>\n<p>Each source is ranked by the cosine of its best passage, and every source that a question "
        f"names counts as right. {', '.join(MEASURES)} are those of ir-measures; MRR over the first {DEPTH} sources. "
        "Intervals and differences are from a paired bootstrap over the questions (10,000 resamples, 95 %).</p>\n"
        f"<p>The advice is the cheapest variant, then the one with the smallest vectors, of those that lose at most "
        f"{comparison.tolerance:g} {MEASURES[0]} to the best (<code>--tolerance</code>). Reduced vectors are the "
        "beginnings of full ones, scaled to length 1. Texts over a model's token limit were truncated. Times depend on "
        "this machine, its network and the hour. Vectors are counted as float32.</p>"
    )

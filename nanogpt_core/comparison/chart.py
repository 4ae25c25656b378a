"""Charts: quality against price and against dimensions, as PNG or SVG."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_core.comparison.ranking import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nanogpt_core.comparison.advice import Assessment
    from nanogpt_core.comparison.measure import Comparison

_STYLE: dict[Any, Any] = {"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "nanogpt", "axes.spines.top": False}
_PANELS = ("price", "dimensions")


def write_chart(comparison: Comparison, file: str | os.PathLike[str], title: str = "") -> None:
    """Draw quality against price and against dimensions.

    Args:
        comparison: The comparison.
        file: The file to write; the end of its name chooses the format.
        title: A line above.

    Raises:
        OSError: The file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, panel in zip(panels, _PANELS, strict=True):
            _draw(axes, comparison.assessments, panel)
        if title:
            figure.suptitle(title)
        _legend(figure, panels[1], columns=3)
        figure.savefig(file, dpi=130)


def svg_charts(comparison: Comparison) -> list[str]:
    """Return the same charts, one below the other on a narrow page, as SVG elements."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = []
    with mpl.rc_context(_STYLE):
        for panel in _PANELS:
            figure = Figure(figsize=(5, 4.6), layout="constrained")
            axes = figure.subplots()
            _draw(axes, comparison.assessments, panel)
            _legend(figure, axes, columns=1)
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            found.append(file.getvalue().partition("<svg")[2])
    return [f"<svg{text}" for text in found]


def _draw(axes: Axes, assessments: Sequence[Assessment], panel: str) -> None:
    """Draw each candidate with and without its instruction; a line joins its dimensions."""
    names = dict.fromkeys(each.result.variant.candidate.label for each in assessments)
    for number, name in enumerate(names):
        for instruction in (False, True):
            own = [a for a in assessments if a.result.variant.candidate.label == name]
            own = [a for a in own if a.result.variant.instruction is instruction]
            points = [(x, each) for each in own if (x := _position(each, panel)) is not None]
            if panel == "price":
                points = points[:1]  # the price is the same at all dimensions; the first are the full ones
            points.sort(key=lambda point: point[0])
            if points:
                _plot(axes, points, f"C{number % 10}", f"{name}{' + instruction' if instruction else ''}", instruction)
    positions = {x for each in assessments if (x := _position(each, panel)) is not None}
    _scale(axes, positions, "US dollars for a million tokens" if panel == "price" else "dimensions")
    axes.set_ylabel(f"{MEASURES[0]}, with 95 % interval")


def _plot(axes: Axes, points: Sequence[tuple[float, Assessment]], colour: str, label: str, instruction: bool) -> None:
    means = [each.means[MEASURES[0]] for _, each in points]
    below = [mean - each.interval.low for mean, (_, each) in zip(means, points, strict=True)]
    above = [each.interval.high - mean for mean, (_, each) in zip(means, points, strict=True)]
    # A larger, empty mark, since both marks may lie in one place.
    style: dict[str, Any] = (
        {"ls": "--", "marker": "s", "ms": 9, "mfc": "none"} if instruction else {"ls": "-", "marker": "o", "ms": 5}
    )
    axes.errorbar(
        [x for x, _ in points], means, yerr=[below, above], color=colour, label=label, elinewidth=1, capsize=2, **style
    )


def _position(each: Assessment, panel: str) -> float | None:
    return each.result.usd_per_million_tokens if panel == "price" else float(each.result.dimensions)


def _scale(axes: Axes, values: Collection[float], label: str) -> None:
    ticks = sorted(values)
    positive = [value for value in ticks if value > 0]
    if positive and len(positive) == len(ticks):
        axes.set_xscale("log")
    elif positive:
        axes.set_xscale("symlog", linthresh=min(positive))  # a model of one's own costs nothing
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks], rotation=45)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)

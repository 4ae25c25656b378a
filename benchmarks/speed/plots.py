"""The plots: throughput by client, without latency and with it."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from benchmarks.speed.scenarios import SCENARIOS, Scenario

_PLOTTED = ("no latency", "latency", "service time")
_FORMS = {"matrix": "#1f77b4", "lists": "#ff7f0e", "nothing": "#999999"}
_OURS = ("Embedder", "NanoGPT")


def draw(samples: dict[str, Any], folder: Path) -> None:
    """Draw ``throughput.svg`` into ``folder``: a panel for each scenario."""
    chosen = [scenario for scenario in SCENARIOS if scenario.name in _PLOTTED and scenario.name in samples]
    heights = [len(scenario.clients) for scenario in chosen]
    pyplot.rcParams["svg.hashsalt"] = "nanogpt"  # the same figures give the same file
    figure, axes = pyplot.subplots(
        len(chosen), 1, figsize=(11, 0.27 * sum(heights) + 1.2 * len(chosen)), height_ratios=heights, squeeze=False
    )
    for axis, scenario in zip(axes[:, 0], chosen, strict=True):
        _panel(axis, scenario, samples[scenario.name])
    figure.tight_layout()
    figure.savefig(folder / "throughput.svg", metadata={"Date": None})


def _panel(axis: Any, scenario: Scenario, samples: dict[str, list[dict[str, Any]]]) -> None:
    count = scenario.options["texts"]
    rows = []
    for name, taken in samples.items():
        speeds = sorted(count / one["seconds"] for one in taken if "seconds" in one)
        if speeds and not name.startswith("llama-idle"):
            rows.append((statistics.median(speeds), speeds, scenario.known[name]))
    rows.sort(key=lambda row: row[0])
    for place, (median, speeds, client) in enumerate(rows):
        ours = client.label.startswith(_OURS)
        axis.barh(place, median, color=_FORMS[client.form], alpha=1.0 if ours else 0.5)
        axis.plot([speeds[0], speeds[-1]], [place, place], color="black", linewidth=1)
        axis.text(max(median, speeds[-1]), place, f" {median:,.0f}", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [_name(client) for _, _, client in rows], fontsize=8)
    axis.set_title(f"{scenario.title}: texts/s (blue: matrix, orange: lists; strong: this project)", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.1)


def _name(client: Any) -> str:
    settings = client.settings if len(client.settings) <= 48 else client.settings.split(",")[0]
    return f"{client.label} ({settings})" if settings else client.label

"""The results in words: targets first, then a table for each scenario."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.figures import Figures
from benchmarks.speed.scenarios import IMPORTS, SCENARIOS, TEXTS, Scenario
from benchmarks.speed.services import UNDER_WAY
from benchmarks.speed.setup import Client
from benchmarks.speed.targets import targets

_NOTES = Path(__file__).with_name("notes.md")

_HEAD = """# How fast

`make bench` measured this; the absolute figures are this machine's, the ratios are the point.

- Machine: {machine}.
- Versions: {versions}.
- {date}, {minutes:.0f} minutes, load {load}. Medians of {rounds}; the spread is the lowest and the highest.
  Every sample is a fresh process, warmed up with 4,096 other texts two seconds before; rounds go
  through all clients in turn. {pinned}
- Texts are about 120 tokens long, vectors have 1,536 numbers. The server sends prepared bytes. Every answer is checked.
- CPU is the client process's own, all threads, for 1,000 texts.
- numpy asks for huge pages by default; here it is told not to (`NUMPY_MADVISE_HUGEPAGE=0`), for all clients, but in the
  scenario that says so. Before the clock runs, each process touches 1.5 GiB and gives it back. See "Limits".
"""

_PINNED = "Server and client run on a core each."
_NOT_PINNED = "Server and client could not be given a core each, so that the figures say less."


def document(measured: dict[str, Any]) -> str:
    """Return the whole document."""
    figures = Figures(measured["samples"])
    words = {
        **measured,
        "load": " to ".join(f"{load:.1f}" for load in measured["load"]),
        "pinned": _PINNED if measured["pinned"] else _NOT_PINNED,
    }
    notes = _NOTES.read_text() if _NOTES.exists() else ""
    absent = [scenario.title for scenario in SCENARIOS if not figures.has(scenario.name)]
    parts = [_HEAD.format(**words)]
    if again := [scenario.title for scenario in SCENARIOS if scenario.name in measured.get("again", [])]:
        parts += [f"Measured again afterwards, all clients of it side by side: {'; '.join(again)}.", ""]
    if absent:
        parts += [f"Not measured in this run: {'; '.join(absent)}.", ""]
    parts += [*targets(figures), "", notes.strip()]
    for scenario in SCENARIOS:
        if figures.has(scenario.name):
            parts += ["", f"## {scenario.title}", "", *_TABLES.get(scenario.task, _throughput)(figures, scenario)]
    if figures.has("imports"):
        parts += ["", "## Imports", "", *_imports(figures)]
    return "\n".join(parts) + "\n"


def _label(client: Client) -> str:
    return f"{client.label} ({client.settings})" if client.settings else client.label


def _throughput(figures: Figures, scenario: Scenario) -> Iterator[str]:
    count = scenario.options["texts"]
    yield "| client | makes | texts/s | spread | CPU ms / 1,000 | loop stood still, ms |"
    yield "|---|---|---|---|---|---|"
    for name in scenario.clients:
        client, seconds = scenario.known[name], figures.values(scenario.name, name)
        if not seconds:
            yield _absent(figures, scenario, name, 4)
            continue
        cpu = figures.median(scenario.name, name, "cpu") or 0.0
        gap = figures.median(scenario.name, name, "longest_gap")
        yield (
            f"| {_label(client)} | {client.form} | {count / statistics.median(seconds):,.0f} | "
            f"{count / seconds[-1]:,.0f} to {count / seconds[0]:,.0f} | {cpu / count * 1e6:.1f} | "
            f"{f'{gap * 1000:.0f}' if gap else ''} |"
        )
    if scenario.name == "no latency":
        yield from _added_by_llama_index(figures)


def _added_by_llama_index(figures: Figures) -> Iterator[str]:
    idle = figures.median("no latency", "llama-idle")
    if idle:
        yield from [
            "",
            f"LlamaIndex's own part (events, which copy all lists) is {idle / TEXTS * 1e6:.1f} ms for 1,000 texts.",
            f"Unchanged, it does that in one go for all texts: {_gap(figures, 'llama-idle-async')} ms in a loop.",
        ]


def _gap(figures: Figures, client: str) -> str:
    gap = figures.median("no latency", client, "longest_gap")
    return f"{gap * 1000:,.0f}" if gap else "?"


def _absent(figures: Figures, scenario: Scenario, name: str, columns: int) -> str:
    error = figures.error(scenario.name, name)
    return f"| {_label(scenario.known[name])} | {f'failed: {error}' if error else 'not measured'} |{' |' * columns}"


def _queries(figures: Figures, scenario: Scenario) -> Iterator[str]:
    yield from ["| client | µs | spread | CPU µs |", "|---|---|---|---|"]
    for name in scenario.clients:
        values = [value * 1e6 for value in figures.values(scenario.name, name)]
        cpu = (figures.median(scenario.name, name, "cpu") or 0.0) * 1e6
        if values:
            median, spread = statistics.median(values), f"{values[0]:,.0f} to {values[-1]:,.0f}"
            yield f"| {_label(scenario.known[name])} | {median:,.0f} | {spread} | {cpu:,.0f} |"
        else:
            yield _absent(figures, scenario, name, 2)


def _rate(figures: Figures, scenario: Scenario) -> Iterator[str]:
    yield "Samples of this are taken three at once, since hardly anything happens in them."
    yield "The share is of the granted rate times the time taken; a second's grant at the start can lift it over 1."
    yield ""
    yield from ["| client | share | spread | answered 429 | texts lost |", "|---|---|---|---|---|"]
    for name in scenario.clients:
        shares = figures.values(scenario.name, name, "share")
        if shares:
            refused, lost = (figures.median(scenario.name, name, what) or 0 for what in ("refused", "lost"))
            yield (
                f"| {_label(scenario.known[name])} | {statistics.median(shares):.3f} | "
                f"{shares[0]:.3f} to {shares[-1]:.3f} | {refused:,.0f} | {lost:,.0f} |"
            )
        else:
            yield _absent(figures, scenario, name, 3)


def _under_way(figures: Figures, scenario: Scenario) -> Iterator[str]:
    yield "For each number of queries under way: queries per second; median and 99th percentile, ms."
    yield ""
    yield f"| client | {' | '.join(map(str, UNDER_WAY))} |"
    yield "|---|" + "---|" * len(UNDER_WAY)
    for name in scenario.clients:
        cells = [_cell(figures, scenario.name, name, number) for number in UNDER_WAY]
        if any(cells):
            yield f"| {_label(scenario.known[name])} | {' | '.join(cells)} |"
        else:
            yield _absent(figures, scenario, name, len(UNDER_WAY) - 1)


def _cell(figures: Figures, scenario: str, client: str, number: int) -> str:
    rate, p50, p99 = (figures.median(scenario, client, f"{what}_{number}") for what in ("rate", "p50", "p99"))
    return f"{rate:,.0f}; {p50 * 1000:.1f}; {p99 * 1000:.1f}" if rate and p50 and p99 else ""


def _arrivals(figures: Figures, scenario: Scenario) -> Iterator[str]:
    yield "| client | median, ms | 99th percentile, ms | lost | refused in the first second | later |"
    yield "|---|---|---|---|---|---|"
    for name in scenario.clients:
        p50, p99 = (figures.median(scenario.name, name, what) for what in ("p50", "p99"))
        if p50 and p99:
            rest = [figures.median(scenario.name, name, what) or 0 for what in ("lost", "refused_early", "refused")]
            counts = " | ".join(f"{value:,.0f}" for value in rest)
            yield f"| {_label(scenario.known[name])} | {p50 * 1000:,.0f} | {p99 * 1000:,.0f} | {counts} |"
        else:
            yield _absent(figures, scenario, name, 4)


def _stores(figures: Figures, scenario: Scenario) -> Iterator[str]:
    count = next((figures.median(scenario.name, name, "texts") for name in scenario.clients), None) or 0
    yield (
        f"The store's own call with {count:,.0f} passages, and one search. The time of the embedding class is the time "
        "beside that with vectors that are there. Every vector is another one."
    )
    yield ""
    yield "| client | s | spread | beside the store, s | of the whole | CPU, s |"
    yield "|---|---|---|---|---|---|"
    for name in scenario.clients:
        seconds = figures.values(scenario.name, name)
        own = figures.median(scenario.name, f"{name.rpartition('-')[0]}-ready")
        if not seconds:
            yield _absent(figures, scenario, name, 4)
            continue
        median, cpu = statistics.median(seconds), figures.median(scenario.name, name, "cpu") or 0.0
        beside = None if own is None or name.endswith("-ready") else max(0.0, median - own)
        cells = "|" if beside is None else f"{beside:.1f} | {beside / median:.0%}"
        yield (
            f"| {_label(scenario.known[name])} | {median:.1f} | {seconds[0]:.1f} to {seconds[-1]:.1f} | {cells} | "
            f"{cpu:.1f} |"
        )


def _profile(figures: Figures, scenario: Scenario) -> Iterator[str]:
    name = scenario.clients[0]
    sample = figures.first(scenario.name, name)
    if sample is None:
        yield figures.error(scenario.name, name) or "Not measured."
        return
    yield (
        f"{_label(scenario.known[name])}, one call: {sample['seconds']:.2f} s under the profiler, "
        f"{sample['user']:.2f} s in the process and {sample['system']:.2f} s in the system for it; "
        f"{sample['faults']:,} pages touched for the first time. Functions by the time that they took themselves:"
    )
    yield from ["", "| function | calls | ms |", "|---|---|---|"]
    for own, calls, function in sample["functions"]:
        yield f"| `{function.partition(' at 0x')[0]}` | {calls:,} | {own * 1000:,.0f} |"


def _stream(figures: Figures, scenario: Scenario) -> Iterator[str]:
    values = {
        name: figures.median(scenario.name, "embed", name)
        for name in ("seconds", "texts", "peak", "peak_in_first_quarter", "high_water")
    }
    if None in values.values():
        yield figures.error(scenario.name, "embed") or "Not measured."
        return
    speed = values["texts"] / values["seconds"]
    yield (
        f"`Embedder.stream` at its defaults, {values['texts']:,.0f} texts: {speed:,.0f} texts/s. "
        "Memory over the start, in MiB: "
        f"at most {values['peak']:,.0f} after a batch ({values['peak_in_first_quarter']:,.0f} in the first quarter), "
        f"{values['high_water']:,.0f} at any moment."
    )


def _imports(figures: Figures) -> Iterator[str]:
    yield from ["| import of | after | ms | spread |", "|---|---|---|---|"]
    for name, (before, _) in IMPORTS.items():
        values = [value * 1000 for value in figures.values("imports", name)]
        median = statistics.median(values)
        yield f"| {name} | {before or 'nothing'} | {median:,.0f} | {values[0]:,.0f} to {values[-1]:,.0f} |"


_TABLES: dict[str, Callable[[Figures, Scenario], Iterator[str]]] = {
    "profile": _profile,
    "queries": _queries,
    "rate": _rate,
    "under way": _under_way,
    "arrivals": _arrivals,
    "stream": _stream,
    "stores": _stores,
}

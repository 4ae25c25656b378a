"""The results in words: targets first, then a table for each scenario."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed.scenarios import IMPORTS, SCENARIOS, STREAMED, TEXTS, Scenario
from benchmarks.speed.services import UNDER_WAY
from benchmarks.speed.setup import Client

Samples = dict[str, dict[str, list[dict[str, Any]]]]

_NOTES = Path(__file__).with_name("notes.md")

_HEAD = """# How fast

`make bench` measured this; the absolute figures are this machine's, the ratios are the point.

- Machine: {machine}.
- Versions: {versions}.
- {date}, {minutes:.0f} minutes, load {load}. Medians of {rounds}; the spread is the lowest and the highest.
  Every sample is a fresh process, warmed up with 4,096 other texts; rounds go through all clients in turn. {pinned}
- Texts are about 120 tokens long, vectors have 1,536 numbers. The server sends prepared bytes. Every answer is checked.
- CPU is the client process's own, all threads, for 1,000 texts.
- numpy asks for huge pages by default; here it is told not to (`NUMPY_MADVISE_HUGEPAGE=0`), for all clients, but in the
  scenario that says so. Before the clock runs, each process touches 1.5 GiB and gives it back. See "Limits".
"""

_PINNED = "Server and client run on a core each."
_NOT_PINNED = "Server and client could not be given a core each, so that the figures say less."


class Figures:
    """Medians by scenario and client; None if nothing was measured."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def values(self, scenario: str, client: str, name: str = "seconds") -> list[float]:
        """Return one value of all samples that succeeded, sorted."""
        return sorted(one[name] for one in self._samples.get(scenario, {}).get(client, []) if name in one)

    def median(self, scenario: str, client: str, name: str = "seconds") -> float | None:
        """Return the median."""
        values = self.values(scenario, client, name)
        return statistics.median(values) if values else None

    def first(self, scenario: str, client: str) -> dict[str, Any] | None:
        """Return the first sample that succeeded."""
        return next((one for one in self._samples.get(scenario, {}).get(client, []) if "error" not in one), None)

    def faster(self, scenario: str, ours: str, theirs: str) -> float | None:
        """Return how many times as fast ours is."""
        mine, other = self.median(scenario, ours), self.median(scenario, theirs)
        return other / mine if mine and other else None

    def error(self, scenario: str, client: str) -> str | None:
        """Return the error of a sample, or None."""
        found = (one["error"] for one in self._samples.get(scenario, {}).get(client, []) if "error" in one)
        return next(found, None)

    def has(self, scenario: str) -> bool:
        """Return True if the scenario was measured."""
        return scenario in self._samples


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
    parts += [*_targets(figures), "", notes.strip()]
    for scenario in SCENARIOS:
        if figures.has(scenario.name):
            parts += ["", f"## {scenario.title}", "", *_TABLES.get(scenario.task, _throughput)(figures, scenario)]
    if figures.has("imports"):
        parts += ["", "## Imports", "", *_imports(figures)]
    return "\n".join(parts) + "\n"


def _targets(figures: Figures) -> Iterator[str]:
    rows = [(what, value, least, kind) for what, value, least, kind in _ratios(figures) if value is not None]
    if rows:
        yield from ["## Targets", "", "| target of | measured | target | reached |", "|---|---|---|---|"]
    for what, value, bound, kind in rows:
        reached = value >= bound if kind == "least" else value <= bound
        sign = "≥" if kind == "least" else "≤"
        yield f"| {what} | {_short(value)} | {sign} {_short(bound)} | {'yes' if reached else '**no**'} |"


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 and value != int(value) else f"{value:,.0f}"


def _ratios(figures: Figures) -> Iterator[tuple[str, float | None, float, str]]:
    faster = figures.faster
    for what, scenario, ours, theirs, least in _RATIOS:
        yield what, faster(scenario, ours, theirs), least, "least"
    for what, ours in (
        ("`Embedder`", "embed-query"),
        ("LangChain", "langchain-nanogpt"),
        ("LlamaIndex", "llama-nanogpt"),
    ):
        time = faster("query", "sdk", ours)
        yield f"one query, {what}, against the SDK's `embeddings.create`: time", time, 0.9, "most"
    yield (
        "one query, `Embedder`, async, against the SDK's: time",
        faster("query", "sdk-async", "aembed-query"),
        0.9,
        "most",
    )
    for what, scenario, ours, theirs, number, least in _RATES:
        mine, other = (figures.median(scenario, client, f"rate_{number}") for client in (ours, theirs))
        yield f"queries, {number} {what}", mine / other if mine and other else None, least, "least"
    slowest = figures.median("queries in tasks, 20", "embedder-async", "p99_256")
    yield "queries, 256 tasks, 20 ms: 99th percentile, ms", slowest and slowest * 1000, 150, "most"
    for rate, p50, p99 in ((200, 80, 300), (1000, 120, 500)):
        scenario = f"queries arriving, {rate}"
        for name, most in (("p50", p50), ("p99", p99)):
            value = figures.median(scenario, "embedder-paced-async", name)
            yield f"{rate} queries a second under a grant of 25: {name}, ms", value and value * 1000, most, "most"
        for name, most in (("lost", 0), ("refused", 2)):
            yield f"the same: {name}", figures.median(scenario, "embedder-paced-async", name), most, "most"
    yield (
        f"stream of {STREAMED:,} short texts: peak memory over the start, MiB",
        (figures.median("stream", "embed", "peak")),
        300,
        "most",
    )
    for what, client in (("sync", "embed-32"), ("sync, told the rate", "embed-32-told"), ("async", "aembed-32")):
        yield f"share of a granted rate that is used, {what}", figures.median("rate", client, "share"), 0.95, "least"
        yield f"texts lost at that, {what}", figures.median("rate", client, "lost"), 0, "most"
    for name, client in _ASYNC.items():
        longest = figures.values("no latency", client, "longest_gap")
        what = f"`{name}`: longest time that the event loop stood still, ms, worst sample"
        yield what, longest[-1] * 1000 if longest else None, 50, "most"
    for name in ("langchain_nanogpt", "llama_index_nanogpt"):
        yield f"import of `{name}` over its framework's, s", figures.median("imports", name), 0.15, "most"


_ASYNC = {
    "Embedder.aembed": "aembed",
    "NanoGPTEmbeddings.aembed_documents": "langchain-nanogpt-async",
    "NanoGPTEmbedding.aget_text_embedding_batch": "llama-nanogpt-async",
}

_RATES = (
    (
        "tasks, no latency, against langchain-openai",
        "queries in tasks, 0",
        "embedder-async",
        "langchain-openai-async",
        32,
        5,
    ),
    (
        "tasks, no latency, against the SDK with aiohttp",
        "queries in tasks, 0",
        "embedder-async",
        "sdk-aiohttp-async",
        32,
        1.5,
    ),
    ("threads, no latency, against langchain-openai", "queries in threads, 0", "embedder", "langchain-openai", 32, 3),
    (
        "tasks, 20 ms, against langchain-openai",
        "queries in tasks, 20",
        "embedder-async",
        "langchain-openai-async",
        256,
        5,
    ),
)
"""Label, scenario, our client, their client, queries under way, and the least ratio of queries per second."""

_RATIOS = (
    ("matrix, no latency: `Embedder.embed`, defaults, against raw socket", "no latency", "embed", "raw-matrix", 0.6),
    ("the same at its best settings", "no latency", "embed-best", "raw-matrix", 0.6),
    ("matrix, no latency: `Embedder.embed` against Baseten at its best", "no latency", "embed", "baseten-best", 1.5),
    ("with huge pages: `Embedder.embed`, defaults, against raw socket", "huge pages", "embed", "raw-matrix", 0.6),
    ("with huge pages: `Embedder.embed` against Baseten at its best", "huge pages", "embed", "baseten-best", 1.5),
    ("lists: `embed_documents` against raw socket, naively", "no latency", "langchain-nanogpt", "raw-lists", 1.1),
    ("lists: against langchain-openai, defaults", "no latency", "langchain-nanogpt", "langchain-openai", 4),
    ("lists: against langchain-openai at its best", "no latency", "langchain-nanogpt", "langchain-openai-best", 2.7),
    ("LlamaIndex: against its OpenAIEmbedding, defaults", "no latency", "llama-nanogpt", "llama-openai", 2.6),
    ("LlamaIndex: against its OpenAIEmbedding at its best", "no latency", "llama-nanogpt", "llama-openai-best", 2),
    ("100 ms, sync: against langchain-openai, defaults", "latency", "langchain-nanogpt", "langchain-openai", 4.5),
    ("100 ms, sync: against LlamaIndex, defaults", "latency", "llama-nanogpt", "llama-openai", 10),
    (
        "100 ms, async: against langchain-openai, defaults",
        "latency",
        "langchain-nanogpt-async",
        "langchain-openai-async",
        4.5,
    ),
    ("100 ms, async: against LlamaIndex with 8 workers", "latency", "llama-nanogpt-async", "llama-openai-async", 2.5),
    ("100 ms, matrix: `Embedder.embed` against Baseten at its best", "latency", "embed", "baseten-best", 1.1),
    ("TLS, matrix: `Embedder.embed` against raw TLS socket", "tls", "embed", "raw-matrix", 0.6),
    ("TLS, matrix: `Embedder.aembed` against `Embedder.embed`", "tls", "aembed", "embed", 0.8),
    # Of the other stores, the store or the framework is the bound: see the notes.
    (
        "stores: LangChain into FAISS, against langchain-openai",
        "stores: FAISS",
        "langchain-faiss-ours",
        "langchain-faiss-peer",
        2,
    ),
    ("cache, matrix: against the network run", "cache", "embed-cached", "embed-unpaced", 1),
    (
        "cache, lists: against LangChain's CacheBackedEmbeddings",
        "cached lists",
        "langchain-nanogpt-cached",
        "langchain-cached",
        3,
    ),
)
"""Label, scenario, our client, their client, and the least speed-up."""


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

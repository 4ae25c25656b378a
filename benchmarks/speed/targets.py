"""The targets of the benchmark, and the table that says which of them were reached."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.speed.figures import Figures
from benchmarks.speed.scenarios import STREAMED

_Target = tuple[str, float | None, float, str]  # label, measured, bound, "least" or "most"

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


def targets(figures: Figures) -> Iterator[str]:
    """Yield the lines of the table of targets."""
    rows = [(what, value, least, kind) for what, value, least, kind in _measured(figures) if value is not None]
    if rows:
        yield from ["## Targets", "", "| target of | measured | target | reached |", "|---|---|---|---|"]
    for what, value, bound, kind in rows:
        reached = value >= bound if kind == "least" else value <= bound
        sign = "≥" if kind == "least" else "≤"
        yield f"| {what} | {_short(value)} | {sign} {_short(bound)} | {'yes' if reached else '**no**'} |"


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 and value != int(value) else f"{value:,.0f}"


def _measured(figures: Figures) -> Iterator[_Target]:
    faster = figures.faster
    for what, scenario, ours, theirs, least in _RATIOS:
        yield what, faster(scenario, ours, theirs), least, "least"
    for what, ours in (
        ("`Embedder`", "embed-query"),
        ("LangChain", "langchain-nanogpt"),
        ("LlamaIndex", "llama-nanogpt"),
        ("`Embedder`, async", "aembed-query"),
    ):
        time = figures.median("query", ours, "against_sdk")
        yield f"one query, {what}, against the SDK's `embeddings.create`: time", time, 0.9, "most"
    yield from _queries(figures)
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


def _queries(figures: Figures) -> Iterator[_Target]:
    """Yield the targets of many queries at once."""
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

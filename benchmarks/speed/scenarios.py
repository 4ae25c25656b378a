"""The benchmark's scenarios: the server's options, the task, and the clients of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.speed.clients import CLIENTS, QUERIES
from benchmarks.speed.services import SERVICES
from benchmarks.speed.setup import Client
from benchmarks.speed.stores import STORES

TEXTS = 20_000
LATENCY = 100  # milliseconds
SHORT_LATENCY = 20  # milliseconds: a service in the same region
PER_TEXT = 0.5  # milliseconds
RATE = 25  # requests per second
CACHED = 100_000
STREAMED = 1_000_000
RATE_REQUEST = 32
DISTINCT = 24_000  # vectors: more than a sample asks for, with its warm-up
RATED = 72_000  # a minute and a half's worth


@dataclass(frozen=True)
class Scenario:
    """A measurement of several clients side by side.

    Attributes:
        name: Name for ``--only``.
        title: Its heading in the results.
        clients: Names of the clients.
        task: A task of :mod:`~benchmarks.speed.child`.
        server: The server's options.
        options: The task's options.
        tls: True for connections over TLS.
        huge_pages: True if numpy asks for huge pages, as it does by default.
        keeps: True if clients keep vectors in a folder, filled by a first sample that does not count.
        known: The clients by name.
        most_rounds: Most samples of each client; None for as many as are asked for.
    """

    name: str
    title: str
    clients: tuple[str, ...]
    task: str = "throughput"
    server: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: {"texts": TEXTS})
    tls: bool = False
    huge_pages: bool = False
    keeps: bool = False
    known: Mapping[str, Client] = field(default_factory=lambda: CLIENTS)
    most_rounds: int | None = None


_OURS = ("embed", "aembed", "langchain-nanogpt", "langchain-nanogpt-async", "llama-nanogpt", "llama-nanogpt-async")
_NOW = (
    *("raw-discard", "raw-json", "raw-matrix", "raw-lists", *_OURS, "embed-best", "sdk", "langchain-openai"),
    *("langchain-openai-best", "llama-openai", "llama-openai-best", "baseten-best"),
    *("llama-nanogpt-heard", "llama-idle", "llama-idle-async"),
)
_LATE = (
    *("raw-matrix-32", *_OURS, "langchain-openai", "langchain-openai-async", "llama-openai", "llama-openai-async"),
    "baseten-best",
)

_PEERS = ("embedder", "langchain", "llama", "single", "sdk", "langchain-openai", "llama-openai")
_ASYNC_PEERS = ("aiohttp-client", "sdk-aiohttp", "aiohttp")


def _queries_under_way(latency: int) -> tuple[Scenario, Scenario]:
    words = f"{latency} ms latency a request" if latency else "no latency"
    shared: dict[str, Any] = {
        "task": "under way",
        "server": ("--latency", str(latency)),
        "options": {},
        "known": SERVICES,
    }
    tasks = tuple(f"{name}-async" for name in (*_PEERS, *_ASYNC_PEERS))
    return (
        Scenario(f"queries in threads, {latency}", f"Queries under way in threads, {words}", _PEERS, **shared),
        Scenario(f"queries in tasks, {latency}", f"Queries under way in tasks, {words}", tasks, **shared),
    )


def _arrivals(rate: int, clients: tuple[str, ...]) -> Scenario:
    return Scenario(
        f"queries arriving, {rate}",
        f"{rate} queries arrive in a second, {RATE} requests a second granted",
        clients,
        task="arrivals",
        server=("--rate", str(RATE)),
        options={"rate": rate},
        known=SERVICES,
    )


def _stores(label: str, name: str, most_rounds: int) -> Scenario:
    return Scenario(
        f"stores: {label}",
        f"{TEXTS:,} passages into {label}, {SHORT_LATENCY} ms latency a request",
        tuple(client for client in STORES if name in client),
        task="stores",
        server=("--latency", str(SHORT_LATENCY), "--distinct", str(DISTINCT)),
        known=STORES,
        most_rounds=most_rounds,
    )


SCENARIOS = (
    Scenario("profile", f"Profile: {TEXTS:,} texts into a matrix", ("embed-best",), task="profile"),
    Scenario("profile of lists", f"Profile: {TEXTS:,} texts into lists", ("langchain-nanogpt-one",), task="profile"),
    Scenario(
        "profile of the cache",
        f"Profile: {CACHED:,} texts into a matrix, from the cache",
        ("embed-cached",),
        task="profile",
        options={"texts": CACHED},
        keeps=True,
    ),
    Scenario("no latency", f"{TEXTS:,} texts, no latency", _NOW),
    Scenario(
        "short latency",
        f"{TEXTS:,} texts, {SHORT_LATENCY} ms latency a request",
        _LATE,
        server=("--latency", str(SHORT_LATENCY)),
    ),
    Scenario("latency", f"{TEXTS:,} texts, {LATENCY} ms latency a request", _LATE, server=("--latency", str(LATENCY))),
    Scenario(
        "huge pages",
        f"{TEXTS:,} texts, no latency, with numpy's huge pages",
        ("raw-matrix", "embed", "aembed", "embed-best", "baseten-best"),
        huge_pages=True,
    ),
    Scenario("query", "One query, no latency", tuple(QUERIES), task="queries", options={}, known=QUERIES),
    *_queries_under_way(0),
    *_queries_under_way(SHORT_LATENCY),
    *_queries_under_way(LATENCY),
    _arrivals(200, ("embedder-paced-async", "single-paced-async", "langchain-openai-async")),
    _arrivals(1000, ("embedder-paced-async",)),
    Scenario(
        "cache",
        f"{CACHED:,} texts into a matrix: from the cache, and over the network without latency",
        ("embed-cached", "embed-unpaced"),
        options={"texts": CACHED},
        keeps=True,
    ),
    Scenario(
        "cached lists",
        f"{TEXTS:,} texts into lists, from a cache",
        ("langchain-nanogpt-cached", "langchain-cached"),
        keeps=True,
    ),
    Scenario(
        "rate",
        f"{RATED:,} texts, {RATE} requests a second granted, {RATE_REQUEST} texts a request",
        ("embed-32", "embed-32-told", "aembed-32"),
        task="rate",
        server=("--rate", str(RATE)),
        options={"texts": RATED, "rate": RATE},
    ),
    Scenario(
        "stream",
        f"A stream of {STREAMED:,} short texts",
        ("embed",),
        task="stream",
        options={"texts": STREAMED},
    ),
    Scenario(
        "tls",
        f"{TEXTS:,} texts over TLS, no latency",
        ("raw-matrix", "embed", "embed-best", "aembed", "baseten-best"),
        tls=True,
    ),
    Scenario(
        "service time",
        f"{TEXTS:,} texts, {LATENCY} ms a request and {PER_TEXT:g} ms a text",
        ("raw-matrix-32", "embed", "aembed", "langchain-nanogpt", "baseten-best"),
        server=("--latency", str(LATENCY), "--per-text", str(PER_TEXT)),
    ),
    _stores("FAISS", "faiss", 3),
    _stores("Qdrant", "qdrant", 3),
    _stores("Chroma", "chroma", 1),  # two minutes a sample
)

IMPORTS = {
    "nanogpt_core": ("", "nanogpt_core"),
    # langchain_core.embeddings itself loads nothing yet.
    "langchain_nanogpt": ("langchain_core.embeddings.embeddings", "langchain_nanogpt"),
    "langchain_openai": ("langchain_core.embeddings.embeddings", "langchain_openai"),
    "llama_index_nanogpt": ("llama_index.core", "llama_index_nanogpt"),
    "llama_index.embeddings.openai": ("llama_index.core", "llama_index.embeddings.openai"),
}
"""The module that is imported first, and the one whose import is timed."""

"""Fixtures of the core's tests: sync and async calls, sandboxes, and a fault server."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest

import fault_server
import gathered_calls
from nanogpt_core import Embedder
from nanogpt_core.embeddings.gathering import gatherer, small_call


@pytest.fixture(scope="session")
def faults():
    """The module ``tests/support/fault_server.py``."""
    return fault_server


@pytest.fixture(params=["sync", "async"])
def way(request):
    """Return ``embed(embedder, texts)`` and ``query(embedder, text)``, once sync and once async."""
    if request.param == "sync":
        return SimpleNamespace(
            name="sync",
            embed=lambda embedder, texts, **more: embedder.embed(texts, **more),
            query=lambda embedder, text: embedder.embed_query(text),
        )
    return SimpleNamespace(
        name="async",
        embed=lambda embedder, texts, **more: asyncio.run(embedder.aembed(texts, **more)),
        query=lambda embedder, text: asyncio.run(embedder.aembed_query(text)),
    )


@pytest.fixture
def embed(way):
    """``embed(embedder, texts)``, once sync and once async."""
    return way.embed


@pytest.fixture
def query(way):
    """``query(embedder, text)``, once sync and once async."""
    return way.query


@pytest.fixture
def make(options):
    """Make an embedder for the shared sandbox, by default without retries."""

    def make(model="text-embedding-3-small", **more):
        return Embedder(model, **{**options, "max_retries": 0, **more})

    return make


@pytest.fixture
def sandbox_with():
    """Start a separate sandbox with options."""
    module = pytest.importorskip("nanogpt_core.sandbox", reason="the sandbox extra is not installed")
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(module.Sandbox(**options))


@pytest.fixture
def serve():
    """Start a fault server; its ``embedder(**options)`` makes an embedder for it."""
    with contextlib.ExitStack() as stack:

        def start(answer=fault_server.good, tls=None, **options):
            server = stack.enter_context(fault_server.FaultServer(answer, tls, **options))
            server.embedder = lambda model="lab/unlisted", **more: Embedder(
                model, **{"api_key": server.api_key, "base_url": server.base_url, "max_retries": 0, **more}
            )
            return server

        yield start


@pytest.fixture
def scripted(serve):
    """Start a server that sends the given responses in order, and then correct ones."""

    def start(*answers):
        left = iter(answers)

        def answer(seen):
            chosen = next(left, None)
            chosen = fault_server.good if chosen is None else chosen
            return chosen(seen) if callable(chosen) else chosen

        return serve(answer)

    return start


@pytest.fixture(scope="session")
def gathering():
    """The module ``tests/support/gathered_calls.py``."""
    return gathered_calls


@pytest.fixture
def held(serve, faults, monkeypatch):
    """Start a server that holds its first request, so that further calls gather."""
    for module in (small_call, gatherer):  # the request that is held occupies its slot as long as the test wants
        monkeypatch.setattr(module, "SLOT_SECONDS", gathered_calls.GUARD_SECONDS)
    return lambda answer=None: gathered_calls.Held(serve, faults, answer)


@pytest.fixture(params=["sync", "async"])
def together(request):
    """Return ``together(held, calls, queued=None)``: the calls' results, after all but the first have queued."""
    run = gathered_calls.in_threads if request.param == "sync" else gathered_calls.in_tasks
    return lambda held, calls, queued=None: run(held, calls, queued)

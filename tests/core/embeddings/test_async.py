"""Async methods: no blocking call on the event loop, and a clear error without one."""

import asyncio
import os
import subprocess
import sys

import pytest
from blockbuster import blockbuster_ctx

from nanogpt_core import MemoryCache
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.models.tokens import load_encoding

LONG = "word " * 9000  # over the limit of 8,191 tokens


async def collect(stream):
    return [batch async for batch in stream]


@pytest.fixture
def no_blocking():
    """Let each blocking call on an event loop raise an error, as LangGraph's development server does."""
    with blockbuster_ctx():
        yield


CALLS = {
    "embed": lambda embedder: embedder.aembed(["one", "two"]),
    "many": lambda embedder: embedder.aembed([f"text {i}" for i in range(700)]),
    "lists": lambda embedder: embedder.aembed_lists(["one", "two", "one"]),
    "query": lambda embedder: embedder.aembed_query("one"),
    "stream": lambda embedder: collect(embedder.astream([f"text {i}" for i in range(20)], batch_size=3)),
    "long": lambda embedder: embedder.aembed(["one", LONG]),
    "long stream": lambda embedder: collect(embedder.astream(["one", LONG])),
}
OPTIONS = {
    "plain": {},
    "split": {"on_overflow": "split"},
    "budget": {"budget_usd": 1.0, "on_overflow": "truncate"},
    "memory": {"cache": MemoryCache(), "on_overflow": "split"},
}


@pytest.mark.usefixtures("no_blocking")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("given", OPTIONS)
def test_async_calls_do_not_block_the_event_loop(make, call, given):
    options = {"on_overflow": "split", **OPTIONS[given]}
    load_encoding.cache_clear()
    asyncio.run(CALLS[call](make(dimensions=8, **options)))


@pytest.mark.usefixtures("no_blocking")
def test_async_calls_with_a_cache_file_do_not_block_the_event_loop(make, tmp_path):
    for call in CALLS.values():
        asyncio.run(call(make(dimensions=8, cache=tmp_path / "vectors.sqlite", on_overflow="split")))


@pytest.mark.usefixtures("no_blocking")
def test_object_with_a_cache_file_made_in_a_thread_does_not_block_the_event_loop(make, tmp_path):
    async def run():
        embedder = await asyncio.to_thread(make, dimensions=8, cache=tmp_path / "vectors.sqlite")
        return await embedder.aembed(["one"])

    assert asyncio.run(run()).shape == (1, 8)


def test_first_async_call_of_a_process_does_not_block_the_event_loop(options):
    # In a process of its own: the SDK and numpy are imported for the first time.
    code = """
import asyncio, os
import opentelemetry.metrics, opentelemetry.trace  # the first call makes instruments
from blockbuster import blockbuster_ctx
from nanogpt_core import Embedder

async def main():
    embedder = Embedder(api_key=os.environ["KEY"], base_url=os.environ["URL"], dimensions=8)
    with blockbuster_ctx():
        vectors = await embedder.aembed(["one"])
        query = await embedder.aembed_query("one")
    assert (vectors[0] == query).all()

asyncio.run(main())
"""
    environment = {**os.environ, "KEY": options["api_key"], "URL": options["base_url"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("call", CALLS)
def test_async_calls_under_trio_are_refused_with_the_remedy(make, call):
    trio = pytest.importorskip("trio", reason="trio is not installed")
    with pytest.raises(ConfigurationError, match="asyncio"):
        trio.run(CALLS[call], make(on_overflow="split"))

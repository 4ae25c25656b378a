"""Async methods: no blocking call on the event loop, and a clear error without one."""

import asyncio

import pytest
from blockbuster import blockbuster_ctx

import fresh_process
import warm_process
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
    environment = {"KEY": options["api_key"], "URL": options["base_url"]}
    done = fresh_process.run(code, environment=environment)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("call", CALLS)
def test_async_calls_under_trio_are_refused_with_the_remedy(make, call):
    trio = pytest.importorskip("trio", reason="trio is not installed")
    with pytest.raises(ConfigurationError, match="asyncio"):
        trio.run(CALLS[call], make(on_overflow="split"))


NESTED = """
import asyncio, nest_asyncio, warnings
from nanogpt_core import Embedder

warnings.simplefilter("ignore", ResourceWarning)  # nothing closes the sockets, as usual: a loop that does not shut down

nest_asyncio.apply()

def progress(done, total):
    print(done, total)
    asyncio.get_event_loop().run_until_complete(asyncio.sleep(0.05))  # other replies arrive meanwhile

embedder = Embedder("lab/unlisted", api_key="sk-nano-nested", batch_size=1, progress=progress)
print(len(asyncio.run(embedder.aembed(["one", "two", "three"]))))
"""


@pytest.mark.skipif(not warm_process.installed("nest_asyncio"), reason="nest_asyncio is not installed")
@pytest.mark.xdist_group("processes")
def test_progress_may_run_the_event_loop_again_as_nest_asyncio_allows(serve, warm, tmp_path):
    # In a process of its own, which has to end without the clean-up of event loops, and without a word.
    ended = warm.run(NESTED, tmp_path, environment={"NANOGPT_BASE_URL": serve().base_url}, ends=True)
    assert ended == (0, "1 3\n2 3\n3 3\n3\n", "")

"""close(), aclose(), with and async with of all five classes."""

import asyncio
import copy
import gc
import json
import sys
import threading
from dataclasses import dataclass

import pytest

import fault_server

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import Embedder, MemoryCache
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.rate_limiter import DEFAULT_RATE, RateCap
from nanogpt_core.http.sdk import httpx

GUARD_SECONDS = 60


@dataclass(frozen=True)
class Kind:
    """One of the classes, the sync name of a method that sends one request, and the names of its HTTP clients."""

    make: type
    method: str
    clients: tuple[str, str] = ("http_client", "http_async_client")
    name: str = "a/model"


KINDS = [
    Kind(Embedder, "embed_query"),
    Kind(NanoGPTEmbeddings, "embed_query"),
    Kind(ChatNanoGPT, "invoke"),
    Kind(NanoGPTEmbedding, "get_query_embedding"),
    Kind(NanoGPT, "complete", ("http_client", "async_http_client")),
]
EMBEDDING_CLASSES = [KINDS[0], KINDS[1], KINDS[3]]


def by_class(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.make.__name__)


each_class = by_class(KINDS)


def answer(seen):
    if seen.path.endswith("/embeddings"):
        return fault_server.good(seen)
    message = {"role": "assistant", "content": "yes"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return fault_server.response(body, Content_Type="application/json")


@pytest.fixture
def server():
    with fault_server.FaultServer(answer) as running:
        yield running


@pytest.fixture
def make(server):
    def make(kind, **more):
        options = {"api_key": server.api_key, "base_url": server.base_url, "max_retries": 0}
        return kind.make(model=kind.name, **{**options, **more})

    return make


@pytest.fixture
def close(call):
    async def close(target):
        await call(target, "close")

    return close


@each_class
async def test_call_after_close_raises(make, call, close, server, kind):
    target = make(kind)
    await call(target, kind.method, "text")
    await close(target)
    await close(target)  # twice is allowed
    with pytest.raises(ConfigurationError, match="closed"):
        await call(target, kind.method, "text")
    assert len(server.requests) == 1


@each_class
async def test_closed_object_limits_the_rate_of_no_other(make, call, close, server, kind):
    target = make(kind, requests_per_second=2)
    await call(target, kind.method, "text")
    limiter = RateCap(Endpoint.resolve(api_key=server.api_key, base_url=server.base_url), None).limiter()
    assert limiter.rate == 2
    await close(target)
    assert limiter.rate == DEFAULT_RATE


@each_class
async def test_with_block_closes(make, call, kind):
    if call.kind == "sync":
        with make(kind) as target:
            await call(target, kind.method, "text")
    else:
        async with make(kind) as target:
            await call(target, kind.method, "text")
    with pytest.raises(ConfigurationError, match="closed"):
        await call(target, kind.method, "text")


@each_class
async def test_never_used_object_closes(make, close, server, kind):
    await close(make(kind))
    assert server.connections == 0


@pytest.mark.parametrize("method", ["embed", "embed_lists", "embed_query", "estimate", "stream"])
def test_each_method_of_a_closed_embedder_raises(make, method):
    embedder = make(KINDS[0])
    embedder.close()
    with pytest.raises(ConfigurationError, match="closed"):
        getattr(embedder, method)("text" if method == "embed_query" else ["text"])


async def test_each_async_method_of_a_closed_embedder_raises(make):
    embedder = make(KINDS[0])
    await embedder.aclose()
    for calling in (embedder.aembed(["a"]), embedder.aembed_lists(["a"]), embedder.aembed_query("a")):
        with pytest.raises(ConfigurationError, match="closed"):
            await calling
    with pytest.raises(ConfigurationError, match="closed"):
        [batch async for batch in embedder.astream(["a"])]


@pytest.mark.parametrize("kind", [KINDS[2], KINDS[4]], ids=["ChatNanoGPT", "NanoGPT"])
def test_stream_of_a_closed_chat_object_raises(make, kind):
    chat = make(kind)
    chat.close()
    with pytest.raises(ConfigurationError, match="closed"):
        list(chat.stream("hello") if kind.make is ChatNanoGPT else chat.stream_complete("hello"))


@each_class
async def test_connections_close_with_the_last_object_that_used_them(make, call, close, server, kind):
    first, second = make(kind), make(kind)
    await call(first, kind.method, "one")
    await call(second, kind.method, "two")
    assert (server.connections, server.open_connections) == (1, 1)
    await close(first)
    await call(second, kind.method, "three")
    assert server.connections == 1
    await close(second)
    await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)


@each_class
async def test_copies_stay_open(make, call, close, kind):
    target = make(kind)
    twins = [copy.copy(target), copy.deepcopy(target)]
    if kind.make is not Embedder:
        twins += [target.model_copy(), target.model_copy(deep=True), target.model_copy(update={"timeout": 7})]
    await close(target)
    for twin in twins:
        await call(twin, kind.method, "text")
        await close(twin)


@each_class
async def test_call_under_way_ends_as_usual(make, call, close, server, kind):
    goes_on = threading.Event()

    def late(seen):
        assert goes_on.wait(GUARD_SECONDS)
        return answer(seen)

    server.answer = late
    target = make(kind)
    if call.kind == "sync":
        running = asyncio.create_task(asyncio.to_thread(getattr(target, kind.method), "text"))
    else:
        running = asyncio.create_task(call(target, kind.method, "text"))
    await asyncio.to_thread(server.wait_for, lambda: server.in_flight == 1)
    await close(target)
    goes_on.set()
    assert await running is not None
    # Its connection goes with it.
    await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)


async def test_stream_that_has_begun_goes_on(make, call, close):
    embedder = make(KINDS[0])
    if call.kind == "sync":
        stream = embedder.stream(["a", "b", "c"], batch_size=1)
        assert next(stream).texts == ["a"]
        await close(embedder)
        assert [batch.texts for batch in stream] == [["b"], ["c"]]
    else:
        stream = embedder.astream(["a", "b", "c"], batch_size=1)
        assert (await anext(stream)).texts == ["a"]
        await close(embedder)
        assert [batch.texts async for batch in stream] == [["b"], ["c"]]


def events():
    """Return the events of a streamed answer, in two parts."""
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    parts = [({"role": "assistant", "content": "one "}, None), ({"content": "two"}, None), ({}, "stop")]
    choices = [{"index": 0, "delta": delta, "finish_reason": reason} for delta, reason in parts]
    sent = [b"data: %s\n\n" % json.dumps({**chunk, "choices": [choice]}).encode() for choice in choices]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return head + sent[0], sent[1] + sent[2] + b"data: [DONE]\n\n"


class Parts:
    """A response in two parts, the second when the test says so; then the connection ends."""

    close = True

    def __init__(self, goes_on):
        self._goes_on = goes_on

    def __iter__(self):
        first, second = events()
        yield first
        assert self._goes_on.wait(GUARD_SECONDS)
        yield second


@pytest.mark.parametrize("kind", [KINDS[2], KINDS[4]], ids=["ChatNanoGPT", "NanoGPT"])
async def test_chat_stream_that_has_begun_goes_on(make, call, close, server, kind):
    goes_on, chat = threading.Event(), make(kind)
    server.answer = lambda _: Parts(goes_on)

    def text(part):
        return part.text if kind.make is ChatNanoGPT else part.delta

    if call.kind == "sync":
        stream = chat.stream("hello") if kind.make is ChatNanoGPT else chat.stream_complete("hello")
        said = [text(next(stream))]
        await close(chat)
        goes_on.set()
        said += await asyncio.to_thread(lambda: [text(part) for part in stream])
    else:
        stream = chat.astream("hello") if kind.make is ChatNanoGPT else await chat.astream_complete("hello")
        said = [text(await anext(stream))]
        await close(chat)
        goes_on.set()
        said += [text(part) async for part in stream]
    assert "".join(filter(None, said)) == "one two"
    await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)


async def test_calls_of_other_objects_that_share_a_request_are_answered(make, call, close, server):
    # All slots are taken, so further calls are gathered, and carried through the client of one that is then closed.
    goes_on, embedders = threading.Event(), [make(KINDS[0], max_concurrency=1) for _ in range(3)]

    def late(seen):
        assert goes_on.wait(GUARD_SECONDS)
        return answer(seen)

    server.answer = late
    embed = (
        (lambda one, text: asyncio.to_thread(one.embed_query, text)) if call.kind == "sync" else Embedder.aembed_query
    )
    texts = [f"text {number}" for number in range(len(embedders))]
    running = [asyncio.create_task(embed(one, text)) for one, text in zip(embedders, texts, strict=True)]
    await asyncio.to_thread(
        server.wait_for, lambda: {text for one in server.requests for text in one.texts} == {*texts}
    )
    for one in embedders[:-1]:
        await close(one)
    goes_on.set()
    for text, vector in zip(texts, await asyncio.gather(*running), strict=True):
        assert vector.tolist() == fault_server.vector_of(text).tolist()


@each_class
async def test_http_clients_that_were_passed_stay_open(make, call, close, kind):
    with httpx.Client(trust_env=False) as client:
        async with httpx.AsyncClient(trust_env=False) as async_client:
            target = make(kind, **dict(zip(kind.clients, (client, async_client), strict=True)))
            await call(target, kind.method, "text")
            await close(target)
            assert not client.is_closed
            assert not async_client.is_closed


@by_class(EMBEDDING_CLASSES)
async def test_cache_file_is_closed_and_cache_object_is_not(make, call, close, kind, tmp_path):
    target = make(kind, cache=tmp_path / "vectors.db")
    embedder = target if kind.make is Embedder else target._embedder
    await call(target, kind.method, "text")
    cache = embedder._config.opened_cache
    assert cache._connection is not None
    await close(target)
    assert cache._connection is None

    class Own(MemoryCache):
        def close(self):
            raise AssertionError("closed")

    target = make(kind, cache=Own())
    await call(target, kind.method, "text")
    await close(target)


async def test_cache_file_is_closed_after_a_call_that_was_under_way(make, call, close, server, tmp_path):
    embedder, goes_on = make(KINDS[0], cache=tmp_path / "vectors.db"), threading.Event()

    def late(seen):
        assert goes_on.wait(GUARD_SECONDS)
        return answer(seen)

    server.answer = late
    embed = asyncio.to_thread(embedder.embed, ["text"]) if call.kind == "sync" else embedder.aembed(["text"])
    running = asyncio.create_task(embed)
    await asyncio.to_thread(server.wait_for, lambda: server.in_flight == 1)
    await close(embedder)
    goes_on.set()
    await running
    assert embedder._config.opened_cache._connection is None
    with make(KINDS[0], cache=tmp_path / "vectors.db") as again:
        again.embed(["text"])
    assert len(server.requests) == 1


@each_class
@pytest.mark.parametrize("way", ["with", "async with"])
def test_closed_object_leaves_no_resource_warning(make, server, monkeypatch, tmp_path, kind, way):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    more = {"cache": tmp_path / "vectors.db"} if kind in EMBEDDING_CLASSES else {}

    def use():
        with make(kind, **more) as target:
            getattr(target, kind.method)("text")

    async def ause():
        async with make(kind, **more) as target:
            await getattr(target, f"a{kind.method}")("text")

    def use_on_a_loop_of_its_own():
        # The loop is closed without being shut down, as older programs do it.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ause())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    use() if way == "with" else use_on_a_loop_of_its_own()
    gc.collect()
    assert unraisable == []
    server.wait_for(lambda: server.open_connections == 0)


@each_class
def test_aclose_under_trio_is_refused_with_the_remedy(make, kind, tmp_path):
    trio = pytest.importorskip("trio", reason="trio is not installed")
    options = {"cache": tmp_path / "vectors.sqlite"} if kind in EMBEDDING_CLASSES else {}
    instance = make(kind, **options)
    getattr(instance, kind.method)("one")
    with pytest.raises(ConfigurationError, match="call the sync methods in a thread"):
        trio.run(instance.aclose)
    instance.close()

"""Every option does through LlamaIndex what it says, sync and async."""

import asyncio
import math
import threading

import pytest

from llama_index_nanogpt import NanoGPTEmbedding
from nanogpt_core import NanoGPTError, get_model
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.embeddings.config import EmbedderOptions
from nanogpt_core.errors import (
    BudgetExceededError,
    ConfigurationError,
    RequestTimeoutError,
    ServerError,
    TextTooLongError,
)
from nanogpt_core.http import client as sdk
from nanogpt_core.sandbox import Fault, Sandbox

TEXTS = [f"Text number {i}." for i in range(7)]
BGE = "BAAI/bge-large-en-v1.5"  # 512 tokens a text, and a recommended instruction
LONG = "word " * 1500
SOON = {"Retry-After": "0"}


@pytest.fixture
def make(options):
    return lambda model=None, **more: NanoGPTEmbedding(model, **options, **more)


@pytest.mark.parametrize(
    ("given", "body"),
    [({"dimensions": 64}, {"dimensions": 64}), ({"user": "someone"}, {"user": "someone"}), ({}, {})],
)
async def test_dimensions_and_user_are_sent(make, call, sandbox, given, body):
    vectors = await call(make(**given), "get_text_embedding_batch", TEXTS[:1])
    assert len(vectors[0]) == given.get("dimensions", 1536)
    (request,) = sandbox.requests
    rest = {name: value for name, value in request.body.items() if name not in ("input", "encoding_format")}
    assert rest == {"model": "text-embedding-3-small", **body}


async def test_overflow_error(make, call, sandbox):
    with pytest.raises(TextTooLongError) as caught:
        await call(make(BGE), "get_text_embedding_batch", ["short", LONG])
    assert caught.value.positions == (1,)
    assert sandbox.requests == []


async def test_overflow_truncate(make, call, sandbox):
    await call(make(BGE, on_overflow="truncate"), "get_text_embedding_batch", ["short", LONG])
    (request,) = sandbox.requests
    assert request.inputs[0] == "short"
    assert LONG.startswith(request.inputs[1])
    assert 100 < len(request.inputs[1]) < len(LONG)


async def test_overflow_split(make, call, sandbox):
    _, vector = await call(make(BGE, on_overflow="split"), "get_text_embedding_batch", ["short", LONG])
    pieces = [text for request in sandbox.requests for text in request.inputs if text != "short"]
    assert len(pieces) > 1
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("instruction", "query"),
    [
        (None, "a question"),
        ("recommended", get_model(BGE).query_instruction.replace("{query}", "a question")),
        ("find: ", "find: a question"),
        ("Q={query}!", "Q=a question!"),
    ],
)
async def test_query_instruction_is_for_queries_only(make, call, sandbox, instruction, query):
    embedding = make(BGE, query_instruction=instruction)
    await call(embedding, "get_query_embedding", "a question")
    await call(embedding, "get_text_embedding_batch", ["a question"])
    assert [request.inputs for request in sandbox.requests] == [(query,), ("a question",)]


@pytest.mark.parametrize(("retries", "works"), [(2, True), (1, False)])
async def test_max_retries(make, call, sandbox, retries, works):
    embedding = make(max_retries=retries)
    sandbox.add_faults(*[Fault(503, headers=SOON)] * (retries if works else retries + 1))
    if works:
        assert len(await call(embedding, "get_query_embedding", "text")) == 1536
    else:
        with pytest.raises(ServerError):
            await call(embedding, "get_query_embedding", "text")
    assert len(sandbox.requests) == retries + 1
    assert embedding.usage.retries == retries


async def test_timeout(call):
    with Sandbox(faults=[Fault(None, delay=60)]) as sandbox:
        embedding = NanoGPTEmbedding(api_key=sandbox.api_key, base_url=sandbox.base_url, timeout=0.2, max_retries=0)
        with pytest.raises(RequestTimeoutError, match=r"0\.2 s"):
            await call(embedding, "get_query_embedding", "text")


async def test_deadline(call):
    with Sandbox(faults=[Fault(None, delay=60)]) as sandbox:
        embedding = NanoGPTEmbedding(api_key=sandbox.api_key, base_url=sandbox.base_url, deadline=0.2)
        with pytest.raises(RequestTimeoutError):
            await call(embedding, "get_query_embedding", "text")


async def test_requests_per_second(sandbox, call):
    # At an address of its own, since all objects with one key at one address keep to the lowest rate among them.
    base_url = sandbox.base_url.replace("/api/v1", "/api/paid/v1")
    embedding = NanoGPTEmbedding(
        api_key=sandbox.api_key, base_url=base_url, batch_size=1, max_concurrency=1, requests_per_second=0.05
    )
    with fake_clock() as waits:
        await call(embedding, "get_text_embedding_batch", TEXTS)
    assert waits.seconds > 60  # six pauses of 20 seconds, less the time that the requests take
    assert len(sandbox.requests) == 7


async def test_cache_spares_what_is_known(make, call, sandbox, tmp_path):
    path = tmp_path / "vectors.sqlite"
    first = await call(make(cache=path), "get_text_embedding_batch", TEXTS)
    embedding = make(cache=path)
    again = await call(embedding, "get_text_embedding_batch", ["new", *TEXTS])
    assert again[1:] == first
    assert [request.inputs for request in sandbox.requests] == [tuple(TEXTS), ("new",)]
    assert embedding.usage.texts_cached == 7


async def test_budget_is_kept_before_anything_is_sent(make, call, sandbox):
    embedding = make(budget_usd=1e-7)
    assert len(await call(embedding, "get_text_embedding_batch", ["few"])) == 1
    with pytest.raises(BudgetExceededError):
        await call(embedding, "get_text_embedding_batch", TEXTS)
    assert len(sandbox.requests) == 1


async def test_progress_function(make, call):
    seen = []
    embedding = make(batch_size=3, progress=lambda *counts: seen.append(counts), max_concurrency=1)
    await call(embedding, "get_text_embedding_batch", TEXTS)
    assert seen == [(3, 7), (6, 7), (7, 7)]


async def test_progress_bar(make, call, capsys):
    await call(make(progress=True), "get_text_embedding_batch", TEXTS)
    assert "7/7" in capsys.readouterr().err


async def test_default_headers(make, call, sandbox):
    await call(make(default_headers={"X-Team": "search"}), "get_query_embedding", "text")
    assert sandbox.requests[0].headers["x-team"] == "search"


class Gate:
    """Lets requests go on once ``width`` of them are under way together; remembers the most that ever were."""

    def __init__(self, width, event):
        self.width, self.event = width, event
        self.now = self.most = 0
        self.lock = threading.Lock()

    def enter(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == self.width:
                self.event.set()

    def leave(self):
        with self.lock:
            self.now -= 1


def gated_clients(kind, width):
    """Return a gate, and the option that puts it into our way."""
    if kind == "sync":
        gate = Gate(width, threading.Event())

        def entering(_request):
            gate.enter()
            assert gate.event.wait(30)

        hooks = {"request": [entering], "response": [lambda _response: gate.leave()]}
        return gate, {"http_client": sdk.http.Client(event_hooks=hooks)}

    gate = Gate(width, asyncio.Event())

    async def aentering(_request):
        gate.enter()
        await asyncio.wait_for(gate.event.wait(), 30)

    async def aleaving(_response):
        gate.leave()

    hooks = {"request": [aentering], "response": [aleaving]}
    return gate, {"http_async_client": sdk.http.AsyncClient(event_hooks=hooks)}


@pytest.mark.parametrize("most", [1, 3])
async def test_own_http_client_sends_and_max_concurrency_bounds(make, call, sandbox, most):
    gate, clients = gated_clients(call.kind, most)
    embedding = make(batch_size=1, max_concurrency=most, **clients)
    assert len(await call(embedding, "get_text_embedding_batch", TEXTS)) == 7
    assert (gate.most, gate.now, len(sandbox.requests)) == (most, 0, 7)
    for client in clients.values():
        assert not client.is_closed
        await client.aclose() if call.kind == "async" else client.close()


def test_plain_http_to_another_machine_needs_leave():
    options = {"api_key": "sk-nano-test", "base_url": "http://example.com/api/v1"}
    with pytest.raises(ConfigurationError, match="allow_insecure_http"):
        NanoGPTEmbedding(**options)
    assert NanoGPTEmbedding(**options, allow_insecure_http=True).api_base == "http://example.com/api/v1"


@pytest.mark.parametrize(
    ("given", "kinds", "words"),
    [
        ({"chunk_size": 64}, (NanoGPTError, TypeError), "Did you mean 'batch_size'"),
        ({"dimension": 64}, (NanoGPTError, TypeError), "Did you mean 'dimensions'"),
        ({"embed_batchsize": 64}, (NanoGPTError, TypeError), "Did you mean 'embed_batch_size'"),
        ({"nonsense": 1}, (NanoGPTError, TypeError), "The options are: model_name,"),
        ({"embed_batch_size": 0}, (NanoGPTError, ValueError), "embed_batch_size"),
        ({"embed_batch_size": "8"}, (NanoGPTError, TypeError), "embed_batch_size"),
        ({"num_workers": 0}, (NanoGPTError, ValueError), "num_workers"),
        ({"model": "one", "model_name": "other"}, (NanoGPTError, ValueError), "differ"),
        ({"api_base": "https://example.com/v1"}, (NanoGPTError, ValueError), "differ"),
        ({"batch_size": 0}, (NanoGPTError, ValueError), "batch_size"),
        ({"batch_size": "8"}, (NanoGPTError, TypeError), "batch_size"),
        ({"dimensions": 1537}, (NanoGPTError, ValueError), "1,536"),
        ({"on_overflow": "cut"}, (NanoGPTError, ValueError), "truncate"),
        ({"max_concurrency": 0}, (NanoGPTError, ValueError), "max_concurrency"),
        ({"max_retries": -1}, (NanoGPTError, ValueError), "max_retries"),
        ({"timeout": 0}, (NanoGPTError, ValueError), "timeout"),
        ({"deadline": 0}, (NanoGPTError, ValueError), "deadline"),
        ({"requests_per_second": 0}, (NanoGPTError, ValueError), "requests_per_second"),
        ({"budget_usd": -1}, (NanoGPTError, ValueError), "budget_usd"),
        ({"cache": 5}, (NanoGPTError, TypeError), "cache"),
        ({"progress": "yes"}, (NanoGPTError, TypeError), "progress"),
        ({"default_headers": {"A": 1}}, (NanoGPTError, TypeError), "default_headers"),
        ({"query_instruction": 5}, (NanoGPTError, TypeError), "query_instruction"),
        ({"user": 5}, (NanoGPTError, TypeError), "user"),
        ({"base_url": "ftp://x"}, (NanoGPTError, ValueError), "base_url"),
        ({"model": ""}, (NanoGPTError, ValueError), "model"),
        ({"api_key": " "}, (NanoGPTError, ValueError), "api_key"),
    ],
)
def test_options_that_cannot_be_right(options, given, kinds, words):
    with pytest.raises(kinds[0], match=words) as caught:
        NanoGPTEmbedding(**{**options, **given})
    assert isinstance(caught.value, kinds[1])


def test_estimate_and_usage(make, sandbox):
    embedding = make()
    estimate = embedding.estimate(["one", "two", "one"])
    assert (estimate.texts, estimate.unique, estimate.requests, sandbox.requests) == (3, 2, 1, [])
    embedding.get_text_embedding_batch(["one", "two", "one"])
    assert (embedding.usage.requests, embedding.usage.texts_sent) == (1, 2)
    assert embedding.usage.prompt_tokens == estimate.tokens


def test_every_option_is_a_field():
    """A field is what pickles and copies carry; an option that is none would be lost in them."""
    assert set(EmbedderOptions.__annotations__) <= set(NanoGPTEmbedding.model_fields)


@pytest.mark.parametrize(("name", "value"), [("dimensions", 64), ("model_name", "x"), ("api_key", "x"), ("timeout", 5)])
def test_an_option_cannot_be_changed_without_effect(make, name, value):
    embedding = make()
    with pytest.raises(ConfigurationError, match="model_copy"):
        setattr(embedding, name, value)
    embedding.embed_batch_size = 5
    assert embedding.embed_batch_size == 5


@pytest.mark.parametrize(
    "given",
    [{"model_name": "BAAI/bge-m3"}, {"model": "BAAI/bge-m3"}, {"model": "BAAI/bge-m3", "model_name": "BAAI/bge-m3"}],
)
def test_both_words_for_the_model(options, given):
    assert NanoGPTEmbedding(**options, **given).model_name == "BAAI/bge-m3"


def test_both_words_for_the_base_url(options):
    url = options["base_url"]
    embedding = NanoGPTEmbedding(api_key=options["api_key"], api_base=url)
    assert (embedding.api_base, len(embedding.get_text_embedding("text"))) == (url, 1536)

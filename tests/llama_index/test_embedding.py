"""Features of LlamaIndex's base class: batches, events, caches, rate limiters, progress."""

import asyncio
import json
import pickle
import signal
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import Dispatcher, get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.rate_limiter import BaseRateLimiter
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_index_nanogpt import NanoGPTEmbedding
from nanogpt_core import ModelInfo
from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    DimensionsError,
    InvalidInputError,
    InvalidTypeError,
    ServerError,
    TextTooLongError,
)
from nanogpt_core.sandbox import Fault

TEXTS = [f"Text number {i}." for i in range(7)]


@pytest.fixture
def make(options):
    return lambda **more: NanoGPTEmbedding(**options, **more)


class Recorder(BaseEventHandler):
    events: list

    @classmethod
    def class_name(cls):
        return "Recorder"

    def handle(self, event, **_kwargs):
        if isinstance(event, (EmbeddingStartEvent, EmbeddingEndEvent, ExceptionEvent)):
            self.events.append(event)


@pytest.fixture
def recorder():
    handler, root = Recorder(events=[]), get_dispatcher("root")
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


async def test_single_texts_and_queries_equal_the_batch(make, call):
    embedding = make()
    batch = await call(embedding, "get_text_embedding_batch", TEXTS)
    assert await call(embedding, "get_text_embedding", TEXTS[3]) == batch[3]
    assert await call(embedding, "get_query_embedding", TEXTS[3]) == batch[3]
    mean = await call(embedding, "get_agg_embedding_from_queries", TEXTS[:2])
    assert mean == pytest.approx([(a + b) / 2 for a, b in zip(batch[0], batch[1], strict=True)])
    assert embedding.similarity(batch[3], batch[3]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "items"),
    [({"embed_batch_size": 3}, [1, 3, 3]), ({"embed_batch_size": 4, "batch_size": 3}, [1, 3, 3]), ({}, [7])],
)
async def test_embed_batch_size_limits_texts_per_request(make, call, sandbox, given, items):
    assert len(await call(make(**given), "get_text_embedding_batch", TEXTS)) == 7
    assert sorted(request.items for request in sandbox.requests) == items
    assert sorted(text for request in sandbox.requests for text in request.inputs) == TEXTS


async def test_num_workers_keeps_order(make, sandbox):
    embedding = make(embed_batch_size=2, num_workers=2)
    vectors = await embedding.aget_text_embedding_batch(TEXTS)
    assert len(sandbox.requests) == 4
    assert vectors == make().get_text_embedding_batch(TEXTS)


async def test_callback_manager_gets_one_event_pair_per_batch(make, call):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    embedding = make(callback_manager=CallbackManager([handler]), embed_batch_size=4)
    vectors = await call(embedding, "get_text_embedding_batch", TEXTS)
    query = await call(embedding, "get_query_embedding", "a question")

    pairs = handler.get_event_pairs(CBEventType.EMBEDDING)
    assert len(pairs) == 3
    chunks = [end.payload[EventPayload.CHUNKS] for _, end in pairs]
    embeddings = [end.payload[EventPayload.EMBEDDINGS] for _, end in pairs]
    assert chunks == [TEXTS[:4], TEXTS[4:], ["a question"]]
    assert embeddings == [vectors[:4], vectors[4:], [query]]
    for start, _ in pairs:
        assert start.payload[EventPayload.SERIALIZED]["model_name"] == "text-embedding-3-small"


async def test_instrumentation_gets_start_and_end_events(make, call, recorder):
    vectors = await call(make(), "get_text_embedding_batch", TEXTS)
    start, end = recorder.events
    assert isinstance(start, EmbeddingStartEvent)
    assert start.model_dict["model_name"] == "text-embedding-3-small"
    assert (end.chunks, end.embeddings) == (TEXTS, vectors)


MANY = [f"text {number}" for number in range(300)]  # three requests


@pytest.fixture
def spans():
    handler, root = SimpleSpanHandler(), get_dispatcher("root")
    root.add_span_handler(handler)
    yield handler
    root.span_handlers.remove(handler)


@pytest.fixture
def recorder_of_base_class():
    handler, dispatcher = Recorder(events=[]), get_dispatcher(BaseEmbedding.__module__)
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


async def test_one_start_and_one_end_event_for_many_texts(make, call, recorder, recorder_of_base_class, sandbox):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    embedding = make(dimensions=32, callback_manager=CallbackManager([handler]))
    vectors = await call(embedding, "get_text_embedding_batch", MANY)
    assert np.array_equal(vectors, make(dimensions=32)._embedder.embed(MANY))
    for events in (recorder.events, recorder_of_base_class.events):
        start, end = events
        assert (type(start), type(end)) == (EmbeddingStartEvent, EmbeddingEndEvent)
        assert (end.chunks, end.embeddings) == (MANY, vectors)
    ((_, ended),) = handler.get_event_pairs(CBEventType.EMBEDDING)
    assert (ended.payload[EventPayload.CHUNKS], ended.payload[EventPayload.EMBEDDINGS]) == (MANY, vectors)
    assert sorted(request.items for request in sandbox.requests)[-2:] == [128, 128]


class CountingManager(CallbackManager):
    def on_event_start(self, event_type, *args, **kwargs):
        self.started = [*getattr(self, "started", []), event_type]
        return super().on_event_start(event_type, *args, **kwargs)


async def test_callback_manager_of_another_class_hears_of_a_query_without_handlers(make, call):
    manager = CountingManager()
    await call(make(dimensions=8, callback_manager=manager), "get_query_embedding", "What do bees make?")
    assert manager.started == [CBEventType.EMBEDDING]


class Watcher(BaseEventHandler):
    look: Any
    seen: list

    def handle(self, _event, **_kwargs):
        self.seen.append(self.look())


async def test_start_event_precedes_the_requests_and_end_event_follows_them(make, call, sandbox, request):
    handler, root = Watcher(look=lambda: len(sandbox.requests), seen=[]), get_dispatcher("root")
    root.add_event_handler(handler)
    request.addfinalizer(lambda: root.event_handlers.remove(handler))
    await call(make(dimensions=32), "get_text_embedding_batch", MANY)
    assert handler.seen == [0, len(sandbox.requests)]


async def test_one_span_for_many_texts(make, call, spans):
    await call(make(dimensions=32), "get_text_embedding_batch", MANY)
    name = "aget_text_embedding_batch" if call.kind == "async" else "get_text_embedding_batch"
    assert [span.id_.partition("-")[0] for span in spans.completed_spans] == [f"NanoGPTEmbedding.{name}"]


@pytest.mark.parametrize("kind", ["event", "span"])
@pytest.mark.parametrize("level", ["root", BaseEmbedding.__module__])
async def test_handler_at_any_level_sees_a_query(make, call, level, kind, request):
    handlers = getattr(get_dispatcher(level), f"{kind}_handlers")
    handler = Recorder(events=[]) if kind == "event" else SimpleSpanHandler()
    handlers.append(handler)
    request.addfinalizer(lambda: handlers.remove(handler))
    vector = await call(make(), "get_query_embedding", "a question")
    if kind == "event":
        start, end = handler.events
        assert (type(start), end.chunks, end.embeddings) == (EmbeddingStartEvent, ["a question"], [vector])
    else:
        name = "aget_query_embedding" if call.kind == "async" else "get_query_embedding"
        assert handler.completed_spans[-1].id_.startswith(f"NanoGPTEmbedding.{name}-")


async def test_handler_at_the_level_of_the_class_sees_a_query(make, call, request):
    handler, handlers = SimpleSpanHandler(), get_dispatcher(NanoGPTEmbedding.__module__).span_handlers
    handlers.append(handler)
    request.addfinalizer(lambda: handlers.remove(handler))
    await call(make(dimensions=8), "get_query_embedding", "a question")
    name = "_aget_query_embedding" if call.kind == "async" else "_get_query_embedding"
    assert [span.id_.partition("-")[0] for span in handler.completed_spans] == [f"NanoGPTEmbedding.{name}"]


async def test_query_without_handlers_makes_no_span(make, call, monkeypatch):
    embedding, entered = make(dimensions=8), []
    monkeypatch.setattr(Dispatcher, "span_enter", lambda *_, **span: entered.append(span["id_"].partition("-")[0]))
    await call(embedding, "get_query_embedding", "a question")
    assert entered == []
    await call(embedding, "get_text_embedding", "a text")
    assert entered


class OwnQueries(NanoGPTEmbedding):
    def _get_query_embedding(self, query):
        return [float(len(query))]

    async def _aget_query_embedding(self, query):
        return [float(len(query))]


@pytest.mark.parametrize("replaced", ["in a subclass", "in the class"])
async def test_replaced_query_method_is_called(options, call, monkeypatch, replaced):
    embedding = (OwnQueries if replaced == "in a subclass" else NanoGPTEmbedding)(**options)
    if replaced == "in the class":
        for name in ("_get_query_embedding", "_aget_query_embedding"):
            monkeypatch.setattr(NanoGPTEmbedding, name, vars(OwnQueries)[name])
    assert await call(embedding, "get_query_embedding", "four") == [4.0]


class Minimal(BaseEmbedding):
    def _get_text_embedding(self, text):
        return [float(len(text))]

    def _get_query_embedding(self, query):
        return [float(len(query))]

    async def _aget_text_embedding(self, text):
        return [float(len(text))]

    async def _aget_query_embedding(self, query):
        return [float(len(query))]


@pytest.mark.parametrize("name", ["get_query_embedding", "get_text_embedding"])
async def test_single_texts_and_queries_have_the_spans_of_any_other_class(make, call, spans, name):
    await call(make(), name, "a text")
    await call(Minimal(), name, "a text")
    names = [span.id_.partition("-")[0] for span in spans.completed_spans]
    half = len(names) // 2
    assert [name.replace("NanoGPTEmbedding", "Minimal") for name in names[:half]] == names[half:]


async def test_failed_batch_ends_in_one_error_event(make, call, recorder, spans, sandbox):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    embedding = make(callback_manager=CallbackManager([handler]), max_retries=0)
    sandbox.add_faults(Fault(503))
    with pytest.raises(ServerError) as caught:
        await call(embedding, "get_text_embedding_batch", TEXTS)
    start, failure = recorder.events
    assert isinstance(start, EmbeddingStartEvent)
    assert failure.exception is caught.value
    ((_, ended),) = handler.get_event_pairs(CBEventType.EMBEDDING)
    assert ended.payload == {EventPayload.EXCEPTION: caught.value}
    assert (len(spans.dropped_spans), spans.completed_spans) == (1, [])


class Curious(BaseEventHandler):
    ask: Any
    told: list

    def handle(self, event, **_kwargs):
        if isinstance(event, EmbeddingStartEvent) and not self.told:
            self.told.append(None)  # its own questions are events too
            self.told[:] = self.ask()


@pytest.mark.may_block  # the handler embeds
async def test_handler_that_embeds_gets_its_own_vectors(make, call, request):
    one, other = make(dimensions=32), make(dimensions=16)
    handler, root = (
        Curious(ask=lambda: [e.get_text_embedding("hello") for e in (one, other)], told=[]),
        get_dispatcher("root"),
    )
    root.add_event_handler(handler)
    request.addfinalizer(lambda: root.event_handlers.remove(handler))
    vectors = await call(one, "get_text_embedding_batch", MANY)
    assert np.array_equal(vectors, make(dimensions=32)._embedder.embed(MANY))
    assert handler.told == [make(dimensions=width).get_query_embedding("hello") for width in (32, 16)]


async def test_key_is_in_no_event(make, call, recorder, sandbox):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    embedding = make(callback_manager=CallbackManager([handler]), default_headers={"X-Token": "token-of-a-proxy"})
    await call(embedding, "get_text_embedding_batch", TEXTS)
    told = [event.model_dump_json() for event in recorder.events] + [str(event) for event in handler.get_events()]
    assert len(told) == 4
    for text in told:
        assert sandbox.api_key not in text
        assert "token-of-a-proxy" not in text


async def test_embeddings_cache_spares_repeated_texts(make, call, sandbox):
    cache = SimpleKVStore()
    first = await call(make(embeddings_cache=cache), "get_text_embedding_batch", TEXTS)
    again = await call(make(embeddings_cache=cache), "get_text_embedding_batch", ["new", *TEXTS])
    single = await call(make(embeddings_cache=cache), "get_text_embedding", TEXTS[2])
    assert again[1:] == first
    assert single == first[2]
    assert [request.inputs for request in sandbox.requests] == [tuple(TEXTS), ("new",)]


async def test_failed_batch_with_an_embeddings_cache_keeps_all_vectors_at_their_positions(make, call, sandbox):
    cache, texts = SimpleKVStore(), [*TEXTS[:2], "new", "refused", TEXTS[2], "last"]
    right = np.array(make().get_text_embedding_batch(texts), dtype=np.float32)
    embedding = make(embeddings_cache=cache, batch_size=1, max_concurrency=1)
    await call(embedding, "get_text_embedding_batch", TEXTS)
    sandbox.clear()
    sandbox.add_faults(None, Fault(400, body={"error": {"message": "input[0] is not allowed"}}))
    with pytest.raises(BadRequestError, match="the text at position 3 ") as caught:
        await call(embedding, "get_text_embedding_batch", texts)
    assert (caught.value.positions, caught.value.failed_positions) == ((3,), (3, 5))
    for position, vector in caught.value.completed.items():
        assert np.array_equal(vector, right[position])
    assert sorted(caught.value.completed) == [0, 1, 2, 4]
    sandbox.clear()
    assert np.array_equal(np.float32(await call(embedding, "get_text_embedding_batch", texts)), right)
    assert [request.inputs for request in sandbox.requests] == [("refused",), ("last",)]


class InParts(NanoGPTEmbedding):
    """Embeds two texts at a time, and the async method in a thread."""

    def _get_text_embeddings(self, texts):
        return [vector for start in range(0, len(texts), 2) for vector in self._two(texts[start : start + 2])]

    def _two(self, texts):
        return super()._get_text_embeddings(texts)

    async def _aget_text_embeddings(self, texts):
        # In a thread without the context of this task.
        return await asyncio.get_running_loop().run_in_executor(None, self._two, texts)


async def test_subclass_that_embeds_in_parts_stores_no_vector_of_another_text(sandbox, call):
    cache, texts = SimpleKVStore(), ["in store", "one", "two", "refused", "four"]
    options = {"api_key": sandbox.api_key, "base_url": sandbox.base_url, "max_retries": 0, "batch_size": 1}
    right = np.array(NanoGPTEmbedding(**options).get_text_embedding_batch(texts), dtype=np.float32)
    embedding = InParts(**options, embeddings_cache=cache, max_concurrency=1)
    await call(embedding, "get_text_embedding_batch", texts[:1])
    sandbox.clear()
    sandbox.add_faults(None, None, Fault(400, body={"error": {"message": "refused"}}))
    with pytest.raises(BadRequestError) as caught:
        await call(embedding, "get_text_embedding_batch", texts)
    assert sorted(caught.value.completed) == [0]
    assert caught.value.failed_positions == (1, 2, 3, 4)
    assert np.array_equal(np.float32(await call(embedding, "get_text_embedding_batch", texts)), right)


async def test_vectors_that_an_embeddings_cache_does_not_take_are_returned_with_a_warning(make, call):
    class FullStore(SimpleKVStore):
        def put(self, *_args, **_kwargs):
            raise OSError("No space left on device")

        async def aput(self, *_args, **_kwargs):
            self.put()

    right = make().get_text_embedding_batch(TEXTS)
    for method, given, expected in ways_to_one_text(right[0]):
        with pytest.warns(RuntimeWarning, match=r"a FullStore, failed to store vectors \(OSError\)"):
            assert await call(make(embeddings_cache=FullStore()), method, given) == expected


def ways_to_one_text(vector):
    """Return methods that embed the first text, with their argument and their result."""
    whole = ("get_text_embedding_batch", TEXTS[:1], [vector])
    return [whole, ("get_text_embedding", TEXTS[0], vector), ("get_query_embedding", TEXTS[0], vector)]


class OddStore(SimpleKVStore):
    """A store with one value for all keys, or one that fails."""

    def __init__(self, value):
        super().__init__()
        self.value, self.asked = value, 0

    def get(self, *_args, **_kwargs):
        self.asked += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    async def aget(self, *_args, **_kwargs):
        return self.get()


@pytest.mark.parametrize(
    "value",
    [
        *({}, "text", [[1.0]], {"x": None}, {"x": "text"}, {"x": []}, {"x": [0.5] * 6}, {"x": [0.0] * 1536}),
        *({"x": [float("nan")] * 1536}, {"x": [10**400] * 1536}, {"x": ["1"] * 1536}, {"x": [True] * 1536}),
    ],
    ids=lambda value: repr(value)[:14],
)
async def test_damaged_value_in_an_embeddings_cache_is_never_a_vector(make, call, value):
    right = make().get_text_embedding(TEXTS[0])
    for method, given, expected in ways_to_one_text(right):
        with pytest.warns(RuntimeWarning, match="a OddStore, holds values that are no vectors"):
            assert await call(make(embeddings_cache=OddStore(value)), method, given) == expected


@pytest.mark.parametrize("kind", [tuple, np.array])
async def test_embeddings_cache_may_give_tuples_and_arrays(make, call, sandbox, kind):
    stored = [0.5] * 1536
    sandbox.clear()
    for method, given, expected in ways_to_one_text(stored):
        assert await call(make(embeddings_cache=OddStore({"x": kind(stored)})), method, given) == expected
    assert not sandbox.requests


async def test_embeddings_cache_that_cannot_be_read_gives_one_warning_and_is_asked_once_for_a_batch(make, call):
    right = make().get_text_embedding_batch(TEXTS)
    store = OddStore(ConnectionError(f"no connection for {TEXTS[0]}"))
    embedding = make(embeddings_cache=store)
    with pytest.warns(RuntimeWarning, match=r"a OddStore, failed to read vectors \(ConnectionError\)") as warned:
        assert await call(embedding, "get_text_embedding_batch", TEXTS) == right
    assert store.asked == 1
    assert TEXTS[0] not in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method, given, expected in ways_to_one_text(right[0]):
            assert await call(embedding, method, given) == expected


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on this system")
@pytest.mark.parametrize("wrapped", [False, True])
def test_signal_during_a_lookup_in_embeddings_cache_ends_the_call(make, wrapped):
    class Store(SimpleKVStore):
        def get(self, *_, **__):
            try:
                signal.raise_signal(signal.SIGUSR1)
            except LookupError as error:
                raise OSError("no answer") if wrapped else error  # noqa: B904 - as redis-py does

    def reach_limit(*_):
        raise LookupError("time limit of a task")

    previous = signal.signal(signal.SIGUSR1, reach_limit)
    try:
        with pytest.raises(LookupError, match="time limit"):
            make(embeddings_cache=Store()).get_text_embedding_batch(TEXTS)
    finally:
        signal.signal(signal.SIGUSR1, previous)


class OneVector(SimpleKVStore):
    """A store with a vector of six numbers for the first text."""

    def get(self, key, *_args, **_kwargs):
        return {"x": [0.5] * 6} if key == TEXTS[0] else None

    async def aget(self, key, *_args, **_kwargs):
        return self.get(key)


async def test_stored_vectors_of_other_dimensions_than_the_new_ones_are_an_error(make, call, sandbox, monkeypatch):
    embedding = make(model=ModelInfo("text-embedding-3-small"), embeddings_cache=OneVector())
    with pytest.raises(DimensionsError, match="6 and 1536 dimensions"):
        await call(embedding, "get_text_embedding_batch", TEXTS)
    assert [request.inputs for request in sandbox.requests] == [tuple(TEXTS[1:])]
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    twins = [embedding.model_copy(), embedding.model_copy(deep=True), pickle.loads(pickle.dumps(embedding))]
    for twin in (embedding, *twins):  # the dimensions are known now
        with pytest.warns(RuntimeWarning, match="holds values that are no vectors"):
            (vector,) = await call(twin, "get_text_embedding_batch", TEXTS[:1])
        assert len(vector) == 1536


@pytest.mark.parametrize(
    ("queries", "agg_fn", "error"),
    [
        (["one", 2], None, InvalidTypeError),
        (["one", " "], None, InvalidInputError),
        (["one", "word " * 9000], None, TextTooLongError),
        ("one", None, InvalidTypeError),
        (None, None, InvalidTypeError),
        ([], None, InvalidInputError),
        (["one"], "mean", InvalidTypeError),
    ],
    ids=["number", "blank", "long", "one text", "none", "nothing", "no function"],
)
async def test_all_queries_of_a_mean_are_checked_before_the_first_is_sent(make, call, sandbox, queries, agg_fn, error):
    with pytest.raises(error):
        await call(make(), "get_agg_embedding_from_queries", queries, agg_fn)
    assert sandbox.requests == []


async def test_mean_of_queries_is_that_of_their_vectors(make, call):
    embedding = make(query_instruction="Find: ")
    vectors = [embedding.get_query_embedding(text) for text in TEXTS[:2]]
    found = await call(embedding, "get_agg_embedding_from_queries", (text for text in TEXTS[:2]))
    assert np.allclose(found, np.mean(vectors, axis=0))
    assert await call(embedding, "get_agg_embedding_from_queries", TEXTS[:2], max) == max(vectors)


@pytest.mark.parametrize("method", ["aget_text_embedding_batch", "aget_agg_embedding_from_queries"])
def test_async_methods_under_trio_are_refused_with_the_remedy(make, method):
    trio = pytest.importorskip("trio", reason="trio is not installed")
    with pytest.raises(ConfigurationError, match="asyncio"):
        trio.run(getattr(make(), method), TEXTS)


async def test_callback_manager_is_checked_and_none_is_one_without_handlers(make, call):
    for bad in (3, "manager", object()):
        with pytest.raises(InvalidTypeError, match="callback_manager must have event"):
            make(callback_manager=bad)
        with pytest.raises(InvalidTypeError, match="callback_manager must have event"):
            make().callback_manager = bad
    embedding = make()
    embedding.callback_manager = None
    assert len(await call(embedding, "get_query_embedding", TEXTS[0])) == 1536


@pytest.mark.parametrize("way", ["constructor", "copy", "attribute"])
async def test_embeddings_cache_separates_models_dimensions_and_queries(make, call, sandbox, way):
    cache = SimpleKVStore()
    for given in ({}, {"dimensions": 64}, {"model_name": "BAAI/bge-m3"}, {"query_instruction": "Find: "}):
        if way == "copy":
            embedding = make(embeddings_cache=cache).model_copy(update=given)
        else:
            embedding = make(**given, embeddings_cache=cache if way == "constructor" else None)
            embedding.embeddings_cache = cache
        for method in ("get_text_embedding", "get_query_embedding"):
            right = await call(make(**given), method, TEXTS[0])
            assert await call(embedding, method, TEXTS[0]) == right
            sandbox.clear()
            assert await call(embedding, method, TEXTS[0]) == right
            assert sandbox.requests == []


def test_embeddings_cache_of_a_wrong_type_is_refused(make):
    with pytest.raises(InvalidTypeError, match="BaseKVStore"):
        make(embeddings_cache={})
    with pytest.raises(InvalidTypeError, match="BaseKVStore"):
        make().embeddings_cache = {}


def test_dumps_do_not_include_the_embeddings_cache(make):
    cached = make(embeddings_cache=SimpleKVStore())
    assert json.loads(cached.to_json()) == make().to_dict()


class CountingLimiter(BaseRateLimiter):
    def __init__(self):
        self.calls = []

    def acquire(self, num_tokens=0):  # noqa: ARG002 - the base class's signature
        self.calls.append("sync")

    async def async_acquire(self, num_tokens=0):  # noqa: ARG002
        self.calls.append("async")


async def test_rate_limiter_is_acquired_for_each_batch(make, call):
    limiter = CountingLimiter()
    embedding = make(rate_limiter=limiter, embed_batch_size=4)
    await call(embedding, "get_text_embedding_batch", TEXTS)
    await call(embedding, "get_query_embedding", "a question")
    assert limiter.calls == [call.kind] * 3


@pytest.mark.parametrize("shown", [True, False])
async def test_show_progress_shows_or_hides_the_bar(make, call, capsys, shown):
    await call(make(), "get_text_embedding_batch", TEXTS, show_progress=shown)
    assert ("Generating embeddings: 100%" in capsys.readouterr().err) is shown


async def test_progress_bar_is_left_out_without_standard_error(make, call, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as in services and windowed programs on Windows
    assert len(await call(make(), "get_text_embedding_batch", TEXTS, show_progress=True)) == len(TEXTS)


@pytest.mark.parametrize("bad", [None, 5, "", "  \n", b"bytes"])
async def test_bad_text_is_refused_before_the_first_batch_is_sent(make, call, sandbox, bad):
    kind = InvalidInputError if isinstance(bad, str) else InvalidTypeError
    with pytest.raises(kind):
        await call(make(embed_batch_size=2), "get_text_embedding_batch", [*TEXTS, bad])
    with pytest.raises(kind, match=r"^The text "):
        await call(make(), "get_text_embedding", bad)
    assert sandbox.requests == []


async def test_too_long_text_is_refused_before_the_first_batch_is_sent(make, call, sandbox):
    with pytest.raises(TextTooLongError, match="position 7") as caught:
        await call(make(embed_batch_size=2), "get_text_embedding_batch", [*TEXTS, "word " * 9000])
    assert caught.value.positions == (7,)
    assert sandbox.requests == []


async def test_error_of_a_batch_keeps_the_batches_before_with_positions_in_all_texts(make, call, sandbox):
    right = np.array(make().get_text_embedding_batch(TEXTS), dtype=np.float32)
    sandbox.clear()
    sandbox.add_faults(Fault(None), Fault(None), Fault(401))
    with pytest.raises(AuthenticationError) as caught:
        await call(make(embed_batch_size=2, num_workers=1), "get_text_embedding_batch", TEXTS)
    assert {position: vector.tolist() for position, vector in caught.value.completed.items()} == {
        position: right[position].tolist() for position in range(4)
    }
    assert caught.value.failed_positions == (4, 5, 6)
    assert len(sandbox.requests) == 3


async def test_text_that_the_service_finds_too_long_has_its_position_in_all_texts(make, call, sandbox):

    sandbox.add_faults(Fault(None), Fault(None), Fault(None), Fault(413))
    with pytest.raises(TextTooLongError, match="position 6") as caught:
        await call(make(embed_batch_size=2, num_workers=1), "get_text_embedding_batch", TEXTS)
    assert (caught.value.positions, sorted(caught.value.completed)) == ((6,), [0, 1, 2, 3, 4, 5])


async def test_failed_batch_ends_the_batches_beside_it(make, sandbox):
    sandbox.add_faults(Fault(401))
    with pytest.raises(AuthenticationError):
        await make(embed_batch_size=1, num_workers=1).aget_text_embedding_batch(TEXTS)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("callback_manager", r"^callback_manager must have event\(\), not str\."),
        ("embeddings_cache", r"^embeddings_cache must be a BaseKVStore, not str\."),
        ("rate_limiter", r"^rate_limiter must have acquire\(\) and async_acquire\(\), not str\."),
    ],
)
def test_object_of_the_framework_that_is_none_is_refused(make, name, words):
    embedding = make()
    for use in (
        lambda: make(**{name: "none"}),
        lambda: setattr(embedding, name, "none"),
        lambda: embedding.model_copy(update={name: "none"}),
    ):
        with pytest.raises(InvalidTypeError, match=words):
            use()


async def test_generator_of_texts_is_accepted(make, call):
    vectors = await call(make(embed_batch_size=2), "get_text_embedding_batch", (text for text in TEXTS))
    assert len(vectors) == 7


def test_dump_is_validated_back(options, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", options["api_key"])
    made = NanoGPTEmbedding(**options, dimensions=64)
    twin = NanoGPTEmbedding.model_validate(made.model_dump())
    assert (twin.model_name, twin.api_base, twin.dimensions) == (made.model_name, made.api_base, 64)

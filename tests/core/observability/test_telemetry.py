"""OpenTelemetry, with its real SDK: one span for each call, and metrics, by the conventions for generative AI."""

import asyncio
import contextlib
import contextvars
import logging
import threading

import pytest

from nanogpt_core import Embedder, MemoryCache
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.chat.client import make_async_chat_client, make_chat_client, map_sdk_errors
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.errors import AuthenticationError, NanoGPTError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.sdk import httpx
from nanogpt_core.observability import telemetry as module
from nanogpt_core.observability.observer import RequestTimer
from nanogpt_core.sandbox import Fault, Reply

trace = pytest.importorskip("opentelemetry.trace")
SpanProcessor = pytest.importorskip("opentelemetry.sdk.trace").SpanProcessor

MODEL = "text-embedding-3-small"
KEY = "sk-nano-a-very-secret-key"
HEADER = "a-very-secret-header"
TEXT = "a very secret text"
GUARD_SECONDS = 60


def embedder_of(sandbox, **more):
    return Embedder(MODEL, api_key=sandbox.api_key, base_url=sandbox.base_url, **more)


def port_of(server):
    return int(server.base_url.split(":")[2].split("/")[0])


def test_call_has_one_client_span_by_the_conventions(telemetry, sandbox_with, embed):
    sandbox = sandbox_with(report_cost=True)
    embedder = embedder_of(sandbox)
    embed(embedder, ["a first text", "a second text"])
    (span,) = telemetry.spans
    usage = embedder.usage
    assert span.name == f"embeddings {MODEL}"
    assert span.kind is trace.SpanKind.CLIENT
    assert span.parent is None
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.instrumentation_scope.name == "nanogpt_core"
    assert span.instrumentation_scope.schema_url.startswith("https://opentelemetry.io/schemas/1.")
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "nanogpt",
        "gen_ai.request.model": MODEL,
        "gen_ai.embeddings.dimension.count": 1536,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "server.address": "127.0.0.1",
        "server.port": port_of(sandbox),
        "nanogpt.usage.cost_usd": usage.cost_usd,
        "nanogpt.usage.requests": 1,
        "nanogpt.usage.retries": 0,
        "nanogpt.usage.uncertain": 0,
        "nanogpt.usage.texts_sent": 2,
        "nanogpt.usage.texts_cached": 0,
    }


def test_metrics_of_the_conventions_are_recorded(telemetry, make, embed):
    embedder = make(max_concurrency=1)
    for texts in (["a", "b"], ["c"]):
        embed(embedder, texts)
    (tokens,) = telemetry.points("gen_ai.client.token.usage")
    (durations,) = telemetry.points("gen_ai.client.operation.duration")
    assert (tokens.count, tokens.sum) == (2, embedder.usage.prompt_tokens)
    assert durations.count == 2
    assert durations.sum > 0
    assert durations.explicit_bounds[0] == 0.01
    names = {"gen_ai.operation.name": "embeddings", "gen_ai.provider.name": "nanogpt", "gen_ai.request.model": MODEL}
    assert dict(durations.attributes).items() >= names.items()
    assert dict(tokens.attributes) == {**durations.attributes, "gen_ai.token.type": "input"}


def test_all_batches_and_retries_are_in_one_span(telemetry, sandbox_with, embed):
    embedder = embedder_of(sandbox_with(faults=[Fault(503), Fault(429)]), batch_size=2)
    with fake_clock():
        embed(embedder, [f"text {number}" for number in range(6)])
    (span,) = telemetry.spans
    assert span.attributes["nanogpt.usage.requests"] == 3
    assert span.attributes["nanogpt.usage.retries"] == 2
    assert span.attributes["gen_ai.usage.input_tokens"] == embedder.usage.prompt_tokens


def test_failed_call_has_the_type_of_its_error(telemetry, scripted, faults, embed):
    with pytest.raises(NanoGPTError):
        embed(scripted(faults.response({"error": TEXT}, 401)).embedder(), ["a"])
    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "AuthenticationError"
    assert span.status.status_code is trace.StatusCode.ERROR
    (duration,) = telemetry.points("gen_ai.client.operation.duration")
    assert duration.attributes["error.type"] == "AuthenticationError"
    assert telemetry.points("gen_ai.client.token.usage") == []


def test_failed_call_that_may_be_billed_claims_no_tokens_and_no_cost(telemetry, sandbox_with, embed):
    embedder = embedder_of(sandbox_with(faults=[Fault(503)] * 2), max_retries=1)
    with fake_clock(), pytest.raises(NanoGPTError):
        embed(embedder, ["a"])
    embedder = embedder_of(sandbox_with(faults=[Fault(401)]))
    with pytest.raises(NanoGPTError):
        embed(embedder, ["a"])
    uncertain, refused = telemetry.spans
    assert uncertain.attributes["nanogpt.usage.uncertain"] == 2
    assert not {"gen_ai.usage.input_tokens", "nanogpt.usage.cost_usd"} & uncertain.attributes.keys()
    assert (refused.attributes["gen_ai.usage.input_tokens"], refused.attributes["nanogpt.usage.cost_usd"]) == (0, 0)


def test_cached_call_has_a_span_without_tokens(telemetry, make, embed):
    embedder = make(cache=MemoryCache())
    for _ in range(2):
        embed(embedder, ["a", "b"])
    _, cached = telemetry.spans
    assert cached.attributes["gen_ai.usage.input_tokens"] == cached.attributes["nanogpt.usage.requests"] == 0
    assert cached.attributes["nanogpt.usage.texts_cached"] == 2
    assert telemetry.points("gen_ai.client.token.usage")[0].count == 1


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_stream_has_one_span_that_ends_with_it(telemetry, make, window, way):
    embedder = make(max_concurrency=window)
    texts = [f"text {number}" for number in range(6)]

    async def run():
        async for _ in embedder.astream(texts, batch_size=2):
            assert telemetry.spans == []

    if way == "async":
        asyncio.run(run())
    else:
        for _ in embedder.stream(texts, batch_size=2):
            assert telemetry.spans == []
    (span,) = telemetry.spans
    assert span.attributes["nanogpt.usage.requests"] == 3
    assert "error.type" not in span.attributes


def test_stream_that_is_left_ends_its_span_without_an_error(telemetry, make):
    stream = make(max_concurrency=1).stream(["a", "b", "c"], batch_size=1)
    next(stream)
    assert telemetry.spans == []
    stream.close()
    (span,) = telemetry.spans
    assert span.status.status_code is trace.StatusCode.UNSET


@pytest.fixture
def instrumented_http(telemetry):
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    if httpx.__name__ != "httpx":
        pytest.skip("OpenTelemetry's instrumentation does not know httpx2")
    instrumentor = instrumentation.HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracer_provider)
    yield
    instrumentor.uninstrument()


def parents(telemetry):
    """Return the pairs of a span's name and its parent's name."""
    spans = [*telemetry.spans, *telemetry.app_spans.values()]
    names = {span.context.span_id: span.name for span in spans}
    return sorted((span.name, names[span.parent.span_id]) for span in telemetry.spans)


@pytest.mark.usefixtures("instrumented_http")
@pytest.mark.parametrize("form", ["embed", "stream"])
@pytest.mark.parametrize("window", [1, 4])
def test_http_spans_are_children_of_the_call_in_threads(telemetry, serve, form, window):
    embedder = serve().embedder(batch_size=1, max_concurrency=window)
    with telemetry.span():
        list(embedder.embed(["a", "b", "c"]) if form == "embed" else embedder.stream(["a", "b", "c"]))
    assert parents(telemetry) == [("POST", "embeddings lab/unlisted")] * 3 + [("embeddings lab/unlisted", "app")]


@pytest.mark.usefixtures("instrumented_http")
def test_http_spans_are_children_of_their_own_call_in_tasks(telemetry, serve):
    embedder = serve().embedder(batch_size=1, coalesce=False)

    async def one(name):
        with telemetry.span(name):
            await embedder.aembed([f"{name} 1", f"{name} 2"])

    async def run():
        await asyncio.gather(*map(one, ("Ann", "Bob", "Eve")))

    asyncio.run(run())
    assert len(telemetry.spans) == 9
    for name, app in telemetry.app_spans.items():
        (call,) = [span for span in telemetry.spans if span.parent.span_id == app.context.span_id]
        requests = [span for span in telemetry.spans if span.parent.span_id == call.context.span_id]
        assert [span.name for span in requests] == ["POST"] * 2, name


@pytest.mark.usefixtures("instrumented_http")
def test_gathered_calls_have_a_span_each_with_their_own_tokens(telemetry, serve, faults):
    released = threading.Event()

    def answer(seen):
        if seen.texts == ["first"]:
            released.wait(GUARD_SECONDS)
        return faults.good(seen)

    server = serve(answer)
    embedder = server.embedder(max_concurrency=1, requests_per_second=1000)

    async def one(name, texts):
        with telemetry.span(name):
            await embedder.aembed(texts)

    async def run():
        calls = [asyncio.ensure_future(one("first", ["first"]))]
        await asyncio.to_thread(server.wait_for, lambda: server.in_flight == 1)
        calls += [asyncio.ensure_future(one("Ann", ["a", "bb"])), asyncio.ensure_future(one("Bob", ["ccc"]))]
        await asyncio.sleep(0)
        released.set()
        await asyncio.gather(*calls)

    asyncio.run(run())
    calls = {}
    for name, app in telemetry.app_spans.items():
        (calls[name],) = [span for span in telemetry.spans if span.parent.span_id == app.context.span_id]
    tokens = {name: span.attributes["gen_ai.usage.input_tokens"] for name, span in calls.items()}
    assert tokens == {"first": 5, "Ann": 3, "Bob": 3}
    known = {span.context.span_id for span in calls.values()}
    requests = [span for span in telemetry.spans if span.name == "POST"]
    assert requests
    assert all(span.parent.span_id in known for span in requests)


# --- chat ---


def session_of(sandbox, **more):
    return ChatSession(Endpoint.resolve(api_key=sandbox.api_key, base_url=sandbox.base_url), **more)


async def ask(session, kind, form, take=None, **options):
    """Ask; of a stream, read ``take`` parts and then leave it, or read all of it."""
    client = make_chat_client(session) if kind == "sync" else make_async_chat_client(session)
    options = {"model": "m", "messages": [{"role": "user", "content": TEXT}], **options}
    if form == "stream":
        options |= {"stream": True, "stream_options": {"include_usage": True}}
    with map_sdk_errors(session):
        answer = client.chat.completions.create(**options)
        answer = answer if kind == "sync" else await answer
        if form == "whole":
            return
        parts = iter(answer) if kind == "sync" else answer
        if kind == "sync":
            for number, _ in enumerate(parts, 1):
                if number == take:
                    break
            answer.close()
        else:
            number = 0
            async for _ in parts:
                number += 1
                if number == take:
                    break
            await answer.close()


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture(params=["whole", "stream"])
def form(request):
    return request.param


async def test_chat_has_one_client_span_by_the_conventions(telemetry, fresh_sandbox, kind, form):
    fresh_sandbox.add_replies(Fault(503), Reply("An answer.", usage={"prompt_tokens": 7, "completion_tokens": 5}))
    with fake_clock(), telemetry.span():
        await ask(session_of(fresh_sandbox), kind, form)
    (span,) = telemetry.spans
    assert span.name == "chat m"
    assert span.kind is trace.SpanKind.CLIENT
    assert span.parent.span_id == telemetry.app_spans["app"].context.span_id
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "nanogpt",
        "gen_ai.request.model": "m",
        **({"gen_ai.request.stream": True} if form == "stream" else {}),
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "server.address": "127.0.0.1",
        "server.port": port_of(fresh_sandbox),
        "nanogpt.usage.requests": 1,
        "nanogpt.usage.retries": 1,
        "nanogpt.usage.uncertain": 1,
    }
    sums = {point.attributes["gen_ai.token.type"]: point.sum for point in telemetry.points("gen_ai.client.token.usage")}
    assert sums == {"input": 7, "output": 5}
    (duration,) = telemetry.points("gen_ai.client.operation.duration")
    assert duration.count == 1


async def test_chat_span_has_the_options_of_the_request(telemetry, fresh_sandbox, kind, form):
    fresh_sandbox.add_replies(Reply('{"a": 1}'))
    options = {"temperature": 0, "top_p": 0.5, "frequency_penalty": 1, "presence_penalty": -1, "seed": 7}
    more = {"max_completion_tokens": 99, "user": TEXT, "stop": [TEXT], "response_format": {"type": "json_object"}}
    await ask(session_of(fresh_sandbox), kind, form, **options, **more)
    (span,) = telemetry.spans
    floats = [value for name, value in span.attributes.items() if isinstance(value, float)]
    assert sorted(floats) == [-1, 0, 0.5, 1]
    expected = {f"gen_ai.request.{name}": value for name, value in options.items()}
    expected |= {"gen_ai.request.max_tokens": 99, "gen_ai.output.type": "json"}
    assert dict(span.attributes).items() >= expected.items()
    assert TEXT not in span.to_json()


def answer_of(*finish_reasons, model="the/one"):
    message = {"role": "assistant", "content": "1"}
    choices = [
        {"index": index, "message": message, "finish_reason": reason} for index, reason in enumerate(finish_reasons)
    ]
    return {"model": model, "choices": choices}


async def test_chat_span_has_the_model_and_the_end_of_each_choice(telemetry, serve, faults, kind):
    server = serve(lambda _: faults.response(answer_of("stop", "length")))
    session = ChatSession(Endpoint.resolve(api_key="some-key", base_url=server.base_url))
    await ask(session, kind, "whole", n=2, response_format={"type": "text"})
    (span,) = telemetry.spans
    assert span.attributes["gen_ai.request.choice.count"] == 2
    assert span.attributes["gen_ai.output.type"] == "text"
    assert span.attributes["gen_ai.response.model"] == "the/one"
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop", "length")


async def test_chat_span_leaves_out_a_single_choice_and_unknown_facts(telemetry, serve, faults, kind):
    server = serve(lambda _: faults.response(answer_of(None, model=None)))
    session = ChatSession(Endpoint.resolve(api_key="some-key", base_url=server.base_url))
    await ask(session, kind, "whole", n=1)
    (span,) = telemetry.spans
    names = {"gen_ai.request.choice.count", "gen_ai.output.type"}
    names |= {"gen_ai.response.model", "gen_ai.response.finish_reasons"}
    assert not names & span.attributes.keys()


async def test_failed_chat_has_the_type_of_its_error(telemetry, fresh_sandbox, kind, form):
    fresh_sandbox.add_replies(Fault(401))
    with pytest.raises(NanoGPTError):
        await ask(session_of(fresh_sandbox), kind, form)
    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "AuthenticationError"
    assert span.status.status_code is trace.StatusCode.ERROR


async def test_chat_stream_that_breaks_off_has_the_type_of_its_error(telemetry, fresh_sandbox, kind):
    fresh_sandbox.add_replies(Reply("An answer.", cut_off=True))
    with pytest.raises(NanoGPTError):
        await ask(session_of(fresh_sandbox, max_retries=0), kind, "stream")
    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "DamagedReplyError"


async def test_chat_stream_that_is_left_ends_its_span_without_an_error(telemetry, fresh_sandbox, kind):
    fresh_sandbox.add_replies(Reply("An answer of many words, which is not read to its end."))
    await ask(session_of(fresh_sandbox), kind, "stream", take=1)
    (span,) = telemetry.spans
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.attributes["nanogpt.usage.uncertain"] == 1
    unknown = {"gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "nanogpt.usage.cost_usd"}
    assert not unknown & span.attributes.keys()
    assert telemetry.points("gen_ai.client.token.usage") == []


# --- secrets, other instrumentation, and no instrumentation ---


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
async def test_spans_and_metrics_hold_no_key_header_or_text(telemetry, serve, faults, kind, form, status):
    def answer(seen):
        echo = f"{seen.headers} {seen.body.decode()}"
        more = {"X_Request_ID": f"{KEY} {HEADER}"}
        if status == 200 and seen.path.endswith("/embeddings"):
            return faults.response(faults.document(seen.texts), **more)
        return faults.response({"error": {"message": echo, "code": echo, "type": echo}}, status, **more)

    server, headers = serve(answer), {"X-Secret": HEADER}
    embedder = server.embedder(api_key=KEY, default_headers=headers)
    session = ChatSession(Endpoint.resolve(api_key=KEY, base_url=server.base_url, headers=headers), max_retries=0)
    with fake_clock():
        with contextlib.suppress(NanoGPTError):
            embedder.embed([TEXT])
        with pytest.raises(NanoGPTError):
            await ask(session, kind, form)
    shown = "".join(span.to_json() for span in telemetry.spans)
    shown += repr(telemetry.points("gen_ai.client.operation.duration"))
    assert "embeddings lab/unlisted" in shown
    assert "chat m" in shown
    for secret in (KEY, HEADER, TEXT):
        assert secret not in shown


async def test_span_hides_secrets_that_an_answer_repeats(telemetry, serve, faults, kind):
    server = serve(lambda _: faults.response(answer_of(f"stop {KEY} {HEADER}", model=f"{KEY} {HEADER}")))
    endpoint = Endpoint.resolve(api_key=KEY, base_url=server.base_url, headers={"X-Secret": HEADER})
    await ask(ChatSession(endpoint), kind, "whole")
    (span,) = telemetry.spans
    assert span.attributes["gen_ai.response.finish_reasons"][0].startswith("stop ")
    assert KEY not in span.to_json()
    assert HEADER not in span.to_json()


@pytest.mark.parametrize(
    ("name", "value", "is_traced"),
    [
        ("gen_ai.operation.name", "embeddings", False),
        ("openinference.span.kind", "EMBEDDING", False),
        ("llm.request.type", "embedding", False),
        ("gen_ai.operation.name", "invoke_agent", True),
        ("openinference.span.kind", "CHAIN", True),
    ],
)
def test_call_in_a_span_about_the_same_call_makes_no_second_one(telemetry, make, name, value, is_traced):
    with telemetry.span() as outer:
        outer.set_attribute(name, value)
        make().embed(["a"])
    assert len(telemetry.spans) == is_traced
    assert len(telemetry.points("gen_ai.client.operation.duration")) == is_traced


def test_instrumentation_that_is_suppressed_or_disabled_records_nothing(telemetry, make, monkeypatch):
    utils = pytest.importorskip("opentelemetry.instrumentation.utils")
    with utils.suppress_instrumentation():
        make().embed(["a"])
    assert telemetry.spans == []
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "redis, nanogpt")
    module._is_disabled.cache_clear()
    try:
        make().embed(["b"])
    finally:
        monkeypatch.undo()
        module._is_disabled.cache_clear()
    assert telemetry.spans == []


def test_embeddings_bypass_instrumentation_of_the_sdk(make, monkeypatch, way):
    openai = pytest.importorskip("openai")

    def request(*_args, **_kwargs):
        raise AssertionError("this would record an embeddings request without its model")

    for cls in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(cls, "request", request)
    assert len(way.embed(make(), ["a text"])) == 1


@pytest.mark.parametrize("method", ["on_start", "on_end"])
def test_span_processor_that_raises_breaks_no_call_and_is_logged_once(
    telemetry, make, scripted, faults, embed, caplog, method
):
    def fail(*_args, **_kwargs):
        raise RuntimeError("the processor's own")

    processor = SpanProcessor()
    setattr(processor, method, fail)
    telemetry.tracer_provider.add_span_processor(processor)
    embedder, failing = make(), scripted(faults.response({"error": TEXT}, 401)).embedder()
    for text in "ab":
        assert len(embed(embedder, [text])) == 1
    with pytest.raises(AuthenticationError):
        embed(failing, ["a"])
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.message.partition(" failed")[0] for one in warnings] == ["OpenTelemetry"] * 2  # of each embedder
    assert "the processor's own" in caplog.text
    assert TEXT not in caplog.text


def test_program_without_a_tracer_provider_records_nothing(make):
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), "another test has set one up"
    assert module._tracer(trace) is None
    make().embed(["a"])


def test_request_that_ends_after_its_call_changes_no_ended_span(telemetry, make):
    observer, timer = make()._pipeline.observe(), RequestTimer()
    timer.attempts = 1
    observer.end()
    observer.report(timer, texts=1, prompt_tokens=1)
    (span,) = telemetry.spans
    assert span.attributes["nanogpt.usage.requests"] == 0


def test_spans_are_made_in_the_context_of_the_caller(telemetry, make):
    embedder = make()

    def work(name):
        with telemetry.span(name):
            embedder.embed([name])

    for name in ("Ann", "Bob"):
        contextvars.copy_context().run(work, name)
    apps = {span.context.span_id for span in telemetry.app_spans.values()}
    assert {span.parent.span_id for span in telemetry.spans} == apps

"""Spans of both plugins, beside the instrumentation of others: no span twice, and none of an unknown model.

Logfire is no part of the environment for development, since its plugins of pydantic and pytest slow down all other
tests: ``make logfire`` runs its test.
"""

import asyncio
import importlib
import os
import traceback
import warnings
from importlib.util import find_spec

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)
pytest.importorskip("opentelemetry.sdk")

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core.sandbox import Reply

EMBEDDING = "text-embedding-3-small"
CHAT = "gpt-4o-mini"
WAYS = ["sync", "async"]


async def embed(target, way):
    if isinstance(target, NanoGPTEmbeddings):
        return target.embed_documents(["a", "b"]) if way == "sync" else await target.aembed_documents(["a", "b"])
    if way == "sync":
        return target.get_text_embedding_batch(["a", "b"])
    return await target.aget_text_embedding_batch(["a", "b"])


async def ask(target, way, form):
    """Ask; a stream is read to its end."""
    names = ("invoke", "stream") if isinstance(target, ChatNanoGPT) else ("complete", "stream_complete")
    method = getattr(target, ("" if way == "sync" else "a") + names[form == "stream"])
    answer = method("Hello")
    if form == "whole":
        return answer if way == "sync" else await answer
    if way == "sync":
        return list(answer)
    answer = await answer if asyncio.iscoroutine(answer) else answer
    return [part async for part in answer]


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture(params=["whole", "stream"])
def form(request):
    return request.param


@pytest.fixture(params=[NanoGPTEmbeddings, NanoGPTEmbedding], ids=lambda cls: cls.__name__)
def embeddings(request, fresh_sandbox):
    return request.param(EMBEDDING, api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)


@pytest.fixture(params=[ChatNanoGPT, NanoGPT], ids=lambda cls: cls.__name__)
def chat(request, fresh_sandbox):
    fresh_sandbox.add_replies(Reply("An answer.", usage={"prompt_tokens": 7, "completion_tokens": 5}))
    return request.param(model=CHAT, api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)


async def test_embedding_has_one_span_and_its_metrics(telemetry, embeddings, way):
    with telemetry.span():
        await embed(embeddings, way)
    (span,) = telemetry.spans
    assert span.name == f"embeddings {EMBEDDING}"
    assert span.parent.span_id == telemetry.app_spans["app"].context.span_id
    assert span.attributes["gen_ai.usage.input_tokens"] == embeddings.usage.prompt_tokens
    (tokens,) = telemetry.points("gen_ai.client.token.usage")
    assert tokens.sum == embeddings.usage.prompt_tokens


async def test_chat_has_one_span_and_its_metrics(telemetry, chat, way, form):
    with telemetry.span():
        await ask(chat, way, form)
    (span,) = telemetry.spans
    assert span.name == f"chat {CHAT}"
    assert span.parent.span_id == telemetry.app_spans["app"].context.span_id
    assert (span.attributes["gen_ai.usage.input_tokens"], span.attributes["gen_ai.usage.output_tokens"]) == (7, 5)
    sums = {point.attributes["gen_ai.token.type"]: point.sum for point in telemetry.points("gen_ai.client.token.usage")}
    assert sums == {"input": 7, "output": 5}


def test_spans_of_langchains_threads_have_the_right_parent(telemetry, fresh_sandbox):
    chat = ChatNanoGPT(model=CHAT, api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)
    with telemetry.span():
        chat.batch(["one", "two", "three"])
    app = telemetry.app_spans["app"].context.span_id
    assert [span.parent.span_id for span in telemetry.spans] == [app] * 3


# --- beside the instrumentation of others ---


def openllmetry(telemetry):
    instrumentor = importlib.import_module("opentelemetry.instrumentation.openai").OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider)


def openinference(telemetry, framework="openai", name="OpenAIInstrumentor"):
    instrumentor = getattr(importlib.import_module(f"openinference.instrumentation.{framework}"), name)()
    instrumentor.instrument(tracer_provider=telemetry.tracer_provider)


def logfire(telemetry):
    module = importlib.import_module("logfire")
    options = {"send_to_logfire": False, "console": False, "local": True, "inspect_arguments": False}
    module.configure(**options, additional_span_processors=[telemetry.processor]).instrument_openai()


SDK = {
    "openllmetry": ("opentelemetry.instrumentation.openai", openllmetry),
    "openinference": ("openinference.instrumentation.openai", openinference),
    "logfire": ("logfire", logfire),
}


@pytest.fixture
def in_child():
    """``in_child(check)`` runs a function in a fork: some of these packages cannot be switched off again."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork")

    def run(check):
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the sandbox's thread
            child = os.fork()
        if not child:
            try:
                warnings.simplefilter("ignore", DeprecationWarning)  # of these packages
                check()
            except BaseException:  # noqa: BLE001 - the parent raises it
                os.write(writer, traceback.format_exc()[-5000:].encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as pipe:
            failure = pipe.read()
        os.waitpid(child, 0)
        assert not failure, failure

    return run


def skip_without(package):
    """Skip the test if a package is not installed; without importing it, since the child does."""
    parts = package.split(".")
    if any(find_spec(".".join(parts[: end + 1])) is None for end in range(len(parts))):
        pytest.skip(f"{package} is not installed")


def all_objects(sandbox):
    options = {"api_key": sandbox.api_key, "base_url": sandbox.base_url}
    embeddings = [NanoGPTEmbeddings(EMBEDDING, **options), NanoGPTEmbedding(EMBEDDING, **options)]
    return embeddings, [ChatNanoGPT(model=CHAT, **options), NanoGPT(model=CHAT, **options)]


@pytest.mark.parametrize("name", SDK)
def test_beside_instrumentation_of_the_sdk_each_call_has_one_span(telemetry, fresh_sandbox, in_child, name):
    package, instrument = SDK[name]
    skip_without(package)
    embeddings, chats = all_objects(fresh_sandbox)
    fresh_sandbox.add_replies(*[Reply("An answer.", usage={"prompt_tokens": 7, "completion_tokens": 5})] * 8)

    def check():
        instrument(telemetry)
        for target in embeddings:
            for way in WAYS:
                telemetry.clear()
                asyncio.run(embed(target, way))
                assert [span.name for span in telemetry.spans] == [f"embeddings {EMBEDDING}"], (target, way)
        counted = sum(target.usage.prompt_tokens for target in embeddings)
        for target in chats:
            for way in WAYS:
                for form in ("whole", "stream"):
                    telemetry.clear()
                    asyncio.run(ask(target, way, form))
                    scopes = [span.instrumentation_scope.name for span in telemetry.spans]
                    # Logfire makes one span for the request, and another one at the end of a stream.
                    assert len(scopes) == 1 + (name == "logfire" and form == "stream"), (target, way, form)
                    assert "nanogpt_core" not in scopes
        measured = sum(point.sum for point in telemetry.points("gen_ai.client.token.usage"))
        assert measured == counted + (8 * 12 if name == "openllmetry" else 0)  # the others measure no tokens

    in_child(check)


def test_beside_openinference_for_langchain_each_layer_has_its_span(telemetry, fresh_sandbox, in_child):
    skip_without("openinference.instrumentation.langchain")
    _, (chat, _) = all_objects(fresh_sandbox)

    def check():
        openinference(telemetry, "langchain", "LangChainInstrumentor")
        for way in WAYS:
            for form in ("whole", "stream"):
                telemetry.clear()
                with telemetry.span():
                    asyncio.run(ask(chat, way, form))
                assert sorted(span.name for span in telemetry.spans) == ["ChatNanoGPT", f"chat {CHAT}"], (way, form)
                app = telemetry.app_spans["app"].context.span_id
                assert [span.parent.span_id for span in telemetry.spans] == [app, app]

    in_child(check)


def test_beside_openinference_for_llama_index_ours_is_the_child_of_its_span(telemetry, fresh_sandbox, in_child):
    skip_without("openinference.instrumentation.llama_index")
    (_, embedding), (_, llm) = all_objects(fresh_sandbox)

    def check():
        openinference(telemetry, "llama_index", "LlamaIndexInstrumentor")
        for way in WAYS:
            telemetry.clear()
            with telemetry.span():
                asyncio.run(ask(llm, way, "whole"))
                asyncio.run(embed(embedding, way))
            ours = [span for span in telemetry.spans if span.instrumentation_scope.name == "nanogpt_core"]
            others = {span.context.span_id: span.name for span in telemetry.spans if span not in ours}
            assert [span.name for span in ours] == [f"chat {CHAT}", f"embeddings {EMBEDDING}"]
            assert [others[span.parent.span_id].split(".")[0] for span in ours] == ["NanoGPT", "NanoGPTEmbedding"]

    in_child(check)

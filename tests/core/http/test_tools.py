"""Visibility of our requests to tools that mock, record or trace httpx."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from nanogpt_core import Embedder
from nanogpt_core.chat.client import make_async_chat_client, make_chat_client
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.sdk import httpx

BASE_URL = "https://nano-gpt.com/api/v1"
CHAT = {
    "id": "1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
}  # fmt: skip
VECTORS = {
    "object": "list",
    "data": [{"index": 0, "embedding": [1.0, 2.0]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}

only_httpx = pytest.mark.skipif(httpx.__name__ != "httpx", reason="this tool does not know httpx2")


@pytest.fixture(params=["embeddings", "chat"])
def ask(request, way):
    """Send one request to a base URL and return its result; the response's document is in ``ask.document``."""

    def embeddings(base_url):
        embedder = Embedder("lab/unlisted", api_key="k", base_url=base_url, max_retries=0)
        return way.embed(embedder, ["a"]).tolist()

    def chat(base_url):
        session = ChatSession(Endpoint.resolve(api_key="k", base_url=base_url), max_retries=0)
        options = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
        if way.name == "sync":
            return make_chat_client(session).chat.completions.create(**options).choices[0].message.content

        async def run():
            reply = await make_async_chat_client(session).chat.completions.create(**options)
            return reply.choices[0].message.content

        return asyncio.run(run())

    if request.param == "embeddings":
        return SimpleNamespace(send=embeddings, document=VECTORS, path="/embeddings", result=[[1.0, 2.0]])
    return SimpleNamespace(send=chat, document=CHAT, path="/chat/completions", result="hello")


@only_httpx
def test_respx_mocks_our_requests(ask):
    respx = pytest.importorskip("respx")
    with respx.mock(base_url=BASE_URL) as router:
        route = router.post(ask.path).respond(json=ask.document)
        assert ask.send(BASE_URL) == ask.result
    assert route.call_count == 1


@only_httpx
def test_pytest_httpx_mocks_our_requests(ask, request):
    pytest.importorskip("pytest_httpx")
    mock = request.getfixturevalue("httpx_mock")
    # It compares the names of headers with their case.
    mock.add_response(url=BASE_URL + ask.path, json=ask.document, match_headers={"Authorization": "Bearer k"})
    assert ask.send(BASE_URL) == ask.result
    assert len(mock.get_requests()) == 1


def test_vcr_records_and_replays_our_requests(ask, serve, faults, tmp_path):
    vcr = pytest.importorskip("vcr")
    server = serve(lambda _: faults.response(ask.document, Content_Type="application/json"))
    for _ in range(2):
        with vcr.use_cassette(str(tmp_path / "tape.yaml"), filter_headers=["authorization"]) as cassette:
            assert ask.send(server.base_url) == ask.result
    assert len(server.requests) == 1
    assert cassette.play_count == 1


def test_opentelemetry_traces_our_requests(ask, serve, faults):
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    exporters = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    exporter, provider = exporters.InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    kinds = {"httpx": "HTTPXClientInstrumentor", "httpx2": "HTTPX2ClientInstrumentor"}
    kind = getattr(instrumentation, kinds[httpx.__name__], None)
    if kind is None:
        pytest.skip("this version of the instrumentation does not know httpx2")
    server = serve(lambda _: faults.response(ask.document, Content_Type="application/json"))
    kind().instrument(tracer_provider=provider)
    try:
        assert ask.send(server.base_url) == ask.result
    finally:
        kind().uninstrument()
    (span,) = exporter.get_finished_spans()
    assert json.loads(span.to_json())["attributes"]["http.method"] == "POST"
    assert any(key.lower() == "traceparent" for key, _ in server.requests[0].headers)

"""A service with 200 concurrent requests over both frameworks: spans, metrics, records and usage agree with the
service's own count of requests, tokens and dollars, although a part of the requests fails at first.
"""

import asyncio
import itertools
import json

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)
pytest.importorskip("opentelemetry.sdk")

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import Sandbox, Usage, track_usage
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.http.account import fetch_usage
from nanogpt_core.sandbox import Fault
from nanogpt_core.sandbox.chat import answer_chat

USERS = 200
EMBEDDING = "text-embedding-3-small"
CHAT = "gpt-4o-mini"
FAULTS = [Fault(503), None, None, Fault(429), None, Fault(500), None, None, None, None]


class Service:
    """Answers questions with an embedding and a chat of one framework; keeps what each way of counting has counted."""

    def __init__(self, telemetry, sandbox):
        self.telemetry, self.records = telemetry, []
        options = {"api_key": sandbox.api_key, "base_url": sandbox.base_url, "on_request": self.records.append}
        options["max_retries"] = 20
        self.chat, self.llm = ChatNanoGPT(model=CHAT, **options), NanoGPT(model=CHAT, **options)
        self.embeddings = NanoGPTEmbeddings(EMBEDDING, **options)
        self.embedding = NanoGPTEmbedding(EMBEDDING, **options)

    async def answer(self, user):
        question = f"question of user {user}"
        with self.telemetry.span(f"user {user}"):
            async with track_usage() as usage:
                if user % 2:
                    await self.embeddings.aembed_query(question)
                    async for _ in self.chat.astream(question):
                        pass
                else:
                    await self.embedding.aget_query_embedding(question)
                    await self.llm.acomplete(question)
        return usage

    async def run(self):
        async with track_usage() as self.usage:
            self.usages = await asyncio.gather(*map(self.answer, range(USERS)))

    def sum_of_spans(self, name, kind=""):
        spans = [span for span in self.telemetry.spans if span.name.startswith(kind)]
        return sum(span.attributes.get(name, 0) for span in spans)

    def sum_of_metric(self, kind):
        points = self.telemetry.points("gen_ai.client.token.usage")
        return sum(point.sum for point in points if point.attributes["gen_ai.token.type"] == kind)


def chat_bill(log):
    """Return the tokens of prompts and of answers, and the dollars, of all answered chat requests."""
    replies = [json.loads(answer_chat(one.body, report_cost=True).whole()) for one in log]
    usages = [reply["usage"] for reply in replies]
    return (
        sum(usage["prompt_tokens"] for usage in usages),
        sum(usage["completion_tokens"] for usage in usages),
        sum(reply["x_nanogpt_pricing"]["amount"] for reply in replies),
    )


async def test_spans_metrics_records_and_usage_agree_with_the_services_own_count(telemetry, monkeypatch):
    # 200 connections at once can take a very busy machine longer than usual, and each late one would be a retry.
    monkeypatch.setattr("nanogpt_core.http.sdk._CONNECT_SECONDS", 60.0)
    faults = list(itertools.islice(itertools.cycle(FAULTS), USERS))
    with Sandbox(report_cost=True, faults=faults) as sandbox, fake_clock():
        service = Service(telemetry, sandbox)
        await service.run()
        log = sandbox.requests
        billed = (await asyncio.to_thread(fetch_usage, sandbox.api_key, sandbox.base_url)).total
    failed = [one for one in log if one.status != 200]
    embedded = [one for one in log if one.status == 200 and one.path.endswith("/embeddings")]
    answered = [one for one in log if one.status == 200 and one.path.endswith("/chat/completions")]
    asked, said, chat_usd = chat_bill(answered)

    # One span for each call, below the span of its user.
    assert (
        sorted(span.name for span in telemetry.spans) == [f"chat {CHAT}"] * USERS + [f"embeddings {EMBEDDING}"] * USERS
    )
    parents = sorted(span.parent.span_id for span in telemetry.spans)
    assert parents == sorted(2 * [span.context.span_id for span in telemetry.app_spans.values()])

    # Requests.
    assert service.sum_of_spans("nanogpt.usage.requests", "embeddings") == len(embedded)
    assert service.sum_of_spans("nanogpt.usage.requests", "chat") == len(answered) == USERS
    assert service.sum_of_spans("nanogpt.usage.retries") == service.usage.retries == len(failed) > 0
    assert service.usage.requests == len(embedded) + len(answered)
    assert service.usage.uncertain == sum(one.status >= 500 for one in failed)
    assert sum(record.attempts for record in service.records if not record.shared) == len(log)

    # Tokens.
    assert service.sum_of_spans("gen_ai.usage.input_tokens", "embeddings") == billed.input_tokens
    assert service.sum_of_spans("gen_ai.usage.input_tokens", "chat") == asked
    assert service.sum_of_spans("gen_ai.usage.output_tokens") == said
    assert service.usage.prompt_tokens == service.sum_of_metric("input") == billed.input_tokens + asked
    assert service.usage.completion_tokens == service.sum_of_metric("output") == said

    # Dollars.
    assert service.sum_of_spans("nanogpt.usage.cost_usd", "embeddings") == pytest.approx(billed.usd)
    assert service.sum_of_spans("nanogpt.usage.cost_usd", "chat") == pytest.approx(chat_usd)
    assert service.usage.cost_usd == pytest.approx(billed.usd + chat_usd)
    assert sum(record.cost_usd for record in service.records) == pytest.approx(billed.usd + chat_usd)

    # The sum over all users.
    both = sum(service.usages, start=Usage())
    assert (both.requests, both.prompt_tokens, both.texts_sent) == (
        service.usage.requests,
        service.usage.prompt_tokens,
        service.usage.texts_sent,
    )
    assert both.cost_usd == pytest.approx(service.usage.cost_usd)

"""The sandbox as the service is today, and as the reference page describes it."""

import re

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

import json
import urllib.error
import urllib.request

from nanogpt_core import MODELS, Embedder, errors, list_models
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.sdk import httpx
from nanogpt_core.sandbox import SERVICE_ERRORS, Reply, Sandbox
from nanogpt_core.sandbox.rate_limit import DailyLimit


def embedder(sandbox, model="text-embedding-3-small", **options):
    return Embedder(model, **{"api_key": sandbox.api_key, "base_url": sandbox.base_url, "max_retries": 0, **options})


EXPECTED = {
    "invalid_model": errors.ModelNotFoundError,
    "invalid_api_key": errors.AuthenticationError,
    "server_error": errors.ServerError,
    "insufficient_balance": errors.InsufficientBalanceError,
    "rate_limited": errors.RateLimitError,
    "insufficient_quota": errors.InsufficientBalanceError,
    "model_not_found": errors.ModelNotFoundError,
    "model_not_allowed": errors.PermissionDeniedError,
    "api_key_origin_not_allowed": errors.PermissionDeniedError,
    "no_fallback_available": errors.BadRequestError,
    "all_fallbacks_failed": errors.ServerError,
    "conflict": errors.BadRequestError,
    "unsupported_content_encoding": errors.BadRequestError,
    "daily_rpd_limit_exceeded": errors.QuotaExceededError,
    "daily_usd_limit_exceeded": errors.QuotaExceededError,
}


def test_every_documented_error_is_in_the_table():
    assert set(SERVICE_ERRORS) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_documented_errors_are_served_on_request(name):
    with Sandbox(faults=[SERVICE_ERRORS[name]]) as sandbox:
        with pytest.raises(errors.StatusError) as caught:
            embedder(sandbox).embed(["one"])
        assert type(caught.value) is EXPECTED[name]
        assert caught.value.status == SERVICE_ERRORS[name].status
        assert caught.value.remedy
        assert embedder(sandbox).embed(["one"]).shape == (1, 1536)


def ask_without_key(sandbox, **headers):
    body = json.dumps({"model": "text-embedding-3-small", "input": "one"}).encode()
    request = urllib.request.Request(f"{sandbox.base_url}/embeddings", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as answer:
        return answer.code, json.load(answer)


def test_request_for_a_quote_without_a_key_gets_the_payment_form():
    with Sandbox() as sandbox:
        status, body = ask_without_key(sandbox, **{"x-x402": "true"})
        assert (status, body["error"]["code"]) == (402, "insufficient_quota")
        assert body["payment"]["amountUsd"] == "0.0714"
        assert ask_without_key(sandbox)[0] == 401


def test_reference_page_is_served_on_request():
    with Sandbox(reference_page=True) as sandbox:
        listed = list_models(sandbox.api_key, sandbox.base_url)
        assert list(listed) == list(MODELS)[:16]
        assert embedder(sandbox, "BAAI/bge-large-en-v1.5").embed(["one"]).shape == (1, 768)
        with pytest.raises(errors.ModelNotFoundError, match="Invalid model specified") as caught:
            embedder(sandbox, "text-embedding-3-smal").embed(["one"])
        assert (caught.value.status, caught.value.param, caught.value.code) == (400, "model", None)
        assert "text-embedding-3-small" in caught.value.remedy
        with pytest.raises(errors.ModelNotFoundError):
            embedder(sandbox, "jina-embeddings-v3").embed(["one"])
        # It names no limit below 2048 texts.
        assert len(embedder(sandbox, "BAAI/bge-m3", batch_size=2048).embed(["one", *map(str, range(64))])) == 65
        assert [request.status for request in sandbox.requests][-1] == 200


def test_list_of_today_has_more_models():
    with Sandbox() as sandbox:
        listed = list_models(sandbox.api_key, sandbox.base_url)
        assert set(MODELS) < set(listed)
        assert listed["BAAI/bge-reranker-large"].is_reranker
        with pytest.raises(errors.ModelNotFoundError) as caught:
            embedder(sandbox, "nope").embed(["one"])
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("model", ["text-embedding-3-large", "sandbox-embedding-new"])
def test_costs_are_reported_on_request(model):
    with Sandbox(report_cost=True) as reporting, Sandbox() as plain:
        first, second = embedder(reporting, model), embedder(plain, model)
        for one in (first, second):
            one.embed(["one two three", "four"])
        if model in MODELS:
            assert first.usage.cost_usd == pytest.approx(second.usage.cost_usd)
            assert first.usage.cost_usd > 0
        else:
            assert (first.usage.cost_usd, second.usage.cost_usd) == (0.0, None)


@pytest.mark.parametrize("form", ["plain", "stream", "stream without usage"])
def test_costs_of_chat_are_reported_on_request(form):
    options = {"model": "any", "messages": [{"role": "user", "content": "one two three"}]}
    if form != "plain":
        options |= {"stream": True, "stream_options": {"include_usage": form == "stream"}}
    with Sandbox(report_cost=True, script=[Reply("four five", reasoning="six")]) as sandbox:
        listed = httpx.get(f"{sandbox.base_url}/models?detailed=true", headers={"x-api-key": sandbox.api_key}).json()[
            "data"
        ]
        body = httpx.post(
            f"{sandbox.base_url}/chat/completions", headers={"x-api-key": sandbox.api_key}, json=options
        ).text
    lines = [body] if form == "plain" else [line.removeprefix("data: ") for line in body.splitlines()]
    replies = [json.loads(line) for line in lines if line.startswith("{")]
    (pricing,) = [reply["x_nanogpt_pricing"] for reply in replies if "x_nanogpt_pricing" in reply]
    prices = next(one["pricing"] for one in listed if one["id"] == "sandbox-quote")
    cost = (pricing["inputTokens"] * prices["prompt"] + pricing["outputTokens"] * prices["completion"]) / 1e6
    assert pricing["cost"] == pytest.approx(cost)
    assert pricing["cost"] > 0
    usages = [reply["usage"] for reply in replies if reply.get("usage")]
    assert [(one["prompt_tokens"], one["completion_tokens"]) for one in usages] == (
        [] if form == "stream without usage" else [(pricing["inputTokens"], pricing["outputTokens"])]
    )


def test_costs_of_chat_are_not_reported_by_default():
    with Sandbox() as sandbox:
        options = {"model": "any", "messages": [{"role": "user", "content": "one"}]}
        body = httpx.post(
            f"{sandbox.base_url}/chat/completions", headers={"x-api-key": sandbox.api_key}, json=options
        ).json()
    assert "x_nanogpt_pricing" not in body


def test_requests_of_a_day_are_limited():
    with Sandbox(requests_per_day=2) as sandbox:
        own = embedder(sandbox, max_retries=5)
        own.embed(["one"])
        own.embed(["two"])
        with pytest.raises(errors.QuotaExceededError, match="midnight UTC") as caught:
            own.embed(["three"])
        assert caught.value.code == "daily_rpd_limit_exceeded"
        assert 0 < caught.value.retry_after <= 86_400
        assert re.search(r"Try again in .* UTC", caught.value.remedy)
        assert [request.status for request in sandbox.requests] == [200, 200, 429]


def test_daily_limit_resets_at_midnight_utc():
    now = [86_400.0 * 7 + 100]
    limit = DailyLimit(2, clock=lambda: now[0])
    assert [limit.admit() for _ in range(3)] == [0, 0, 86_300]
    now[0] = 86_400.0 * 8 - 0.5
    assert limit.admit() == 1
    now[0] = 86_400.0 * 8
    assert [limit.admit() for _ in range(3)] == [0, 0, 86_400]


@pytest.mark.parametrize("value", [0, -1])
def test_impossible_daily_limit_is_refused(value):
    with pytest.raises(ConfigurationError, match="requests_per_day"):
        Sandbox(requests_per_day=value)

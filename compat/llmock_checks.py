"""Checks of llmock, a mock that judges its client."""

from __future__ import annotations

from typing import Any

import pytest
from case import TEXTS, Case
from servers import ask

from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    PermissionDeniedError,
    ReplyError,
    ServerError,
    TextTooLongError,
)


def scripted(case: Case, *behaviors: dict[str, Any]) -> None:
    """Reset the mock, and set its next behaviours."""
    ask(f"{case.server.root}/_llmock/reset", {})
    assert ask(f"{case.server.root}/_llmock/scenario", {"behaviors": list(behaviors)})[0] == 201


def verdict(case: Case, *, faults: int) -> None:
    """Check the number of injected faults, and that the mock has no finding on our reaction to them."""
    found = ask(f"{case.server.root}/_llmock/verdict")[1]
    assert found["faults_injected"] == faults, found
    assert found["findings"] == [], found


def reply_format(case: Case) -> None:
    """It sends 1,536 floats for any model and ignores ``dimensions``, which our package refuses."""
    assert isinstance(case.raw(["a"], encoding_format="base64")[1]["data"][0]["embedding"], list)
    with pytest.raises(ReplyError, match="1536 dimensions, not 256"):
        case.embedder("text-embedding-3-small", dimensions=256).embed(TEXTS[:3])
    embedder = case.embedder()
    embedder.embed(TEXTS)
    assert (embedder.usage.prompt_tokens or 0) > 0


def passing_errors(case: Case) -> None:
    """Errors and delays, some with ``Retry-After``: right vectors, and no findings of the mock."""
    scripted(
        case,
        {"type": "fail", "status": 429, "retry_after": 0.7, "times": 2},
        {"type": "fail", "status": 503, "retry_after": 1},
        {"type": "fail", "status": 500},
        {"type": "delay", "seconds": 0.5, "times": 2},
    )
    case.right(TEXTS, case.embedder(api_key="sk-passing").embed(TEXTS))
    verdict(case, faults=4)


def lasting_errors(case: Case) -> None:
    """Refusals are not retried; an outage is, up to ``max_retries``."""
    for status, kind in ((401, AuthenticationError), (403, PermissionDeniedError), (422, BadRequestError)):
        scripted(case, {"type": "fail", "status": status})
        with pytest.raises(kind):
            case.embedder(api_key="sk-lasting").embed(TEXTS[:3])
        verdict(case, faults=1)
    scripted(case, {"type": "fail", "status": 503, "retry_after": 0.2, "times": None})
    with pytest.raises(ServerError):
        case.embedder(api_key="sk-lasting", max_retries=3).embed(TEXTS[:3])
    verdict(case, faults=4)


def rate_limit(case: Case) -> None:
    """300 requests a minute, and more are sent: refused requests wait for ``Retry-After``."""
    ask(f"{case.server.root}/_llmock/reset", {})
    texts = [f"{number}" for number in range(330)]
    embedder = case.embedder(api_key="sk-quota", batch_size=1, requests_per_second=200)
    vectors = embedder.embed(texts)
    case.expected.update(zip(texts, case.embedder(api_key="sk-quota-2").embed(texts), strict=True))
    case.right(texts, vectors)
    found = ask(f"{case.server.root}/_llmock/verdict")[1]
    assert found["findings"] == [], found
    assert embedder.usage.retries > 0, embedder.usage


def context_window(case: Case) -> None:
    """2,000 tokens a request: larger batches are split; a single text that is too long is named."""
    ask(f"{case.server.root}/_llmock/reset", {})
    texts = [f"{number} {text} {'long ' * 60}" for number, text in enumerate(TEXTS)]
    embedder = case.embedder("window", api_key="sk-window", batch_size=90)
    vectors = embedder.embed(texts)
    for text in texts:
        case.expected[text] = case.embedder("window", api_key="sk-window-2").embed_query(text)
    case.right(texts, vectors)
    assert embedder.usage.requests > 2, embedder.usage
    with pytest.raises(TextTooLongError) as caught:
        case.embedder("window", api_key="sk-window-3").embed([*texts[:5], "long " * 3000, *texts[5:9]])
    assert caught.value.positions == (5,)
    assert [found["code"] for found in ask(f"{case.server.root}/_llmock/verdict")[1]["findings"]] == []


CHECKS = [reply_format, passing_errors, lasting_errors, rate_limit, context_window]

"""Checks of aimock, a mock with faults by chance."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest
from case import TEXTS, Case
from servers import ask

from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ReplyError,
    RequestTimeoutError,
    ServerError,
)


@contextlib.contextmanager
def chaos(case: Case, **rates: float) -> Iterator[None]:
    """Let the mock inject faults while the block runs."""
    assert ask(f"{case.server.root}/__aimock/chaos", rates)[0] == 200
    try:
        yield
    finally:
        ask(f"{case.server.root}/__aimock/chaos", method="DELETE")


@contextlib.contextmanager
def attempts(case: Case, number: int) -> Iterator[None]:
    """Check the number of requests to the mock."""
    ask(f"{case.server.root}/__aimock/reset/journal", {})
    yield
    journal = ask(f"{case.server.root}/__aimock/journal?path=/v1/embeddings")[1]
    assert len(journal) == number, len(journal)


def once(case: Case, status: int, **body: str) -> None:
    """Let the mock answer one request with an error."""
    assert ask(f"{case.server.root}/__aimock/error", {"status": status, "body": body})[0] == 200


def reply_format(case: Case) -> None:
    """It always sends floats, accepts any model and any ``dimensions``; its 0 tokens count as unknown."""
    assert isinstance(case.raw(["a"], encoding_format="base64")[1]["data"][0]["embedding"], list)
    embedder = case.embedder("text-embedding-3-small", dimensions=256)
    wanted = np.stack([case.expected[text][:256] for text in TEXTS])
    assert np.array_equal(embedder.embed(TEXTS), wanted)
    assert embedder.usage.prompt_tokens is None
    with pytest.raises(ReplyError, match="1536 dimensions"):
        case.embedder("BAAI/bge-m3").embed(TEXTS[:3])


def wrong_key(case: Case) -> None:
    """It answers 401 in OpenAI's form."""
    with pytest.raises(AuthenticationError, match="Invalid API key"):
        case.embedder(api_key="sk-wrong").embed(TEXTS[:3])


def passing_errors(case: Case) -> None:
    """One 500, one 503 and one 429: each is retried."""
    for status in (500, 503, 429):
        once(case, status, message="for a moment")
    embedder = case.embedder()
    with attempts(case, 3 + 3):
        case.right(TEXTS, embedder.embed(TEXTS))
    assert embedder.usage.retries == 3, embedder.usage


def lasting_errors(case: Case) -> None:
    """Errors that waiting does not cure end the call after one request."""
    for status, code, kind in (
        (429, "insufficient_quota", QuotaExceededError),
        (403, "forbidden", PermissionDeniedError),
        (400, "bad_thing", BadRequestError),
    ):
        once(case, status, message="not today", code=code)
        with attempts(case, 1), pytest.raises(kind, match="not today"):
            case.embedder().embed(TEXTS[:3])


def splits_batch(case: Case) -> None:
    """A 400 about size: the batch is split into halves."""
    # After a 429, a call may share a request, and a shared request that is refused is sent again by itself.
    once(case, 400, message="This model's maximum context length is 9 tokens.", code="context_length_exceeded")
    with attempts(case, 3):
        case.right(TEXTS[:32], case.embedder("split-here", coalesce=False).embed(TEXTS[:32]))


def lasting_fault(case: Case) -> None:
    """A fault that does not go away ends in its error, after as many attempts as allowed."""
    for fault, kind in (
        ("dropRate", ServerError),
        ("rateLimitRate", RateLimitError),
        ("malformedRate", ReplyError),
        ("disconnectRate", ConnectionFailedError),
    ):
        begun = time.monotonic()
        with attempts(case, 3), chaos(case, **{fault: 1}), pytest.raises(kind):
            case.embedder(max_retries=2).embed(TEXTS[:3])
        # The mock's 429 asks for a second.
        assert fault != "rateLimitRate" or time.monotonic() - begun >= 2


def random_faults(case: Case) -> None:
    """Every second request fails in one of four ways: every vector is right all the same."""
    with chaos(case, dropRate=0.15, malformedRate=0.15, disconnectRate=0.15, rateLimitRate=0.05):
        embedder = case.embedder(batch_size=6, max_retries=20)
        case.right(TEXTS, embedder.embed(TEXTS))
        case.right(TEXTS, asyncio.run(case.embedder(batch_size=6, max_retries=20).aembed(TEXTS)))
    print(f"    retries that the sync call took: {embedder.usage.retries}")


def delays(case: Case) -> None:
    """Slow responses are right; the timeout and the deadline end slower ones."""
    with chaos(case, latencyMs=300):
        case.right(TEXTS, case.embedder().embed(TEXTS))
    with chaos(case, latencyMs=5000):
        begun = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            case.embedder(timeout=0.5, max_retries=1).embed(TEXTS[:3])
        with pytest.raises(RequestTimeoutError):
            asyncio.run(case.embedder(timeout=30, deadline=0.5, max_retries=1).aembed(TEXTS[:3]))
        assert time.monotonic() - begun < 4


CHECKS = [reply_format, wrong_key, passing_errors, lasting_errors, splits_batch, lasting_fault, random_faults, delays]

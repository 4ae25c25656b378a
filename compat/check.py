"""Embeds through OpenAI-compatible servers that others wrote, and checks every vector and every error.

``python compat/check.py [SERVER ...]`` installs the servers (see servers.py), runs one after the other on loopback, and
ends. docs/compatibility.md has the results. The peculiarities of each server are asserted too, and so a new version
that differs is noticed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import KEY, SERVERS, Server, ask, install, running

from langchain_nanogpt import NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPTEmbedding
from nanogpt_core import Embedder, inspect_cache
from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    InvalidInputError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ReplyError,
    RequestTimeoutError,
    ServerError,
    TextTooLongError,
)

# Many lengths, several scripts, line breaks; not sorted by length, as some servers sort a batch.
TEXTS = [f"{'word ' * (number * 7 % 19)}{number} – naïve, 文字,\n🐝 {number * number}" for number in range(90)]
REPEATED = [*TEXTS[:20], *TEXTS[10:30], TEXTS[0], TEXTS[89]]


@dataclass
class Case:
    """Data that the checks of one server need.

    Attributes:
        server: The server.
        model: A model's name that it takes.
        tolerance: Largest difference of a number from that of a request with one text.
        expected: For each text, the vector that the server gives it in a request of its own, as plain floats.
    """

    server: Server
    model: str
    tolerance: float = 0.0
    expected: dict[str, np.ndarray] = field(default_factory=dict)

    def raw(self, texts: list[str], *, key: str = KEY, **options: Any) -> tuple[int, Any]:
        """Send one request past our packages."""
        body = {"model": self.model, "input": texts, **options}
        return ask(f"{self.server.base_url}/embeddings", body, key=key)

    def embedder(self, model: str | None = None, **options: Any) -> Embedder:
        """Make an embedder for the server."""
        return Embedder(model or self.model, **{"base_url": self.server.base_url, "api_key": KEY, **options})

    def learn(self) -> None:
        """Fetch the expected vectors, one text per request."""
        for text in dict.fromkeys([*TEXTS, *REPEATED]):
            status, reply = self.raw([text], key="sk-reference" if self.server.name == "llmock" else KEY)
            assert status == 200, reply
            self.expected[text] = np.asarray(reply["data"][0]["embedding"], dtype=np.float64).astype(np.float32)
        rows = np.stack([self.expected[text] for text in TEXTS])
        apart = np.abs(rows[:, None] - rows[None]).max(axis=2) + np.eye(len(rows)) * 9
        # If not, a misplaced vector could pass as a rounding difference.
        assert apart.min() > 100 * self.tolerance, apart.min()

    def right(self, texts: list[str], vectors: Any) -> None:
        """Check that each text has its vector."""
        wanted = np.stack([self.expected[text] for text in texts])
        found = np.asarray(vectors, dtype=np.float32)
        assert found.shape == wanted.shape, (found.shape, wanted.shape)
        worst = float(np.abs(found - wanted).max())
        assert worst <= self.tolerance, f"differs by {worst}"


# --- for every server


def every_way(case: Case) -> None:
    """The same vectors through each public method, sync, async and streamed."""
    options: dict[str, Any] = {"base_url": case.server.base_url, "api_key": KEY}
    core = case.embedder()
    chain = NanoGPTEmbeddings(case.model, **options)
    index = NanoGPTEmbedding(case.model, **options)
    query = TEXTS[5]

    async def asynchronous() -> None:
        case.right(TEXTS, await core.aembed(TEXTS))
        case.right([query], [await core.aembed_query(query)])
        batches = [batch async for batch in core.astream(iter(TEXTS), batch_size=7)]
        case.right(TEXTS, np.concatenate([batch.vectors for batch in batches]))
        case.right(TEXTS, await chain.aembed_documents(TEXTS))
        case.right([query], [await chain.aembed_query(query)])
        case.right(TEXTS, await index.aget_text_embedding_batch(TEXTS))
        case.right([query], [await index.aget_text_embedding(query)])
        case.right([query], [await index.aget_query_embedding(query)])

    case.right(TEXTS, core.embed(TEXTS))
    case.right([query], [core.embed_query(query)])
    case.right(TEXTS, np.concatenate([batch.vectors for batch in core.stream(iter(TEXTS), batch_size=7)]))
    case.right(TEXTS, chain.embed_documents(TEXTS))
    case.right([query], [chain.embed_query(query)])
    case.right(TEXTS, index.get_text_embedding_batch(TEXTS))
    case.right([query], [index.get_text_embedding(query)])
    case.right([query], [index.get_query_embedding(query)])
    asyncio.run(asynchronous())


def batches_and_repeats(case: Case) -> None:
    """Batches of any size; repeated texts are sent once and answered each time; a cache sends nothing again."""
    for size in (1, 7, 29, 64):
        case.right(TEXTS, case.embedder().embed(TEXTS, batch_size=size))
    embedder = case.embedder()
    case.right(REPEATED, embedder.embed(REPEATED, batch_size=9))
    assert embedder.usage.texts_sent == len(set(REPEATED)), embedder.usage
    with tempfile.TemporaryDirectory() as folder:
        cached = case.embedder(cache=str(Path(folder) / "vectors.sqlite"))
        first = cached.embed(TEXTS[:30])
        assert np.array_equal(first, cached.embed(TEXTS[:30]))
        case.right(TEXTS[:60], cached.embed(TEXTS[:60]))
        assert cached.usage.texts_sent == 60, cached.usage


def empty_texts(case: Case) -> None:
    """The server silently embeds an empty text; our package refuses it before anything is sent."""
    assert case.raw(["a", ""])[0] == 200
    embedder = case.embedder()
    with pytest.raises(InvalidInputError) as caught:
        embedder.embed(["a", ""])
    assert caught.value.positions == (1,)
    assert embedder.usage.requests == 0


def server_gone(case: Case) -> None:
    """The server is stopped."""
    case.server.stop()
    with pytest.raises(ConnectionFailedError):
        case.embedder(max_retries=1).embed(TEXTS)


# --- infinity-emb: a real inference server


def infinity_format(case: Case) -> None:
    """Base64 on request, with the bits of the floats, and indices in order."""
    plain, packed = (case.raw(TEXTS[:1], encoding_format=way)[1] for way in ("float", "base64"))
    bits = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    # The same text twice in a row is a batch of one each time.
    assert np.array_equal(bits, np.asarray(plain["data"][0]["embedding"], dtype=np.float32))
    assert [item["index"] for item in case.raw(TEXTS[:64])[1]["data"]] == list(range(64))


def infinity_dimensions(case: Case) -> None:
    """It truncates vectors without scaling them to length 1; more dimensions than it has are refused."""
    vectors = case.embedder(dimensions=16).embed(TEXTS)
    wanted = np.stack([case.expected[text][:16] for text in TEXTS])
    assert np.abs(vectors - wanted).max() <= case.tolerance
    with pytest.raises(BadRequestError, match="not in a valid range"):
        case.embedder(dimensions=65).embed(TEXTS[:2])


def infinity_batch_limit(case: Case) -> None:
    """It accepts 64 texts here and refuses more with 422; our package splits, and remembers the limit."""
    assert case.raw(["a"] * 65)[0] == 422
    first, second = case.embedder(batch_size=90), case.embedder(batch_size=90)
    case.right(TEXTS, first.embed(TEXTS))
    case.right(TEXTS, second.embed(TEXTS))
    assert (first.usage.requests, second.usage.retries) == (2, 0), (first.usage, second.usage)


def infinity_long_texts(case: Case) -> None:
    """It silently truncates texts at the model's limit, and refuses 122,881 characters with 422."""
    short, long = (case.raw([text])[1]["data"][0]["embedding"] for text in ("a " * 126, "a " * 5000))
    assert short == long
    with pytest.raises(TextTooLongError) as caught:
        case.embedder().embed([*TEXTS[:9], "a" * 122_881, *TEXTS[9:20]])
    assert caught.value.positions == (9,)


def infinity_usage(case: Case) -> None:
    """It counts characters as tokens, unless it is started with ``--lengths-via-tokenize``."""
    embedder = case.embedder()
    embedder.embed(TEXTS)
    assert embedder.usage.prompt_tokens == sum(map(len, TEXTS)), embedder.usage


def infinity_other_model(case: Case) -> None:
    """With one model loaded it accepts any name; our package warns, and caches none of the vectors."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache = str(Path(folder) / "vectors.sqlite")
        case.right(TEXTS[:3], case.embedder("another-model", cache=cache).embed(TEXTS[:3]))
        assert any("answered as 'random-bert'" in str(warning.message) for warning in caught), caught
        assert inspect_cache(cache).entries == 0
    # A known model is refused, since its width differs.
    with pytest.raises(ReplyError, match="64 dimensions"):
        case.embedder("BAAI/bge-m3").embed(TEXTS[:3])


def infinity_key(case: Case) -> None:
    """It answers 401 with ``{"detail": "Unauthorized"}``."""
    with pytest.raises(AuthenticationError, match="Unauthorized"):
        case.embedder(api_key="sk-wrong").embed(TEXTS[:3])


def infinity_overload(case: Case) -> None:
    """More concurrent texts than its queue holds: 429 without ``Retry-After``; our package retries."""
    embedders = [case.embedder(batch_size=30, max_retries=10) for _ in range(12)]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(embedder.aembed(TEXTS) for embedder in embedders))

    for vectors in asyncio.run(all_at_once()):
        case.right(TEXTS, vectors)
    print(f"    retries that it took: {sum(embedder.usage.retries for embedder in embedders)}")


# --- aimock: a mock with faults by chance


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


def aimock_format(case: Case) -> None:
    """It always sends floats, accepts any model and any ``dimensions``, and counts no tokens."""
    assert isinstance(case.raw(["a"], encoding_format="base64")[1]["data"][0]["embedding"], list)
    embedder = case.embedder("text-embedding-3-small", dimensions=256)
    wanted = np.stack([case.expected[text][:256] for text in TEXTS])
    assert np.array_equal(embedder.embed(TEXTS), wanted)
    assert embedder.usage.prompt_tokens == 0
    with pytest.raises(ReplyError, match="1536 dimensions"):
        case.embedder("BAAI/bge-m3").embed(TEXTS[:3])


def aimock_key(case: Case) -> None:
    """It answers 401 in OpenAI's form."""
    with pytest.raises(AuthenticationError, match="Invalid API key"):
        case.embedder(api_key="sk-wrong").embed(TEXTS[:3])


def aimock_passing_errors(case: Case) -> None:
    """One 500, one 503 and one 429: each is retried."""
    for status in (500, 503, 429):
        once(case, status, message="for a moment")
    embedder = case.embedder()
    with attempts(case, 3 + 3):
        case.right(TEXTS, embedder.embed(TEXTS))
    assert embedder.usage.retries == 3, embedder.usage


def aimock_lasting_errors(case: Case) -> None:
    """Errors that waiting does not cure end the call after one request."""
    for status, code, kind in (
        (429, "insufficient_quota", QuotaExceededError),
        (403, "forbidden", PermissionDeniedError),
        (400, "bad_thing", BadRequestError),
    ):
        once(case, status, message="not today", code=code)
        with attempts(case, 1), pytest.raises(kind, match="not today"):
            case.embedder().embed(TEXTS[:3])


def aimock_split(case: Case) -> None:
    """A 400 about size: the batch is split into halves."""
    once(case, 400, message="This model's maximum context length is 9 tokens.", code="context_length_exceeded")
    with attempts(case, 3):
        case.right(TEXTS[:32], case.embedder("split-here").embed(TEXTS[:32]))


def aimock_always(case: Case) -> None:
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


def aimock_by_chance(case: Case) -> None:
    """Every second request fails in one of four ways: every vector is right all the same."""
    with chaos(case, dropRate=0.15, malformedRate=0.15, disconnectRate=0.15, rateLimitRate=0.05):
        embedder = case.embedder(batch_size=6, max_retries=20)
        case.right(TEXTS, embedder.embed(TEXTS))
        case.right(TEXTS, asyncio.run(case.embedder(batch_size=6, max_retries=20).aembed(TEXTS)))
    print(f"    retries that the sync call took: {embedder.usage.retries}")


def aimock_delays(case: Case) -> None:
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


# --- llmock: a mock that judges its client


def scripted(case: Case, *behaviors: dict[str, Any]) -> None:
    """Reset the mock, and set its next behaviours."""
    ask(f"{case.server.root}/_llmock/reset", {})
    assert ask(f"{case.server.root}/_llmock/scenario", {"behaviors": list(behaviors)})[0] == 201


def verdict(case: Case, *, faults: int) -> None:
    """Check the number of injected faults, and that the mock has no finding on our reaction to them."""
    found = ask(f"{case.server.root}/_llmock/verdict")[1]
    assert found["faults_injected"] == faults, found
    assert found["findings"] == [], found


def llmock_format(case: Case) -> None:
    """It sends 1,536 floats for any model and ignores ``dimensions``, which our package refuses."""
    assert isinstance(case.raw(["a"], encoding_format="base64")[1]["data"][0]["embedding"], list)
    with pytest.raises(ReplyError, match="1536 dimensions, not 256"):
        case.embedder("text-embedding-3-small", dimensions=256).embed(TEXTS[:3])
    embedder = case.embedder()
    embedder.embed(TEXTS)
    assert (embedder.usage.prompt_tokens or 0) > 0


def llmock_passing_errors(case: Case) -> None:
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


def llmock_lasting_errors(case: Case) -> None:
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


def llmock_quota(case: Case) -> None:
    """300 requests a minute: refused requests wait for ``Retry-After``."""
    ask(f"{case.server.root}/_llmock/reset", {})
    texts = [f"{number}" for number in range(330)]
    embedder = case.embedder(api_key="sk-quota", batch_size=1)
    vectors = embedder.embed(texts)
    case.expected.update(zip(texts, case.embedder(api_key="sk-quota-2").embed(texts), strict=True))
    case.right(texts, vectors)
    found = ask(f"{case.server.root}/_llmock/verdict")[1]
    assert found["findings"] == [], found
    assert embedder.usage.retries > 0, embedder.usage


def llmock_context_window(case: Case) -> None:
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


Check = Callable[[Case], None]

COMMON: list[Check] = [every_way, batches_and_repeats, empty_texts]

CASES: dict[str, tuple[str, float, list[Check]]] = {
    # infinity-emb pads a text depending on the other texts of the batch, which changes the last bits.
    "infinity-emb": (
        "random-bert",
        2e-6,
        [
            *(infinity_format, infinity_dimensions, infinity_batch_limit, infinity_long_texts, infinity_usage),
            *(infinity_other_model, infinity_key, infinity_overload),
        ],
    ),
    "aimock": (
        "any-model",
        0.0,
        [
            *(aimock_format, aimock_key, aimock_passing_errors, aimock_lasting_errors, aimock_split, aimock_always),
            *(aimock_by_chance, aimock_delays),
        ],
    ),
    "llmock": (
        "any-model",
        0.0,
        [llmock_format, llmock_passing_errors, llmock_lasting_errors, llmock_quota, llmock_context_window],
    ),
}


def main(names: list[str]) -> int:
    """Check the servers named; return how many checks failed."""
    failed = 0
    for name in names:
        if name == "aimock" and not shutil.which("npm"):
            print("aimock: left out, since there is no npm")
            continue
        install(name)
        failed += check(name)
    print(f"{failed} failed" if failed else "all right")
    return failed


def check(name: str) -> int:
    """Check one server; return how many checks failed."""
    model, tolerance, own = CASES[name]
    failed = 0
    print(f"{name} ({', '.join(SERVERS[name].packages)})", flush=True)
    with running(name) as server:
        case = Case(server, model, tolerance)
        case.learn()
        for one in [*COMMON, *own, server_gone]:
            begun = time.monotonic()
            try:
                one(case)
                result = "right"
            except Exception:  # noqa: BLE001 - the other checks are worth running
                # Shortened, since a server may repeat all texts in its message.
                print(traceback.format_exc()[-1500:])
                failed += 1
                result = "FAILED"
            print(f"  {one.__name__}: {result} ({time.monotonic() - begun:.1f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:] or list(CASES)), 1))

"""Checks of infinity-emb, a real inference server."""

from __future__ import annotations

import asyncio
import base64
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from case import TEXTS, Case

from nanogpt_core import inspect_cache
from nanogpt_core.errors import AuthenticationError, BadRequestError, ReplyError, TextTooLongError


def reply_format(case: Case) -> None:
    """Base64 on request, with the bits of the floats, and indices in order."""
    plain, packed = (case.raw(TEXTS[:1], encoding_format=way)[1] for way in ("float", "base64"))
    bits = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    # The same text twice in a row is a batch of one each time.
    assert np.array_equal(bits, np.asarray(plain["data"][0]["embedding"], dtype=np.float32))
    assert [item["index"] for item in case.raw(TEXTS[:64])[1]["data"]] == list(range(64))


def dimensions(case: Case) -> None:
    """It truncates vectors without scaling them to length 1; more dimensions than it has are refused."""
    vectors = case.embedder(dimensions=16).embed(TEXTS)
    wanted = np.stack([case.expected[text][:16] for text in TEXTS])
    assert np.abs(vectors - wanted).max() <= case.tolerance
    with pytest.raises(BadRequestError, match="not in a valid range"):
        case.embedder(dimensions=65).embed(TEXTS[:2])


def batch_limit(case: Case) -> None:
    """It accepts 64 texts here and refuses more with 422; our package splits, and remembers the limit."""
    assert case.raw(["a"] * 65)[0] == 422
    first, second = case.embedder(batch_size=90), case.embedder(batch_size=90)
    case.right(TEXTS, first.embed(TEXTS))
    case.right(TEXTS, second.embed(TEXTS))
    assert (first.usage.requests, second.usage.retries) == (2, 0), (first.usage, second.usage)


def long_texts(case: Case) -> None:
    """It silently truncates texts at the model's limit, and refuses 122,881 characters with 422."""
    short, long = (case.raw([text])[1]["data"][0]["embedding"] for text in ("a " * 126, "a " * 5000))
    assert short == long
    with pytest.raises(TextTooLongError) as caught:
        case.embedder().embed([*TEXTS[:9], "a" * 122_881, *TEXTS[9:20]])
    assert caught.value.positions == (9,)


def usage(case: Case) -> None:
    """It counts characters as tokens, unless it is started with ``--lengths-via-tokenize``."""
    embedder = case.embedder()
    embedder.embed(TEXTS)
    assert embedder.usage.prompt_tokens == sum(map(len, TEXTS)), embedder.usage


def other_model(case: Case) -> None:
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


def wrong_key(case: Case) -> None:
    """It answers 401 with ``{"detail": "Unauthorized"}``."""
    with pytest.raises(AuthenticationError, match="Unauthorized"):
        case.embedder(api_key="sk-wrong").embed(TEXTS[:3])


def overload(case: Case) -> None:
    """More concurrent texts than its queue holds: 429 without ``Retry-After``; our package retries."""
    embedders = [case.embedder(batch_size=30, max_retries=10) for _ in range(12)]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(embedder.aembed(TEXTS) for embedder in embedders))

    for vectors in asyncio.run(all_at_once()):
        case.right(TEXTS, vectors)
    print(f"    retries that it took: {sum(embedder.usage.retries for embedder in embedders)}")


CHECKS = [reply_format, dimensions, batch_limit, long_texts, usage, other_model, wrong_key, overload]

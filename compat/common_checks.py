"""Checks for every server."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from case import REPEATED, TEXTS, Case
from servers import KEY

from langchain_nanogpt import NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPTEmbedding
from nanogpt_core.errors import ConnectionFailedError, InvalidInputError


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


BEFORE_OTHERS = [every_way, batches_and_repeats, empty_texts]

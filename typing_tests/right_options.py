"""Options that a user may pass. Neither mypy nor pyright may complain."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

from llama_index.core.base.llms.types import ChatResponse
from pydantic import SecretStr

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import Embedder, MemoryCache, ModelInfo, RequestRecord, Usage, get_model, track_usage

row: ModelInfo = get_model("BAAI/bge-m3")

Embedder()
Embedder("BAAI/bge-m3", api_key="key", base_url=os.environ.get("URL"), dimensions=None, cache=Path("vectors.db"))
Embedder(row, on_overflow="split", progress=print, cache=MemoryCache(), model_info="live")

NanoGPTEmbeddings()
NanoGPTEmbeddings("BAAI/bge-m3", api_key="key", chunk_size=64, show_progress_bar=True)
NanoGPTEmbeddings(model=row, api_key=SecretStr("key"), batch_size=64, cache="vectors.db", default_headers={"X-A": "b"})

ChatNanoGPT()
ChatNanoGPT("openai/gpt-4o-mini", api_key="key", temperature=0, max_tokens=100, stop=["\n"])
ChatNanoGPT(model="openai/gpt-4o-mini", openai_api_key=SecretStr("key"), openai_api_base="https://example.com/api/v1")
ChatNanoGPT(model_name="openai/gpt-4o-mini", request_timeout=5, reasoning={"exclude": True}, tags=["one"])

NanoGPTEmbedding()
NanoGPTEmbedding("BAAI/bge-m3", api_key="key", embed_batch_size=10, num_workers=None, batch_size=5)
NanoGPTEmbedding(model_name=row, api_base="https://example.com/api/v1", timeout=5)
NanoGPTEmbedding(model="BAAI/bge-m3", base_url=None)

NanoGPT()
NanoGPT(
    "openai/gpt-4o-mini", api_key=SecretStr("key"), temperature=0.1, context_window="live", system_prompt="Be brief."
)
NanoGPT(model="openai/gpt-4o-mini", base_url=None, additional_kwargs={"seed": 1}, reasoning_effort="low")


def keep(record: RequestRecord) -> None:
    """Keep a record."""


Embedder(on_request=keep)
ChatNanoGPT(on_request=keep)
NanoGPT(on_request=None)
NanoGPTEmbedding(on_request=lambda record: record.cost_usd)
NanoGPTEmbeddings(on_request=print)

with track_usage() as tracked:
    total: Usage = tracked + Usage()


class WithMore(NanoGPTEmbeddings):
    """A subclass with a field of its own."""

    team: str = "search"


async def close() -> list[Usage]:
    """Close objects of each class; ``with`` keeps the type."""
    with Embedder() as embedder, NanoGPTEmbeddings() as embeddings, NanoGPTEmbedding() as embedding:
        spent = [embedder.usage, embeddings.usage, embedding.usage]
    async with ChatNanoGPT() as chat, NanoGPT() as llm:
        chat.close()
        await llm.aclose()
    return spent


async def stream() -> tuple[Generator[ChatResponse, None, None], AsyncGenerator[ChatResponse, None]]:
    """Return streams of LlamaIndex, which callers may close."""
    return NanoGPT().stream_chat([]), await NanoGPT().astream_chat([])

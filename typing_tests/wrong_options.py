"""Options that mypy and pyright must mark: each comment would be reported as unused if they did not."""

from __future__ import annotations

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import Embedder

# Wrong names.
Embedder(dimension=64)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
Embedder(chunk_size=64)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
NanoGPTEmbeddings(dimension=64)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
NanoGPTEmbeddings(embed_batch_size=64)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
ChatNanoGPT(temprature=0)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
ChatNanoGPT(use_responses_api=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
NanoGPTEmbedding(embed_batchsize=64)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
NanoGPTEmbedding(chunk_size=64)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
NanoGPT(temprature=0)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
NanoGPT(api_version="1")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

# Wrong types.
Embedder(timeout="5")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
NanoGPTEmbeddings(on_overflow="cut")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
ChatNanoGPT(max_tokens="5")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
NanoGPTEmbedding(api_key=5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Embedder(on_request="print")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
NanoGPT(context_window="large")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

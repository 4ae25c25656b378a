"""Keyword options of the LangChain classes, for type checkers. A test compares them with the classes' fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from langchain_core.caches import BaseCache
from langchain_core.callbacks import Callbacks
from langchain_core.language_models import ModelProfile
from langchain_core.rate_limiters import BaseRateLimiter

from nanogpt_core.chat.session import SessionOptions
from nanogpt_core.embeddings.config import EmbedderOptions
from nanogpt_core.http.secrets import ApiKey


class EmbeddingsOptions(EmbedderOptions, total=False):
    """Keyword options of :class:`langchain_nanogpt.NanoGPTEmbeddings`."""

    chunk_size: int | None
    show_progress_bar: bool


class ChatOptions(SessionOptions, total=False):
    """Keyword options of :class:`langchain_nanogpt.ChatNanoGPT`."""

    # The request.
    model_name: str
    temperature: float | None
    top_p: float | None
    n: int | None
    seed: int | None
    max_tokens: int | None
    stop: list[str] | str | None
    stop_sequences: list[str] | str | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: dict[int, int] | None
    logprobs: bool | None
    top_logprobs: int | None
    reasoning: dict[str, Any] | None
    reasoning_effort: str | None
    send_reasoning: bool
    verbosity: str | None
    service_tier: str | None
    store: bool | None
    prompt_cache_options: dict[str, Any] | None
    streaming: bool | None
    stream_usage: bool | None
    model_kwargs: dict[str, Any]
    extra_body: Mapping[str, Any] | None

    # The connection.
    openai_api_key: ApiKey
    openai_api_base: str | None
    request_timeout: float | None
    http_client: Any
    http_async_client: Any

    # LangChain's.
    name: str | None
    cache: BaseCache | bool | None
    callbacks: Callbacks
    tags: list[str] | None
    metadata: dict[str, Any] | None
    verbose: bool
    rate_limiter: BaseRateLimiter | None
    profile: ModelProfile | Literal["live"] | None
    output_version: str | None
    custom_get_token_ids: Callable[[str], list[int]] | None
    tiktoken_model_name: str | None
    disable_streaming: bool | Literal["tool_calling"]
    disabled_params: dict[str, Any] | None
    include_response_headers: bool
    stream_chunk_timeout: float | None

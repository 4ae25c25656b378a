"""Keyword options of the LlamaIndex classes, for type checkers. A test compares them with the classes' fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import BaseOutputParser, PydanticProgramMode

from nanogpt_core.chat.session import SessionOptions
from nanogpt_core.embeddings.config import EmbedderOptions
from nanogpt_core.models.catalog import ModelInfo


class EmbeddingOptions(EmbedderOptions, total=False):
    """Keyword options of :class:`llama_index_nanogpt.NanoGPTEmbedding`."""

    model: str | ModelInfo | None
    api_base: str | None
    embed_batch_size: int
    num_workers: int | None
    callback_manager: CallbackManager | None
    embeddings_cache: Any
    rate_limiter: Any


class LLMOptions(SessionOptions, total=False):
    """Keyword options of :class:`llama_index_nanogpt.NanoGPT`."""

    # The request.
    temperature: float
    max_tokens: int | None
    logprobs: bool | None
    top_logprobs: int
    strict: bool
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None
    send_reasoning: bool
    modalities: list[str] | None
    audio_config: dict[str, Any] | None
    additional_kwargs: dict[str, Any] | None

    # The connection.
    api_base: str | None
    http_client: Any
    async_http_client: Any
    reuse_client: bool

    # LlamaIndex's.
    context_window: int | Literal["live"] | None
    callback_manager: CallbackManager | None
    rate_limiter: Any
    system_prompt: str | None
    messages_to_prompt: Callable[[Sequence[ChatMessage]], str] | None
    completion_to_prompt: Callable[[str], str] | None
    query_wrapper_prompt: BasePromptTemplate | None
    output_parser: BaseOutputParser | None
    pydantic_program_mode: PydanticProgramMode
    is_chat_model: Literal[True]
    is_function_calling_model: bool
    should_use_structured_outputs: bool
    tokenizer: Any

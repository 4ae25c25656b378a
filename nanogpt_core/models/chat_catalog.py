"""The catalog of chat models: context window, longest answer and abilities of models that NanoGPT offers.

The catalog is a snapshot of November 2026 that works offline: models under the names that NanoGPT has for them. Source:
models.dev by way of the profiles of langchain-openrouter 0.2.9; figures there that are only a share of the context
window are left out. A host of NanoGPT's may allow less, and the service's live list (``GET /models``) is newer:
:func:`nanogpt_core.models.listing.fetch_chat_model`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatModelInfo:
    """One chat model. An unknown value is None, never a guess.

    Attributes:
        id: The name in requests.
        context_window: Most tokens of a request.
        max_output_tokens: Most tokens of an answer.
        tool_calling: True if the model calls tools.
        structured_output: True if the model's answers can be made to follow a JSON schema.
        image_inputs: True if messages may have images.
        reasoning: True if the model thinks before it answers.
        pdf_inputs: True if messages may have PDF files.
    """

    id: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    tool_calling: bool | None = None
    structured_output: bool | None = None
    image_inputs: bool | None = None
    reasoning: bool | None = None
    pdf_inputs: bool | None = None


def get_chat_model(name: str) -> ChatModelInfo | None:
    """Return the row of a model, with or without its vendor and NanoGPT's suffixes; None for an unknown one."""
    rows = _rows()
    return next((rows[known] for known in names_without_suffixes(name) if known in rows), None)


def names_without_suffixes(model: str) -> Iterator[str]:
    """Yield the name of a model, and then the name without one suffix, such as ``:online``, after another."""
    while model:
        yield model
        model = model.rpartition(":")[0]


@functools.cache
def _rows() -> Mapping[str, ChatModelInfo]:
    rows = {}
    for name, context_window, max_output_tokens, abilities in _TABLE:
        rows[name] = rows[name.partition("/")[2]] = ChatModelInfo(
            name,
            context_window,
            max_output_tokens,
            tool_calling="t" in abilities,
            structured_output="s" in abilities,
            image_inputs="v" in abilities,
            reasoning="r" in abilities,
        )
    return rows


# Name, tokens of the context window, tokens of the longest answer, and abilities: tools, structured output, vision,
# reasoning.
_TABLE: tuple[tuple[str, int, int | None, str], ...] = (
    ("anthropic/claude-3-haiku", 200_000, 4_096, "tv"),
    ("anthropic/claude-fable-5", 1_000_000, 128_000, "tsvr"),
    ("anthropic/claude-fable-5.1", 1_000_000, 128_000, "tsvr"),
    ("anthropic/claude-haiku-4.5", 200_000, 64_000, "tsvr"),
    ("anthropic/claude-opus-4", 200_000, 32_000, "tvr"),
    ("anthropic/claude-opus-4.1", 200_000, 32_000, "tvr"),
    ("anthropic/claude-opus-4.5", 200_000, 64_000, "tsvr"),
    ("anthropic/claude-opus-4.6", 1_000_000, 128_000, "tsvr"),
    ("anthropic/claude-opus-4.7", 1_000_000, 128_000, "tsvr"),
    ("anthropic/claude-opus-4.8", 1_000_000, 128_000, "tsvr"),
    ("anthropic/claude-opus-5", 1_000_000, 128_000, "tsvr"),
    ("anthropic/claude-sonnet-4", 1_000_000, 64_000, "tvr"),
    ("anthropic/claude-sonnet-4.5", 1_000_000, 64_000, "tsvr"),
    ("anthropic/claude-sonnet-4.6", 1_000_000, 128_000, "tsvr"),
    ("anthropic/claude-sonnet-5", 1_000_000, 128_000, "tsvr"),
    ("deepseek/deepseek-chat", 163_840, 16_384, "ts"),
    ("deepseek/deepseek-chat-v3-0324", 163_840, None, "ts"),
    ("deepseek/deepseek-chat-v3.1", 163_840, 32_768, "tsr"),
    ("deepseek/deepseek-r1", 64_000, 16_000, "tr"),
    ("deepseek/deepseek-r1-0528", 163_840, 32_768, "tsr"),
    ("deepseek/deepseek-r1-distill-llama-70b", 8_192, None, "r"),
    ("deepseek/deepseek-v3.1-terminus", 163_840, 32_768, "tsr"),
    ("deepseek/deepseek-v3.2", 163_840, 65_536, "tsr"),
    ("deepseek/deepseek-v4-flash", 1_048_576, 384_000, "tsr"),
    ("deepseek/deepseek-v4-pro", 1_048_576, 384_000, "tsr"),
    ("deepseek/deepseek-v4.1-flash", 1_048_576, 384_000, "tsvr"),
    ("google/gemini-2.5-flash", 1_048_576, 65_535, "tsvr"),
    ("google/gemini-2.5-flash-lite", 1_048_576, 65_535, "tsvr"),
    ("google/gemini-2.5-pro", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-2.5-pro-preview", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3-flash-preview", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.1-flash-lite", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.1-flash-lite-preview", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.1-pro-preview", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.5-flash", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.5-flash-lite", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.6-flash", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.7-flash", 1_048_576, 65_536, "tsvr"),
    ("google/gemini-3.8-flash", 1_048_576, 65_536, "tsvr"),
    ("google/gemma-3-12b-it", 131_072, 16_384, "tsv"),
    ("google/gemma-3-27b-it", 131_072, None, "tsv"),
    ("google/gemma-3-4b-it", 131_072, 16_384, "sv"),
    ("google/gemma-4-26b-a4b-it", 262_144, None, "tsvr"),
    ("google/gemma-4-31b-it", 262_144, 16_384, "tsvr"),
    ("meta-llama/llama-3.1-70b-instruct", 131_072, 8_192, "ts"),
    ("meta-llama/llama-3.1-8b-instruct", 131_072, None, "ts"),
    ("meta-llama/llama-3.2-3b-instruct", 131_072, None, "s"),
    ("meta-llama/llama-3.3-70b-instruct", 131_072, 16_384, "ts"),
    ("meta-llama/llama-4-maverick", 1_048_576, 16_384, "tsv"),
    ("meta-llama/llama-4-scout", 1_310_720, 16_384, "tsv"),
    ("minimax/minimax-01", 1_000_192, None, "v"),
    ("minimax/minimax-m1", 1_000_000, 40_000, "tr"),
    ("minimax/minimax-m2", 204_800, 131_072, "tsr"),
    ("minimax/minimax-m2-her", 65_536, 2_048, ""),
    ("minimax/minimax-m2.1", 204_800, 131_072, "tr"),
    ("minimax/minimax-m2.5", 204_800, 128_000, "tsr"),
    ("minimax/minimax-m2.7", 204_800, 131_072, "tsr"),
    ("minimax/minimax-m3", 1_048_576, 512_000, "tsvr"),
    ("mistralai/codestral-2508", 256_000, None, "ts"),
    ("mistralai/devstral-2512", 262_144, None, "ts"),
    ("mistralai/ministral-14b-2512", 262_144, None, "tsv"),
    ("mistralai/ministral-3b-2512", 131_072, None, "tsv"),
    ("mistralai/ministral-8b-2512", 262_144, None, "tsv"),
    ("mistralai/mistral-large", 128_000, None, "ts"),
    ("mistralai/mistral-large-2407", 131_072, None, "ts"),
    ("mistralai/mistral-medium-3", 131_072, None, "tsv"),
    ("mistralai/mistral-medium-3-5", 262_144, None, "tsvr"),
    ("mistralai/mistral-medium-3.1", 131_072, None, "tsv"),
    ("mistralai/mistral-nemo", 131_072, 16_384, "ts"),
    ("mistralai/mistral-saba", 32_768, None, "ts"),
    ("mistralai/mistral-small-2603", 262_144, None, "tsvr"),
    ("mistralai/mistral-small-3.1-24b-instruct", 128_000, None, "tv"),
    ("mistralai/mistral-small-3.2-24b-instruct", 256_000, 16_384, "tsv"),
    ("mistralai/mixtral-8x22b-instruct", 65_536, None, "ts"),
    ("moonshotai/kimi-k2", 131_072, None, "t"),
    ("moonshotai/kimi-k2-0905", 262_144, 98_304, "ts"),
    ("moonshotai/kimi-k2-thinking", 262_144, 98_304, "tsr"),
    ("moonshotai/kimi-k2.5", 262_144, None, "tsvr"),
    ("moonshotai/kimi-k2.6", 262_144, None, "tsvr"),
    ("moonshotai/kimi-k2.7-code", 262_144, None, "tsvr"),
    ("moonshotai/kimi-k3", 1_048_576, None, "tsvr"),
    ("openai/gpt-3.5-turbo", 16_385, 4_096, "ts"),
    ("openai/gpt-4", 8_191, 4_096, "ts"),
    ("openai/gpt-4-turbo", 128_000, 4_096, "tsv"),
    ("openai/gpt-4.1", 1_047_576, 32_768, "tsv"),
    ("openai/gpt-4.1-mini", 1_047_576, 32_768, "tsv"),
    ("openai/gpt-4.1-nano", 1_047_576, 32_768, "tsv"),
    ("openai/gpt-4o", 128_000, 16_384, "tsv"),
    ("openai/gpt-4o-2024-05-13", 128_000, 4_096, "tsv"),
    ("openai/gpt-4o-2024-08-06", 128_000, 16_384, "tsv"),
    ("openai/gpt-4o-2024-11-20", 128_000, 16_384, "tsv"),
    ("openai/gpt-4o-mini", 128_000, 16_384, "tsv"),
    ("openai/gpt-4o-mini-2024-07-18", 128_000, 16_384, "tsv"),
    ("openai/gpt-5", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5-mini", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5-nano", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5-pro", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5.1", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5.2", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5.2-chat", 128_000, 32_000, "tsv"),
    ("openai/gpt-5.2-pro", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5.4", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.4-mini", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5.4-nano", 400_000, 128_000, "tsvr"),
    ("openai/gpt-5.4-pro", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.5", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.5-pro", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.6-luna", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.6-luna-pro", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.6-sol", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.6-sol-pro", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.6-terra", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-5.6-terra-pro", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-6-astra", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-6-astra-pro", 1_050_000, 128_000, "tsvr"),
    ("openai/gpt-oss-120b", 131_072, 65_536, "tsr"),
    ("openai/gpt-oss-20b", 131_072, None, "tsr"),
    ("openai/o1", 200_000, 100_000, "tsvr"),
    ("openai/o1-pro", 200_000, 100_000, "svr"),
    ("openai/o3", 200_000, 100_000, "tsvr"),
    ("openai/o3-mini", 200_000, 100_000, "tsr"),
    ("openai/o3-mini-high", 200_000, 100_000, "tsr"),
    ("openai/o3-pro", 200_000, 100_000, "tsvr"),
    ("openai/o4-mini", 200_000, 100_000, "tsvr"),
    ("openai/o4-mini-high", 200_000, 100_000, "tsvr"),
    ("qwen/qwen-2.5-72b-instruct", 32_768, 16_384, "ts"),
    ("qwen/qwen-2.5-7b-instruct", 32_768, None, "ts"),
    ("qwen/qwen-2.5-coder-32b-instruct", 32_768, None, ""),
    ("qwen/qwen-plus", 1_000_000, 32_768, "ts"),
    ("qwen/qwen-plus-2025-07-28", 1_000_000, 32_768, "ts"),
    ("qwen/qwen2.5-vl-72b-instruct", 128_000, None, "sv"),
    ("qwen/qwen3-14b", 131_072, 16_384, "tsr"),
    ("qwen/qwen3-235b-a22b", 131_072, 8_192, "tr"),
    ("qwen/qwen3-235b-a22b-2507", 262_144, None, "ts"),
    ("qwen/qwen3-235b-a22b-thinking-2507", 131_072, None, "tr"),
    ("qwen/qwen3-30b-a3b", 131_072, 16_384, "tsr"),
    ("qwen/qwen3-30b-a3b-instruct-2507", 262_144, 32_000, "ts"),
    ("qwen/qwen3-30b-a3b-thinking-2507", 81_920, 32_768, "tr"),
    ("qwen/qwen3-32b", 131_072, 16_384, "tsr"),
    ("qwen/qwen3-8b", 131_072, 8_192, "tr"),
    ("qwen/qwen3-coder", 262_144, 65_536, "ts"),
    ("qwen/qwen3-coder-30b-a3b-instruct", 262_144, None, "ts"),
    ("qwen/qwen3-coder-flash", 1_000_000, 65_536, "t"),
    ("qwen/qwen3-coder-next", 262_144, None, "ts"),
    ("qwen/qwen3-coder-plus", 1_000_000, 65_536, "ts"),
    ("qwen/qwen3-max", 262_144, 65_536, "ts"),
    ("qwen/qwen3-max-thinking", 262_144, 65_536, "tsr"),
    ("qwen/qwen3-next-80b-a3b-instruct", 262_144, 16_384, "ts"),
    ("qwen/qwen3-next-80b-a3b-thinking", 262_144, 32_768, "tsr"),
    ("qwen/qwen3-vl-235b-a22b-instruct", 262_144, 32_768, "tsv"),
    ("qwen/qwen3-vl-235b-a22b-thinking", 131_072, 32_768, "tsvr"),
    ("qwen/qwen3-vl-30b-a3b-instruct", 262_144, 32_768, "tsv"),
    ("qwen/qwen3-vl-30b-a3b-thinking", 262_144, 32_768, "tsvr"),
    ("qwen/qwen3-vl-32b-instruct", 131_072, 32_768, "tsv"),
    ("qwen/qwen3-vl-8b-instruct", 262_144, 32_768, "tsv"),
    ("qwen/qwen3-vl-8b-thinking", 131_072, 32_768, "tsvr"),
    ("qwen/qwen3.5-122b-a10b", 262_144, 65_536, "tsvr"),
    ("qwen/qwen3.5-27b", 262_144, 65_536, "tsvr"),
    ("qwen/qwen3.5-35b-a3b", 262_144, 16_384, "tsvr"),
    ("qwen/qwen3.5-397b-a17b", 262_144, None, "tsvr"),
    ("qwen/qwen3.5-9b", 262_144, 32_768, "tsvr"),
    ("qwen/qwen3.5-flash-02-23", 1_000_000, 65_536, "tsvr"),
    ("qwen/qwen3.5-plus-02-15", 1_000_000, 65_536, "tsvr"),
    ("qwen/qwen3.5-plus-20260420", 1_000_000, 65_536, "tsvr"),
    ("qwen/qwen3.6-27b", 262_144, 65_536, "tsvr"),
    ("qwen/qwen3.6-35b-a3b", 262_144, None, "tsvr"),
    ("qwen/qwen3.6-flash", 1_000_000, 65_536, "tsvr"),
    ("qwen/qwen3.6-max-preview", 262_144, 65_536, "tsr"),
    ("qwen/qwen3.6-plus", 1_000_000, 65_536, "tsvr"),
    ("qwen/qwen3.7-flash", 1_000_000, 65_536, "tvr"),
    ("qwen/qwen3.7-max", 1_000_000, 131_072, "tsr"),
    ("qwen/qwen3.7-plus", 1_000_000, 131_072, "tsvr"),
    ("qwen/qwen3.8-2.4t-a95b", 1_048_576, 131_072, "tsr"),
    ("qwen/qwen3.8-27b", 1_000_000, 131_072, "tsvr"),
    ("qwen/qwen3.8-flash", 1_000_000, 131_072, "tsvr"),
    ("qwen/qwen3.8-max-0902", 1_000_000, 131_072, "tsvr"),
    ("x-ai/grok-4.20", 2_000_000, None, "tsvr"),
    ("x-ai/grok-4.20-multi-agent", 2_000_000, None, "svr"),
    ("x-ai/grok-4.3", 1_000_000, None, "tsvr"),
    ("x-ai/grok-4.5", 500_000, None, "tsvr"),
    ("x-ai/grok-4.6", 500_000, None, "tsvr"),
    ("x-ai/grok-build-0.1", 256_000, None, "tsvr"),
    ("z-ai/glm-4.5", 131_072, None, "tr"),
    ("z-ai/glm-4.5-air", 131_072, None, "tr"),
    ("z-ai/glm-4.5v", 65_536, 16_384, "tvr"),
    ("z-ai/glm-4.6", 204_800, 16_384, "tsr"),
    ("z-ai/glm-4.6v", 131_072, 32_768, "tvr"),
    ("z-ai/glm-4.7", 204_800, 131_072, "tsr"),
    ("z-ai/glm-4.7-flash", 200_000, 117_964, "tsr"),
    ("z-ai/glm-5", 204_800, 128_000, "tsr"),
    ("z-ai/glm-5-turbo", 202_752, 131_072, "tr"),
    ("z-ai/glm-5.1", 204_800, 128_000, "tsr"),
    ("z-ai/glm-5.2", 1_048_576, 131_072, "tsr"),
    ("z-ai/glm-5.3", 1_310_720, 131_072, "tsr"),
    ("z-ai/glm-5.3-flash", 1_310_720, 131_072, "tsvr"),
    ("z-ai/glm-5.3-flashx", 1_048_576, 131_072, "tvr"),
    ("z-ai/glm-5v-turbo", 202_752, 131_072, "tvr"),
)

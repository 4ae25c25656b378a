"""Messages in LangChain: reasoning, costs and fields of the provider, in answers and in earlier turns.

Importing this registers the provider's content blocks: LangChain's of OpenAI, with reasoning in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.block_translators import openai as openai_blocks
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock

__all__ = ["PROVIDER", "add_fields", "cost_of", "get_field", "send_back", "whole_numbers"]

PROVIDER = "nanogpt"
"""The name of the provider in metadata."""

_REASONING_FIELD = "nanogpt_reasoning_field"
_CALL_EXTRAS = "nanogpt_tool_call_fields"
_CALL_FIELDS = ("id", "type", "function", "index")


def _translate(message: AIMessage) -> list[ContentBlock]:
    return [*_reasoning_blocks(message), *openai_blocks.translate_content(message)]


def _translate_chunk(message: AIMessageChunk) -> list[ContentBlock]:
    return [*_reasoning_blocks(message), *openai_blocks.translate_content_chunk(message)]


def _reasoning_blocks(message: AIMessage) -> list[ContentBlock]:
    text = message.additional_kwargs.get("reasoning_content")
    block: Any = {"type": "reasoning", "reasoning": text}
    return [block] if isinstance(text, str) and text else []


# LangChain raises its refusal error for a message that has a refusal among its content blocks.
register_translator(PROVIDER, _translate, _translate_chunk)


def add_fields(message: BaseMessage, source: Any) -> None:
    """Add the parts of a message, or of a delta, that LangChain leaves out: reasoning, and fields of the provider."""
    more = message.additional_kwargs
    found = {name: get_field(source, name) for name in ("reasoning_content", "reasoning")}
    name = next((name for name, text in found.items() if isinstance(text, str) and text), None)
    if name is not None:
        more["reasoning_content"] = found[name]
        if name == "reasoning":
            more[_REASONING_FIELD] = True  # no text: LangChain joins texts of chunks
    extras = {}
    for call in get_field(source, "tool_calls") or ():
        fields = call if isinstance(call, dict) else call.model_extra or {}
        extra = {name: value for name, value in fields.items() if name not in _CALL_FIELDS and value is not None}
        if extra:
            # Only the first fragment of a call in a stream has its id.
            extras[get_field(call, "id") or f"index {get_field(call, 'index')}"] = extra
    if extras:
        more[_CALL_EXTRAS] = extras
    blocks = get_field(source, "content_blocks")
    if blocks:
        text = [{"type": "text", "text": message.content}] if message.content else []
        message.content = [*text, *blocks]


def cost_of(usage: Any) -> dict[str, float]:
    """Return the cost of a reply in US dollars, as metadata; empty if its usage gives none."""
    cost = get_field(usage, "cost_usd")
    return {} if cost is None else {"cost_usd": cost}


def whole_numbers(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a token usage. LangChain adds up whole numbers, and warns of all other fields."""
    found = {name: whole_numbers(value) if isinstance(value, dict) else value for name, value in usage.items()}
    return {name: value for name, value in found.items() if isinstance(value, dict) or type(value) is int}


def send_back(message: BaseMessage, sent: dict[str, Any], *, send_reasoning: bool) -> None:
    """Add reasoning, and fields of the provider on tool calls, to a message of an earlier turn.

    Args:
        message: The message.
        sent: The message as it is sent; changed in place.
        send_reasoning: Whether its reasoning is sent.
    """
    if not isinstance(message, AIMessage):
        return
    more = message.additional_kwargs
    if send_reasoning and isinstance(more.get("reasoning_content"), str):
        sent["reasoning" if more.get(_REASONING_FIELD) else "reasoning_content"] = more["reasoning_content"]
    extras = more.get(_CALL_EXTRAS) or {}
    for position, call in enumerate(sent.get("tool_calls") or ()):
        call.update({**extras.get(call.get("id"), {}), **extras.get(f"index {position}", {})})


def get_field(source: Any, name: str) -> Any:
    """Return a field of an object of the SDK, or of a dictionary; None if it has none of this name."""
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)

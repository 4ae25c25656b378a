"""Messages in LangChain: reasoning, costs and fields of the provider, in answers and in earlier turns.

Importing this registers the provider's content blocks: LangChain's of OpenAI, with reasoning in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.block_translators import openai as openai_blocks
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import ContentBlock

from nanogpt_core.chat.provider_fields import PROVIDER_FIELDS, REASONING_FIELDS, restore_fields

__all__ = ["PROVIDER", "add_fields", "cost_of", "get_field", "restore_reasoning", "separate_calls", "whole_numbers"]

AnyMessage = TypeVar("AnyMessage", bound=AIMessage)

PROVIDER = "nanogpt"
"""The name of the provider in metadata."""

_FIRST_CALL_INDEX = 1000  # no message has so many blocks
_REASONING_FIELD = "nanogpt_reasoning_field"


def _translate(message: AIMessage) -> list[ContentBlock]:
    return [*_reasoning_blocks(message), *openai_blocks.translate_content(_with_text_blocks(message))]


def _translate_chunk(message: AIMessageChunk) -> list[ContentBlock]:
    return [*_reasoning_blocks(message), *openai_blocks.translate_content_chunk(_with_text_blocks(message))]


def _with_text_blocks(message: AnyMessage) -> AnyMessage:
    """Return a message without texts among its content blocks, which LangChain would pass over.

    A joined stream has such texts if other blocks came after them.
    """
    if not isinstance(message.content, list) or all(isinstance(part, dict) for part in message.content):
        return message
    blocks = [{"type": "text", "text": part} if isinstance(part, str) else part for part in message.content]
    return message.model_copy(update={"content": blocks})


def _reasoning_blocks(message: AIMessage) -> list[ContentBlock]:
    text = message.additional_kwargs.get("reasoning_content")
    block: Any = {"type": "reasoning", "reasoning": text}
    return [block] if isinstance(text, str) and text else []


# LangChain raises its refusal error for a message that has a refusal among its content blocks.
register_translator(PROVIDER, _translate, _translate_chunk)


def add_fields(message: BaseMessage, source: Any) -> None:
    """Add the parts of a message, or of a delta, that LangChain leaves out: reasoning, and fields of the provider."""
    more = message.additional_kwargs
    found = {name: get_field(source, name) for name in REASONING_FIELDS}
    name = next((name for name, text in found.items() if isinstance(text, str) and text), None)
    if name is not None:
        more["reasoning_content"] = found[name]
        if name == "reasoning":
            more[_REASONING_FIELD] = True  # no text: LangChain joins texts of chunks
    fields = get_field(source, PROVIDER_FIELDS)
    if fields:
        more[PROVIDER_FIELDS] = fields
    blocks = get_field(source, "content_blocks")
    if blocks:
        text = [{"type": "text", "text": message.content}] if message.content else []
        message.content = [*text, *blocks]


def separate_calls(message: BaseMessage) -> None:
    """Give the fragments of tool calls indices of their own, in place.

    LangChain's content blocks of version 1 number texts and reasoning too, and blocks of one index are joined.
    """
    for chunk in getattr(message, "tool_call_chunks", ()):
        chunk["index"] = _FIRST_CALL_INDEX + (chunk["index"] or 0)


def cost_of(usage: Any) -> dict[str, float]:
    """Return the cost of a reply in US dollars, as metadata; empty if its usage gives none."""
    cost = get_field(usage, "cost_usd")
    return {} if cost is None else {"cost_usd": cost}


def whole_numbers(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a token usage. LangChain adds up whole numbers, and warns of all other fields."""
    found = {name: whole_numbers(value) if isinstance(value, dict) else value for name, value in usage.items()}
    return {name: value for name, value in found.items() if isinstance(value, dict) or type(value) is int}


def restore_reasoning(message: BaseMessage, sent: dict[str, Any]) -> None:
    """Add reasoning and provider fields to a message of an earlier turn.

    Args:
        message: The message.
        sent: The message as it is sent; changed in place.
    """
    if not isinstance(message, AIMessage):
        return
    more = message.additional_kwargs
    text, name = more.get("reasoning_content"), "reasoning" if more.get(_REASONING_FIELD) else "reasoning_content"
    restore_fields(sent, more.get(PROVIDER_FIELDS), {name: text} if isinstance(text, str) else {})


def get_field(source: Any, name: str) -> Any:
    """Return a field of an object of the SDK, or of a dictionary; None if it has none of this name."""
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)

"""Messages of earlier turns in LlamaIndex: reasoning and provider fields that have to be sent back.

LlamaIndex leaves both out. Some thinking models answer a tool result with status 400 without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ThinkingBlock
from llama_index.llms.openai.utils import to_openai_message_dicts

__all__ = ["keep_call_fields", "mark_reasoning_field", "messages_with_reasoning"]

_FIELD = "nanogpt_field"
_FIELDS = ("reasoning_content", "reasoning")
_CALL_FIELDS = ("id", "type", "function", "index")


def mark_reasoning_field(response: ChatResponse, field: str | None = None) -> str | None:
    """Note in a response the field that its reasoning came in, and return it.

    Args:
        response: The response, or a part of a stream.
        field: The field of earlier parts of the stream, or None.
    """
    choices = getattr(response.raw, "choices", None)
    message = getattr(choices[0], "message", None) or getattr(choices[0], "delta", None) if choices else None
    field = next((name for name in _FIELDS if isinstance(getattr(message, name, None), str)), field)
    for block in response.message.blocks:
        if isinstance(block, ThinkingBlock) and field is not None:
            block.additional_information[_FIELD] = field
    return field


def keep_call_fields(response: ChatResponse) -> None:
    """Add provider fields of later fragments of a tool call to the call; LlamaIndex keeps only those of the first."""
    choices = getattr(response.raw, "choices", None)
    delta = getattr(choices[0], "delta", None) if choices else None
    for fragment in getattr(delta, "tool_calls", None) or ():
        for call in response.message.additional_kwargs.get("tool_calls") or ():
            if call is not fragment and call.index == fragment.index and call.model_extra is not None:
                call.model_extra.update(fragment.model_extra or {})


def messages_with_reasoning(
    messages: Sequence[ChatMessage], model: str, *, send_reasoning: bool
) -> list[dict[str, Any]] | None:
    """Return the messages as they are sent, with reasoning and provider fields; None if there are none of these.

    Args:
        messages: The conversation.
        model: The model's name.
        send_reasoning: Whether reasoning is sent.
    """
    additions = [_additions(message, send_reasoning) for message in messages]
    if not any(reasoning or calls for reasoning, calls in additions):
        return None
    sent: list[Any] = list(to_openai_message_dicts(messages, model=model))
    for one, (reasoning, calls) in zip(sent, additions, strict=True):
        one.update(reasoning)
        one.update(
            {"tool_calls": [{**call, **calls.get(call["id"], {})} for call in one["tool_calls"]]}
            if calls and one.get("tool_calls")
            else {}
        )
    return sent


def _additions(message: ChatMessage, send_reasoning: bool) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    reasoning: dict[str, str] = {}
    for block in message.blocks if send_reasoning and message.role == "assistant" else ():
        if isinstance(block, ThinkingBlock) and block.content:
            field = block.additional_information.get(_FIELD, _FIELDS[0])
            reasoning[field] = reasoning.get(field, "") + block.content
    calls = {}
    for call in message.additional_kwargs.get("tool_calls") or ():
        fields = call if isinstance(call, Mapping) else getattr(call, "model_extra", None) or {}
        extra = {name: value for name, value in fields.items() if name not in _CALL_FIELDS}
        identifier = call.get("id") if isinstance(call, Mapping) else getattr(call, "id", None)
        if extra and identifier:
            calls[identifier] = extra
    return reasoning, calls

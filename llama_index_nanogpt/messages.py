"""Messages in LlamaIndex: reasoning and provider fields, which have to be sent back, and refusals.

LlamaIndex leaves them out. Some thinking models answer a tool result with status 400 without their reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock, ThinkingBlock
from llama_index.llms.openai.utils import to_openai_message_dicts

from llama_index_nanogpt.errors import StructuredOutputRefusedError
from nanogpt_core.chat.provider_fields import PROVIDER_FIELDS, send_back
from nanogpt_core.http.error_body import as_sentence

__all__ = ["ReceivedFields", "check_refusal", "finish_reason", "messages_with_reasoning", "raise_refusal"]

_FIELD = "nanogpt_field"
_FIELDS = ("reasoning_content", "reasoning")


class ReceivedFields:
    """The field that the reasoning of an answer came in, and its provider fields, as far as it has come."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._provider_fields: Any = None

    def add_to(self, response: ChatResponse) -> None:
        """Note them in the message of a response, or of a part of a stream; LlamaIndex leaves them out."""
        choices = getattr(response.raw, "choices", None)
        message = getattr(choices[0], "message", None) or getattr(choices[0], "delta", None) if choices else None
        self._name = next((name for name in _FIELDS if isinstance(getattr(message, name, None), str)), self._name)
        self._provider_fields = getattr(message, PROVIDER_FIELDS, None) or self._provider_fields
        for block in response.message.blocks:
            if isinstance(block, ThinkingBlock) and self._name is not None:
                block.additional_information[_FIELD] = self._name
        if self._provider_fields is not None:
            response.message.additional_kwargs[PROVIDER_FIELDS] = self._provider_fields


def messages_with_reasoning(
    messages: Sequence[ChatMessage], model: str, *, send_reasoning: bool
) -> list[dict[str, Any]] | None:
    """Return the messages as they are sent, with reasoning and provider fields; None if there are none of these.

    Args:
        messages: The conversation.
        model: The model's name.
        send_reasoning: Whether reasoning and provider fields are sent.
    """
    reasoning = [_reasoning(message) if send_reasoning else {} for message in messages]
    fields = [message.additional_kwargs.get(PROVIDER_FIELDS) for message in messages]
    if not any(reasoning) and not any(fields):
        return None
    sent: list[Any] = list(to_openai_message_dicts(messages, model=model))
    for one, texts, more in zip(sent, reasoning, fields, strict=True):
        one.pop(PROVIDER_FIELDS, None)  # LlamaIndex sends all additional_kwargs of a message without blocks
        one.update(texts)
        if send_reasoning:
            send_back(one, more)
    return sent


def _reasoning(message: ChatMessage) -> dict[str, str]:
    fields = message.additional_kwargs.get(PROVIDER_FIELDS)
    reasoning: dict[str, str] = {}
    if message.role != "assistant" or (fields and fields.get("is_derived")):
        return reasoning
    for block in message.blocks:
        if isinstance(block, ThinkingBlock) and block.content:
            field = block.additional_information.get(_FIELD, _FIELDS[0])
            reasoning[field] = reasoning.get(field, "") + block.content
    return reasoning


def finish_reason(response: ChatResponse | None) -> str | None:
    """Return the ``finish_reason`` of a response, or of a part of a stream; None if it has none."""
    choices = getattr(getattr(response, "raw", None), "choices", None)
    return getattr(choices[0], "finish_reason", None) if choices else None


def check_refusal(response: ChatResponse, options: Mapping[str, Any]) -> ChatResponse:
    """Put a refusal, which LlamaIndex leaves out, into the message.

    Args:
        response: The response, or a part of a stream.
        options: The options of the request.

    Raises:
        StructuredOutputRefusedError: Structured output or a tool call was asked for.
    """
    choices = getattr(response.raw, "choices", None)
    message = getattr(choices[0], "message", None) or getattr(choices[0], "delta", None) if choices else None
    text = getattr(message, "refusal", None)
    if not text:
        return response
    if options.get("response_format") or options.get("tool_choice") not in (None, "auto", "none"):
        raise_refusal(text)
    response.message.additional_kwargs["refusal"] = text
    if not response.message.content:
        blocks = [block for block in response.message.blocks if not isinstance(block, TextBlock)]
        response.message.blocks = [*blocks, TextBlock(text=text)]
    return response


def raise_refusal(text: str | None) -> None:
    """Raise the error for a refusal, if there is one."""
    if text:
        raise StructuredOutputRefusedError(
            as_sentence(f"The model refused: {text}"), remedy="Ask in other words, or another model."
        )

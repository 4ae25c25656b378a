"""Messages in LlamaIndex: reasoning, provider fields, images and audio, which have to be sent back, and refusals.

LlamaIndex leaves them out. Some thinking models answer a tool result with status 400 without their reasoning.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.llms.openai.utils import to_openai_message_dict, to_openai_message_dicts

from llama_index_nanogpt.errors import StructuredOutputRefusedError
from nanogpt_core.chat.provider_fields import (
    ANNOTATIONS,
    PROVIDER_FIELDS,
    REASONING_FIELDS,
    annotations_of,
    get_field,
    restore_fields,
)
from nanogpt_core.http.error_body import as_sentence

_AUDIO_ID = "reference_audio_id"  # LlamaIndex's own
_AUDIO_FORMAT = "mp3"  # LlamaIndex's own, if the request names none
_FIELD = "nanogpt_field"  # of a block with reasoning: the name of the field that it came in


class ReceivedMessage:
    """The parts of one answer that LlamaIndex leaves out, as far as it has come."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._wants_output = options.get("response_format") or options.get("tool_choice") not in (None, "auto", "none")
        self._reasoning_field: str | None = None
        self._provider_fields: Any = None
        self._images: list[ImageBlock] = []
        self._audio_data: list[str] = []
        self._audio_id: str | None = None
        self._has_ended = False
        self._audio_format = (options.get("audio") or {}).get("format") or _AUDIO_FORMAT
        self._annotations: list[dict[str, Any]] = []
        self._refusal: str | None = None

    def add_to(self, response: ChatResponse) -> ChatResponse:
        """Add them to the message of a response, or of a part of a stream, and return it.

        Raises:
            StructuredOutputRefusedError: The model refused structured output or a tool call.
        """
        choice = _first_choice(response)
        source = getattr(choice, "message", None) or getattr(choice, "delta", None)
        found = (name for name in REASONING_FIELDS if isinstance(getattr(source, name, None), str))
        self._reasoning_field = next(found, self._reasoning_field)
        self._provider_fields = getattr(source, PROVIDER_FIELDS, None) or self._provider_fields
        message = response.message
        for block in message.blocks:
            if isinstance(block, ThinkingBlock) and self._reasoning_field is not None:
                block.additional_information[_FIELD] = self._reasoning_field
        if self._provider_fields is not None:
            message.additional_kwargs[PROVIDER_FIELDS] = self._provider_fields
        self._images += _images(source)
        message.blocks = [*message.blocks, *self._images]
        self._add_audio(response, get_field(source, "audio"))
        self._annotations = annotations_of(source) or self._annotations
        if self._annotations:
            # LlamaIndex's class of another endpoint of OpenAI has them in the response; agents keep the message only.
            response.additional_kwargs[ANNOTATIONS] = message.additional_kwargs[ANNOTATIONS] = self._annotations
        refusal = getattr(source, "refusal", None)
        if refusal and self._wants_output:
            raise_refusal(refusal)
        if refusal and not message.content and response.delta is not None:  # a part of a stream
            response.delta = refusal
        self._refusal = refusal or self._refusal
        if self._refusal:
            message.additional_kwargs["refusal"] = self._refusal
            if not message.content:
                blocks = [block for block in message.blocks if not isinstance(block, TextBlock)]
                message.blocks = [*blocks, TextBlock(text=self._refusal)]
        return response

    def _add_audio(self, response: ChatResponse, audio: Any) -> None:
        """Add the audio of an answer, of a stream at its end. LlamaIndex has that of a whole answer, always as MP3."""
        self._audio_data += filter(None, [get_field(audio, "data")])
        self._audio_id = get_field(audio, "id") or self._audio_id
        choice = _first_choice(response)  # none in the last part of a stream, with the usage
        is_last = response.delta is None or choice is None or choice.finish_reason is not None
        self._has_ended = self._has_ended or is_last
        if not (self._audio_data and self._has_ended):
            return
        message = response.message
        blocks = [block for block in message.blocks if not isinstance(block, AudioBlock)]
        message.blocks = [*blocks, AudioBlock(audio="".join(self._audio_data).encode(), format=self._audio_format)]
        if self._audio_id:  # the next request repeats it in place of the audio
            message.additional_kwargs[_AUDIO_ID] = self._audio_id


def _images(source: Any) -> Iterator[ImageBlock]:
    """Yield the images of a message, or of a delta."""
    for block in get_field(source, "content_blocks") or ():
        image = block.get("image_url")
        url = image.get("url") if isinstance(image, dict) else None
        if isinstance(url, str):
            with contextlib.suppress(ValueError):  # it is not a URL
                yield ImageBlock(url=url)


def raise_refusal(text: str | None) -> None:
    """Raise the error for a refusal, if there is one."""
    if text:
        raise StructuredOutputRefusedError(
            as_sentence(f"The model refused: {text}"), remedy="Ask in other words, or another model."
        )


def finish_reason(response: ChatResponse | None) -> str | None:
    """Return the ``finish_reason`` of a response, or of a part of a stream; None if it has none."""
    return getattr(_first_choice(response), "finish_reason", None)


def _first_choice(response: ChatResponse | None) -> Any:
    choices = getattr(getattr(response, "raw", None), "choices", None)
    return choices[0] if choices else None


def complete_messages(
    messages: Sequence[ChatMessage], model: str, *, send_reasoning: bool
) -> list[dict[str, Any]] | None:
    """Return the messages as they are sent, with the parts that LlamaIndex leaves out; None if there are none."""
    for message in messages:
        _check_calls(message)
    reasoning = [_reasoning(message) if send_reasoning else {} for message in messages]
    fields = [message.additional_kwargs.get(PROVIDER_FIELDS) for message in messages]
    contents = [_content_with_media(message) for message in messages]
    beside_audio = [_parts_beside_audio(message) for message in messages]
    if not (any(reasoning) or any(fields) or any(contents) or any(beside_audio)):
        return None
    sent: list[Any] = list(to_openai_message_dicts(messages, model=model))
    for one, texts, more, content, parts in zip(sent, reasoning, fields, contents, beside_audio, strict=True):
        one.pop(PROVIDER_FIELDS, None)  # LlamaIndex sends all additional_kwargs of a message without blocks
        one.update(parts)
        if content:
            one["content"] = content
        if send_reasoning:
            restore_fields(one, more, texts)
    return sent


def check_message(message: ChatMessage) -> None:
    """Raise an error for a message that cannot be sent."""
    _check_calls(message)
    to_openai_message_dict(message)


def _check_calls(message: ChatMessage) -> None:
    """Raise an error for a tool call whose arguments are no JSON: LlamaIndex leaves it out."""
    for block in message.blocks:
        if isinstance(block, ToolCallBlock):
            json.dumps(block.tool_kwargs)


def _content_with_media(message: ChatMessage) -> Any:
    """Return the content of a message with images, files or audio; None if LlamaIndex sends it, as for the user's."""
    if message.role == "user" or _AUDIO_ID in message.additional_kwargs:
        return None
    blocks = [block for block in message.blocks if not isinstance(block, ThinkingBlock | ToolCallBlock)]
    if all(isinstance(block, TextBlock) for block in blocks):
        return None
    return to_openai_message_dict(ChatMessage(role="user", blocks=blocks)).get("content")


def _parts_beside_audio(message: ChatMessage) -> dict[str, Any]:
    """Return the text and the tool calls of an earlier answer with audio, of which LlamaIndex sends only the id."""
    if message.role != "assistant" or _AUDIO_ID not in message.additional_kwargs:
        return {}
    blocks = [one for one in message.blocks if isinstance(one, ToolCallBlock) or getattr(one, "text", None)]
    return dict(to_openai_message_dict(ChatMessage(role=message.role, blocks=blocks))) if blocks else {}


def _reasoning(message: ChatMessage) -> dict[str, str]:
    """Return the reasoning of an earlier answer, by the names of its fields."""
    reasoning: dict[str, str] = {}
    for block in message.blocks if message.role == "assistant" else ():
        if isinstance(block, ThinkingBlock) and block.content:
            field = block.additional_information.get(_FIELD, REASONING_FIELDS[0])
            reasoning[field] = reasoning.get(field, "") + block.content
    return reasoning

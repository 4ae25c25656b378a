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
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai.chat_models.base import BaseChatOpenAI

from nanogpt_core.chat.provider_fields import (
    ANNOTATIONS,
    PROVIDER_FIELDS,
    REASONING_FIELDS,
    annotations_of,
    get_field,
    restore_fields,
)

PROVIDER = "nanogpt"
"""The name of the provider in metadata."""

_FIRST_CALL_INDEX = 1000  # no message has so many blocks
_EMPTY_TEXT = {"type": "text", "text": ""}
_WRAPPER = "non_standard"  # the type of LangChain's block around one that it does not know
_CITATION_FIELDS = {"url": str, "title": str, "start_index": int, "end_index": int}
_REASONING_FIELD = "nanogpt_reasoning_field"


def _translate(message: AIMessage) -> list[ContentBlock]:
    message = _with_text_blocks(message)
    is_chunk = isinstance(message, AIMessageChunk)
    translate: Any = openai_blocks.translate_content_chunk if is_chunk else openai_blocks.translate_content
    blocks = [_as_image(block) for block in translate(message)]
    return [*_reasoning_blocks(message), *_with_citations(blocks, message)]


def _as_image(block: Any) -> Any:
    """Return an image as LangChain's content block; other blocks as they are. LangChain does so in requests only."""
    inner = block.get("value") if block.get("type") == _WRAPPER else block
    image = inner.get("image_url") if isinstance(inner, dict) else None
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        return block
    mime_type, _, data = url.removeprefix("data:").partition(";base64,")
    source = {"base64": data, "mime_type": mime_type} if url.startswith("data:") and data else {"url": url}
    return {"type": "image", **source, **({"index": block["index"]} if "index" in block else {})}


def _with_text_blocks(message: AIMessage) -> AIMessage:
    """Return a message without texts among its content blocks, which LangChain would pass over.

    A joined stream has such texts if other blocks came after them.
    """
    if not isinstance(message.content, list) or all(isinstance(part, dict) for part in message.content):
        return message
    blocks = [_text_block(part) if isinstance(part, str) else part for part in message.content]
    return message.model_copy(update={"content": blocks})


def _reasoning_blocks(message: AIMessage) -> list[ContentBlock]:
    text = message.additional_kwargs.get("reasoning_content")
    block: Any = {"type": "reasoning", "reasoning": text}
    return [block] if isinstance(text, str) and text else []


def _with_citations(blocks: list[ContentBlock], message: AIMessage) -> list[ContentBlock]:
    """Return content blocks with the citations of a message in the first text; a delta with citations has no text."""
    found: Any = [_citation(one) for one in message.additional_kwargs.get(ANNOTATIONS) or ()]
    if not found:
        return blocks
    given: list[Any] = [*blocks] if any(one["type"] == "text" for one in blocks) else [_EMPTY_TEXT, *blocks]
    at = next(at for at, one in enumerate(given) if one["type"] == "text")
    given[at] = {**given[at], "annotations": [*given[at].get("annotations", ()), *found]}
    return given


def _citation(annotation: dict[str, Any]) -> Any:
    """Return an annotation as LangChain's citation; one without a URL as LangChain's wrapper for other annotations."""
    inner = annotation.get("url_citation")
    fields = dict(inner if isinstance(inner, dict) else annotation)
    if not isinstance(fields.get("url"), str):
        return {"type": "non_standard_annotation", "value": annotation}
    fields.pop("type", None)
    known = {name: fields.pop(name) for name, kind in _CITATION_FIELDS.items() if isinstance(fields.get(name), kind)}
    extras = {name: value for name, value in fields.items() if value is not None}
    return {"type": "citation", **known, **({"extras": extras} if extras else {})}


# LangChain raises its refusal error for a message that has a refusal among its content blocks.
register_translator(PROVIDER, _translate, _translate)


class ConvertedReplies(BaseChatOpenAI):
    """LangChain's chat model with all parts of a reply in its messages; a base class of ``ChatNanoGPT``."""

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        choices = response["choices"] if isinstance(response, dict) else response.choices
        for generation, choice in zip(result.generations, choices, strict=True):
            _add_fields(generation.message, get_field(choice, "message"))
            generation.message.response_metadata["model_provider"] = PROVIDER  # before content becomes blocks
        cost = _cost_of(get_field(response, "usage"))
        result.llm_output = {**(result.llm_output or {}), "model_provider": PROVIDER, **cost}
        return result

    def _convert_cached_generations(self, cache_val: list[Any]) -> list[Any]:
        generations: list[Any] = super()._convert_cached_generations(cache_val)
        for message in (one.message for one in generations):
            if "cost_usd" in message.response_metadata:  # LangChain has made a copy of the message
                message.response_metadata = {**message.response_metadata, "cost_usd": 0.0}
        return generations

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None]) -> dict[str, Any]:
        made = [dict(output) for output in llm_outputs if output is not None]
        for output in made:
            output["token_usage"] = _whole_numbers(output.get("token_usage") or {})
        costs = [output["cost_usd"] for output in made if "cost_usd" in output]
        return {**super()._combine_llm_outputs([*made]), **({"cost_usd": sum(costs)} if costs else {})}

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if made is None:
            return None
        message = made.message
        message.response_metadata.update(_cost_of(chunk.get("usage")))
        # A chunk of a stream with a schema is wrapped in an event.
        choices = chunk.get("choices") or (chunk.get("chunk") or {}).get("choices")
        if choices:
            delta = choices[0].get("delta") or {}
            _add_fields(message, delta)
            # With a schema, the completion at the end has it.
            if delta.get("refusal") and "chunk" not in chunk:
                message.additional_kwargs["refusal"] = delta["refusal"]
            if delta.get("audio"):  # LangChain joins the pieces of the data, as the SDK does
                message.additional_kwargs["audio"] = delta["audio"]
            message.response_metadata["model_provider"] = PROVIDER
            if self.output_version == "v1":
                # With it, LangChain would take a list of blocks as translated. It adds it again.
                message.response_metadata.pop("output_version", None)
                _separate_calls(message)
        return made

    def _get_generation_chunk_from_completion(self, completion: Any) -> ChatGenerationChunk:
        chunk = super()._get_generation_chunk_from_completion(completion)
        for name in ("reasoning_content", PROVIDER_FIELDS, ANNOTATIONS, "audio"):
            chunk.message.additional_kwargs.pop(name, None)  # has come in chunks already
        return chunk


def _add_fields(message: BaseMessage, source: Any) -> None:
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
        more[PROVIDER_FIELDS] = [fields]  # LangChain appends to lists; it would join the signatures of two answers
    annotations = annotations_of(source)
    if annotations:
        more[ANNOTATIONS] = annotations
    blocks = get_field(source, "content_blocks")
    if blocks:
        text = [{"type": "text", "text": message.content}] if message.content else []
        message.content = [*text, *blocks]


def _separate_calls(message: BaseMessage) -> None:
    """Give the fragments of tool calls indices of their own, in place.

    LangChain's content blocks of version 1 number texts and reasoning too, and blocks of one index are joined.
    """
    for chunk in getattr(message, "tool_call_chunks", ()):
        chunk["index"] = _FIRST_CALL_INDEX + (chunk["index"] or 0)


def _cost_of(usage: Any) -> dict[str, float]:
    """Return the cost of a reply in US dollars, as metadata; empty if its usage gives none."""
    cost = get_field(usage, "cost_usd")
    return {} if cost is None else {"cost_usd": cost}


def _whole_numbers(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a token usage. LangChain adds up whole numbers, and warns of all other fields."""
    found = {name: _whole_numbers(value) if isinstance(value, dict) else value for name, value in usage.items()}
    return {name: value for name, value in found.items() if isinstance(value, dict) or type(value) is int}


def restore_reasoning(message: BaseMessage, sent: dict[str, Any]) -> None:
    """Add reasoning and provider fields of an earlier turn to its message as it is ``sent``, in place."""
    if not isinstance(message, AIMessage):
        return
    more = message.additional_kwargs
    text, name = more.get("reasoning_content"), "reasoning" if more.get(_REASONING_FIELD) else "reasoning_content"
    restore_fields(sent, more.get(PROVIDER_FIELDS), {name: text} if isinstance(text, str) else {})


def restore_blocks(message: BaseMessage, sent: dict[str, Any]) -> None:
    """Make LangChain's own content blocks in an earlier answer the service's, as they are ``sent``, in place.

    Parts of unreadable tool calls are removed, since they are sent as calls too, and so are empty texts, which only
    hold citations; some models refuse these. In other messages, texts become blocks of text: OpenAI refuses them
    between blocks. Audio without an id is left out: a request names earlier audio by its id only.
    """
    audio = sent.get("audio")
    if isinstance(audio, dict) and not audio.get("id"):
        del sent["audio"]
    content = sent.get("content")
    if not isinstance(content, list):
        return
    if not isinstance(message, AIMessage):
        sent["content"] = [_text_block(part) if isinstance(part, str) else part for part in content]
        return
    kept = [_as_sent(part) for part in content if part]
    kept = [part for part in kept if not (isinstance(part, dict) and part.get("type") == "tool_call_chunk")]
    if message.additional_kwargs.get(ANNOTATIONS):
        kept = [part for part in kept if part != _EMPTY_TEXT]
    sent["content"] = kept or (None if sent.get("tool_calls") else "")


def _text_block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _as_sent(part: Any) -> Any:
    """Return a part of LangChain's content as a block of the service.

    Joined streams have bare texts, and indices by which LangChain has joined blocks.
    """
    if isinstance(part, str):
        return _text_block(part)
    if not isinstance(part, dict):
        return part
    block = part["value"] if part.get("type") == _WRAPPER and isinstance(part.get("value"), dict) else part
    return {name: value for name, value in block.items() if name != "index"}

"""Provider fields of chat answers: reasoning and signatures that hosts want back with the next turn. Pure.

Hosts put them into the message (``reasoning_details`` of OpenRouter and MiniMax, ``thinking_blocks`` of LiteLLM,
``extra_content`` of Gemini, ``thinking_signature``, ...), into its content blocks (Mistral), into a tool call or into
its ``function``. A stream sends them in pieces, and some only after a later tool call has begun.

Neither framework keeps them. :class:`ProviderFields` collects them. Plugins get them in one more field of a message,
or of one delta at the end of a stream, and :func:`restore_fields` puts them into the next request.

Neither framework keeps annotations of chat completions either, such as citations by models with online search:
``{"type": "url_citation", "url_citation": {"url": ..., "title": ..., "start_index": ..., "end_index": ...}}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nanogpt_core.chat.json_text import join_surrogates_in

PROVIDER_FIELDS = "nanogpt_provider_fields"
"""The field of a message, or of the last delta of a stream, with everything that a later request must repeat."""

ANNOTATIONS = "annotations"
"""The field of a message, or of a delta, with annotations."""

REASONING_FIELDS = ("reasoning_content", "reasoning")
"""Fields of a message, or of a delta, with reasoning as text. The plugins read these."""

# Names of provider fields, of texts that a stream sends in pieces, and of texts that it sends as a whole.
_PROVIDER_NAME = re.compile(
    r"reasoning|thinking|thought|signature|encrypted|extra_content|provider_specific", re.IGNORECASE
)
_JOINED_NAME = re.compile(r"^(text|summary|content)$|reasoning|thinking|thought", re.IGNORECASE)
_REPLACED_NAME = re.compile(r"signature|encrypted|opaque|(^|_)(id|type|format)$", re.IGNORECASE)

THOUGHT_BLOCKS = ("thinking", "reasoning", "redacted_thinking")
"""Types of content blocks with reasoning."""

_SIGNATURE_FIELDS = ("signature", "data")  # the last fields of a block
_REASONING_TEXTS = (*REASONING_FIELDS, "reasoning_text", "thinking", "thoughts", "reasoning_details", "thinking_blocks")
_CALL_FIELDS = ("id", "type", "function", "index")
_FUNCTION_FIELDS = ("name", "arguments", "description")
# The fields that hold the text of a part, in the order in which they are looked for.
_TEXT_FIELDS = ("text", "thinking", "reasoning", "summary", "refusal", "message", "reason", "content", "value")


class ProviderFields:
    """The provider fields of one message, in the deltas of a stream."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._has_reasoning = self._is_derived = False

    def add(self, message: dict[str, Any]) -> None:
        """Take the fields of a delta, before it is repaired.

        Reasoning text that comes only in other fields is put into ``reasoning_content`` too; thoughts in content blocks
        stay there.
        """
        message.pop(PROVIDER_FIELDS, None)
        found = {name: value for name, value in message.items() if _is_provider_field(name, value)}
        content = message.get("content")
        blocks = content if isinstance(content, list) else [content]
        thoughts = [block for block in blocks if isinstance(block, dict) and block.get("type") in THOUGHT_BLOCKS]
        if thoughts:
            found["content"] = thoughts
        has_text = any(isinstance(message.get(name), str) and message[name] for name in REASONING_FIELDS)
        if found:
            self._message = merge_fields(self._message, _without_thought_flags(found))
            text = next(filter(None, (text_of(found.get(name)) for name in _REASONING_TEXTS)), None)
            is_first = self._is_derived or not self._has_reasoning
            if (text or thoughts) and not has_text and is_first:
                self._is_derived = True
                if not thoughts:
                    message["reasoning_content"] = text
        self._has_reasoning = self._has_reasoning or has_text or self._is_derived

    def document(self, calls: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """Return :data:`PROVIDER_FIELDS` with everything that a later request must repeat; empty if there is nothing.

        It has the fields of the message, the fields of its tool ``calls`` by their ids, and ``is_derived`` if the usual
        reasoning text was made from the fields, and is not to be sent as well.
        """
        if not self._message and not calls:
            return {}
        found = join_surrogates_in({"message": self._message, "calls": calls})
        # Only if true: LangChain cannot merge messages of which one has another value than the other.
        return {PROVIDER_FIELDS: {**found, **({"is_derived": True} if self._is_derived else {})}}


def call_fields(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provider fields of a tool call, or of a fragment of one; those of its ``function`` under that name."""
    fields = {name: value for name, value in call.items() if name not in _CALL_FIELDS and _is_set(value)}
    function = call.get("function")
    inner = function if isinstance(function, dict) else {}
    more = {name: value for name, value in inner.items() if name not in _FUNCTION_FIELDS and _is_set(value)}
    more.pop("index", None)  # Ollama has it there
    return {**fields, "function": more} if more else fields


def restore_fields(sent: dict[str, Any], fields: Any, reasoning: Mapping[str, str]) -> None:
    """Add the reasoning and the provider fields of an earlier answer to its message in a request; in place.

    Args:
        sent: The message as it is sent.
        fields: The value of :data:`PROVIDER_FIELDS`, or None; or a list of these, of answers made into one message.
        reasoning: Reasoning text, by the name of its field. It is not sent if it was made from ``fields``.
    """
    fields = _join_answers(fields if isinstance(fields, list) else [fields])
    if not fields["is_derived"]:
        sent.update(reasoning)
    more = fields["message"]
    thoughts = more.pop("content", None)
    if thoughts:
        content = sent.get("content")
        texts = [{"type": "text", "text": content}] if isinstance(content, str) and content else content
        sent["content"] = [*thoughts, *(texts or ())]
    sent.update(more)
    sent_calls = [_with_fields(call, fields["calls"].get(call.get("id"))) for call in sent.get("tool_calls") or ()]
    if sent_calls:
        sent["tool_calls"] = sent_calls


def _join_answers(documents: list[Any]) -> dict[str, Any]:
    """Return the provider fields of several answers as those of one: lists are joined, other values are the last.

    They are no pieces of a stream: two signatures must not become one, or one block's text another's.
    """
    message: dict[str, Any] = {}
    calls: dict[str, Any] = {}
    is_derived = False
    for document in documents:
        if isinstance(document, dict):
            for name, value in _dict_of(document, "message").items():
                known = message.get(name)
                message[name] = [*known, *value] if isinstance(known, list) and isinstance(value, list) else value
            calls.update(_dict_of(document, "calls"))
            is_derived = is_derived or bool(document.get("is_derived"))
    return {"message": message, "calls": calls, "is_derived": is_derived}


def _dict_of(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a field that is an object; empty if it is anything else: programs store messages, and may change them."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _with_fields(call: dict[str, Any], fields: Any) -> dict[str, Any]:
    fields = fields if isinstance(fields, dict) else {}
    function = {**_dict_of(call, "function"), **_dict_of(fields, "function")}
    return {**call, **fields, "function": function}


def merge_fields(known: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provider fields of a stream after a further delta: texts are joined, lists merged, others replaced."""
    merged = dict(known)
    for name, value in further.items():
        if _is_set(value):
            merged[name] = _merge_values(name, known[name], value) if name in known else value
    return merged


def _merge_values(name: str, known: Any, further: Any) -> Any:
    if isinstance(known, dict) and isinstance(further, dict):
        return merge_fields(known, further)
    if isinstance(known, list) and isinstance(further, list):
        return _merge_lists(known, further)
    is_joined = _JOINED_NAME.search(name) is not None and _REPLACED_NAME.search(name) is None
    if isinstance(known, str) and isinstance(further, str) and is_joined:
        return known + further
    return further


def _merge_lists(known: list[Any], further: list[Any]) -> list[Any]:
    merged = list(known)
    for entry in further:
        place = next((at for at in reversed(range(len(merged))) if _continues(merged, at, entry)), None)
        if place is None:
            if entry not in merged:
                merged.append(entry)
        elif not _repeats(merged[place], entry):
            merged[place] = merge_fields(merged[place], entry)
        else:
            merged[place] = {**merged[place], **entry}
    return merged


def _continues(entries: list[Any], at: int, further: Any) -> bool:
    """Return whether ``further`` is a part of the entry at ``at``: of one index, or the last and without an end."""
    known = entries[at]
    if not isinstance(known, dict) or not isinstance(further, dict):
        return False
    if any(known.get(name) != further.get(name) for name in ("type", "id") if known.get(name) and further.get(name)):
        return False
    if known.get("index") is not None or further.get("index") is not None:
        return known.get("index") == further.get("index")
    return at == len(entries) - 1 and (known == further or not any(known.get(name) for name in _SIGNATURE_FIELDS))


def _repeats(known: dict[str, Any], further: dict[str, Any]) -> bool:
    """Return whether ``further`` is the whole block again, and not its next piece."""
    is_whole = any(further.get(name) for name in _SIGNATURE_FIELDS)
    rest = {name: value for name, value in further.items() if name not in _SIGNATURE_FIELDS}
    return is_whole and all(known.get(name) in (None, value) for name, value in rest.items())


def _without_thought_flags(value: Any) -> Any:
    """Return a delta's fields without Gemini's ``thought: true``, which holds for the delta only."""
    if not isinstance(value, dict):
        return value
    kept = {name: _without_thought_flags(inner) for name, inner in value.items() if (name, inner) != ("thought", True)}
    return {name: inner for name, inner in kept.items() if _is_set(inner)}


def _is_provider_field(name: str, value: Any) -> bool:
    if name in REASONING_FIELDS and isinstance(value, str):
        return False
    return bool(value) and isinstance(value, (str, list, dict)) and _PROVIDER_NAME.search(name) is not None


def _is_set(value: Any) -> bool:
    return value is not None and value not in ("", [], {})


def text_of(value: Any) -> str | None:
    """Return the text of a content block, or of a list of these; None if there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(filter(None, map(text_of, value)))
    fields = value if isinstance(value, dict) else {}
    return next((text for name in _TEXT_FIELDS if name in fields and (text := text_of(fields[name])) is not None), None)


def get_field(source: Any, name: str) -> Any:
    """Return a field of a dictionary, or of an object of the SDK; None if it has none of this name."""
    return source.get(name) if isinstance(source, dict) else getattr(source, name, None)


def annotations_of(source: Any) -> list[dict[str, Any]]:
    """Return the annotations of a message, or of a delta: a dictionary, or an object of the SDK."""
    found = get_field(source, ANNOTATIONS)
    return [one if isinstance(one, dict) else one.to_dict(warnings=False) for one in found or ()]

"""Repairs of chat replies: small gaps are filled, and wrong types with a clear meaning are converted. Pure functions.

Neither the SDK nor the frameworks validate a reply, so a null or a number in the wrong place would end in a raw error
deep inside a framework. Values without a clear meaning are a :class:`~nanogpt_core.errors.ReplyError`.
"""

from __future__ import annotations

import json
from typing import Any

from nanogpt_core.errors import ReplyError
from nanogpt_core.http.error_body import excerpt

__all__ = ["repair_message", "repair_reply"]

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_OBJECT = {False: "chat.completion", True: "chat.completion.chunk"}


def repair_reply(document: dict[str, Any], *, streamed: bool) -> None:
    """Repair the parts of a reply, or of a chunk of a stream, around its messages; in place."""
    for name, default in (("id", ""), ("model", ""), ("object", _OBJECT[streamed])):
        if not isinstance(document.get(name), str):
            document[name] = default
    if not _is_count(document.get("created")):
        document["created"] = 0
    for name in ("system_fingerprint", "service_tier"):
        if not isinstance(document.get(name), str):
            document.pop(name, None)
    if streamed:
        # LangChain takes a chunk with one of these for an event of the SDK's.
        document.pop("type", None)
        document.pop("chunk", None)
    usage = _repair_usage(document.get("usage"))
    if usage is not None or "usage" in document:
        document["usage"] = usage
    choices = document.get("choices")
    document["choices"] = (
        [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    )
    for position, choice in enumerate(document["choices"]):
        if not _is_count(choice.get("index")):
            choice["index"] = 0 if streamed else position
        reason = choice.get("finish_reason")
        choice["finish_reason"] = reason if isinstance(reason, str) and reason else None
        if not isinstance(choice.get("logprobs"), dict):
            choice.pop("logprobs", None)


def repair_message(message: dict[str, Any], *, streamed: bool, request_id: str | None = None) -> None:
    """Repair a message, or a delta of one, without its tool calls; in place.

    Raises:
        ReplyError: Its content is of a type without a meaning.
    """
    if not streamed or "role" in message:
        message["role"] = "assistant"
    for name in ("refusal", "reasoning", "reasoning_content", "name", "id"):
        if name in message and not isinstance(message[name], str):
            del message[name]
    if not isinstance(message.get("audio"), dict):
        message.pop("audio", None)
    content = message.get("content")
    if isinstance(content, list):
        _join_blocks(message, content, request_id)
    elif content is not None and not isinstance(content, str):
        raise _bad("content", content, request_id)
    if message.get("content") is None and {"reasoning", "reasoning_content"} & message.keys():
        # LlamaIndex's async stream passes over a first chunk without content.
        message["content"] = ""
    message.setdefault("content", None)
    call = message.pop("function_call", None)
    if isinstance(call, dict) and isinstance(call.get("name"), str | None):
        arguments = call.get("arguments")
        call["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
        message["function_call"] = call


def _join_blocks(message: dict[str, Any], blocks: list[Any], request_id: str | None) -> None:
    """Join content blocks, as Mistral sends them, to text and reasoning. Blocks of other types stay as they are."""
    texts: list[str] = []
    thoughts: list[str] = []
    for block in blocks:
        if isinstance(block, str):
            texts.append(block)
        elif not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise _bad("content", blocks, request_id)
        elif block["type"] in ("text", "output_text") and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif block["type"] in ("thinking", "reasoning"):
            thoughts.append(_text_of(block.get("thinking") or block.get("reasoning") or block.get("text")))
        elif block["type"] == "reference":
            continue
        else:
            return
    message["content"] = "".join(texts)
    if any(thoughts) and not message.get("reasoning_content"):
        message["reasoning_content"] = "".join(thoughts)


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _repair_usage(usage: Any) -> dict[str, Any] | None:
    """Return the token usage; None if it does not say how many tokens were used."""
    if not isinstance(usage, dict):
        return None
    prompt, completion, total = (usage.get(name) if _is_count(usage.get(name)) else None for name in _COUNTS)
    if prompt is None and completion is None and total is None:
        return None
    if total is None:
        total = (prompt or 0) + (completion or 0)
    if prompt is None:
        prompt = max(0, total - (completion or 0))
    if completion is None:
        completion = max(0, total - prompt)
    repaired = {**usage, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    for name in _DETAILS:
        details = repaired.pop(name, None)
        if isinstance(details, dict):
            repaired[name] = {key: value for key, value in details.items() if _is_count(value)}
    return repaired


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bad(name: str, value: object, request_id: str | None) -> ReplyError:
    return ReplyError(
        f"The service's reply has a {name} of the wrong type: {excerpt(json.dumps(value))}.",
        remedy="Try again, or with another model.",
        request_id=request_id,
    )

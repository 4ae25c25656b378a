"""Repairs of chat replies: small gaps are filled, and wrong types with a clear meaning are converted. Pure functions.

Neither the SDK nor the frameworks validate a reply, so a null or a number in the wrong place would end in a raw error
deep inside a framework. Values without a clear meaning are a :class:`~nanogpt_core.errors.ReplyError`.
"""

from __future__ import annotations

import json
from typing import Any

from nanogpt_core.errors import ReplyError
from nanogpt_core.http.error_body import excerpt
from nanogpt_core.models.pricing import parse_cost_usd

__all__ = ["PRICING", "repair_message", "repair_reply", "repair_usage"]

PRICING = "x_nanogpt_pricing"
"""The field of a reply, or of a chunk of a stream, that gives the cost of the request."""

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_TEXT_BLOCKS = ("text", "output_text", None)
_THOUGHT_BLOCKS = ("thinking", "reasoning")
# The fields that hold the text of a part, in the order in which they are looked for.
_TEXT_FIELDS = ("text", "thinking", "reasoning", "refusal", "message", "reason", "content")
_OBJECT = {False: "chat.completion", True: "chat.completion.chunk"}


def repair_reply(document: dict[str, Any], *, streamed: bool) -> None:
    """Repair the parts of a reply, or of a chunk of a stream, around its messages; in place."""
    for name in ("id", "model"):
        if not isinstance(document.get(name), str):
            document[name] = ""
    document["object"] = _OBJECT[streamed]  # the SDK leaves out other chunks if it joins an answer in JSON
    if not _is_count(document.get("created")):
        document["created"] = 0
    for name in ("system_fingerprint", "service_tier"):
        if not isinstance(document.get(name), str):
            document.pop(name, None)
    if streamed:
        # LangChain takes a chunk with one of these for an event of the SDK's.
        document.pop("type", None)
        document.pop("chunk", None)
    choices = document.get("choices")
    document["choices"] = (
        [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    )
    # Moonshot puts it into a choice, Groq into a field of its own.
    usages = [
        one.get("usage") for one in (document, *document["choices"], document.get("x_groq")) if isinstance(one, dict)
    ]
    usage = repair_usage(next((one for one in usages if isinstance(one, dict)), None), document.get(PRICING))
    if usage is not None or "usage" in document:
        document["usage"] = usage
    for position, choice in enumerate(document["choices"]):
        if not _is_count(choice.get("index")):
            choice["index"] = 0 if streamed else position
        reason = choice.get("finish_reason")
        choice["finish_reason"] = reason if isinstance(reason, str) and reason else None
        if not _is_logprobs(choice.get("logprobs")):
            choice.pop("logprobs", None)


def repair_message(message: dict[str, Any], *, streamed: bool, request_id: str | None = None) -> None:
    """Repair a message, or a delta of one, without its tool calls; in place.

    Content blocks, as Mistral sends them, become text, reasoning and refusal. Blocks of other types are kept in
    ``content_blocks``.

    Raises:
        ReplyError: Its content is of a type without a meaning.
    """
    if not streamed or "role" in message:
        message["role"] = "assistant"
    message["refusal"] = _refusal(message.get("refusal"))
    for name in ("refusal", "reasoning", "reasoning_content", "name", "id"):
        if not isinstance(message.get(name), str):
            message.pop(name, None)
    if not isinstance(message.get("audio"), dict):
        message.pop("audio", None)
    content = message.get("content")
    if isinstance(content, (list, dict)):
        _join_blocks(message, content if isinstance(content, list) else [content], request_id)
    elif content is not None and not isinstance(content, str):
        raise _bad("content", content, request_id)
    message.setdefault("content", None)
    call = message.pop("function_call", None)
    if isinstance(call, dict) and isinstance(call.get("name"), str | None):
        arguments = call.get("arguments")
        call["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
        message["function_call"] = call


def _join_blocks(message: dict[str, Any], blocks: list[Any], request_id: str | None) -> None:
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    others: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        text = _text_of(block)
        if kind == "refusal":
            refusals.append(_refusal(block) or "")
        elif kind in _THOUGHT_BLOCKS:
            thoughts.append(text or "")
        elif kind in _TEXT_BLOCKS and (text is not None or (kind and block.get("text") is None)):
            texts.append(text or "")
        elif isinstance(kind, str) and kind not in _TEXT_BLOCKS:
            others += [block] if kind != "reference" else []
        else:
            raise _bad("content", blocks, request_id)
    message["content"] = "".join(texts)
    for name, parts in (("reasoning_content", thoughts), ("refusal", refusals)):
        if any(parts) and not message.get(name):
            message[name] = "".join(parts)
    if others:
        message["content_blocks"] = others


def _refusal(value: Any) -> str | None:
    """Return the words of a refusal, which some hosts send as an object or as parts; None if there is no refusal."""
    if not value or isinstance(value, str):
        return value or None
    return _text_of(value) or ("no reason given" if value is True else None)


def _text_of(value: Any) -> str | None:
    """Return the text of a content block, or of a list of these; None if there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(filter(None, map(_text_of, value)))
    fields = value if isinstance(value, dict) else {}
    return next(
        (text for name in _TEXT_FIELDS if name in fields and (text := _text_of(fields[name])) is not None), None
    )


def repair_usage(usage: Any, pricing: Any = None) -> dict[str, Any] | None:
    """Return the token usage with its cost as ``cost_usd``; None if nothing says how many tokens were used.

    Args:
        usage: The ``usage`` of a reply.
        pricing: Its ``x_nanogpt_pricing``, which counts the tokens too.
    """
    pricing = pricing if isinstance(pricing, dict) else {}
    if not isinstance(usage, dict):
        usage = {"prompt_tokens": pricing.get("inputTokens"), "completion_tokens": pricing.get("outputTokens")}
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
    cost = parse_cost_usd(pricing)
    repaired.pop("cost_usd", None)
    return repaired if cost is None else {**repaired, "cost_usd": cost}


def _is_logprobs(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    lists = [value.get(name) or [] for name in ("content", "refusal")]
    return all(isinstance(entries, list) and all(map(_is_logprob, entries)) for entries in lists)


def _is_logprob(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return False
    data, others = entry.get("bytes") or [], entry.get("top_logprobs") or []
    return (
        isinstance(entry.get("logprob"), (int, float))
        and isinstance(data, list)
        and all(map(_is_count, data))
        and isinstance(others, list)
        and all(map(_is_logprob, others))
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bad(name: str, value: object, request_id: str | None) -> ReplyError:
    return ReplyError(
        f"The service's reply has a {name} of the wrong type: {excerpt(json.dumps(value))}.",
        remedy="Try again, or with another model.",
        request_id=request_id,
    )

"""Repairs of chat replies: small gaps are filled, and wrong types with a clear meaning are converted. Pure functions.

Neither the SDK nor the frameworks validate a reply, so a null or a number in the wrong place would end in a raw error
deep inside a framework. Values without a clear meaning are a :class:`~nanogpt_core.errors.ReplyError`.
"""

from __future__ import annotations

import json
from typing import Any

from nanogpt_core.chat.provider_fields import THOUGHT_BLOCKS, text_of
from nanogpt_core.errors import ReplyError
from nanogpt_core.http.error_body import excerpt
from nanogpt_core.models.pricing import parse_cost_usd

PRICING = "x_nanogpt_pricing"
"""The field of a reply, or of a chunk of a stream, that gives the cost of the request."""

# Some hosts have Anthropic's names.
_COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "completion_tokens": ("completion_tokens", "output_tokens"),
    "total_tokens": ("total_tokens",),
}
_OLLAMA_COUNTS = {"prompt_tokens": "prompt_eval_count", "completion_tokens": "eval_count"}
_MAX_DIGITS = 15  # of a count
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
# Frameworks join these, and raise raw errors for other types.
_AUDIO_FIELDS: dict[str, type] = {"id": str, "data": str, "transcript": str, "expires_at": int}
_TEXT_BLOCKS = ("text", "output_text", "input_text", None)


def repair_chunk(document: dict[str, Any]) -> None:
    """Repair the parts of a chunk of a stream around its deltas; in place."""
    for name in ("id", "model"):
        if not isinstance(document.get(name), str):
            document[name] = ""
    document.pop("error", None)  # without content; the SDK and LangChain raise some of these
    document["object"] = "chat.completion.chunk"  # the SDK leaves out other chunks if it joins an answer in JSON
    if not _is_count(document.get("created")):
        document["created"] = 0
    for name in ("system_fingerprint", "service_tier"):
        if not isinstance(document.get(name), str):
            document.pop(name, None)
    for name in ("type", "chunk"):  # LangChain takes a chunk with one of these for an event of the SDK's
        document.pop(name, None)
    choices = document.get("choices")
    document["choices"] = _objects(choices) if isinstance(choices, list) else []
    _find_usage(document)
    for position, choice in enumerate(document["choices"]):
        index = _count(choice.get("index"))
        # A chunk without an index is of the only choice, unless it has several.
        choice["index"] = index if index is not None else position
        reason = choice.get("finish_reason")
        is_reason = isinstance(reason, str) and reason.lower() not in ("", "null", "none")
        choice["finish_reason"] = reason if is_reason else None
        if not _is_logprobs(choice.get("logprobs")):
            choice.pop("logprobs", None)


def from_ollama(document: dict[str, Any]) -> dict[str, Any]:
    """Return a reply, or a chunk of a stream, of Ollama's own API as a chunk of OpenAI's; any other one as it is.

    Source: Ollama's API documentation, "Generate a chat completion". Some gateways pass these on.
    """
    message, done = document.get("message"), document.get("done")
    if not isinstance(message, dict) or not isinstance(done, bool):
        return document
    reason = document.get("done_reason") or "stop" if done else None
    choice = {"index": 0, "delta": message, "finish_reason": reason}
    usage = {name: document.get(count) for name, count in _OLLAMA_COUNTS.items()}
    kept = {name: value for name, value in document.items() if name != "message"}
    return {"choices": [choice], "usage": usage, **kept}


def _find_usage(document: dict[str, Any]) -> None:
    """Put the token usage and the cost of a chunk into its own fields; in place."""
    # Moonshot puts the usage into a choice, Groq into a field of its own.
    usages = [one.get("usage") for one in _objects([document, *document["choices"], document.get("x_groq")])]
    inner = [one.pop(PRICING, None) for one in _objects([*usages, *document["choices"]])]
    pricing = next(iter(_objects([document.get(PRICING), *inner])), None)
    if pricing is not None:
        document[PRICING] = pricing
    document["usage"] = next((parsed for one in usages if (parsed := _parse_usage(one)) is not None), None)


def _objects(values: list[Any]) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)]


def repair_delta(message: dict[str, Any], tools: frozenset[str] = frozenset()) -> None:
    """Repair a delta, without its tool calls; in place.

    Content blocks, as Mistral sends them, become text, reasoning, refusal and tool calls. Blocks of other types, and
    images beside the content, are kept in ``content_blocks``. If there are ``tools``, a call in OpenAI's older form is
    one of a tool.
    """
    message["refusal"] = _refusal(message.get("refusal"))
    for name in ("refusal", "reasoning", "reasoning_content", "name", "id"):
        if not isinstance(message.get(name), str):
            message.pop(name, None)
    if message.get("reasoning") and message.get("reasoning_content") == "":
        del message["reasoning_content"]  # LlamaIndex would take it
    audio = message.pop("audio", None)
    if isinstance(audio, dict):
        kinds = {name: _AUDIO_FIELDS.get(name, object) for name in audio}
        message["audio"] = {name: value for name, value in audio.items() if isinstance(value, kinds[name])}
    content = message.get("content")
    if isinstance(content, (list, dict)):
        _join_blocks(message, content if isinstance(content, list) else [content])
    elif content is not None and not isinstance(content, str):
        raise wrong_type_error("a content", content)
    message.setdefault("content", None)
    _move_images(message)
    _repair_function_call(message, tools)


def _join_blocks(message: dict[str, Any], blocks: list[Any]) -> None:
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    others: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        text = text_of(block)
        if kind == "refusal":
            refusals.append(_refusal(block) or "")
        elif kind in THOUGHT_BLOCKS:
            thoughts.append(text or "")
        elif kind in _TEXT_BLOCKS and (text is not None or (kind and block.get("text") is None)):
            texts.append(text or "")
        elif kind == "tool_use" and isinstance(block.get("name"), str):
            calls.append(block)
        elif isinstance(kind, str) and kind not in _TEXT_BLOCKS:
            others += [block] if kind != "reference" else []
        else:
            raise wrong_type_error("a content", blocks)
    message["content"] = "".join(texts)
    for name, parts in (("reasoning_content", thoughts), ("refusal", refusals)):
        if any(parts) and not message.get(name):
            message[name] = "".join(parts)
    if others:
        message["content_blocks"] = others
    if calls and not message.get("tool_calls"):
        message["tool_calls"] = calls


def _move_images(message: dict[str, Any]) -> None:
    blocks, images = message.pop("content_blocks", None), message.pop("images", None)  # OpenRouter sends images
    links = [
        {"type": "image_url", "image_url": {"url": image}} if isinstance(image, str) else image
        for image in (images if isinstance(images, list) else ())
    ]
    kept = _objects([*(blocks if isinstance(blocks, list) else ()), *links])
    for block in kept:
        if isinstance(block.get("image_url"), str):  # as Mistral sends it
            block["image_url"] = {"url": block["image_url"]}
    if kept:
        message["content_blocks"] = kept


def _repair_function_call(message: dict[str, Any], tools: frozenset[str]) -> None:
    call = message.pop("function_call", None)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str | None):
        return
    arguments = call.get("arguments")
    call["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
    if not tools:
        message["function_call"] = call
    elif call.get("name") or call["arguments"]:
        message["tool_calls"] = message.get("tool_calls") or [{"type": "function", "index": 0, "function": call}]


def _refusal(value: Any) -> str | None:
    """Return the words of a refusal, which some hosts send as an object or as parts; None if there is no refusal."""
    if not value or isinstance(value, str):
        return value or None
    return text_of(value) or ("no reason given" if value is True else None)


def merge_usage(known: dict[str, Any] | None, further: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the token usage of a stream after a further chunk of it; both as :func:`repair_chunk` leaves them.

    Hosts repeat the usage so far, split it over chunks, or end with zeros. All counts are of the whole stream, so each
    is the highest that was given.
    """
    if known is None or further is None:
        return further if known is None else known
    merged = {**known, **{name: value for name, value in further.items() if value is not None}}
    for name in known.keys() & further.keys():
        before, value = known[name], further[name]
        if isinstance(before, dict) and isinstance(value, dict):
            merged[name] = merge_usage(before, value)
        elif _is_count(before) and _is_count(value):
            merged[name] = max(before, value)
    return merged


def _parse_usage(usage: Any) -> dict[str, Any] | None:
    """Return the token usage with its counts as integers, under OpenAI's names; None if there are none."""
    if not isinstance(usage, dict):
        return None
    parsed = {name: value for name, value in usage.items() if name not in (*_COUNTS, *_DETAILS, "cost_usd")}
    for name, names in _COUNTS.items():
        counts = [count for one in names if (count := _count(usage.get(one))) is not None]
        parsed.update({name: max(counts)} if counts else {})
    for name in _DETAILS:
        details = usage.get(name)
        if isinstance(details, dict):
            parsed[name] = {key: count for key, value in details.items() if (count := _count(value)) is not None}
    return parsed if parsed.keys() & _COUNTS.keys() else None


def repair_usage(usage: dict[str, Any] | None, pricing: Any) -> dict[str, Any] | None:
    """Return the token usage with its cost as ``cost_usd``; None if nothing says how many tokens were used."""
    pricing = pricing if isinstance(pricing, dict) else {}
    priced = {"prompt_tokens": pricing.get("inputTokens"), "completion_tokens": pricing.get("outputTokens")}
    usage = usage or _parse_usage(priced)
    if usage is None:
        return None
    prompt, completion, total = map(usage.get, _COUNTS)
    total = max(total or 0, (prompt or 0) + (completion or 0))
    if prompt is None:
        prompt = max(0, total - (completion or 0))
    if completion is None:
        completion = max(0, total - prompt)
    cost = parse_cost_usd(pricing)
    priced = {} if cost is None else {"cost_usd": cost}
    return {**usage, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **priced}


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


def _count(value: object) -> int | None:
    """Return a count of tokens, which some hosts send as a float or as text; None if it is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and _is_count(value) else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**_MAX_DIGITS


def wrong_type_error(name: str, value: object) -> ReplyError:
    """Return the error for a part of a reply that has a type without a meaning."""
    return ReplyError(
        f"The service's reply has {name} of the wrong type: {excerpt(json.dumps(value))}.",
        remedy="Try again, or with another model.",
    )

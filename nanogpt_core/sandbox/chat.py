"""``POST /chat/completions``: what it accepts, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanogpt_core.sandbox.completion import ChatAnswer
from nanogpt_core.sandbox.config import Fault
from nanogpt_core.sandbox.passages import Message
from nanogpt_core.sandbox.problems import bad_value
from nanogpt_core.sandbox.quoting import answer
from nanogpt_core.sandbox.replies import Reply
from nanogpt_core.sandbox.script import Script
from nanogpt_core.sandbox.tokens import count_tokens, first_tokens

__all__ = ["CHAT_MODEL", "answer_chat", "chat_models"]

CHAT_MODEL = "sandbox-quote"
"""The name of the chat; it answers to every other name too, so that examples run with their own."""

# What the plugins ask by default: listed too, so that context_window="live" can be tried.
_PLUGINS_DEFAULT = {"gpt-4o-mini": 128_000, "openai/gpt-4o-mini": 128_000}
_CREATED = 1_754_000_000
_CONTEXT_LENGTH = 128_000
_MOST_STOPS = 4


def answer_chat(body: Mapping[str, Any], script: Script | None = None) -> ChatAnswer | Fault:
    """Return the answer to a decoded request body: the script's, where it has one, else quotes.

    Raises:
        Problem: The request is not accepted.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_value("'model' is required and must be a string.", "model")
    if body.get("n") not in (None, 1):
        raise bad_value("'n' must be 1: the sandbox has one answer.", "n")
    messages = _messages(body.get("messages"))
    stops, limit = _stops(body.get("stop")), _limit(body)
    streamed, with_usage = _flag(body, "stream"), _flag(body.get("stream_options") or {}, "include_usage")
    reply = script.take(body) if script else None
    if isinstance(reply, Fault):
        return reply
    if reply is None:
        text, reason = _cut(answer(messages), stops, limit)
        reply = Reply(text, finish_reason=reason)
    usage = reply.usage or _usage(messages, reply)
    return ChatAnswer(model=model, reply=reply, usage=usage, streamed=streamed, usage_in_stream=with_usage)


def _usage(messages: Sequence[Message], reply: Reply) -> dict[str, Any]:
    asked, thought = sum(count_tokens(message.text) for message in messages), count_tokens(reply.reasoning)
    said = count_tokens(reply.content) + sum(count_tokens(call.name + call.arguments_text) for call in reply.tool_calls)
    usage: dict[str, Any] = {"prompt_tokens": asked, "completion_tokens": said + thought}
    usage["total_tokens"] = asked + said + thought
    if thought:
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    return usage


def chat_models(context_lengths: Mapping[str, int]) -> dict[str, Any]:
    """Return the body of ``GET /models``."""
    lengths = {CHAT_MODEL: _CONTEXT_LENGTH, **_PLUGINS_DEFAULT, **context_lengths}
    return {"object": "list", "data": [_listed(name, length) for name, length in lengths.items()]}


def _listed(name: str, context_length: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "nanogpt-sandbox",
        "name": "Sandbox quotes",
        "description": "No language model: quotes the numbered passages of the messages",
        "context_length": context_length,
    }


def _flag(body: Any, name: str) -> bool:
    value = body.get(name) if isinstance(body, dict) else None
    if value is not None and not isinstance(value, bool):
        raise bad_value(f"{name!r} must be true or false.", name)
    return bool(value)


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise bad_value("'messages' is required and must be an array with one message at least.", "messages")
    return [_message(index, entry) for index, entry in enumerate(value)]


def _message(index: int, entry: Any) -> Message:
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
        raise bad_value(f"messages[{index}] must be an object with a 'role'.", "messages")
    content = entry.get("content")
    if isinstance(content, list):
        # Parts that are no text, such as images, have nothing to quote.
        content = "\n".join(part["text"] for part in content if isinstance(part, dict) and _is_text(part))
    if content is not None and not isinstance(content, str):
        raise bad_value(f"messages[{index}].content must be a string or an array of parts.", "messages")
    return Message(entry["role"], content or "")


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise bad_value(f"'stop' must be a string or an array of at most {_MOST_STOPS} strings.", "stop")
    return [stop for stop in stops if stop]


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise bad_value(f"{name!r} must be an integer of at least 1.", name)
            return value
    return None


def _cut(text: str, stops: list[str], limit: int | None) -> tuple[str, str]:
    ends = [text.find(stop) for stop in stops if stop in text]
    text = text[: min(ends)] if ends else text
    short = text if limit is None else first_tokens(text, limit)
    return short, "stop" if short == text else "length"

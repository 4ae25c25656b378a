"""``POST /chat/completions``: what it accepts, and its reply, whole or streamed."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from nanogpt_core.sandbox.passages import Message
from nanogpt_core.sandbox.problems import bad_value
from nanogpt_core.sandbox.quoting import answer
from nanogpt_core.sandbox.tokens import count_tokens, first_tokens

__all__ = ["CHAT_MODEL", "ChatAnswer", "answer_chat", "chat_models"]

CHAT_MODEL = "sandbox-quote"
"""The name of the chat; it answers to every other name too, so that examples run with their own."""

_CREATED = 1_754_000_000
_CONTEXT_LENGTH = 128_000
_MOST_STOPS = 4


@dataclass(frozen=True)
class ChatAnswer:
    """An answer, ready to be sent in either form."""

    model: str
    text: str
    finish_reason: str
    usage: Mapping[str, int]
    streamed: bool
    usage_in_stream: bool

    def whole(self) -> bytes:
        """Return the JSON of the plain reply."""
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return orjson.dumps({**self._head("chat.completion"), "choices": [choice], "usage": self.usage})

    def events(self) -> Iterator[bytes]:
        """Yield the server-sent events of the streamed reply."""
        head = self._head("chat.completion.chunk")
        if self.usage_in_stream:
            head["usage"] = None
        pieces = re.findall(r"\s*\S+\s*$|\s*\S+|\s+", self.text)
        deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
        for delta in deltas:
            yield _event({**head, "choices": [_choice(delta, None)]})
        yield _event({**head, "choices": [_choice({}, self.finish_reason)]})
        if self.usage_in_stream:
            yield _event({**head, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        name = f"chatcmpl-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.model}


def answer_chat(body: Mapping[str, Any]) -> ChatAnswer:
    """Return the answer to a decoded request body.

    Raises:
        Problem: The request is not accepted.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_value("'model' is required and must be a string.", "model")
    if body.get("n") not in (None, 1):
        raise bad_value("'n' must be 1: the sandbox has one answer.", "n")
    messages = _messages(body.get("messages"))
    text, reason = _cut(answer(messages), _stops(body.get("stop")), _limit(body))
    asked, said = sum(count_tokens(message.text) for message in messages), count_tokens(text)
    return ChatAnswer(
        model=model,
        text=text,
        finish_reason=reason,
        usage={"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        streamed=_flag(body, "stream"),
        usage_in_stream=_flag(body.get("stream_options") or {}, "include_usage"),
    )


def chat_models() -> dict[str, Any]:
    """Return the body of ``GET /models``."""
    row = {
        "id": CHAT_MODEL,
        "object": "model",
        "created": _CREATED,
        "owned_by": "nanogpt-sandbox",
        "name": "Sandbox quotes",
        "description": "No language model: quotes the numbered passages of the messages",
        "context_length": _CONTEXT_LENGTH,
    }
    return {"object": "list", "data": [row]}


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _choice(delta: Mapping[str, str], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


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

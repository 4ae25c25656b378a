"""``POST /chat/completions``: checks of the request, and the reply, whole or as server-sent events."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanogpt_core.sandbox.fake_chat import answer
from nanogpt_core.sandbox.http_errors import HTTPError, invalid_value
from nanogpt_core.sandbox.prompts import Message
from nanogpt_core.sandbox.script import Fault, Reply, Script, as_json
from nanogpt_core.sandbox.tokens import count_tokens, first_tokens
from nanogpt_core.sandbox.usage import reported_cost

CHAT_MODEL = "sandbox-quote"
"""The name of the chat model. Every other name is accepted too: examples run with their own."""

# The default models of the plugins, listed for context_window="live". Context lengths in tokens.
_DEFAULT_MODELS = {"gpt-4o-mini": 128_000, "openai/gpt-4o-mini": 128_000}
_CREATED = 1_754_000_000  # seconds since 1970
_CONTEXT_LENGTH = 128_000  # tokens
_MAX_OUTPUT_TOKENS = 16_384
_USD_PER_MILLION = {"prompt": 0.15, "completion": 0.6}  # tokens, of every chat model
_MAX_STOPS = 4
_TOOLS_HINT = "it calls no tools by itself. Script it: Sandbox(script=[Reply(tool_calls=[ToolCall(name, arguments)])])."
_JSON_HINT = "it makes no JSON by itself. Script it: Sandbox(script=[Reply(json={...})])."

_PIECES = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")
_ARGUMENT_PIECES = re.compile(r".{1,7}", re.DOTALL)


@dataclass(frozen=True)
class ChatAnswer:
    """An answer, to be sent whole or streamed."""

    model: str
    reply: Reply
    usage: Mapping[str, Any]
    streamed: bool
    usage_in_stream: bool
    report_cost: bool = False

    def whole(self) -> bytes:
        """Return the JSON of the whole reply.

        Raises:
            HTTPError: The reply is an error.
        """
        reply = self.reply
        if reply.error is not None:
            status = reply.error.get("status")
            if not isinstance(status, int) or not 200 <= status <= 599:  # noqa: PLR2004
                status = 500
            raise HTTPError(status, str(reply.error.get("message")), body={"error": dict(reply.error)})
        calls = [{"id": name, "type": "function", "function": function} for name, function in self._calls()]
        message: dict[str, Any] = {"role": "assistant", "content": reply.content or (None if calls else "")}
        if reply.reasoning:
            message[reply.reasoning_field] = reply.reasoning
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.reason}
        body = {**self._head("chat.completion"), "choices": [choice], "usage": self.usage, **self._pricing()}
        return as_json("reply", body)

    def events(self) -> Iterator[bytes]:
        """Yield the server-sent events of the streamed reply."""
        head = self._head("chat.completion.chunk")
        if self.usage_in_stream:
            head["usage"] = None
        for delta in self._deltas():
            yield _event({**head, "choices": [_choice(delta, None)]})
        if self.reply.cut_off:
            return
        if self.reply.error is not None:
            yield _event({**head, "choices": [_choice({}, "error")], "error": self.reply.error})
        else:
            pricing = self._pricing()
            at_end = {} if self.usage_in_stream else pricing
            yield _event({**head, "choices": [_choice({}, self.reply.reason)], **at_end})
            if self.usage_in_stream:
                yield _event({**head, "choices": [], "usage": self.usage, **pricing})
        yield b"data: [DONE]\n\n"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        for piece in _PIECES.findall(self.reply.reasoning):
            yield {self.reply.reasoning_field: piece}
        for piece in _PIECES.findall(self.reply.content):
            yield {"content": piece}
        for index, (name, function) in enumerate(self._calls()):
            begun = {"name": function["name"], "arguments": ""}
            yield {"tool_calls": [{"index": index, "id": name, "type": "function", "function": begun}]}
            for piece in _ARGUMENT_PIECES.findall(function["arguments"]):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _calls(self) -> Iterator[tuple[str, dict[str, str]]]:
        for position, call in enumerate(self.reply.tool_calls):
            yield call.id or f"call_{position}", {"name": call.name, "arguments": call.arguments_text}

    def _pricing(self) -> dict[str, Any]:
        if not self.report_cost:
            return {}
        counts = {name: self.usage.get(f"{name}_tokens") or 0 for name in _USD_PER_MILLION}
        cost_usd = sum(counts[name] * price for name, price in _USD_PER_MILLION.items()) / 1e6
        return {"x_nanogpt_pricing": reported_cost(cost_usd, *counts.values())}

    def _head(self, kind: str) -> dict[str, Any]:
        name = f"chatcmpl-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.model}


def answer_chat(
    body: Mapping[str, Any], script: Script | None = None, *, report_cost: bool = False
) -> ChatAnswer | Fault:
    """Return the answer to a decoded request body: the script's if it has one, else quotes.

    Raises:
        HTTPError: The request is not accepted.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid_value("'model' is required and must be a string.", "model")
    if body.get("n") not in (None, 1):
        raise invalid_value("'n' must be 1: the sandbox has one answer.", "n")
    messages = _messages(body.get("messages"))
    stops, limit = _stops(body.get("stop")), _limit(body)
    streamed, with_usage = _flag(body, "stream"), _flag(_object(body, "stream_options"), "include_usage")
    reply = script.take(body) if script else None
    if isinstance(reply, Fault):
        return reply
    if reply is None:
        hint, needs_script = _hint(body)
        text, reason = _truncated(answer(messages, hint, needs_script=needs_script), stops, limit)
        reply = Reply(text, finish_reason=reason)
    usage = reply.usage or _usage(messages, reply)
    return ChatAnswer(model, reply, usage, streamed=streamed, usage_in_stream=with_usage, report_cost=report_cost)


def _hint(body: Mapping[str, Any]) -> tuple[str, bool]:
    """Return advice for a request with a schema or tools, and True if quotes are no answer to it."""
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") in ("json_schema", "json_object"):
        return _JSON_HINT, True
    tools = body.get("tools")
    if isinstance(tools, list) and tools:
        return _TOOLS_HINT, body.get("tool_choice") not in (None, "auto", "none")
    return "", False


def _usage(messages: Sequence[Message], reply: Reply) -> dict[str, Any]:
    prompt = sum(count_tokens(message.text) for message in messages)
    reasoning = count_tokens(reply.reasoning)
    calls = sum(count_tokens(call.name + call.arguments_text) for call in reply.tool_calls)
    completion = reasoning + count_tokens(reply.content) + calls
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**usage, "completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else usage


def chat_models(context_lengths: Mapping[str, int], *, detailed: bool = False) -> dict[str, Any]:
    """Return the body of ``GET /models``: names only, or with prices and context lengths if ``detailed``."""
    lengths = {CHAT_MODEL: _CONTEXT_LENGTH, **_DEFAULT_MODELS, **context_lengths}
    return {"object": "list", "data": [_listed(name, length, detailed) for name, length in lengths.items()]}


def _listed(name: str, context_length: int, detailed: bool) -> dict[str, Any]:
    row = {"id": name, "object": "model", "created": _CREATED, "owned_by": "nanogpt-sandbox"}
    if not detailed:
        return row
    return {
        **row,
        "name": "Sandbox quotes",
        "description": "No language model: quotes the numbered passages of the messages",
        "context_length": context_length,
        "max_output_tokens": min(context_length, _MAX_OUTPUT_TOKENS),
        "capabilities": {"vision": False, "reasoning": False, "tool_calling": True, "structured_output": True},
        "pricing": {**_USD_PER_MILLION, "currency": "USD", "unit": "per_million_tokens"},
    }


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise invalid_value(f"{name!r} must be an object.", name)
    return value or {}


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid_value(f"{name!r} must be true or false.", name)
    return bool(value)


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise invalid_value("'messages' is required and must be an array with one message at least.", "messages")
    return [_message(index, entry) for index, entry in enumerate(value)]


def _message(index: int, entry: Any) -> Message:
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
        raise invalid_value(f"messages[{index}] must be an object with a 'role'.", "messages")
    content = entry.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") for part in content):
        # Other parts, such as images, have no text to quote.
        content = "\n".join(part["text"] for part in content if _is_text(part))
    if content is not None and not isinstance(content, str):
        message = f"messages[{index}].content must be a string or an array of parts, each an object with a 'type'."
        raise invalid_value(message, "messages")
    return Message(entry["role"], content or "")


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(stop, str) for stop in stops):
        raise invalid_value(f"'stop' must be a string or an array of at most {_MAX_STOPS} strings.", "stop")
    return [stop for stop in stops if stop]


def _limit(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise invalid_value(f"{name!r} must be an integer of at least 1.", name)
            return value
    return None


def _truncated(text: str, stops: list[str], limit: int | None) -> tuple[str, str]:
    ends = [text.find(stop) for stop in stops if stop in text]
    text = text[: min(ends)] if ends else text
    short = text if limit is None else first_tokens(text, limit)
    return short, "stop" if short == text else "length"


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + as_json("event", chunk) + b"\n\n"


def _choice(delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

"""Chat replies of the faults: whole and streamed, right and wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from typing import Any

from benchmarks.faults.chat_tasks import TEXT, USAGE
from benchmarks.faults.fault import always
from benchmarks.faults.server import Pause, Reply, Request, Step, response

_FOR_EVER = 600.0  # seconds
USAGE_COUNTS = {"prompt_tokens": USAGE[0], "completion_tokens": USAGE[1], "total_tokens": sum(USAGE)}
DONE = "data: [DONE]\n\n"
PATH = '{"path": "x"}'


def whole_reply(message: Any, reason: str | None = "stop", **more: Any) -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return response({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more})


def chunk(delta: Any, reason: str | None = None, **more: Any) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return f"data: {json.dumps(chunk)}\n\n"


def event_stream(*chunks: str) -> bytes:
    return response("".join(chunks), kind="text/event-stream")


def deltas_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the message as a stream sends it: texts in words, tool calls one by one."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name, value in message.items():
        if name == "tool_calls":
            deltas += [{"tool_calls": [{"index": index, **call}]} for index, call in enumerate(value)]
        elif isinstance(value, str) and name != "role":
            deltas += [
                {name: f"{word} " if number < value.count(" ") else word}
                for number, word in enumerate(value.split(" "))
            ]
    return deltas


def says(message: dict[str, Any], reason: str = "stop", **more: Any) -> Reply:
    """Return a reply with this message, whole or streamed as it is asked for."""

    def reply(request: Request) -> list[Step]:
        if not request.asked.get("stream"):
            return [whole_reply({"role": "assistant", "content": None, **message}, reason, usage=USAGE_COUNTS, **more)]
        return [event_stream(*map(chunk, deltas_of(message)), chunk({}, reason), usage_event(), DONE)]

    return reply


def usage_event() -> str:
    chunk = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [],
        "usage": USAGE_COUNTS,
    }
    return f"data: {json.dumps(chunk)}\n\n"


good = says({"content": TEXT})
EVENTS = [*map(chunk, deltas_of({"content": TEXT})), chunk({}, "stop"), usage_event(), DONE]
"""The events of the right answer, streamed."""


def ollama_lines(text: str) -> bytes:
    """Return a stream of Ollama's own API, which some gateways pass on."""
    lines: list[dict[str, Any]] = [
        {"message": {"role": "assistant", **delta}, "done": False} for delta in deltas_of({"content": text})
    ]
    lines.append({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"})
    lines[-1] |= {"prompt_eval_count": USAGE[0], "eval_count": USAGE[1]}
    return response("".join(f"{json.dumps({'model': 'm', **line})}\n" for line in lines), kind="application/x-ndjson")


def call(arguments: Any, identifier: str = "call_1", name: str = "clean", **more: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calls(*calls: dict[str, Any], reason: str = "tool_calls") -> Reply:
    return says({"tool_calls": list(calls)}, reason)


def streamed(*chunks: str) -> Reply:
    return always(event_stream(*chunks))


def reply_of(message: Any, **more: Any) -> Reply:
    return always(whole_reply(message, **more))


def without(name: str) -> Reply:
    return reply_of({key: value for key, value in (("role", "assistant"), ("content", TEXT)) if key != name})


def by_tool_or_text(text: str, reason: str = "stop") -> Reply:
    """Return a reply with structured output in the way that the client asks for it."""

    def reply(request: Request) -> Iterable[Step]:
        tools = request.asked.get("tools")
        if not tools:
            return says({"content": text}, reason)(request)
        return calls(call(text, name=tools[0]["function"]["name"]), reason=reason)(request)

    return reply


def unfinished(*chunks: str) -> Reply:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [b"%x\r\n%s\r\n" % (len(chunk.encode()), chunk.encode()) for chunk in chunks]
    return always(head, *parts, Pause(_FOR_EVER))


def broken_off(*then: Step) -> Reply:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = chunk({"role": "assistant", "content": "Bees"}).encode()
    return always(head, b"%x\r\n%s\r\n" % (len(part), part), Pause(0.1), *then)


def needs_reasoning(field: str) -> Reply:
    """Call a tool with reasoning, and refuse the next turn without it, as thinking models do."""

    def reply(request: Request) -> Iterable[Step]:
        turns = [message for message in request.asked["messages"] if message["role"] == "assistant"]
        if not turns:
            thought = {field: "I think of bees.", "tool_calls": [call('{"path": "x"}')]}
            return says(thought, "tool_calls")(request)
        if turns[0].get(field) != "I think of bees.":
            problem = {"message": f"{field} is missing in the assistant message of a tool call"}
            return [response({"error": problem}, 400)]
        return good(request)

    return reply


def needs_signature(request: Request) -> Iterable[Step]:
    turns = [message for message in request.asked["messages"] if message["role"] == "assistant"]
    extra = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    if not turns:
        return calls(call('{"path": "x"}', **extra))(request)
    if turns[0]["tool_calls"][0].get("extra_content") != extra["extra_content"]:
        return [response({"error": {"message": "the function call is missing its thought_signature"}}, 400)]
    return good(request)


def needs_details(request: Request) -> Iterable[Step]:
    """Call a tool with reasoning in signed pieces, and refuse the next turn without the whole, as OpenRouter does."""
    turns = [message for message in request.asked["messages"] if message["role"] == "assistant"]
    block = {"type": "reasoning.text", "index": 0}
    if turns:
        if turns[0].get("reasoning_details") == [{**block, "text": "I think of bees.", "signature": "c2ln"}]:
            return good(request)
        return [response({"error": {"message": "invalid signature in a thinking block"}}, 400)]
    if not request.asked.get("stream"):
        details = [{**block, "text": "I think of bees.", "signature": "c2ln"}]
        return [
            whole_reply(
                {"role": "assistant", "reasoning_details": details, "tool_calls": [call(PATH)]},
                "tool_calls",
            )
        ]
    pieces = [{"text": "I think "}, {"text": "of bees."}, {"signature": "c2ln"}]
    deltas: list[dict[str, Any]] = [{"reasoning_details": [{**block, **piece}]} for piece in pieces]
    deltas.append({"tool_calls": [{"index": 0, **call(PATH)}]})
    return [event_stream(*map(chunk, deltas), chunk({}, "tool_calls"), DONE)]


def names_itself(request: Request) -> Iterable[Step]:
    return says({"content": f"I am {request.asked['model']}, not gpt-4o-mini."})(request)


def once(reply: Reply) -> Reply:
    return lambda request: reply(request) if request.number == 1 else good(request)


def gzip_bomb(_: Request) -> Iterable[Step]:
    body = gzip.compress(b'{"choices": [{"message": {"content": "' + b" " * (64 << 20), 1)
    return [response(body, Content_Encoding="gzip")]


def error_reply(status: int, message: str, **more: Any) -> Reply:
    return always(response({"error": {"message": message, **more}}, status))

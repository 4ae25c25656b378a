"""Faults of chat replies: refusals, tool calls, structured output, streams, reasoning, and options that change."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from typing import Any

from benchmarks.faults.chat_clients import CHAT_CLIENTS
from benchmarks.faults.chat_tasks import ANSWER, TEXT, USAGE
from benchmarks.faults.fault import EITHER, ERROR, RIGHT, Fault, always
from benchmarks.faults.network import TIMEOUT
from benchmarks.faults.server import End, Pause, Reply, Request, Step, response
from benchmarks.faults.surroundings import FOREIGN
from benchmarks.faults.vectors import KEY

CHAT_RETRY = 4
"""Requests that this project's defaults of two retries (LangChain) and three (LlamaIndex) allow."""

_FOR_EVER = 600.0
_REFUSAL = "I can't help with that."
_USAGE = {"prompt_tokens": USAGE[0], "completion_tokens": USAGE[1], "total_tokens": sum(USAGE)}
_DONE = "data: [DONE]\n\n"
_JSON = json.dumps(ANSWER)
_NO_ERROR = {"message": "", "type": "", "param": None, "code": None}


def _whole(message: Any, reason: str | None = "stop", **more: Any) -> bytes:
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return response({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more})


def _chunk(delta: Any, reason: str | None = None, **more: Any) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return f"data: {json.dumps(chunk)}\n\n"


def _events(*chunks: str) -> bytes:
    return response("".join(chunks), kind="text/event-stream")


def _deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
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
            return [_whole({"role": "assistant", "content": None, **message}, reason, usage=_USAGE, **more)]
        return [_events(*map(_chunk, _deltas(message)), _chunk({}, reason), _usage_chunk(), _DONE)]

    return reply


def _usage_chunk() -> str:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": _USAGE}
    return f"data: {json.dumps(chunk)}\n\n"


good = says({"content": TEXT})


def _call(arguments: Any, identifier: str = "call_1", name: str = "clean", **more: Any) -> dict[str, Any]:
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def _calls(*calls: dict[str, Any], reason: str = "tool_calls") -> Reply:
    return says({"tool_calls": list(calls)}, reason)


def _streamed(*chunks: str) -> Reply:
    return always(_events(*chunks))


def _message(message: Any, **more: Any) -> Reply:
    return always(_whole(message, **more))


def _without(name: str) -> Reply:
    return _message({key: value for key, value in (("role", "assistant"), ("content", TEXT)) if key != name})


def _by_tool_or_text(text: str, reason: str = "stop") -> Reply:
    """Return a reply with structured output in the way that the client asks for it."""

    def reply(request: Request) -> Iterable[Step]:
        tools = request.asked.get("tools")
        if not tools:
            return says({"content": text}, reason)(request)
        return _calls(_call(text, name=tools[0]["function"]["name"]), reason=reason)(request)

    return reply


def _open(*chunks: str) -> Reply:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [b"%x\r\n%s\r\n" % (len(chunk.encode()), chunk.encode()) for chunk in chunks]
    return always(head, *parts, Pause(_FOR_EVER))


def _broken_off(*then: Step) -> Reply:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = _chunk({"role": "assistant", "content": "Bees"}).encode()
    return always(head, b"%x\r\n%s\r\n" % (len(part), part), Pause(0.1), *then)


def _needs_reasoning(field: str) -> Reply:
    """Call a tool with reasoning, and refuse the next turn without it, as thinking models do."""

    def reply(request: Request) -> Iterable[Step]:
        turns = [message for message in request.asked["messages"] if message["role"] == "assistant"]
        if not turns:
            thought = {field: "I think of bees.", "tool_calls": [_call('{"path": "x"}')]}
            return says(thought, "tool_calls")(request)
        if turns[0].get(field) != "I think of bees.":
            problem = {"message": f"{field} is missing in the assistant message of a tool call"}
            return [response({"error": problem}, 400)]
        return good(request)

    return reply


def _needs_signature(request: Request) -> Iterable[Step]:
    turns = [message for message in request.asked["messages"] if message["role"] == "assistant"]
    extra = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    if not turns:
        return _calls(_call('{"path": "x"}', **extra))(request)
    if turns[0]["tool_calls"][0].get("extra_content") != extra["extra_content"]:
        return [response({"error": {"message": "the function call is missing its thought_signature"}}, 400)]
    return good(request)


def _needs_details(request: Request) -> Iterable[Step]:
    """Call a tool with reasoning in signed pieces, and refuse the next turn without the whole, as OpenRouter does."""
    turns = [message for message in request.asked["messages"] if message["role"] == "assistant"]
    block = {"type": "reasoning.text", "index": 0}
    if turns:
        if turns[0].get("reasoning_details") == [{**block, "text": "I think of bees.", "signature": "c2ln"}]:
            return good(request)
        return [response({"error": {"message": "invalid signature in a thinking block"}}, 400)]
    if not request.asked.get("stream"):
        details = [{**block, "text": "I think of bees.", "signature": "c2ln"}]
        return [_whole({"role": "assistant", "reasoning_details": details, "tool_calls": [_call(_PATH)]}, "tool_calls")]
    pieces = [{"text": "I think "}, {"text": "of bees."}, {"signature": "c2ln"}]
    deltas: list[dict[str, Any]] = [{"reasoning_details": [{**block, **piece}]} for piece in pieces]
    deltas.append({"tool_calls": [{"index": 0, **_call(_PATH)}]})
    return [_events(*map(_chunk, deltas), _chunk({}, "tool_calls"), _DONE)]


def _names_itself(request: Request) -> Iterable[Step]:
    return says({"content": f"I am {request.asked['model']}, not gpt-4o-mini."})(request)


def _once(reply: Reply) -> Reply:
    return lambda request: reply(request) if request.number == 1 else good(request)


def _bomb(_: Request) -> Iterable[Step]:
    body = gzip.compress(b'{"choices": [{"message": {"content": "' + b" " * (64 << 20), 1)
    return [response(body, Content_Encoding="gzip")]


def _error(status: int, message: str, **more: Any) -> Reply:
    return always(response({"error": {"message": message, **more}}, status))


def _chat(  # noqa: PLR0917 - as Fault itself
    group: str, name: str, reply: Reply, task: str, want: str = ERROR, most: int = 1, **more: Any
) -> Fault:
    return Fault(f"Chat: {group}", name, reply, want, most, task=f"chat_{task}", clients=CHAT_CLIENTS, **more)


_PATH = '{"path": "x"}'
_CUT = _by_tool_or_text('{"text": "hon', "length")
_FENCED = f"```json\n{_JSON}\n```"
REFUSED = [
    _chat("refusals", "refusal of structured output", says({"refusal": _REFUSAL}), "structured", words=("can't help",)),
    _chat(
        "refusals",
        "refusal of structured output, streamed",
        says({"refusal": _REFUSAL}),
        "structured_stream",
        words=("can't help with that",),
    ),
    _chat("refusals", "refusal of a schema", says({"refusal": _REFUSAL}), "schema", words=("can't help",)),
    _chat(
        "refusals",
        "content filter in structured output",
        _by_tool_or_text('{"text": "hon', "content_filter"),
        "structured",
        words=("filter",),
    ),
]

# A ValueError that says so is clear enough.
_NO_JSON = ("json", "max_tokens", "length", "schema")
STRUCTURED = [
    _chat("structured output", "right", _by_tool_or_text(_JSON), "structured", RIGHT),
    *(
        _chat("structured output", name, reply, task, want, words=words)
        for name, reply, task, want, words in (
            ("fenced JSON for a schema", says({"content": _FENCED}), "schema", RIGHT, _NO_JSON),
            ("fenced arguments of the tool call", _by_tool_or_text(_FENCED), "structured", RIGHT, _NO_JSON),
            ("JSON in place of the tool call", says({"content": _JSON}), "structured", RIGHT, _NO_JSON),
            ("prose for a schema", says({"content": "Well, honey."}), "schema", ERROR, _NO_JSON),
            ("a field is missing", _by_tool_or_text('{"text": "honey"}'), "structured", ERROR, ("field required",)),
            ("cut off by max_tokens", _CUT, "structured", ERROR, _NO_JSON),
            ("cut off in a stream", _CUT, "structured_stream", ERROR, _NO_JSON),
        )
    ),
]

_CUSTOM = {"id": "call_1", "type": "custom", "custom": {"name": "clean", "input": "the folder x"}}

TOOLS = [
    _chat("tools", "fenced arguments", _calls(_call(f"```json\n{_PATH}\n```")), "one_call", EITHER),
    _chat("tools", "arguments in quotes", _calls(_call(json.dumps(_PATH))), "one_call", EITHER),
    _chat("tools", "arguments are prose", _calls(_call("the folder x")), "no_call", EITHER),
    _chat("tools", "arguments are prose, streamed", _calls(_call("the folder x")), "no_call_stream", EITHER),
    _chat("tools", "arguments are a list", _calls(_call('["x"]')), "no_call", EITHER),
    _chat("tools", "arguments are cut off", _calls(_call('{"path": "x", "de')), "no_call", EITHER),
    _chat("tools", "arguments are cut off by max_tokens", _calls(_call('{"pa'), reason="length"), "no_call", EITHER),
    _chat("tools", "arguments are cut off, streamed", _calls(_call('{"pa'), reason="length"), "no_call_stream", EITHER),
    _chat(
        "tools",
        "two calls with one index, streamed",
        _streamed(
            _chunk({"role": "assistant", "tool_calls": [{"index": 0, **_call(_PATH, "a")}]}),
            _chunk({"tool_calls": [{"index": 0, **_call('{"path": "y"}', "b")}]}),
            _chunk({}, "tool_calls"),
            _DONE,
        ),
        "two_calls_stream",
        RIGHT,
    ),
    _chat("tools", "a custom call with text as its input", _calls(_CUSTOM), "no_call", EITHER),
    _chat(
        "tools",
        "no index, streamed",
        _streamed(_chunk({"role": "assistant", "tool_calls": [_call(_PATH, "a")]}), _chunk({}, "tool_calls"), _DONE),
        "one_call_stream",
        RIGHT,
    ),
    _chat(
        "tools",
        "id and name in each fragment, streamed",
        _streamed(
            _chunk({"role": "assistant", "tool_calls": [{"index": 0, **_call('{"path": ')}]}),
            _chunk({"tool_calls": [{"index": 0, **_call('"x"}')}]}),
            _chunk({}, "tool_calls"),
            _DONE,
        ),
        "one_call_stream",
        RIGHT,
    ),
    _chat(
        "tools",
        "the whole arguments again in each chunk, streamed",
        _streamed(
            *(_chunk({"tool_calls": [{"index": 0, **_call(_PATH[:end])}]}) for end in (4, 9, len(_PATH))),
            _chunk({}, "tool_calls"),
            _DONE,
        ),
        "one_call_stream",
        RIGHT,
    ),
]

TURNS = [
    _chat("turns", f"{field} has to come back{form}", _needs_reasoning(field), f"turns{task}", RIGHT, 2)
    for field in ("reasoning_content", "reasoning")
    for form, task in (("", ""), (", streamed", "_stream"))
]
TURNS.append(_chat("turns", "a thought signature has to come back", _needs_signature, "turns", RIGHT, 2))

TURNS += [
    _chat("turns", f"signed reasoning_details have to come back{form}", _needs_details, f"turns{task}", RIGHT, 2)
    for form, task in (("", ""), (", streamed", "_stream"))
]

REPLIES = [
    _chat("replies", "right", good, "ask", RIGHT),
    _chat("replies", "no role", _without("role"), "ask", RIGHT),
    _chat("replies", "role null", _message({"role": None, "content": TEXT}), "ask", RIGHT),
    _chat(
        "replies",
        "content in blocks",
        _message({"role": "assistant", "content": [{"type": "text", "text": TEXT}]}),
        "ask",
        RIGHT,
    ),
    _chat("replies", "choices null", always(response({"id": "c", "choices": None})), "ask", most=CHAT_RETRY),
    _chat("replies", "no choices", always(response({"id": "c", "choices": []})), "ask", most=CHAT_RETRY),
    _chat("replies", "message null", _message(None), "ask", most=CHAT_RETRY),
    _chat("replies", "content a number", _message({"role": "assistant", "content": 7}), "ask", EITHER, CHAT_RETRY),
    _chat("replies", "usage of strings", _message({"role": "assistant", "content": TEXT}, usage="none"), "ask", EITHER),
    _chat(
        "replies",
        "tool_calls a string",
        _message({"role": "assistant", "content": TEXT, "tool_calls": "none"}),
        "ask",
        EITHER,
        CHAT_RETRY,
    ),
    _chat(
        "replies",
        "200 with an error object",
        always(response({"error": {"message": "overloaded"}})),
        "ask",
        most=CHAT_RETRY,
        words=("overloaded",),
    ),
    _chat("replies", "200 with HTML", always(response("<p>overloaded</p>", kind="text/html")), "ask", most=CHAT_RETRY),
    _chat("replies", "truncated JSON", always(response(b'{"choices": [{"index": 0, "mess')), "ask", most=CHAT_RETRY),
    _chat("replies", "a gzip bomb of 64 MiB", _bomb, "ask", most=CHAT_RETRY),
]

STREAMS = [
    _chat("streams", "right", good, "usage", RIGHT),
    _chat(
        "streams",
        "usage so far in each chunk",
        _streamed(
            *(
                _chunk({"content": word}, usage={**_USAGE, "completion_tokens": number})
                for number, word in enumerate(("Bees ", "make ", "honey."), 1)
            ),
            _chunk({}, "stop", usage=_USAGE),
            _usage_chunk(),
            _DONE,
        ),
        "usage",
        RIGHT,
    ),
    _chat(
        "streams",
        "no role in any chunk",
        _streamed(_chunk({"content": TEXT}), _chunk({}, "stop"), _DONE),
        "stream",
        RIGHT,
    ),
    _chat(
        "streams",
        "deltas null",
        _streamed(_chunk({"role": "assistant", "content": TEXT}), _chunk(None, "stop"), _DONE),
        "stream",
        RIGHT,
    ),
    _chat(
        "streams", "ends without a finish reason", _streamed(_chunk({"role": "assistant", "content": "Bees"})), "stream"
    ),
    _chat("streams", "reset in its middle", _broken_off(End(reset=True)), "stream"),
    _chat("streams", "closed in its middle", _broken_off(End()), "stream"),
    _chat(
        "streams",
        "an error in its middle",
        _streamed(
            _chunk({"role": "assistant", "content": "Bees"}), 'data: {"error": {"message": "overloaded"}}\n\n', _DONE
        ),
        "stream",
        words=("overloaded",),
    ),
    _chat(
        "streams",
        "finish reason error",
        _streamed(
            _chunk({"role": "assistant", "content": "Bees"}),
            _chunk({}, "error", error={"message": "overloaded"}),
            _DONE,
        ),
        "stream",
        words=("overloaded",),
    ),
    _chat(
        "streams", "an event that is not JSON", _streamed(_chunk({"content": "Bees"}), "data: {nonsense\n\n"), "stream"
    ),
    _chat("streams", "instrumented, of another class", good, "instrumented_stream", RIGHT),
    _chat(
        "streams",
        "another index in its middle",
        _streamed(
            _chunk({"role": "assistant", "content": "Bees "}),
            _chunk({"content": "make honey."}).replace('"index": 0', '"index": 1'),
            _chunk({}, "stop").replace('"index": 0', '"index": 1'),
            _DONE,
        ),
        "stream",
        RIGHT,
    ),
    _chat(
        "streams",
        "a second choice that was not asked for",
        _streamed(
            _chunk({"role": "assistant", "content": "Bees "}),
            _chunk({"content": "Ants "}).replace('"index": 0', '"index": 1'),
            _chunk({"content": "make honey."}),
            _chunk({"content": "do not."}, "stop").replace('"index": 0', '"index": 1'),
            _chunk({}, "stop"),
            _DONE,
        ),
        "stream",
        RIGHT,
    ),
    _chat("streams", "no answer at all", _streamed(_DONE), "stream", most=CHAT_RETRY),
    _chat("streams", "JSON in place of a stream", _message({"role": "assistant", "content": TEXT}), "stream", EITHER),
    _chat(
        "streams",
        "a stream that was not asked for",
        _streamed(*map(_chunk, _deltas({"content": TEXT})), _chunk({}, "stop"), _usage_chunk(), _DONE),
        "ask",
        RIGHT,
    ),
    _chat(
        "streams",
        "an event named error, with words only",
        _streamed(_chunk({"role": "assistant", "content": "Bees "}), "event: error\ndata: overloaded\n\n"),
        "stream",
        words=("overloaded",),
    ),
    _chat(
        "streams",
        "an error without content in every chunk",
        _streamed(
            *(_chunk(delta, error=_NO_ERROR) for delta in _deltas({"content": TEXT})),
            _chunk({}, "stop", error=_NO_ERROR),
            _DONE,
        ),
        "stream",
        RIGHT,
    ),
    _chat(
        "streams",
        "status 403 with the error in an event",
        always(response('data: {"error": {"message": "not this model"}}\n\n', 403, "text/event-stream")),
        "stream",
        words=("not this model.",),
    ),
    _chat(
        "streams",
        "whole, without [DONE], connection left open",
        _open(_chunk({"role": "assistant", "content": TEXT}), _chunk({}, "stop"), _usage_chunk()),
        "stream",
        RIGHT,
        settings={"timeout": TIMEOUT},
    ),
    _chat(
        "streams",
        "stops in its middle",
        _open(_chunk({"role": "assistant", "content": "Bees"})),
        "stream",
        settings={"timeout": TIMEOUT},
    ),
]

REQUESTS = [
    _chat(
        "requests",
        "429 once, Retry-After: 7",
        _once(always(response({"error": {"message": "slow down"}}, 429, Retry_After="7"))),
        "ask",
        RIGHT,
        2,
        waits=7,
    ),
    _chat("requests", "500 always", _error(500, "it broke"), "ask", most=CHAT_RETRY, words=("it broke",)),
    _chat("requests", "401 that repeats the key", _error(401, f"Incorrect key {KEY}"), "ask", words=("401",)),
    _chat(
        "requests",
        "402",
        always(response({"error": "Insufficient balance", "requiredBalance": 0.25}, 402)),
        "ask",
        words=("0.25",),
    ),
    _chat(
        "requests",
        "400: too many tokens",
        _error(400, "maximum context length is 512 tokens", code="context_length_exceeded"),
        "ask",
        words=("512",),
    ),
    _chat(
        "requests",
        "400: too many tokens, as a debugger shows it",
        _error(400, "maximum context length is 512 tokens", code="context_length_exceeded"),
        "clear_repr",
        words=("512",),
    ),
    _chat(
        "requests",
        "400: temperature too high",
        _error(400, "temperature must be at most 2"),
        "ask",
        words=("at most 2",),
    ),
    _chat(
        "requests",
        "404 without /api/v1",
        always(response("<h1>Not here</h1>", 404, "text/html")),
        "ask",
        place="no path",
        words=("/api/v1",),
    ),
    _chat("requests", "OPENAI_* variables set", good, "ask", RIGHT, environment=FOREIGN, secrets=FOREIGN),
]

OPTIONS = [
    _chat("options", "a misspelt option", good, "misspelt", most=0, settings={"max_retry": 1}, words=("max_retries",)),
    _chat("options", "model_copy with another model", _names_itself, "other_model", RIGHT),
    _chat("options", "model_copy without retries, 500 always", _error(500, "it broke"), "no_retries"),
    _chat("options", "deepcopy of a used object", good, "deep_copy", RIGHT, 2, settings={"limited": True}),
]

CHAT_FAULTS = [*REPLIES, *STREAMS, *REFUSED, *STRUCTURED, *TOOLS, *TURNS, *REQUESTS, *OPTIONS]

"""Faults of chat replies: refusals, tool calls, structured output, streams, reasoning, and options that change."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.faults.chat_clients import CHAT_CLIENTS
from benchmarks.faults.chat_replies import (
    DONE,
    EVENTS,
    PATH,
    USAGE_COUNTS,
    broken_off,
    by_tool_or_text,
    call,
    calls,
    chunk,
    deltas_of,
    error_reply,
    good,
    gzip_bomb,
    names_itself,
    needs_details,
    needs_reasoning,
    needs_signature,
    ollama_lines,
    once,
    reply_of,
    says,
    streamed,
    unfinished,
    usage_event,
    without,
)
from benchmarks.faults.chat_tasks import ANSWER, REFUSAL, TEXT
from benchmarks.faults.fault import EITHER, ERROR, RIGHT, Fault, always
from benchmarks.faults.network import TIMEOUT
from benchmarks.faults.server import End, Reply, response
from benchmarks.faults.surroundings import FOREIGN
from benchmarks.faults.vectors import KEY

CHAT_RETRY = 4
"""Requests that this project's defaults of two retries (LangChain) and three (LlamaIndex) allow."""

_JSON = json.dumps(ANSWER)
_NO_ERROR = {"message": "", "type": "", "param": None, "code": None}


def _chat(  # noqa: PLR0917 - as Fault itself
    group: str, name: str, reply: Reply, task: str, want: str = ERROR, most: int = 1, **more: Any
) -> Fault:
    return Fault(f"Chat: {group}", name, reply, want, most, task=f"chat_{task}", clients=CHAT_CLIENTS, **more)


_FILTERED = by_tool_or_text('{"text": "hon', "content_filter")
_CUT = by_tool_or_text('{"text": "hon', "length")
_FENCED = f"```json\n{_JSON}\n```"
REFUSED = [
    _chat("refusals", "refusal of structured output", says({"refusal": REFUSAL}), "structured", words=("can't help",)),
    _chat(
        "refusals",
        "refusal of structured output, streamed",
        says({"refusal": REFUSAL}),
        "structured_stream",
        words=("can't help with that",),
    ),
    _chat("refusals", "refusal of a schema", says({"refusal": REFUSAL}), "schema", words=("can't help",)),
    _chat("refusals", "refusal of a question", says({"refusal": REFUSAL}), "refusal", RIGHT),
    _chat("refusals", "refusal of a question, streamed", says({"refusal": REFUSAL}), "refusal_stream", RIGHT),
    *(
        _chat("refusals", f"content filter in structured output{form}", _FILTERED, task, words=("filter",))
        for form, task in (("", "structured"), (", streamed", "structured_stream"))
    ),
    _chat(
        "refusals",
        "content filter in a tool call, streamed",
        calls(call('{"pa'), reason="content_filter"),
        "no_call_stream",
        words=("filter",),
    ),
]

# A ValueError that says so is clear enough.
_NO_JSON = ("json", "max_tokens", "length", "schema")
STRUCTURED = [
    _chat("structured output", "right", by_tool_or_text(_JSON), "structured", RIGHT),
    *(
        _chat("structured output", name, reply, task, want, words=words)
        for name, reply, task, want, words in (
            ("fenced JSON for a schema", says({"content": _FENCED}), "schema", RIGHT, _NO_JSON),
            ("fenced arguments of the tool call", by_tool_or_text(_FENCED), "structured", RIGHT, _NO_JSON),
            ("JSON in place of the tool call", says({"content": _JSON}), "structured", RIGHT, _NO_JSON),
            ("prose for a schema", says({"content": "Well, honey."}), "schema", ERROR, _NO_JSON),
            ("a field is missing", by_tool_or_text('{"text": "honey"}'), "structured", ERROR, ("field required",)),
            ("cut off by max_tokens", _CUT, "structured", ERROR, _NO_JSON),
            ("cut off in a stream", _CUT, "structured_stream", ERROR, _NO_JSON),
        )
    ),
]

_CUSTOM = {"id": "call_1", "type": "custom", "custom": {"name": "clean", "input": "the folder x"}}

TOOLS = [
    _chat("tools", "fenced arguments", calls(call(f"```json\n{PATH}\n```")), "one_call", EITHER),
    _chat("tools", "arguments in quotes", calls(call(json.dumps(PATH))), "one_call", EITHER),
    _chat("tools", "arguments are prose", calls(call("the folder x")), "no_call", EITHER),
    _chat("tools", "arguments are prose, streamed", calls(call("the folder x")), "no_call_stream", EITHER),
    _chat("tools", "arguments are a list", calls(call('["x"]')), "no_call", EITHER),
    _chat("tools", "arguments are cut off", calls(call('{"path": "x", "de')), "no_call", EITHER),
    _chat(
        "tools",
        "arguments are cut off by max_tokens",
        calls(call('{"pa'), reason="length"),
        "no_call",
        EITHER,
    ),
    _chat(
        "tools",
        "arguments are cut off, streamed",
        calls(call('{"pa'), reason="length"),
        "no_call_stream",
        EITHER,
    ),
    _chat(
        "tools",
        "two calls with one index, streamed",
        streamed(
            chunk({"role": "assistant", "tool_calls": [{"index": 0, **call(PATH, "a")}]}),
            chunk({"tool_calls": [{"index": 0, **call('{"path": "y"}', "b")}]}),
            chunk({}, "tool_calls"),
            DONE,
        ),
        "two_calls_stream",
        RIGHT,
    ),
    _chat("tools", "a custom call with text as its input", calls(_CUSTOM), "no_call", EITHER),
    _chat(
        "tools",
        "no index, streamed",
        streamed(
            chunk({"role": "assistant", "tool_calls": [call(PATH, "a")]}),
            chunk({}, "tool_calls"),
            DONE,
        ),
        "one_call_stream",
        RIGHT,
    ),
    _chat(
        "tools",
        "id and name in each fragment, streamed",
        streamed(
            chunk({"role": "assistant", "tool_calls": [{"index": 0, **call('{"path": ')}]}),
            chunk({"tool_calls": [{"index": 0, **call('"x"}')}]}),
            chunk({}, "tool_calls"),
            DONE,
        ),
        "one_call_stream",
        RIGHT,
    ),
    _chat(
        "tools",
        "the whole arguments again in each chunk, streamed",
        streamed(
            *(chunk({"tool_calls": [{"index": 0, **call(PATH[:end])}]}) for end in (4, 9, len(PATH))),
            chunk({}, "tool_calls"),
            DONE,
        ),
        "one_call_stream",
        RIGHT,
    ),
]

TURNS = [
    _chat("turns", f"{field} has to come back{form}", needs_reasoning(field), f"turns{task}", RIGHT, 2)
    for field in ("reasoning_content", "reasoning")
    for form, task in (("", ""), (", streamed", "_stream"))
]
TURNS.append(_chat("turns", "a thought signature has to come back", needs_signature, "turns", RIGHT, 2))

TURNS += [
    _chat("turns", f"signed reasoning_details have to come back{form}", needs_details, f"turns{task}", RIGHT, 2)
    for form, task in (("", ""), (", streamed", "_stream"))
]

REPLIES = [
    _chat("replies", "right", good, "ask", RIGHT),
    _chat("replies", "no role", without("role"), "ask", RIGHT),
    _chat("replies", "role null", reply_of({"role": None, "content": TEXT}), "ask", RIGHT),
    _chat(
        "replies",
        "content in blocks",
        reply_of({"role": "assistant", "content": [{"type": "text", "text": TEXT}]}),
        "ask",
        RIGHT,
    ),
    _chat("replies", "choices null", always(response({"id": "c", "choices": None})), "ask", most=CHAT_RETRY),
    _chat("replies", "no choices", always(response({"id": "c", "choices": []})), "ask", most=CHAT_RETRY),
    _chat("replies", "message null", reply_of(None), "ask", most=CHAT_RETRY),
    _chat("replies", "content a number", reply_of({"role": "assistant", "content": 7}), "ask", EITHER, CHAT_RETRY),
    _chat(
        "replies",
        "usage of strings",
        reply_of({"role": "assistant", "content": TEXT}, usage="none"),
        "ask",
        EITHER,
    ),
    _chat(
        "replies",
        "tool_calls a string",
        reply_of({"role": "assistant", "content": TEXT, "tool_calls": "none"}),
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
    _chat("replies", "a gzip bomb of 64 MiB", gzip_bomb, "ask", most=CHAT_RETRY),
]

STREAMS = [
    _chat("streams", "right", good, "usage", RIGHT),
    _chat(
        "streams",
        "usage so far in each chunk",
        streamed(
            *(
                chunk({"content": word}, usage={**USAGE_COUNTS, "completion_tokens": number})
                for number, word in enumerate(("Bees ", "make ", "honey."), 1)
            ),
            chunk({}, "stop", usage=USAGE_COUNTS),
            usage_event(),
            DONE,
        ),
        "usage",
        RIGHT,
    ),
    *(
        _chat("streams", name, streamed(*events), "usage", RIGHT)
        for name, events in (
            ("each event twice, with its id", [f"id: {at}\n{one}" for at, one in enumerate(EVENTS) for _ in "12"]),
            ("the whole answer twice", [*EVENTS[:-2], *EVENTS]),
            ("token counts after [DONE]", [*EVENTS[:-2], DONE, usage_event()]),
            ("lines of JSON without events", [f"{event.removeprefix('data: ').strip()}\n" for event in EVENTS[:-1]]),
        )
    ),
    _chat("streams", "lines of JSON of Ollama's own API", always(ollama_lines(TEXT)), "usage", RIGHT),
    _chat(
        "streams",
        "no role in any chunk",
        streamed(chunk({"content": TEXT}), chunk({}, "stop"), DONE),
        "stream",
        RIGHT,
    ),
    _chat(
        "streams",
        "deltas null",
        streamed(chunk({"role": "assistant", "content": TEXT}), chunk(None, "stop"), DONE),
        "stream",
        RIGHT,
    ),
    _chat(
        "streams",
        "ends without a finish reason",
        streamed(chunk({"role": "assistant", "content": "Bees"})),
        "stream",
    ),
    _chat("streams", "reset in its middle", broken_off(End(reset=True)), "stream"),
    _chat("streams", "closed in its middle", broken_off(End()), "stream"),
    _chat(
        "streams",
        "an error in its middle",
        streamed(
            chunk({"role": "assistant", "content": "Bees"}),
            'data: {"error": {"message": "overloaded"}}\n\n',
            DONE,
        ),
        "stream",
        words=("overloaded",),
    ),
    _chat(
        "streams",
        "finish reason error",
        streamed(
            chunk({"role": "assistant", "content": "Bees"}),
            chunk({}, "error", error={"message": "overloaded"}),
            DONE,
        ),
        "stream",
        words=("overloaded",),
    ),
    _chat(
        "streams",
        "an event that is not JSON",
        streamed(chunk({"content": "Bees"}), "data: {nonsense\n\n"),
        "stream",
    ),
    _chat("streams", "instrumented, of another class", good, "instrumented_stream", RIGHT),
    _chat(
        "streams",
        "another index in its middle",
        streamed(
            chunk({"role": "assistant", "content": "Bees "}),
            chunk({"content": "make honey."}).replace('"index": 0', '"index": 1'),
            chunk({}, "stop").replace('"index": 0', '"index": 1'),
            DONE,
        ),
        "stream",
        RIGHT,
    ),
    _chat(
        "streams",
        "a second choice that was not asked for",
        streamed(
            chunk({"role": "assistant", "content": "Bees "}),
            chunk({"content": "Ants "}).replace('"index": 0', '"index": 1'),
            chunk({"content": "make honey."}),
            chunk({"content": "do not."}, "stop").replace('"index": 0', '"index": 1'),
            chunk({}, "stop"),
            DONE,
        ),
        "stream",
        RIGHT,
    ),
    _chat("streams", "no answer at all", streamed(DONE), "stream", most=CHAT_RETRY),
    _chat("streams", "JSON in place of a stream", reply_of({"role": "assistant", "content": TEXT}), "stream", EITHER),
    _chat(
        "streams",
        "a stream that was not asked for",
        streamed(*map(chunk, deltas_of({"content": TEXT})), chunk({}, "stop"), usage_event(), DONE),
        "ask",
        RIGHT,
    ),
    _chat(
        "streams",
        "an event named error, with words only",
        streamed(chunk({"role": "assistant", "content": "Bees "}), "event: error\ndata: overloaded\n\n"),
        "stream",
        words=("overloaded",),
    ),
    _chat(
        "streams",
        "an error without content in every chunk",
        streamed(
            *(chunk(delta, error=_NO_ERROR) for delta in deltas_of({"content": TEXT})),
            chunk({}, "stop", error=_NO_ERROR),
            DONE,
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
        unfinished(chunk({"role": "assistant", "content": TEXT}), chunk({}, "stop"), usage_event()),
        "stream",
        RIGHT,
        settings={"timeout": TIMEOUT},
    ),
    _chat(
        "streams",
        "stops in its middle",
        unfinished(chunk({"role": "assistant", "content": "Bees"})),
        "stream",
        settings={"timeout": TIMEOUT},
    ),
]

REQUESTS = [
    _chat(
        "requests",
        "429 once, Retry-After: 7",
        once(always(response({"error": {"message": "slow down"}}, 429, Retry_After="7"))),
        "ask",
        RIGHT,
        2,
        waits=7,
    ),
    _chat("requests", "500 always", error_reply(500, "it broke"), "ask", most=CHAT_RETRY, words=("it broke",)),
    _chat("requests", "401 that repeats the key", error_reply(401, f"Incorrect key {KEY}"), "ask", words=("401",)),
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
        error_reply(400, "maximum context length is 512 tokens", code="context_length_exceeded"),
        "ask",
        words=("512",),
    ),
    _chat(
        "requests",
        "400: too many tokens, as a debugger shows it",
        error_reply(400, "maximum context length is 512 tokens", code="context_length_exceeded"),
        "clear_repr",
        words=("512",),
    ),
    _chat(
        "requests",
        "400: temperature too high",
        error_reply(400, "temperature must be at most 2"),
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
    _chat("options", "model_copy with another model", names_itself, "other_model", RIGHT),
    _chat("options", "model_copy without retries, 500 always", error_reply(500, "it broke"), "no_retries"),
    _chat("options", "deepcopy of a used object", good, "deep_copy", RIGHT, 2, settings={"limited": True}),
]

CHAT_FAULTS = [*REPLIES, *STREAMS, *REFUSED, *STRUCTURED, *TOOLS, *TURNS, *REQUESTS, *OPTIONS]

"""Mutated chat replies and streams: a clean reply or one of this project's errors, never a raw exception."""

import copy
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from length import usual_or_long
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.response import ReportedError
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.chat.whole_reply import parse_reply
from nanogpt_core.errors import NanoGPTError

CALL = {"id": "a", "type": "function", "function": {"name": "clean", "arguments": '{"path": "x"}'}}
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 1}}
MORE = {
    "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}],
    "images": [{"type": "image_url", "image_url": {"url": "data:"}}],
    "content_blocks": [{"type": "image_url", "image_url": {"url": "data:"}}],
    "audio": {"data": ""},
}
MESSAGE = {
    "role": "assistant",
    "content": "all of it",
    "reasoning": "hm",
    "refusal": None,
    "tool_calls": [CALL],
    **MORE,
}
WHOLE = {
    "id": "1",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls", "logprobs": None}],
    "usage": USAGE,
}
DELTAS = [
    {"role": "assistant", "content": None, "reasoning_content": "hm"},
    {"content": "all ", **MORE},
    {"content": "of it", **MORE},
    {"tool_calls": [{"index": 0, **CALL}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ""}}]},
    {},
]
CHUNKS = [
    {
        "id": "1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None if delta else "tool_calls"}],
        "usage": USAGE,
    }
    for delta in DELTAS
]
ODD = st.sampled_from([None, 0, -1, 1.5, True, "", "x", [], [None], ["x"], {}, {"type": "x"}, [[]], 10**30])


def paths(value, at=()):
    """Return the path of every part of a document."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [path for key, item in items for path in paths(item, (*at, key))]


@st.composite
def mutated(draw, document):
    """Return the document with up to three parts missing, doubled, or of another type."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(paths(document) or [("id",)]))
        parent = document
        for key in parents:
            parent = parent[key]
        way = draw(st.sampled_from(["odd", "missing", "doubled"]))
        if way == "missing" and isinstance(parent, (dict, list)):
            del parent[last]
        elif way == "doubled" and isinstance(parent, list):
            parent.insert(last, copy.deepcopy(parent[last]))
        else:
            parent[last] = copy.deepcopy(draw(ODD))
    return document


def check_message(message):
    assert message.get("role", "assistant") == "assistant"
    assert isinstance(message.get("content"), (str, list, type(None)))
    for name in ("reasoning", "reasoning_content", "refusal"):
        assert isinstance(message.get(name, ""), str)
    for call in message.get("tool_calls", ()):
        assert isinstance(call["function"]["arguments"], str)


def check_usage(usage):
    assert usage is None or all(
        type(usage[name]) is int for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )


@settings(max_examples=usual_or_long(150, 500))
@given(mutated(WHOLE))
def test_mutated_reply_is_valid_or_an_error(document):
    try:
        reply = parse_reply(json.dumps(document).encode(), ChatRequest())
    except (NanoGPTError, ReportedError):
        return
    check_usage(reply.get("usage"))
    for choice in reply["choices"]:
        check_message(choice["message"])
        assert all(call["id"] and call["function"]["name"] for call in choice["message"].get("tool_calls", ()))


@settings(max_examples=usual_or_long(60, 200))
@given(mutated(CHUNKS))
def test_mutated_stream_that_was_not_asked_for_is_a_valid_reply_or_an_error(chunks):
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    try:
        reply = parse_reply(body.encode(), ChatRequest())
    except (NanoGPTError, ReportedError):
        return
    check_usage(reply.get("usage"))
    for choice in reply["choices"]:
        check_message(choice["message"])
        assert all(call["id"] and call["function"]["name"] for call in choice["message"].get("tool_calls", ()))


@settings(max_examples=usual_or_long(150, 500))
@given(mutated(CHUNKS), st.booleans(), st.integers(1, 200))
def test_mutated_stream_is_valid_or_an_error(chunks, done, size):
    reader = StreamReader(ChatRequest(streams=True))
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + ("data: [DONE]\n\n" if done else "")
    data = body.encode()
    events = []
    try:
        for part in [*(data[at : at + size] for at in range(0, len(data), size)), None]:
            reader.push(part)
            while (event := reader.pop()) is not None:
                events.append(event)
    except (NanoGPTError, ReportedError):
        return
    assert reader.has_ended
    assert events.pop() == b"data: [DONE]\n\n"
    sent = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert sum("usage" in chunk for chunk in sent) <= 1
    for chunk in sent:
        check_usage(chunk.get("usage"))
        for choice in chunk["choices"]:
            check_message(choice["delta"])
            assert len(choice["delta"].get("tool_calls", ())) <= 1

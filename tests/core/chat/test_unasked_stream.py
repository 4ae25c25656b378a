"""Streams in answer to requests that asked for none: their events become the reply that should have come."""

import json

import pytest

from nanogpt_core.chat.response import ChatRequest, parse_reply
from nanogpt_core.chat.unasked_stream import is_stream, join_stream

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
DETAIL = {"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}
TOKENS = [{"token": token, "logprob": -0.1, "bytes": [97], "top_logprobs": []} for token in ("all ", "of it")]


def call(index=None, arguments="{}", **more):
    made = {"id": "a", "type": "function", "function": {"name": "clean", "arguments": arguments}, **more}
    return made if index is None else {"index": index, **made}


# The messages of a whole reply, and the choices of the events of a stream.
CASES = {
    "text": ([{"content": "all of it"}], [{"content": "all "}, {"content": "of it"}]),
    "reasoning": (
        [{"content": "yes", "reasoning": "hm", "reasoning_details": [DETAIL]}],
        [{"reasoning": "h"}, {"reasoning": "m", "reasoning_details": [DETAIL]}, {"content": "yes"}],
    ),
    "two calls": (
        [{"tool_calls": [call(arguments='{"path": "x"}'), call(id="b")]}],
        [
            {"tool_calls": [call(0, "")]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"path"'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": ': "x"}'}}, call(1, id="b")]},
        ],
    ),
    "call in the older form": (
        [{"function_call": {"name": "clean", "arguments": "{}"}}],
        [{"function_call": {"name": "clean", "arguments": ""}}, {"function_call": {"arguments": "{}"}}],
    ),
    "refusal": ([{"refusal": "no way"}], [{"refusal": "no "}, {"refusal": "way"}]),
    "two choices": (
        [{"content": "all of it"}, {"content": "none"}],
        [(1, {"content": "no"}), {"content": "all "}, (1, {"content": "ne"}), {"content": "of it"}],
    ),
}


def body_of(*events):
    return b"\xef\xbb\xbf: wait\n\n" + b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in events)


def joined(body, **request):
    return join_stream(body, ChatRequest(**request))


@pytest.mark.parametrize("case", CASES)
def test_events_make_the_reply_that_was_asked_for(case):
    messages, parts = CASES[case]
    count = len(messages)
    whole = {
        "choices": [{"index": at, "message": one, "finish_reason": "stop"} for at, one in enumerate(messages)],
        "usage": USAGE,
    }
    expected = parse_reply(json.dumps(whole).encode(), ChatRequest(choices=count))
    deltas = [part if isinstance(part, tuple) else (0, part) for part in parts]
    events = [{"choices": [{"index": index, "delta": delta}]} for index, delta in deltas]
    ends = [{"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]} for index in range(count)]
    found = joined(body_of(*events, *ends, {"choices": [], "usage": USAGE}), choices=count)
    for reply in (expected, found):
        for choice in reply["choices"]:
            choice["message"] = {name: value for name, value in choice["message"].items() if value not in (None, "")}
    assert found == expected


def test_log_probabilities_of_all_events_are_kept():
    events = [
        {"choices": [{"delta": {"content": one["token"]}, "logprobs": {"content": [one], "refusal": None}}]}
        for one in TOKENS
    ]
    (choice,) = joined(body_of(*events, {"choices": [{"delta": {}, "finish_reason": "stop"}]}))["choices"]
    assert choice["logprobs"]["content"] == TOKENS


@pytest.mark.parametrize(("first", "last"), [("a", ["b", 1]), (["a"], "b"), ("a", {"b": 1}), ({"a": 1}, "b")], ids=str)
def test_last_value_counts_if_a_field_changes_its_type(first, last):
    events = [{"choices": [{"delta": {"content": "all of it", "more": value}}]} for value in (first, last)]
    (choice,) = joined(body_of(*events, {"choices": [{"delta": {}, "finish_reason": "stop"}]}))["choices"]
    assert choice["message"]["more"] == last


@pytest.mark.parametrize("body", [b"data: x", b"\xef\xbb\xbf\n: x", b"event: message\n", b"Data:x"])
def test_server_sent_events_are_known(body):
    assert is_stream(body)


@pytest.mark.parametrize("body", [b"", b'{"data": 1}', b"<html>", b"[]", b"database is down"])
def test_other_bodies_are_no_events(body):
    assert not is_stream(body)

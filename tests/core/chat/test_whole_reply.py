"""Whole replies, and streams that come although none was asked for: they become the reply that should have come."""

import json

import pytest

from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.whole_reply import is_stream, parse_reply
from nanogpt_core.errors import ReplyError

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
    return parse_reply(body, ChatRequest(**request))


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


@pytest.mark.parametrize("indices", [[0, 1], [0, 0], [1, 2], [None, None], ["0", "1"], [7, 7]])
def test_each_choice_of_a_whole_reply_is_a_choice_of_its_own(indices):
    texts = ["all of it", "none"]
    choices = [
        {"index": index, "message": {"content": text}, "finish_reason": "stop"}
        for index, text in zip(indices, texts, strict=True)
    ]
    found = parse_reply(json.dumps({"choices": choices}).encode(), ChatRequest())["choices"]
    assert [(choice["index"], choice["message"]["content"]) for choice in found] == [(0, texts[0]), (1, texts[1])]


@pytest.mark.parametrize("index", [None, 0])
def test_calls_of_a_whole_reply_are_calls_of_their_own(index):
    more = {} if index is None else {"index": index}
    calls = [{"function": {"name": "clean"}, **more}, {"function": {"name": "clean"}, **more}]
    body = {"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    (choice,) = parse_reply(json.dumps(body).encode(), ChatRequest())["choices"]
    first, second = choice["message"]["tool_calls"]
    assert first["function"] == second["function"] == {"name": "clean", "arguments": "{}"}
    assert first["id"] != second["id"]


def test_further_fields_of_structured_output_are_kept():
    message = {"content": '{"a": 1}', "annotations": [{"type": "url_citation"}], "content_blocks": [{"type": "image"}]}
    body = {"choices": [{"message": message, "finish_reason": "stop"}], "citations": ["x"]}
    request = ChatRequest(structured=True, wants_json=True)
    reply = parse_reply(json.dumps(body).encode(), request)
    assert reply["citations"] == ["x"]
    assert message.items() <= reply["choices"][0]["message"].items()


def test_answer_without_a_finish_reason_is_whole():
    body = json.dumps({"choices": [{"message": {"content": "all of it"}}]}).encode()
    (choice,) = parse_reply(body, ChatRequest())["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("all of it", None)


def test_single_chunk_is_an_answer_only_with_an_end():
    choice = {"index": 0, "delta": {"content": "all of it"}, "finish_reason": "stop"}
    found = parse_reply(json.dumps({"choices": [choice]}).encode(), ChatRequest())["choices"]
    assert found[0]["message"]["content"] == "all of it"
    with pytest.raises(ReplyError, match="no answer"):
        parse_reply(json.dumps({"choices": [{**choice, "finish_reason": None}]}).encode(), ChatRequest())


@pytest.mark.parametrize("body", [b"data: x", b"\xef\xbb\xbf\n: x", b"event: message\n", b"Data:x"])
def test_server_sent_events_are_known(body):
    assert is_stream(body)


@pytest.mark.parametrize("body", [b"", b'{"data": 1}', b"<html>", b"[]", b"database is down"])
def test_other_bodies_are_no_events(body):
    assert not is_stream(body)

"""Chat replies and streams, without I/O: costs, refusals, content blocks, endings and errors inside a reply."""

import json

import openai
import pytest

from nanogpt_core import errors
from nanogpt_core.chat.provider_fields import PROVIDER_FIELDS
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.response import ReportedError, check_no_error
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.chat.whole_reply import parse_reply
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.sdk import httpx
from nanogpt_core.sandbox import SERVICE_ERRORS

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
PRICING = {"amount": 0.25, "currency": "USD", "cost": 0.25, "paymentSource": "USD"}
JSON_WANTED = ChatRequest(structured=True, wants_json=True)


def whole(message, reason="stop", request=None, **more):
    body = {"choices": [{"message": message, "finish_reason": reason}], **more}
    return parse_reply(json.dumps(body).encode(), request or ChatRequest())


def chunk(delta, reason=None, **more):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def streamed(*chunks, request=None, done=True):
    """Return the events that the reader makes of the chunks."""
    reader = StreamReader(request or ChatRequest(streams=True))
    reader.push("".join(f"data: {json.dumps(one)}\n\n" for one in chunks).encode())
    if done:
        reader.push(b"data: [DONE]\n\n")
    reader.push(None)
    events = []
    while (event := reader.pop()) is not None:
        events.append(event.removeprefix(b"data: "))
    assert events.pop() == b"[DONE]\n\n"
    return [json.loads(event) for event in events]


def read(text):
    """Return the events that the reader makes of the text of a whole stream."""
    reader = StreamReader(ChatRequest(streams=True))
    reader.push(text.encode() if isinstance(text, str) else text)
    reader.push(None)
    events = []
    while (event := reader.pop()) is not None:
        events.append(event.removeprefix(b"data: "))
    return [json.loads(event) for event in events[:-1]]


def joined(events, name):
    return "".join(choice["delta"].get(name) or "" for event in events for choice in event["choices"])


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("tools", [frozenset(), frozenset({"look"})], ids=["no tools", "tools"])
def test_finish_reason_is_kept_beside_tool_calls(count, tools):
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "look", "arguments": "{}"}} for n in range(count)]
    reason = "tool_calls" if calls else "stop"
    message = {"role": "assistant", "content": None if calls else "hi", **({"tool_calls": calls} if calls else {})}
    (choice,) = whole(message, reason, ChatRequest(tools=tools))["choices"]
    assert choice["finish_reason"] == reason
    assert choice["message"].get("content") == message["content"]
    assert len(choice["message"].get("tool_calls", ())) == count
    delta = {**message, "tool_calls": [{**call, "index": at} for at, call in enumerate(calls)]}
    events = streamed(chunk(delta, reason), request=ChatRequest(tools=tools, streams=True))
    reasons = [part["finish_reason"] for event in events for part in event["choices"]]
    assert reasons.count(reason) == 1
    assert {reason, None} >= set(reasons)


@pytest.mark.parametrize("function", [None, {"arguments": "{}"}, {"name": "", "arguments": '{"a": 1}'}], ids=str)
@pytest.mark.parametrize("position", [0, 1])
def test_call_without_a_name_beside_a_good_one_is_refused_in_whole_replies(function, position):
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    calls.insert(position, {"id": "c2", "type": "function", **({"function": function} if function else {})})
    with pytest.raises(errors.ReplyError, match="without a name"):
        whole({"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls")


def test_finish_reason_is_kept_beside_an_older_function_call():
    message = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}}
    (choice,) = whole(message, "function_call")["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["content"] is None


# --- costs ---

COSTS = [
    ({"usage": USAGE, "x_nanogpt_pricing": PRICING}, {**USAGE, "cost_usd": 0.25}),
    ({"usage": USAGE, "x_nanogpt_pricing": {"cost": "0.5"}}, {**USAGE, "cost_usd": 0.5}),
    ({"x_nanogpt_pricing": {"cost": 0.5, "inputTokens": 10, "outputTokens": 3}}, {**USAGE, "cost_usd": 0.5}),
    (
        {"usage": None, "x_nanogpt_pricing": {"cost": 0.5, "inputTokens": 10, "outputTokens": 3}},
        {**USAGE, "cost_usd": 0.5},
    ),
    ({"usage": USAGE, "x_nanogpt_pricing": {"cost": 0.5, "paymentSource": "XNO"}}, USAGE),
    ({"usage": USAGE, "x_nanogpt_pricing": [1]}, USAGE),
    ({"usage": {**USAGE, "cost_usd": "free"}}, USAGE),
    ({"x_nanogpt_pricing": PRICING}, None),
]


@pytest.mark.parametrize(("more", "usage"), COSTS)
def test_cost_is_in_the_usage_of_a_reply(more, usage):
    assert whole({"content": "all of it"}, **more).get("usage") == usage


@pytest.mark.parametrize(("more", "usage"), COSTS)
@pytest.mark.parametrize("place", ["last", "own", "every"])
def test_cost_is_in_the_usage_of_a_stream_once(more, usage, place):
    chunks = [chunk({"content": "all "}), chunk({"content": "of it"}, "stop")]
    if place == "own":
        chunks += [{"choices": [], name: value} for name, value in more.items()]
    else:
        chunks = [one | (more if place == "every" or one is chunks[-1] else {}) for one in chunks]
    events = streamed(*chunks)
    found = [event["usage"] for event in events if event.get("usage")]
    assert found == ([usage] if usage else [])
    assert sum("x_nanogpt_pricing" in event for event in events) == ("x_nanogpt_pricing" in more)
    assert joined(events, "content") == "all of it"


@pytest.mark.parametrize("place", ["usage", "choice"])
def test_cost_in_usage_or_in_a_choice_is_the_cost_of_the_reply(place):
    cost = {"x_nanogpt_pricing": PRICING}
    usage, more = ({**USAGE, **cost}, {}) if place == "usage" else (USAGE, cost)
    choice = {"message": {"content": "x"}, "delta": {"content": "x"}, "finish_reason": "stop", **more}
    reply = {"choices": [choice], "usage": usage}
    expected = {**USAGE, "cost_usd": 0.25}
    assert parse_reply(json.dumps(reply).encode(), ChatRequest())["usage"] == expected
    assert [event["usage"] for event in streamed(reply) if event.get("usage")] == [expected]


# --- refusals and content blocks ---

REFUSALS = [
    {"content": None, "refusal": "no"},
    {"content": None, "refusal": {"message": "no"}},
    {"content": None, "refusal": {"type": "refusal", "refusal": "no"}},
    {"content": None, "refusal": {"reason": {"text": "no"}}},
    {"content": None, "refusal": [{"type": "text", "text": "n"}, {"text": "o"}]},
    {"content": [{"type": "refusal", "refusal": "no"}]},
    {"content": {"type": "refusal", "refusal": "no"}},
    {"content": [{"type": "refusal", "text": "no"}], "refusal": None},
]


@pytest.mark.parametrize("message", REFUSALS, ids=str)
def test_refusal_of_any_form_is_text(message):
    (choice,) = whole(message)["choices"]
    assert choice["message"]["refusal"] == "no"
    assert not choice["message"]["content"]
    events = streamed(chunk(message), chunk({}, "stop"))
    assert joined(events, "refusal") == "no"
    assert not joined(events, "content")


def test_refusal_without_words_is_a_refusal():
    assert whole({"content": None, "refusal": True})["choices"][0]["message"]["refusal"] == "no reason given"


@pytest.mark.parametrize("refusal", [None, "", False, {}, [], {"refused": False}])
def test_empty_refusal_is_none(refusal):
    assert "refusal" not in whole({"content": "all of it", "refusal": refusal})["choices"][0]["message"]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


def test_content_blocks_become_text_and_reasoning_and_others_are_kept():
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    text = {"type": "text", "text": "all of it"}
    blocks = [thought, text, {"type": "reference", "reference_ids": [1]}, IMAGE]
    (choice,) = whole({"content": blocks})["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "all of it",
        "reasoning_content": "hm",
        "content_blocks": [IMAGE],
        PROVIDER_FIELDS: {"message": {"content": [thought]}, "calls": {}, "is_derived": True},
    }
    events = streamed(*[chunk({"content": [block]}) for block in blocks], chunk({}, "stop"))
    assert (joined(events, "content"), joined(events, "reasoning_content")) == ("all of it", "hm")


@pytest.mark.parametrize("content", [5, True, [None], [5], [{}], [{"type": "text", "text": 5}]])
def test_content_without_a_meaning_is_a_reply_error(content):
    with pytest.raises(errors.ReplyError, match="content of the wrong type"):
        whole({"content": content})


LOGPROB = {"token": "all", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -1}]}


@pytest.mark.parametrize(
    ("logprobs", "kept"),
    [
        ({"content": [LOGPROB], "refusal": None}, True),
        ({"content": None}, True),
        ({"content": [{**LOGPROB, "logprob": "x"}]}, False),
        ({"content": [{**LOGPROB, "top_logprobs": [None]}]}, False),
        ({"content": [{**LOGPROB, "bytes": ["a"]}]}, False),
        ({"content": {}, "refusal": [1]}, False),
        ([LOGPROB], False),
    ],
)
def test_log_probabilities_that_frameworks_cannot_read_are_left_out(logprobs, kept):
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop", "logprobs": logprobs}]}
    (choice,) = parse_reply(json.dumps(body).encode(), ChatRequest())["choices"]
    assert ("logprobs" in choice) == kept


IMAGE_URL = "data:image/png;base64,aGk="


def test_links_of_images_beside_the_content_are_content_blocks():
    other = {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}, "index": 1}
    (choice,) = whole({"content": "here", "images": [IMAGE_URL, other, None]})["choices"]
    assert choice["message"]["content_blocks"] == [IMAGE, other]


# --- requests ---


def test_request_that_is_nested_too_deeply_to_be_read_is_refused():
    with pytest.raises(errors.InvalidTypeError, match=r"nested too deeply\. Pass it with fewer levels"):
        ChatRequest.parse(b'{"tools": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")


# --- bytes ---

BODY = json.dumps({"choices": [{"message": {"content": "all of it"}, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\xef\xbb\xbf" + BODY, "all of it"),
        (b"\n\n " + BODY, "all of it"),
        (BODY.replace(b"of", b"\xff"), "all \ufffd it"),
        (BODY.replace(b"]}", b", null]}"), "all of it"),
    ],
)
def test_answer_in_odd_bytes_is_read(body, text):
    (choice,) = parse_reply(body, ChatRequest())["choices"]
    assert choice["message"]["content"] == text


@pytest.mark.parametrize("levels", [210, 700, 5000])
@pytest.mark.parametrize("text", [b'"\\ud83d"', b'"\\\\ud83d"', b"1"])
def test_deep_nesting_is_a_damaged_reply(levels, text):
    field = b'{"a":' * levels + text + b"}" * levels
    body = BODY.replace(b'"content"', b'"extra_content": ' + field + b', "content"')
    with pytest.raises(errors.DamagedReplyError, match="not JSON"):
        parse_reply(body, ChatRequest())
    with pytest.raises(errors.DamagedReplyError, match="not JSON"):
        read(b"data: " + body.replace(b'"message"', b'"delta"') + b"\n\n")


@pytest.mark.parametrize("streams", [False, True])
def test_page_in_place_of_an_answer_points_at_the_base_url(streams):
    with pytest.raises(errors.DamagedReplyError, match=r"Welcome.*should end in /api/v1"):
        read(b"<html>\n<p>Welcome</p>") if streams else parse_reply(b"<html>Welcome</html>", ChatRequest())


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n"])
def test_event_in_place_of_an_answer_is_quoted_in_the_error(end):
    event = b'data: {"choices": null, "base_resp": {"status_msg": "login fail"}}\n\n'
    with pytest.raises(errors.DamagedReplyError, match=r"no answer, but .*login fail"):
        read(event + end)


@pytest.mark.parametrize("indent", [None, 2])
def test_answer_that_came_whole_is_a_stream(indent):
    message = {"role": "assistant", "content": "all of it", "tool_calls": [{"function": {"name": "clean"}}]}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    events = read(json.dumps(answer, indent=indent).encode())
    assert joined(events, "content") == "all of it"
    calls = [one for event in events for choice in event["choices"] for one in choice["delta"].get("tool_calls", ())]
    assert [one["function"].get("name") for one in calls] == ["clean", None]
    assert "".join(one["function"]["arguments"] for one in calls) == "{}"
    assert events[-1]["usage"] == USAGE


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("before", [b"", b'data: {"choices": [{"delta": {"content": "all "}}]}\n\n'])
def test_error_that_came_whole_in_a_stream_is_raised(indent, before):
    with pytest.raises(ReportedError, match="boom"):
        read(before + json.dumps({"error": {"message": "boom"}}, indent=indent).encode())


# --- endings ---

FILTERS = ["RECITATION", "BLOCKLIST", "SPII", "content_filtered", "content-filter", "Guardrail_Intervened"]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("length", errors.ReplyError),
        ("MAX_TOKENS", errors.ReplyError),
        ("model_length", errors.ReplyError),
        ("content_filter", errors.RefusalError),
        ("SAFETY", errors.RefusalError),
        ("sensitive", errors.RefusalError),
        ("token_limit", errors.ReplyError),
        ("content_filter: PROHIBITED_CONTENT", errors.RefusalError),
        ("ERROR_TOXIC", errors.RefusalError),
        *((name, errors.RefusalError) for name in FILTERS),
    ],
)
def test_truncated_structured_output_is_an_error_under_every_hosts_name(reason, kind):
    message = {"content": '{"a": "b'}
    assert whole(message, reason)["choices"][0]["finish_reason"] == reason
    with pytest.raises(errors.ReplyError, match="cut off") as caught:
        whole(message, reason, JSON_WANTED)
    assert type(caught.value) is kind
    with pytest.raises(kind, match="cut off"):
        streamed(chunk(message, reason), request=JSON_WANTED)


@pytest.mark.parametrize(
    "reason", ["MALFORMED_FUNCTION_CALL", "function_call_filter: UNEXPECTED_TOOL_CALL", "malformed_tool_use"]
)
def test_answer_without_a_tool_call_that_could_not_be_read_is_an_error(reason):
    with pytest.raises(errors.ReplyError, match="lacks a tool call"):
        whole({"content": None}, reason)
    with pytest.raises(errors.ReplyError, match="lacks a tool call"):
        streamed(chunk({"content": ""}), chunk({}, reason))


@pytest.mark.parametrize(
    "reason", ["error", "network_error", "insufficient_system_resource", "abort", "CANCELLED", "timeout"]
)
def test_answer_that_the_host_broke_off_is_an_error(reason):
    with pytest.raises(ReportedError, match="no reason given"):
        whole({"content": "all "}, reason)
    with pytest.raises(ReportedError, match="no reason given"):
        streamed(chunk({"content": "all "}), chunk({}, reason))


# --- choices ---


@pytest.mark.parametrize("indices", [(0, 1), (1, 0)])
def test_choices_of_a_reply_are_in_the_order_of_their_indices(indices):
    choices = [{"index": index, "message": {"content": str(index)}, "finish_reason": "stop"} for index in indices]
    found = parse_reply(json.dumps({"choices": choices}).encode(), ChatRequest(choices=2))["choices"]
    assert [choice["message"]["content"] for choice in found] == ["0", "1"]


# --- errors inside a reply ---

EMPTY = [{}, {"message": "", "type": "", "param": None, "code": None}, {"code": 0, "message": ""}, "", False]


def test_error_in_an_array_is_an_error():
    error = {"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}
    for ask in (lambda: parse_reply(json.dumps([error]).encode(), ChatRequest()), lambda: streamed([error])):
        with pytest.raises(ReportedError) as caught:
            ask()
        assert caught.value.status == 429


@pytest.mark.parametrize("empty", EMPTY, ids=str)
def test_error_without_content_is_none(empty):
    document = whole({"content": "all of it"}, error=empty)
    assert "error" not in document
    assert document["choices"][0]["message"]["content"] == "all of it"
    end = {"choices": [], "usage": USAGE, "error": empty}
    events = streamed(chunk({"content": "all of it"}, error=empty), chunk({}, "stop"), end)
    assert joined(events, "content") == "all of it"
    assert not any("error" in event for event in events)


@pytest.mark.parametrize(
    ("data", "words"),
    [("overloaded", "overloaded"), ('{"reason": "down"}', "down"), ('{"error": "busy"}', "busy"), ("7", "7")],
)
@pytest.mark.parametrize("before", ["", f"data: {json.dumps(chunk({'content': 'all '}))}\n\n"])
def test_event_named_error_is_an_error_with_its_words(data, words, before):
    with pytest.raises(ReportedError) as caught:
        read(f"{before}event: error\ndata: {data}\n\n")
    assert words in str(caught.value.document["error"])


@pytest.mark.parametrize("name", SERVICE_ERRORS)
def test_error_inside_a_reply_is_of_the_class_of_its_http_status(name):
    fault = SERVICE_ERRORS[name]
    session = ChatSession(Endpoint.resolve(api_key="k"))
    with pytest.raises(ReportedError) as found:
        check_no_error(json.loads(json.dumps(fault.body)))

    def error(status):
        request = httpx.Request("POST", "https://nano-gpt.com/api/v1/chat/completions")
        response = httpx.Response(status, json=fault.body, request=request)
        return session.map_error(openai.APIStatusError("x", response=response, body=fault.body), 1)

    assert type(error(found.value.status)) is type(error(fault.status))


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"error": {"code": "insufficient_quota"}, "payment": {"amountUsd": "0.07"}}, 402),
        ({"error": {"code": "insufficient_quota", "payment": {}}}, 402),
        ({"error": {"code": "insufficient_quota"}}, 429),
        ({"error": "Insufficient balance", "requiredBalance": 1}, 402),
        ({"error": {"code": "429", "message": "slow"}}, 429),
        ({"error": {"code": 502, "message": "bad gateway"}}, 502),
        ({"error": {"type": "overloaded_error", "message": "busy"}}, 503),
        ({"error": {"type": "server_error", "code": None}}, 500),
        ({"code": "rate_limited", "message": "slow"}, 429),
        ({"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}, 429),
        ({"error": {"code": "x", "message": "who knows"}}, None),
        ({"error": {"code": "9" * 5000, "status": True}}, None),
        ({"error": "boom"}, None),
        ({"error": {"error": {"code": 503, "message": "down"}}}, 503),
        ({"detail": {"error": {"code": "rate_limit_exceeded", "message": "slow"}}}, 429),
        ({"success": False, "errors": [{"code": 7003, "message": "boom"}]}, None),
    ],
    ids=str,
)
def test_status_of_an_error_inside_a_reply(document, status):
    with pytest.raises(ReportedError) as found:
        check_no_error(document)
    assert found.value.status == status


def test_arguments_after_the_finish_reason_belong_to_their_call():
    call = {"index": 0, "id": "a", "function": {"name": "clean"}}
    late = {"index": 0, "function": {"arguments": '{"path": "x"}'}}
    events = streamed(chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), chunk({"tool_calls": [late]}))
    calls = [one for event in events for choice in event["choices"] for one in choice["delta"].get("tool_calls", ())]
    assert "".join(one["function"]["arguments"] for one in calls) == '{"path": "x"}'


@pytest.mark.parametrize("wants_usage", [True, False])
@pytest.mark.parametrize(
    "more", [{"choices": []}, {"type": "ping"}, chunk({}), chunk({"content": ""}, "stop")], ids=str
)
def test_events_that_say_nothing_after_the_answer_do_not_prolong_the_wait(more, wants_usage):
    reader = StreamReader(ChatRequest(streams=True, wants_usage=wants_usage))
    before = chunk({"content": "all of it"}), {"choices": []}, chunk({}, "stop")
    reader.push("".join(f"data: {json.dumps(one)}\n\n" for one in (*before, more, more)).encode())
    # The wait for an event begins with the call that asks for it, and goes on as long as none is returned.
    assert [reader.pop() is None for _ in range(4)] == [False, False, False, True]
    assert reader.is_complete
    assert reader.wait_seconds(60) < 5


def test_first_event_of_a_choice_has_its_role_and_content():
    events = streamed(chunk({}, "stop"))
    assert [event["choices"][0]["delta"] for event in events] == [{"role": "assistant", "content": ""}]
    events = streamed(
        chunk({"role": "assistant", "content": "all "}), chunk({"role": "assistant", "content": "of it"}, "stop")
    )
    assert [event["choices"][0]["delta"].get("role") for event in events] == ["assistant", None]


@pytest.mark.parametrize("more", [{}, {"object": ""}, {"object": "chat.completion"}, {"object": None}])
def test_type_of_a_chunk_is_set(more):
    assert {event["object"] for event in streamed(chunk({"content": "x"}, "stop", **more))} == {"chat.completion.chunk"}


@pytest.mark.parametrize("index", [1, 7, 10**30])
def test_single_choice_is_the_first_one_whatever_its_number(index):
    first, last = chunk({"content": "all "}), chunk({"content": "of it"}, "stop")
    for one in (first, last):
        one["choices"][0]["index"] = index
    events = streamed(first, last)
    assert [event["choices"][0]["index"] for event in events] == [0, 0]


@pytest.mark.parametrize("choices", [1, 2])
def test_choices_that_were_not_asked_for_are_left_out(choices):
    first, other, last = chunk({"content": "all of it"}), chunk({"content": "other"}, "stop"), chunk({}, "stop")
    other["choices"][0]["index"] = 1
    events = streamed(first, other, last, request=ChatRequest(streams=True, choices=choices))
    assert joined(events, "content") == {1: "all of it", 2: "all of itother"}[choices]


@pytest.mark.parametrize("indices", [("0", "1"), (0.0, 1.0), (None, None)], ids=str)
def test_choices_of_one_chunk_stay_separate(indices):
    choices = [{"index": index, "delta": {"content": str(at)}} for at, index in enumerate(indices)]
    ends = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in indices]
    events = streamed({"choices": choices}, {"choices": ends}, request=ChatRequest(streams=True, choices=2))
    parts = [choice for event in events for choice in event["choices"]]
    assert [(one["index"], one["delta"]["content"]) for one in parts if one["delta"].get("content")] == [
        (0, "0"),
        (1, "1"),
    ]
    assert [one["index"] for one in parts if one["finish_reason"]] == [0, 1]


@pytest.mark.parametrize("indices", [[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 2, 3], [5, 6, 6, 6], [1, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("done", [True, False])
def test_only_choice_may_change_its_index_in_the_middle(indices, done):
    deltas = {"role": "assistant", "content": "all "}, {"reasoning": "hm"}, {"content": "of it"}, {}
    chunks = [chunk(delta, "stop" if not delta else None) for delta in deltas]
    for one, index in zip(chunks, indices, strict=True):
        one["choices"][0]["index"] = index
    events = streamed(*chunks, done=done)
    assert (joined(events, "content"), joined(events, "reasoning")) == ("all of it", "hm")
    assert {choice["index"] for event in events for choice in event["choices"]} == {0}
    assert [choice["finish_reason"] for event in events for choice in event["choices"]][-1] == "stop"


@pytest.mark.parametrize("indices", [[0, 1, 0], [5, 6, 5], [0, 1, 0, 1]], ids=str)
def test_parts_of_a_choice_that_are_no_whole_choice_are_an_error(indices):
    chunks = [chunk({"content": "all "}), chunk({"content": "of it"}), chunk({}, "stop"), chunk({"content": "!"})]
    for one, index in zip(chunks, indices, strict=False):
        one["choices"][0]["index"] = index
    with pytest.raises(errors.ReplyError, match="under several indices"):
        streamed(*chunks[: len(indices)])


def test_finish_reason_under_another_index_ends_the_only_choice():
    last = chunk({"role": "assistant", "content": ""}, "length")
    last["choices"][0]["index"] = 1
    (event,) = [one for one in streamed(chunk({"content": "all of it"}), last) if one["choices"][0]["finish_reason"]]
    assert (event["choices"][0]["index"], event["choices"][0]["finish_reason"]) == (0, "length")
    with pytest.raises(errors.ReplyError, match="cut off"):
        streamed(chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}), last)


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]},
        {**chunk({}, "stop"), "x_groq": {"id": "r", "usage": USAGE}},
    ],
)
def test_usage_of_moonshot_and_groq_is_found(last):
    events = streamed(chunk({"content": "all of it"}), last)
    assert [event["usage"] for event in events if "usage" in event] == [USAGE]


PROMPT_COUNT, COMPLETION_COUNT = {"prompt_tokens": 10}, {"completion_tokens": 3}
FORMS = {
    "floats": ({"prompt_tokens": 10.0, "completion_tokens": 3.0, "total_tokens": 13.0},),
    "text": ({"prompt_tokens": "10", "completion_tokens": "3", "total_tokens": "13"},),
    "Anthropic's names": ({"input_tokens": 10, "output_tokens": 3},),
    "no total": ({"prompt_tokens": 10, "completion_tokens": 3},),
    "a total that is too low": ({**USAGE, "total_tokens": 0},),
    "zeros at the end": (USAGE, dict.fromkeys(USAGE, 0)),
    "split": (PROMPT_COUNT, COMPLETION_COUNT),
    "split, with nulls": ({**PROMPT_COUNT, "completion_tokens": None}, {"prompt_tokens": None, **COMPLETION_COUNT}),
    "split, with zeros": (
        {**PROMPT_COUNT, "completion_tokens": 0, "total_tokens": 10},
        {"prompt_tokens": 0, **COMPLETION_COUNT, "total_tokens": 3},
    ),
    "total first": ({"total_tokens": 13}, PROMPT_COUNT, COMPLETION_COUNT),
    "so far": ({**USAGE, "completion_tokens": 1, "total_tokens": 11}, USAGE, USAGE),
    "split, with Anthropic's names": ({"input_tokens": 10, "output_tokens": 1}, {"output_tokens": 3}),
    "nothing at the end": (USAGE, {}),
}


def counts(usage):
    return {name: usage[name] for name in USAGE}


@pytest.mark.parametrize("case", FORMS)
def test_usage_of_a_stream_is_the_highest_of_each_count_and_given_once(case):
    usages = [{"choices": [], "usage": usage} for usage in FORMS[case]]
    events = streamed(chunk({"content": "all of it"}), chunk({}, "stop"), *usages)
    assert [counts(event["usage"]) for event in events if "usage" in event] == [USAGE]


@pytest.mark.parametrize("case", [case for case, usages in FORMS.items() if len(usages) == 1])
def test_usage_of_any_form_is_read(case):
    assert counts(whole({"content": "all of it"}, usage=FORMS[case][0])["usage"]) == USAGE


def test_details_of_usage_are_merged():
    usages = [
        {
            **USAGE,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": "2"},
        },
        {**USAGE, "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 1}, "completion_tokens_details": None},
    ]
    *_, last = streamed(chunk({"content": "x"}, "stop"), *({"choices": [], "usage": usage} for usage in usages))
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4, "audio_tokens": 1}
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


@pytest.mark.parametrize("bad", [-1, "-1", "ten", 1.5, float("1e400"), True, None, "9" * 5000, [10], "²"])
def test_counts_without_a_meaning_are_left_out(bad):
    assert whole({"content": "all of it"}, usage={"prompt_tokens": bad}).get("usage") is None


def test_empty_reasoning_content_does_not_hide_reasoning():
    message = {"content": "42", "reasoning_content": "", "reasoning": "six times seven"}
    kept = whole(dict(message))["choices"][0]["message"]
    (delta,) = (event["choices"][0]["delta"] for event in streamed(chunk(message, "stop")))
    for one in (kept, delta):
        assert one["reasoning"] == "six times seven"
        assert "reasoning_content" not in one


# --- text of structured output ---


@pytest.mark.parametrize("text", ["[" * 3000, '{"a\\"}": ' * 3000])
def test_json_that_is_nested_too_deeply_for_parsers_is_a_reply_error(text):
    with pytest.raises(errors.ReplyError, match="nested too deeply"):
        streamed(*(chunk({"content": text[at : at + 100]}) for at in range(0, len(text), 100)), request=JSON_WANTED)


def test_brackets_in_a_string_are_not_levels_of_json():
    text = json.dumps({"a": "[" * 3000, "b": [[1]] * 300})
    assert joined(streamed(chunk({"content": text}, "stop"), request=JSON_WANTED), "content") == text


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ('{"a": "b"}', '{"a": "b"}'),
        ('```json\n{"a": "b"}\n```', '{"a": "b"}'),
        ('{"a": "b', '{"a": "b"]'),
        ("{", "{]"),
        ('```json\n{"a": "b', '```json\n{"a": "b"]'),
        ('Here:\n```json\n{"a": ', 'Here:\n```json\n{"a": ]'),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', 'Here:\n```json\n{"a": 1}\n```\nDone.'),
        ('{"a": 1}\nDone.', '{"a": 1}\nDone.'),
        ("I do not know.", "I do not know."),
        ("", ""),
    ],
)
def test_incomplete_json_is_made_unreadable(text, sent, size):
    assert whole({"content": text}, request=JSON_WANTED)["choices"][0]["message"]["content"] == sent
    parts = [chunk({"content": text[at : at + size]}) for at in range(0, len(text), size)]
    assert joined(streamed(*parts, chunk({}, "stop"), request=JSON_WANTED), "content") == sent
    assert joined(streamed(*parts, chunk({}), request=JSON_WANTED), "content") == sent
    assert whole({"content": text})["choices"][0]["message"]["content"] == text


# --- answers in other places ---

TOOLS = ChatRequest(tools=frozenset({"clean"}))
STREAMED_TOOLS = ChatRequest(streams=True, tools=frozenset({"clean"}))


@pytest.mark.parametrize("text", ["[I look it up]", "```python\nlook()\n```", "{unclear"])
@pytest.mark.parametrize("tools", [frozenset({"look"}), frozenset()], ids=["tools", "no tools"])
def test_text_beside_calls_of_tools_is_no_structured_output_and_stays_as_it_is(text, tools):
    request = ChatRequest(structured=True, wants_json=True, tools=tools)
    calls = [{"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    (choice,) = whole({"content": text, "tool_calls": calls}, "tool_calls", request=request)["choices"]
    assert (choice["message"]["content"] == text) is bool(tools)
    deltas = [{"content": text[:2]}, {"content": text[2:]}, {"tool_calls": calls}]
    events = streamed(*map(chunk, deltas), chunk({}, "tool_calls"), request=request)
    assert (joined(events, "content") == text) is bool(tools)


def test_text_of_the_older_endpoint_is_the_content():
    body = {"choices": [{"text": "all of it", "message": None, "finish_reason": "stop"}]}
    (choice,) = parse_reply(json.dumps(body).encode(), ChatRequest())["choices"]
    assert choice["message"]["content"] == choice["text"] == "all of it"


ELSEWHERE = {
    "message": [{"message": {"role": "assistant", "content": "all of it", "reasoning": "hm"}}],
    "text": [{"text": "all "}, {"text": "of it", "delta": {"reasoning": "hm"}}, {"text": ""}],
    "delta of text": [{"delta": "all "}, {"delta": "of it"}, {"delta": {"reasoning": "hm"}}],
    "message again at the end": [
        {"delta": {"content": "all ", "reasoning": "hm"}},
        {"delta": {"content": "of it"}},
        {"delta": {}, "message": {"content": "all of it"}},
    ],
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_answer_in_the_place_of_a_delta_is_not_lost(case):
    choices = [{"index": 0, **choice} for choice in ELSEWHERE[case]]
    if case == "text":
        choices.insert(1, {"index": 0, "text": "of it"})
        choices[2]["text"] = ""
    events = streamed(*({"choices": [choice]} for choice in choices), chunk({}, "stop"))
    assert (joined(events, "content"), joined(events, "reasoning")) == ("all of it", "hm")


def test_tool_call_of_a_message_in_the_place_of_a_delta_is_not_lost():
    call = {"id": "a", "function": {"name": "clean", "arguments": {"path": "x"}}}
    events = streamed({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]})
    (found,) = [one for event in events for choice in event["choices"] for one in choice["delta"].get("tool_calls", ())]
    assert found["function"] == {"name": "clean", "arguments": '{"path": "x"}'}


@pytest.mark.parametrize("delta", [5, [{"content": "x"}], True], ids=str)
def test_delta_without_a_meaning_is_a_reply_error(delta):
    with pytest.raises(errors.ReplyError, match="delta of the wrong type"):
        streamed(chunk(delta), chunk({}, "stop"))


@pytest.mark.parametrize(
    "content", [{"type": "text", "text": {"value": "all of it"}}, {"type": "input_text", "text": "all of it"}], ids=str
)
def test_text_in_other_blocks_is_the_content(content):
    assert whole({"content": [content]})["choices"][0]["message"]["content"] == "all of it"


def test_images_beside_the_content_are_kept():
    for found in (
        whole({"content": "", "images": [IMAGE]})["choices"][0]["message"],
        *(choice["delta"] for event in streamed(chunk({"images": [IMAGE]}, "stop")) for choice in event["choices"]),
    ):
        assert found["content_blocks"] == [IMAGE]


def test_repeated_image_of_a_stream_is_sent_on_once_and_others_get_an_index():
    """LangChain joins blocks of one index, and those of several deltas without one."""
    other = {"type": "image_url", "image_url": {"url": "https://example.com/b.png"}}
    parts = [{"images": [IMAGE]}, {"images": [IMAGE, {"type": "image_url"}]}, {"images": [other]}, {"images": [IMAGE]}]
    events = streamed(*map(chunk, parts), chunk({}, "stop"))
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert [block for delta in deltas for block in delta.get("content_blocks", ())] == [
        IMAGE,
        {"type": "image_url"},
        {**other, "index": 1},
    ]


def test_link_in_place_of_an_image_is_one():
    """Mistral sends images so."""
    (choice,) = whole({"content": [{"type": "image_url", "image_url": IMAGE_URL}]})["choices"]
    assert choice["message"]["content_blocks"] == [IMAGE]


@pytest.mark.parametrize("blocks", [None, "a text", {"type": "image_url"}, [None]], ids=str)
def test_content_blocks_of_a_wrong_type_are_left_out(blocks):
    message = {"content": "all of it", "content_blocks": blocks}
    events = streamed(chunk(dict(message), "stop"))
    for found in (whole(message)["choices"][0]["message"], events[0]["choices"][0]["delta"]):
        assert found["content"] == "all of it"
        assert "content_blocks" not in found


def test_call_in_the_older_form_is_a_tool_call_if_tools_were_sent():
    call = {"name": "clean", "arguments": '{"path": "x"}'}
    (choice,) = whole({"content": None, "function_call": call}, "function_call", TOOLS)["choices"]
    ((found,), old) = choice["message"]["tool_calls"], choice["message"].get("function_call")
    assert (found["function"], found["type"], old) == (call, "function", None)
    parts = [{"function_call": {"name": "clean", "arguments": ""}}]
    parts += [{"function_call": {"arguments": piece}} for piece in ('{"path"', ': "x"}')]
    events = streamed(*map(chunk, parts), chunk({}, "function_call"), request=STREAMED_TOOLS)
    calls = [one for event in events for choice in event["choices"] for one in choice["delta"].get("tool_calls", ())]
    assert "".join(one["function"]["arguments"] for one in calls) == '{"path": "x"}'
    assert [one["function"]["name"] for one in calls if "name" in one["function"]] == ["clean"]


def test_call_in_the_older_form_stays_if_no_tools_were_sent():
    call = {"name": "clean", "arguments": "{}"}
    assert whole({"content": None, "function_call": call})["choices"][0]["message"]["function_call"] == call


def test_error_inside_a_choice_is_the_services_error():
    choice = {"index": 0, "finish_reason": None, "error": {"code": 502, "message": "provider down"}}
    body = json.dumps({"choices": [{**choice, "message": {"content": ""}}]})
    with pytest.raises(ReportedError, match="provider down") as found:
        parse_reply(body.encode(), ChatRequest())
    assert found.value.status == 502
    with pytest.raises(ReportedError, match="provider down"):
        streamed(chunk({"content": "all "}), {"choices": [{**choice, "delta": {}}]})


@pytest.mark.parametrize("reason", ["null", "None", ""])
def test_finish_reason_that_says_nothing_is_none(reason):
    events = streamed(chunk({"content": "all "}, reason), chunk({"content": "of it"}, "stop"))
    assert [choice["finish_reason"] for event in events for choice in event["choices"]] == [None, "stop"]


def test_tokens_beyond_all_measure_are_no_count():
    assert whole({"content": "x"}, usage={"prompt_tokens": 10**30, "completion_tokens": 3})["usage"] == {
        "prompt_tokens": 0,
        "completion_tokens": 3,
        "total_tokens": 3,
    }


# --- the end of a stream ---


def test_wait_is_short_after_the_answer_and_long_if_the_host_ends_every_part():
    reader = StreamReader(ChatRequest(streams=True))
    for number in (1, 2):
        reader.push(f"data: {json.dumps(chunk({'content': 'x'}, 'stop'))}\n\n".encode())
        assert reader.pop() is not None
        assert (reader.wait_seconds(60) < 5) is (number == 1)


@pytest.mark.parametrize(
    "end", ["data:  [DONE] \n\n", "data:\t[DONE]\n\n", 'data: "[DONE]"\n\n', "data: null\n\ndata: [done]\n\n"]
)
def test_end_of_a_stream_in_other_forms_is_known(end):
    events = read(f"data: {json.dumps(chunk({'content': 'all of it'}))}\n\n{end}")
    assert joined(events, "content") == "all of it"


def test_lines_of_json_are_a_stream():
    chunks = [chunk({"content": "all "}), chunk({"content": "of it"}, "stop")]
    assert joined(read("".join(f"{json.dumps(one)}\n" for one in chunks)), "content") == "all of it"


# --- halves of characters ---

EMOJI = "\U0001f41d"
HALVES = '"\\ud83d"', '"\\udc1d"'


def cut(delta):
    """Return the text of chunks in which the emoji is cut in halves."""
    return "".join(f"data: {json.dumps(chunk(delta)).replace('HERE', half.strip(chr(34)))}\n\n" for half in HALVES)


@pytest.mark.parametrize("name", ["content", "reasoning", "reasoning_content"])
def test_halves_of_a_character_are_joined(name):
    events = read(cut({name: "HERE"}) + "data: [DONE]\n\n")
    assert joined(events, name) == EMOJI
    assert [joined([event], name) for event in events if joined([event], name)] == [EMOJI]


def test_halves_of_a_character_in_arguments_are_joined():
    call = {"index": 0, "id": "a", "function": {"name": "clean", "arguments": ""}}
    text = cut({"tool_calls": [{"index": 0, "function": {"arguments": "HERE"}}]})
    texts = [
        f"data: {json.dumps(chunk({'tool_calls': [{**call, 'function': {**call['function'], **more}}]}))}\n\n"
        for more in ({"arguments": '{"path": "'}, {"name": "", "arguments": '"}'})
    ]
    events = read(texts[0] + text + texts[1] + "data: [DONE]\n\n")
    calls = [one for event in events for choice in event["choices"] for one in choice["delta"].get("tool_calls", ())]
    assert json.loads("".join(one["function"]["arguments"] for one in calls)) == {"path": EMOJI}


@pytest.mark.parametrize("half", HALVES)
def test_half_of_a_character_without_the_other_is_replaced(half):
    half = half.strip('"')
    body = json.dumps({"choices": [{"message": {"content": "aHERE"}, "finish_reason": "stop"}]}).replace("HERE", half)
    assert parse_reply(body.encode(), ChatRequest())["choices"][0]["message"]["content"] == "a\ufffd"
    event = json.dumps(chunk({"content": "aHERE"}, "stop")).replace("HERE", half)
    assert joined(read(f"data: {event}\n\n"), "content") == "a\ufffd"

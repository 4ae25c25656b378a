"""Repeated events, usage after the end, and lines of JSON: habits of servers that a stream is cleaned of."""

import json
from base64 import b64decode, b64encode

import pytest

from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.response import ReportedError
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.chat.whole_reply import parse_reply
from nanogpt_core.errors import DamagedReplyError, ReplyError

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
PRICING = {"x_nanogpt_pricing": {"cost": 0.25, "currency": "USD"}}
TOOLS = frozenset({"clean"})
DONE = "[DONE]"


def chunk(delta, reason=None, **more):
    return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def sse(*events, ids=None):
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    names = ids or [None] * len(lines)
    return "".join(
        f"data: {line}\n\n" if name is None else f"id: {name}\ndata: {line}\n\n"
        for name, line in zip(names, lines, strict=True)
    )


def joined(body, **request):
    return parse_reply(body.encode(), ChatRequest(**request))


def message_of(body, **request):
    (choice,) = joined(body, **request)["choices"]
    return choice["message"]


def read(reader, body):
    """Return the events that the reader makes of further bytes."""
    reader.push(body if body is None else body.encode())
    events = []
    while (event := reader.pop()) is not None:
        events.append(event.removeprefix(b"data: ").strip())
    return [json.loads(event) for event in events if event != DONE.encode()]


# --- repeated events ---

TEXT = [chunk({"role": "assistant", "content": ""}), chunk({"content": "all "}), chunk({"content": "of it"})]
THOUGHTS = [
    chunk({"reasoning_details": [{"type": "reasoning.text", "text": text, "index": 0}]}) for text in ("hm", ", so")
]
ARGUMENTS = '{"path": "x"}'
CALL = [
    chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "clean", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[:7]}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[7:]}}]}),
]
NAMELESS_CALL = [chunk({"tool_calls": [{"index": 0, "function": {"name": "clean", "arguments": ARGUMENTS}}]})]
STOP = [chunk({}, "stop")]
ANSWERS = {
    "text": [*TEXT, *STOP],
    "text with its end": [TEXT[1], chunk({"content": "of it"}, "stop")],
    "reasoning": [*THOUGHTS, *TEXT, *STOP],
    "refusal": [chunk({"refusal": "no "}), chunk({"refusal": "way"}), *STOP],
    "tool call": [*TEXT, *CALL, chunk({}, "tool_calls")],
    "tool call without an id": [*TEXT, *NAMELESS_CALL, chunk({}, "tool_calls")],
    "older call": [
        chunk({"function_call": {"name": "clean", "arguments": ""}}),
        chunk({"function_call": {"arguments": "{}"}}),
        chunk({}, "function_call"),
    ],
}


def comparable(message):
    """Return a message without empty fields, and without ids that were made for calls."""
    calls = [call["function"] for call in message.pop("tool_calls", ())]
    return {"calls": calls, **{name: value for name, value in message.items() if value}}


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("ending", ["done twice", "done once", "not done", "broken off", "three times", "last event"])
@pytest.mark.parametrize("tools", [TOOLS, frozenset()], ids=["tools", "no tools"])
def test_stream_that_is_sent_again_after_its_end_counts_once(case, ending, tools):
    events = ANSWERS[case]
    bodies = {
        "done twice": [*events, DONE, *events, DONE],
        "done once": [*events, *events, DONE],
        "not done": [*events, *events],
        "broken off": [*events, *events[:-1]],
        "three times": [*events, *events, *events, DONE],
        "last event": [*events, events[-1], DONE],
    }
    once = comparable(message_of(sse(*events, DONE), tools=tools))
    assert comparable(message_of(sse(*bodies[ending]), tools=tools)) == once


def test_structured_output_that_is_sent_again_counts_once():
    events = [chunk({"content": '{"a"'}), chunk({"content": ": 1}"}), *STOP]
    request = {"structured": True, "wants_json": True}
    assert message_of(sse(*events, *events, DONE), **request)["content"] == '{"a": 1}'


def test_second_answer_after_the_end_is_not_read():
    other = [chunk({"content": "something else"}), *STOP]
    assert message_of(sse(*TEXT, *STOP, DONE, "not json", *other, {"error": {"message": "boom"}}))["content"] == (
        "all of it"
    )


def test_equal_parts_in_a_row_are_text():
    assert message_of(sse(*[chunk({"content": "ha"})] * 3, *STOP, DONE))["content"] == "hahaha"


def test_host_that_ends_every_part_may_repeat_a_text():
    assert message_of(sse(*[chunk({"content": "ha"}, "stop")] * 3, DONE))["content"] == "hahaha"


def test_text_after_the_end_that_is_no_repetition_is_not_lost():
    late = [chunk({"content": " Or"}), chunk({"content": " not."})]
    assert message_of(sse(*TEXT, *STOP, *late, DONE))["content"] == "all of it Or not."
    (call,) = message_of(sse(*TEXT, *STOP, *CALL, DONE), tools=TOOLS)["tool_calls"]
    assert call["function"] == {"name": "clean", "arguments": ARGUMENTS}


@pytest.mark.parametrize(
    ("pieces", "late"),
    [(["A. B", " C"], ["."]), (["1, 2, 3, 2", ", 1"], [", 2, 3"]), (["yes"], [", yes", ", yes"])],
    ids=str,
)
@pytest.mark.parametrize("end", [DONE, None])
def test_text_after_the_end_that_is_inside_the_answer_is_not_lost(pieces, late, end):
    *first, last = pieces
    events = [*(chunk({"content": text}) for text in first), chunk({"content": last}, "stop")]
    events += [chunk({"content": text}) for text in late]
    assert message_of(sse(*events, *([end] if end else ())))["content"] == "".join([*pieces, *late])


def test_wait_is_long_after_new_text_behind_the_end():
    reader = StreamReader(ChatRequest(streams=True))
    read(reader, sse(*TEXT, *STOP))
    assert reader.wait_seconds(60) < 5
    read(reader, sse(chunk({"content": "l o"})))
    assert reader.wait_seconds(60) == 60
    assert read(reader, sse(chunk({"content": "f the"})))
    assert reader.wait_seconds(60) == 60


def test_wait_stays_short_while_a_stream_is_sent_again():
    reader = StreamReader(ChatRequest(streams=True))
    for event in [*TEXT, *STOP, *TEXT]:
        read(reader, sse(event))
    assert reader.wait_seconds(60) < 5


@pytest.mark.parametrize("pieces", [[ARGUMENTS], [ARGUMENTS[:7], ARGUMENTS[7:]], list(ARGUMENTS)], ids=len)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("size", [1, 5, 100])
def test_arguments_that_are_sent_again_count_once(pieces, times, size):
    again = [ARGUMENTS[at : at + size] for at in range(0, len(ARGUMENTS), size)] * times
    parts = [chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in (*pieces, *again)]
    message = message_of(sse(CALL[0], *parts, chunk({}, "tool_calls"), DONE), tools=TOOLS)
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "clean", "arguments": ARGUMENTS}]


@pytest.mark.parametrize("more", ['{"path": "y"}', "{", '{"path"', "}", ARGUMENTS + "{"])
def test_arguments_with_another_end_than_a_repetition_are_unreadable(more):
    parts = [chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}) for piece in (ARGUMENTS, more)]
    message = message_of(sse(CALL[0], *parts, chunk({}, "tool_calls"), DONE), tools=TOOLS)
    (call,) = message["tool_calls"]
    with pytest.raises(ValueError, match="Extra data"):
        json.loads(call["function"]["arguments"])


ALL, OF_IT, HA = TEXT[1], TEXT[2], chunk({"content": "ha"})


@pytest.mark.parametrize(
    ("ids", "events", "text"),
    [
        ("1122334455", [TEXT[0]] * 2 + [HA] * 4 + [ALL] * 2 + STOP * 2, "hahaall "),
        ("1232345", [TEXT[0], ALL, OF_IT, ALL, OF_IT, HA, *STOP], "all of itha"),
        ("1111", [HA, HA, HA, *STOP], "hahaha"),  # the id of the stream
        ("12123", [ALL, OF_IT, HA, HA, *STOP], "all of ithaha"),
    ],
)
def test_event_with_the_id_and_the_data_of_an_earlier_one_counts_once(ids, events, text):
    assert message_of(sse(*events, ids=list(ids)))["content"] == text


# --- usage after the end ---

LATE_USAGE = {
    "without choices": [{"choices": [], "usage": USAGE, **PRICING}],
    "with an empty choice": [chunk({"role": "assistant", "content": ""}, usage=USAGE, **PRICING)],
    "twice": [{"choices": [], "usage": USAGE, **PRICING}] * 2,
    "in two events": [{"choices": [], "usage": USAGE}, {"choices": [], **PRICING}],
    "in every chunk of a second answer": [{**one, "usage": USAGE, **PRICING} for one in [*TEXT, *STOP]],
    "after words": ["bye", {"choices": [], "usage": USAGE, **PRICING}],
}


@pytest.mark.parametrize("case", LATE_USAGE)
@pytest.mark.parametrize("before", [[], [DONE]], ids=["before DONE", "after DONE"])
@pytest.mark.parametrize("after", [[], [DONE]], ids=["open", "DONE"])
def test_usage_after_the_end_of_the_answer_is_given_once(case, before, after):
    if case == "after words" and not before:
        return
    reader = StreamReader(ChatRequest(streams=True, wants_usage=True))
    events = read(reader, sse(*TEXT, *STOP, *before))
    assert [choice["finish_reason"] for event in events for choice in event["choices"]][-1] == "stop"
    assert not reader.has_ended
    assert reader.wait_seconds(60) < 5
    events += [*read(reader, sse(*LATE_USAGE[case], *after)), *read(reader, None)]
    assert [event["usage"] for event in events if "usage" in event] == [{**USAGE, "cost_usd": 0.25}]
    assert reader.usage == {**USAGE, "cost_usd": 0.25}
    assert "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"]) == (
        "all of it"
    )


def test_usage_of_a_second_answer_after_the_end_is_not_added():
    more = {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 6}}
    reply = joined(sse(*TEXT, *STOP, {"choices": [], "usage": USAGE}, DONE, *TEXT, *STOP, more, DONE))
    assert reply["usage"] == USAGE


# --- lines of JSON ---

OLLAMA_TEXT = [{"message": {"role": "assistant", "content": text}} for text in ("all ", "of it", "")]
OLLAMA_CALL = [
    {"message": {"role": "assistant", "content": "", "thinking": "hm"}},
    {
        "message": {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "clean", "arguments": {"path": "x"}}}],
        }
    },
    {"message": {"role": "assistant", "content": ""}},
]


def ollama(*documents, reason="stop"):
    """Return the lines of JSON that Ollama's own API sends."""
    more = {"model": "m", "created_at": "2026-01-01T00:00:00Z"}
    end = {"done_reason": reason, "done": True, "prompt_eval_count": 10, "eval_count": 3, "total_duration": 5}
    lines = [{**more, **one, **(end if one is documents[-1] else {"done": False})} for one in documents]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("whole", [False, True], ids=["chunks", "whole"])
def test_lines_of_json_for_an_unstreamed_request_are_the_answer(end, whole):
    events = [*TEXT, *CALL, {**chunk({}, "tool_calls"), "usage": USAGE}]
    if whole:
        events = [{"choices": [{"message": message_of(sse(*events, DONE)), "finish_reason": "stop"}], "usage": USAGE}]
        events.append({"choices": []})
    reply = joined(end.join(json.dumps(one) for one in events))
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == "all of it"
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [{"name": "clean", "arguments": ARGUMENTS}]
    assert reply["usage"] == USAGE


@pytest.mark.parametrize("size", [1, 1000])
def test_lines_of_ollama_are_a_stream(size):
    lines = ollama(*OLLAMA_TEXT)
    reader = StreamReader(ChatRequest(streams=True, wants_usage=True))
    events = [event for at in range(0, len(lines), size) for event in read(reader, lines[at : at + size])]
    events += read(reader, None)
    parts = [choice for event in events for choice in event["choices"]]
    assert "".join(part["delta"].get("content") or "" for part in parts) == "all of it"
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop"]
    assert [event["usage"] for event in events if "usage" in event] == [USAGE]


def test_lines_of_ollama_for_an_unstreamed_request_are_the_answer():
    reply = joined(ollama(*OLLAMA_TEXT))
    assert (reply["choices"][0]["message"]["content"], reply["usage"]) == ("all of it", USAGE)
    message = message_of(ollama(*OLLAMA_CALL), tools=TOOLS)
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "clean", "arguments": ARGUMENTS}]
    assert message["reasoning_content"] == "hm"


def test_whole_answer_of_ollama_is_the_answer():
    body = ollama({"message": {"role": "assistant", "content": "all of it"}}, reason="length")
    reply = parse_reply(body.encode(), ChatRequest())
    (choice,) = reply["choices"]
    assert (choice["message"]["content"], choice["finish_reason"], reply["usage"]) == ("all of it", "length", USAGE)
    with pytest.raises(ReplyError, match="cut off"):
        parse_reply(body.encode(), ChatRequest(structured=True))


def test_error_after_lines_of_ollama_is_raised():
    with pytest.raises(ReportedError, match="model runner has stopped"):
        joined(
            ollama(*OLLAMA_TEXT, {"message": {}}).rpartition('{"model"')[0] + '{"error": "model runner has stopped"}'
        )


def test_lines_of_ollama_without_an_end_are_a_broken_answer():
    with pytest.raises(DamagedReplyError, match="broke off"):
        joined("".join(ollama(*OLLAMA_TEXT).splitlines(keepends=True)[:2]))


# --- audio ---

SOUND = bytes(range(20))
WHOLE = b64encode(SOUND).decode()
PIECES_OF_AUDIO = {
    "one": [WHOLE],
    "each encoded by itself": [b64encode(SOUND[at : at + 4]).decode() for at in range(0, 20, 4)],
    "without the padding": [WHOLE.rstrip("=")],
    "cut anywhere": [WHOLE[:1], WHOLE[1:6], WHOLE[6:8], "", WHOLE[8:]],
}


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("case", PIECES_OF_AUDIO)
def test_pieces_of_audio_are_joined_to_one_text_in_base64(case, streams):
    """The SDK and LangChain only join the texts."""
    deltas = [{"audio": {"id": "a", "transcript": "Hi "}}, {"audio": {"id": "a", "transcript": "there."}}]
    deltas += [{"audio": {"data": piece}} for piece in PIECES_OF_AUDIO[case]]
    body = sse(*map(chunk, deltas), chunk({"audio": {"expires_at": 9}}), chunk({}, "stop"), DONE)
    audio = {"id": "a", "transcript": "Hi there.", "data": WHOLE, "expires_at": 9}
    if not streams:
        assert message_of(body)["audio"] == audio
        return
    sent = [
        part["choices"][0]["delta"].get("audio") or {} for part in read(StreamReader(ChatRequest(streams=True)), body)
    ]
    pieces = [one["data"] for one in sent if "data" in one]
    assert "".join(pieces) == WHOLE
    assert b"".join(b64decode(piece, validate=True) for piece in pieces) == SOUND


def test_audio_beside_an_answer_in_json_is_kept_whole():
    deltas = [{"content": "{"}, {"audio": {"data": WHOLE[:8]}}, {"audio": {"data": WHOLE[8:]}}, {"content": "}"}]
    body = sse(*map(chunk, deltas), chunk({}, "stop"), DONE)
    events = read(StreamReader(ChatRequest(streams=True, wants_json=True)), body)
    sent = [event["choices"][0]["delta"].get("audio") or {} for event in events]
    assert "".join(one.get("data", "") for one in sent) == WHOLE


def test_parts_of_audio_with_wrong_types_are_left_out():
    """Frameworks raise raw errors when they join parts of different types."""
    audio = [{"id": "a", "data": "QUJD"}, {"id": 5, "data": None}, {"data": [1]}, {"transcript": {}, "expires_at": "9"}]
    body = sse(*[chunk({"audio": one}) for one in audio], chunk({}, "stop"), DONE)
    assert message_of(body)["audio"] == {"id": "a", "data": "QUJD"}


@pytest.mark.parametrize("pieces", [("no ba", "se64!"), ("QUJ", "é" * 5)])
def test_audio_that_is_no_base64_is_sent_on_unchanged(pieces):
    body = sse(*[chunk({"audio": {"data": piece}}) for piece in pieces], chunk({}, "stop"), DONE)
    assert message_of(body)["audio"] == {"data": "".join(pieces)}

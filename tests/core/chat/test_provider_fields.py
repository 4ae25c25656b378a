"""Provider fields of chat answers, whole and streamed: collected, joined, and put into the next request."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.chat.provider_fields import PROVIDER_FIELDS, ProviderFields, merge_fields, restore_fields
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.chat.whole_reply import parse_reply

SIGNED = {"google": {"thought_signature": "abc"}}


def detail(text=None, **more):
    return {
        "type": "reasoning.text",
        **({} if text is None else {"text": text}),
        "format": "anthropic-claude-v1",
        **more,
    }


def whole(message):
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    return parse_reply(json.dumps(body).encode(), ChatRequest())["choices"][0]["message"]


def streamed(*deltas, request=None):
    """Return the deltas of a stream as they are sent on."""
    reader = StreamReader(request or ChatRequest(streams=True))
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    reader.push("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n")
    reader.push(None)
    events = []
    while (event := reader.pop()) is not None:
        events.append(event.removeprefix(b"data: "))
    return [choice["delta"] for event in events[:-1] for choice in json.loads(event)["choices"]]


def fields_of(deltas):
    (found,) = [delta[PROVIDER_FIELDS] for delta in deltas if PROVIDER_FIELDS in delta]
    return found


def fragment(index, identifier=None, name=None, arguments=None, **more):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    given = {"index": index, "id": identifier, **({"function": function} if function else {}), **more}
    return {"tool_calls": [{key: value for key, value in given.items() if value is not None}]}


# Deltas of a stream, and the fields of the joined message.
STREAMS = {
    "text in pieces, then its signature": (
        [
            {"reasoning_details": [detail("I must ", index=0)]},
            {"reasoning_details": [detail("clean.", index=0)]},
            {"reasoning_details": [detail(index=0, signature="sig")]},
        ],
        {"reasoning_details": [detail("I must clean.", index=0, signature="sig")]},
    ),
    "several blocks": (
        [
            {"reasoning_details": [detail("a", index=0)]},
            {"reasoning_details": [detail("b", index=1), detail(index=0, signature="s0")]},
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "index": 0, "id": "call_a"}]},
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "y", "index": 0, "id": "call_b"}]},
        ],
        {
            "reasoning_details": [
                detail("a", index=0, signature="s0"),
                detail("b", index=1),
                {"type": "reasoning.encrypted", "data": "x", "index": 0, "id": "call_a"},
                {"type": "reasoning.encrypted", "data": "y", "index": 0, "id": "call_b"},
            ]
        },
    ),
    "the block again at the end": (
        [
            {"reasoning_details": [detail("hm", index=0)]},
            {"reasoning_details": [detail("hm", index=0, signature="s")]},
            {"reasoning_details": [detail("hm", index=0, signature="s")]},
        ],
        {"reasoning_details": [detail("hm", index=0, signature="s")]},
    ),
    "blocks without an index": (
        [
            {"thinking_blocks": [{"type": "thinking", "thinking": "a"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "b", "signature": ""}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]},
            {"thinking_blocks": [{"type": "redacted_thinking", "data": "x"}]},
            {"thinking_blocks": [{"type": "redacted_thinking", "data": "y"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "c"}]},
        ],
        {
            "thinking_blocks": [
                {"type": "thinking", "thinking": "ab", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "redacted_thinking", "data": "y"},
                {"type": "thinking", "thinking": "c"},
            ]
        },
    ),
    "signature in the message, repeated": (
        [{"content": "a", "extra_content": SIGNED}, {"content": "b", "extra_content": SIGNED}],
        {"extra_content": SIGNED},
    ),
    "mark of a thought": (
        [{"content": "hm", "extra_content": {"google": {"thought": True}}}, {"content": "b", "extra_content": SIGNED}],
        {"extra_content": SIGNED},
    ),
    "signatures in a list": (
        [{"provider_specific_fields": {"thought_signatures": [one]}} for one in ("a", "a", "b")],
        {"provider_specific_fields": {"thought_signatures": ["a", "b"]}},
    ),
    "thinking with a signature of its own": (
        [{"thinking": "h"}, {"thinking": "m"}, {"thinking_signature": "s"}, {"thinkingSignature": "s"}],
        {"thinking": "hm", "thinking_signature": "s", "thinkingSignature": "s"},
    ),
    "opaque reasoning": ([{"reasoning_opaque": "x"}, {"reasoning_opaque": "y"}], {"reasoning_opaque": "y"}),
    "thinking blocks in the content": (
        [
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}]},
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "m"}]}]},
            {"content": "all of it"},
        ],
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
    ),
}


@pytest.mark.parametrize(("deltas", "message"), STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("wants_json", [False, True])
def test_pieces_of_provider_fields_are_joined(deltas, message, wants_json):
    found = fields_of(streamed(*deltas, request=ChatRequest(streams=True, wants_json=wants_json)))
    assert found["message"] == message


@pytest.mark.parametrize("message", [one for _, one in STREAMS.values()], ids=STREAMS)
def test_provider_fields_of_a_whole_message_are_kept_as_they_are(message):
    assert whole({"content": "all of it", **message})[PROVIDER_FIELDS]["message"] == message


@pytest.mark.parametrize(
    "message",
    [
        {"content": "all of it", "reasoning": "hm"},
        {"content": "all of it", "reasoning_details": [], "extra_content": None, "thinking": "", "thinking_tokens": 5},
        {"content": "all of it", "annotations": [{"type": "url_citation"}], "thought": True},
        {"content": "all of it", PROVIDER_FIELDS: {"message": {"role": "system"}}},
    ],
    ids=str,
)
def test_answers_without_provider_fields_have_none(message):
    assert PROVIDER_FIELDS not in whole(message)
    assert not [delta for delta in streamed(message) if PROVIDER_FIELDS in delta]


DERIVED = [
    {"thinking": "hm"},
    {"reasoning_text": "hm"},
    {"reasoning": {"text": "hm"}},
    {"reasoning_content": [{"type": "text", "text": "hm"}]},
    {"reasoning_details": [detail("h", index=0), detail("m", index=1)]},
    {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
    {"content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "all of it"}]},
]


@pytest.mark.parametrize("message", DERIVED, ids=str)
def test_reasoning_under_other_names_is_reasoning_text_too(message):
    found = whole({"content": "all of it", **message})
    assert (found["content"], found["reasoning_content"]) == ("all of it", "hm")
    assert found[PROVIDER_FIELDS]["is_derived"] is True
    deltas = streamed({"content": "all of it", **message})
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "hm"
    assert fields_of(deltas)["is_derived"] is True


def test_halves_of_a_character_in_provider_fields_are_joined():
    first, second = "\ud83d", "\udc1d"
    found = fields_of(streamed({"thinking": f"a{first}"}, {"thinking": second}, {"thinking_signature": second}))
    assert found["message"] == {"thinking": "a\U0001f41d", "thinking_signature": "\ufffd"}


def test_reasoning_text_beside_details_is_not_doubled():
    message = {"reasoning": "hm", "reasoning_details": [detail("hm", index=0)]}
    found = whole({"content": "all of it", **message})
    assert (found["reasoning"], "reasoning_content" in found) == ("hm", False)
    deltas = streamed({"reasoning": "h"}, {"reasoning": "m"}, {"reasoning_details": [detail("hm", index=0)]})
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == "hm"
    assert not any(delta.get("reasoning_content") for delta in deltas)
    assert "is_derived" not in fields_of(deltas)


LATE = {
    "without a function": fragment(0, extra_content=SIGNED),
    "with an empty function": {"tool_calls": [{"index": 0, "function": {}, "extra_content": SIGNED}]},
    "by its id": {"tool_calls": [{"id": "a", "function": {"arguments": ""}, "extra_content": SIGNED}]},
    "with the whole call again": fragment(0, "a", "clean", '{"path": "x"}', extra_content=SIGNED),
    "with the call again under another index": fragment(5, "a", "clean", '{"path": "x"}', extra_content=SIGNED),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
def test_fields_that_come_late_for_an_earlier_call_are_kept(late):
    first, second = fragment(0, "a", "clean", '{"path": "x"}'), fragment(1, "b", "look", "{}")
    deltas = streamed(first, second, late)
    assert fields_of(deltas)["calls"] == {"a": {"extra_content": SIGNED}}
    names = [call["function"].get("name") for delta in deltas for call in delta.get("tool_calls", ())]
    assert [name for name in names if name] == ["clean", "look"]


def test_fields_before_the_name_of_a_call_are_kept():
    deltas = streamed(fragment(0, extra_content=SIGNED), fragment(0, "a", "clean", "{}"))
    assert fields_of(deltas)["calls"] == {"a": {"extra_content": SIGNED}}


def test_fields_inside_a_function_are_kept():
    call = {"id": "a", "type": "function", "function": {"name": "clean", "arguments": "{}", "thought_signature": "abc"}}
    expected = {"a": {"function": {"thought_signature": "abc"}}}
    assert whole({"tool_calls": [call]})[PROVIDER_FIELDS]["calls"] == expected
    assert fields_of(streamed({"tool_calls": [{"index": 0, **call}]}))["calls"] == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("all of it", [{"type": "thinking"}, {"type": "text", "text": "all of it"}]),
        (None, [{"type": "thinking"}]),
        ("", [{"type": "thinking"}]),
        ([{"type": "image_url"}], [{"type": "thinking"}, {"type": "image_url"}]),
    ],
)
def test_thinking_blocks_are_sent_back_before_the_content(content, expected):
    sent = {"role": "assistant", "content": content}
    restore_fields(sent, {"message": {"content": [{"type": "thinking"}]}, "calls": {}}, {})
    assert sent == {"role": "assistant", "content": expected}


def test_fields_of_calls_are_sent_back_by_their_ids():
    function = {"name": "clean", "arguments": "{}"}
    sent = {"role": "assistant", "tool_calls": [{"id": one, "function": function} for one in ("a", "b")]}
    fields = {"extra_content": SIGNED, "function": {"thought_signature": "abc"}}
    restore_fields(sent, {"message": {"thinking_signature": "s"}, "calls": {"b": fields, "gone": fields}}, {})
    assert sent["thinking_signature"] == "s"
    assert sent["tool_calls"] == [
        {"id": "a", "function": function},
        {"id": "b", "extra_content": SIGNED, "function": {**function, "thought_signature": "abc"}},
    ]
    assert "thought_signature" not in function


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "type", "index", "id", "signature", "data", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)
NAMES = ("reasoning", "reasoning_details", "thinking_blocks", "extra_content", "signature", "content")
FIELDS = st.dictionaries(st.sampled_from(NAMES), JSON)


@given(st.lists(FIELDS, max_size=4))
def test_fields_of_any_type_are_no_error(deltas):
    fields = ProviderFields()
    for delta in deltas:
        fields.add(delta)
    sent = {"role": "assistant", "content": "x"}
    restore_fields(sent, fields.document({}).get(PROVIDER_FIELDS), {})
    json.dumps(sent)


@given(st.text(min_size=1), st.integers(1, 5))
def test_joined_text_is_the_text_that_was_cut(text, size):
    merged = {}
    for at in range(0, len(text), size):
        merged = merge_fields(merged, {"reasoning_details": [detail(text[at : at + size], index=0)]})
    assert merged["reasoning_details"] == [detail(text, index=0)]


@pytest.mark.parametrize(
    "stored",
    [
        5,
        "text",
        [5, None],
        {"message": 5},
        [{"message": [1]}],
        {"calls": [1]},
        {"calls": {"a": 5}},
        {"calls": {"a": {}}},
    ],
    ids=repr,
)
def test_fields_that_a_program_has_damaged_leave_the_message_as_it_is(stored):
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    sent = {"role": "assistant", "content": "Hi", "tool_calls": [call]}
    restore_fields(sent, stored, {"reasoning": "so"})
    assert sent == {"role": "assistant", "content": "Hi", "tool_calls": [call], "reasoning": "so"}

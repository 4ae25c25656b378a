"""Server-sent events: parsed the same however the bytes are divided, with a byte order mark or without."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.chat.event_parser import EventParser, is_done

ENDS = ["\n", "\r\n", "\r"]


def parse(parts):
    parser = EventParser()
    return [event for part in parts for event in parser.feed(part)] + parser.finish()


def divide(data, cuts):
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(
    events=st.lists(st.text(st.characters(blacklist_characters="\r\n", codec="utf-8"), min_size=1), max_size=5),
    end=st.sampled_from(ENDS),
    mark=st.booleans(),
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
)
def test_events_are_the_same_however_the_bytes_are_divided(events, end, mark, cuts):
    data = "".join(f"data: {event}{end}{end}" for event in events).encode()
    if mark:
        data = b"\xef\xbb\xbf" + data
    assert parse(divide(data, cuts)) == events


@pytest.mark.parametrize("end", ENDS)
def test_data_lines_of_one_event_are_joined(end):
    data = f": a comment{end}event: x{end}data: one{end}data:two{end}{end}".encode()
    assert parse([data[index : index + 1] for index in range(len(data))]) == ["one\ntwo"]


@pytest.mark.parametrize("name", ["data", " data", "Data", "\ufeffdata", "data "])
def test_odd_names_of_the_field_are_read(name):
    assert parse([f'{name}: {{"a": 1}}\n\n{name}:[DONE]\n\n'.encode()]) == ['{"a": 1}', "[DONE]"]


@pytest.mark.parametrize("cuts", [[], [3, 9, 20]])
def test_events_without_a_blank_line_between_them_are_separate(cuts):
    data = b'data: {"a": 1}\ndata: {"b":\ndata: {"c": 2}}\ndata: [DONE]'
    expected = ['{"a": 1}', '{"b":\n{"c": 2}}', "[DONE]"]
    assert parse(divide(data, cuts)) == parse(divide(data + b"\n", cuts)) == expected


@pytest.mark.parametrize("lines", [20, 21])
def test_end_without_a_blank_line_is_found_in_an_event_of_few_lines(lines):
    """At each line that may begin another event, all lines before it are parsed: that would take hours if many do."""
    values = ["{", *['"a": 1,'] * (lines - 2), '"b": 2}']
    data = "".join(f"data: {value}\n" for value in [*values, "[DONE]"]).encode()
    whole = "\n".join(values)
    assert parse([data]) == ([whole, "[DONE]"] if lines == 20 else [f"{whole}\n[DONE]"])


def test_data_lines_of_one_event_are_collected_in_one_list():
    parser = EventParser()
    parser.feed(b"data: x\n")
    lines = parser._data
    parser.feed(b"data: x\n" * 1000)
    assert parser._data is lines, "a copy for each line takes minutes if there are many"
    assert parser.feed(b"\n") == ["\n".join(["x"] * 1001)]


def test_long_line_is_joined_once():
    parser = EventParser()
    for _ in range(1000):
        assert parser.feed(b"data: " + b"x" * 1000) == []
    assert len(parser._parts) == 1000, "parts are kept apart until the line ends"
    (event,) = parser.feed(b"\n\n")
    assert len(event) > 1_000_000


@pytest.mark.parametrize("event", ["[DONE]", " [DONE] ", "[done]", '"[DONE]"', "[DONE] bye"])
def test_end_of_a_stream_is_known_in_every_form(event):
    assert is_done(event)


@pytest.mark.parametrize("event", ["", "DONE", '{"x": "[DONE]"}', "null"])
def test_other_events_are_no_end_of_a_stream(event):
    assert not is_done(event)


@pytest.mark.parametrize(
    "ping",
    ["event: ping\ndata: 2026-01-01 00:00:00", "event: Heartbeat\ndata: {}", "data: ping", "data: [PING]", ": x"],
)
def test_events_that_keep_the_connection_open_are_passed_over(ping):
    assert parse([f'{ping}\n\ndata: {{"a": 1}}\n\n{ping}\n\ndata: "pong"\n\n'.encode()]) == ['{"a": 1}', '"pong"']


@pytest.mark.parametrize("cuts", [[], [3, 9, 20]])
def test_lines_of_json_are_events(cuts):
    data = b'{"a": 1}\n{"b": 2}\n'
    assert parse(divide(data, cuts)) == ['{"a": 1}', '{"b": 2}']


def test_lines_that_are_no_fields_are_kept_for_an_error():
    parser = EventParser()
    assert parser.feed(b"<p>busy</p>\nevent: x\n: y\ndata: z\n\n" + b"more\n" * 1000) == ["z"]
    assert parser.other_text.startswith("<p>busy</p>\nmore\n")
    assert len(parser.other_text) < 1100


def test_lines_that_may_be_json_are_all_kept():
    text = json.dumps({"a": list(range(100))}, indent=1)
    parser = EventParser()
    assert parser.feed(text.encode() + b"\n") == []
    assert parser.other_text == text

"""Tool calls of whole chat replies, and their arguments; without I/O."""

import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nanogpt_core import errors
from nanogpt_core.chat.json_text import invalidating_suffix
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.tool_calls import parse_arguments
from nanogpt_core.chat.whole_reply import parse_reply

JSON_LIKE = st.text(alphabet="{}[]\":,\\ \n\tab'1`", max_size=25)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"path": "x"}', {"path": "x"}),
        ('```json\n{"path": "x"}\n```', {"path": "x"}),
        ('```json {"path": "x"} ```', {"path": "x"}),
        ('\n```\n{"path": "x"}```\n', {"path": "x"}),
        ('"{\\"path\\": \\"x\\"}"', {"path": "x"}),
        ('{"text": "two\nlines"}', {"text": "two\nlines"}),
        ({"path": "x"}, {"path": "x"}),
        ("", {}),
        (" ", {}),
        ("null", {}),
        (None, {}),
        ("{}", {}),
    ],
)
def test_arguments_that_are_an_object_are_parsed(arguments, expected):
    assert parse_arguments(arguments) == expected


@pytest.mark.parametrize(
    "arguments", ['{"path": "x', "path=x", "[1]", "0", "false", '"x"', "{'path': 'x'}", '{"a": 1}{"b": 2}', 3, [1]]
)
def test_arguments_that_are_not_an_object_are_refused(arguments):
    assert parse_arguments(arguments) is None


@given(JSON_LIKE)
@example('{"path": "/ho')
@example('{"a": 1}{"b": 2}')
@example("{'a': \"x")
@example('{"a": "\\')
@example("[1]")
def test_frameworks_cannot_parse_invalidated_arguments(text):
    langchain = pytest.importorskip("langchain_core.utils.json")
    llama_index = pytest.importorskip("llama_index.core.llms.utils")
    assume(parse_arguments(text) is None)
    invalidated = text + invalidating_suffix(text)
    assert parse_arguments(invalidated) is None
    for parse in (langchain.parse_partial_json, llama_index.parse_partial_json, json.loads):
        try:
            found = parse(invalidated)
        except ValueError:
            continue
        assert not isinstance(found, dict)


def call(name="clean", arguments="{}", identifier="call_a", **more):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def repaired(calls):
    """Return the tool calls of a whole reply with these calls."""
    choice = {"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    (found,) = parse_reply(json.dumps({"choices": [choice]}).encode(), ChatRequest())["choices"]
    return found["message"]["tool_calls"]


def test_calls_get_ids_and_text_as_arguments():
    bare = {"function": {"name": "clean", "arguments": {"path": "x"}}}
    first, second = repaired([bare, {**bare, "id": ""}])
    assert first["function"] == {"name": "clean", "arguments": '{"path": "x"}'}
    assert first["type"] == "function"
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "call_a", "function": {"name": "clean", "parameters": {"path": "x"}}},
        {"id": "call_a", "function": {"name": "clean", "arguments": None, "args": '{"path": "x"}'}},
        {"id": "call_a", "type": "tool_use", "name": "clean", "input": {"path": "x"}},
        {"id": "call_a", "name": "clean", "arguments": '\ufeff{"path": "x"}'},
        {"id": "call_a", "type": "custom", "custom": {"name": "clean", "input": '{"path": "x"}'}},
    ],
    ids=str,
)
def test_arguments_are_found_under_the_names_of_other_hosts(odd):
    (found,) = repaired([odd])
    assert parse_arguments(found["function"].pop("arguments")) == {"path": "x"}
    assert found == {"id": "call_a", "type": "function", "function": {"name": "clean"}}


def test_repeated_call_is_dropped_and_ids_are_unique():
    assert repaired([call(), call()]) == [call()]
    first, second = repaired([call(), call(arguments='{"path": "x"}')])
    assert first == call()
    assert second["id"] not in ("", "call_a")


def test_repeated_call_with_a_further_field_is_one_call():
    signed = call(extra_content={"google": {"thought_signature": "abc"}})
    assert repaired([call(), signed]) == [signed]


def test_fields_of_the_provider_are_kept():
    signed = call(extra_content={"google": {"thought_signature": "abc"}})
    assert repaired([signed]) == [signed]


@pytest.mark.parametrize("text", ["[1]", "0", "false", '""x', '{"path": "x'])
def test_arguments_that_are_not_an_object_become_unreadable(text):
    (found,) = repaired([call(arguments=text)])
    with pytest.raises(json.JSONDecodeError):
        json.loads(found["function"]["arguments"])


def test_input_of_a_custom_call_that_is_text_is_not_parsed():
    bare = {"id": "a", "type": "custom", "custom": {"name": "run", "input": "print(1)"}}
    function = {"name": "run", "arguments": "print(1)"}
    assert repaired([bare]) == [{"id": "a", "type": "function", "function": function}]


@pytest.mark.parametrize(
    "bad", [[None], ["x"], [{}], [{"function": None}], [{"function": {"name": ""}}], "x", 3 * [[]]]
)
def test_calls_without_a_name_are_an_error(bad):
    with pytest.raises(errors.ReplyError, match=r"without a name|tool calls of the wrong type"):
        repaired(bad)

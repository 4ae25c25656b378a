"""Fragments of tool calls in chat streams; without I/O."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core import errors
from nanogpt_core.chat.json_text import invalidating_suffix
from nanogpt_core.chat.tool_calls import ToolCallAssembler, parse_arguments

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def fragment(index=0, identifier=None, name=None, arguments=None, **more):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    found = {"index": index, "id": identifier, "function": function, **more}
    return {key: value for key, value in found.items() if value is not None}


def assemble(*chunks, tools=()):
    """Return the calls that a framework joins from the fragments, as ``(id, name, arguments)``."""
    assembler = ToolCallAssembler(tools=frozenset(tools))
    sent = [one for chunk in chunks for one in assembler.add(chunk)] + assembler.finish()
    calls = {}
    for one in sent:
        made = calls.setdefault(one["index"], ["", "", ""])
        made[0] += one.get("id") or ""
        made[1] += one["function"].get("name") or ""
        made[2] += one["function"].get("arguments") or ""
    assert list(calls) == sorted(one["index"] for one in sent if "id" in one), "each call is whole before the next"
    return [tuple(made) for made in calls.values()]


A, B = ("a", "clean", '{"path": "x"}'), ("b", "look", '{"q": "y"}')
STREAMS = {
    "openai": (
        [fragment(0, "a", "clean", "")],
        [fragment(0, arguments='{"path"')],
        [fragment(0, arguments=': "x"}')],
        [fragment(1, "b", "look", "")],
        [fragment(1, arguments='{"q": "y"}')],
    ),
    "gemini: the same index": ([fragment(0, "a", "clean", A[2])], [fragment(0, "b", "look", B[2])]),
    "gemini: in one chunk": ([fragment(0, "a", "clean", A[2]), fragment(0, "b", "look", B[2])],),
    "no index": ([fragment(None, "a", "clean", A[2])], [fragment(None, "b", "look", B[2])]),
    "no index, in pieces": (
        [fragment(None, "a", "clean", '{"path"')],
        [fragment(None, arguments=': "x"}')],
        [fragment(None, "b", "look", B[2])],
    ),
    "vllm: an id for every fragment": (
        [fragment(0, "a", "clean")],
        [fragment(0, "other", arguments=A[2])],
        [fragment(1, "b", "look")],
        [fragment(1, "another", arguments=B[2])],
    ),
    "repeated ids and names": (
        [fragment(0, "a", "clean", '{"path"')],
        [fragment(0, "a", "clean", ': "x"}')],
        [fragment(1, "b", "look", '{"q": ')],
        [fragment(1, "b", "look", '"y"}')],
    ),
    "interleaved": (
        [fragment(0, "a", "clean", '{"path"'), fragment(1, "b", "look", '{"q": ')],
        [fragment(1, arguments='"y"}'), fragment(0, arguments=': "x"}')],
    ),
    "arguments as an object": (
        [fragment(0, "a", "clean", {"path": "x"})],
        [fragment(0, "b", "look", {"q": "y"})],
    ),
    "arguments under other names": (
        [{"index": 0, "id": "a", "function": {"name": "clean", "parameters": {"path": "x"}}}],
        [{"index": 1, "id": "b", "function": {"name": "look", "arguments": "", "args": B[2]}}],
    ),
    "name and arguments in the call itself": (
        [{"index": 0, "id": "a", "name": "clean", "arguments": A[2][:5]}],
        [{"index": 0, "arguments": A[2][5:]}],
        [{"index": 1, "id": "b", "type": "tool_use", "name": "look", "input": {"q": "y"}}],
    ),
    "an event that is repeated": (
        [fragment(0, "a", "clean", A[2])],
        [fragment(0, "a", "clean", A[2])],
        [fragment(1, "b", "look", B[2])],
    ),
    "an event that is repeated with another index": (
        [fragment(0, "a", "clean", A[2])],
        [fragment(1, "a", "clean", A[2])],
        [fragment(1, arguments="")],
        [fragment(2, "b", "look", B[2])],
        [fragment(3, "b", "look", B[2])],
    ),
    "a call that is repeated in pieces with another index": (
        [fragment(0, "a", "clean", "")],
        [fragment(0, arguments=A[2])],
        [fragment(1, "a", "clean", "")],
        [fragment(1, arguments=A[2][:5])],
        [fragment(1, arguments=A[2][5:])],
        [fragment(2, "b", "look", B[2])],
        [fragment(3, "b", "look", "")],
    ),
    "a call that is repeated in pieces, without an empty one": (
        [fragment(0, "a", "clean", A[2])],
        [fragment(1, "a", "clean", A[2][:5])],
        [fragment(1, arguments=A[2][5:])],
        [fragment(2, "b", "look", B[2])],
    ),
    "an index for every fragment": (
        [fragment(0, "a", "clean", A[2][:5])],
        [fragment(1, "a", arguments=A[2][5:])],
        [fragment(2, "b", "look", B[2][:5])],
        [fragment(3, "b", "look", B[2][5:])],
    ),
    "no arguments at first": (
        [fragment(0, "a", "clean", "{}")],
        [fragment(0, arguments=A[2][:5])],
        [fragment(0, arguments=A[2][5:])],
        [fragment(1, "b", "look", "null")],
        [fragment(1, "b", "look", B[2])],
    ),
    "the whole arguments again at the end": (
        [fragment(0, "a", "clean", A[2][:5])],
        [fragment(0, arguments=A[2][5:])],
        [fragment(0, arguments=A[2])],
        [fragment(1, "b", "look", B[2])],
    ),
    "interleaved, with text as indices": (
        [fragment("0", "a", "clean", ""), fragment("1", "b", "look", "")],
        [fragment("1", arguments=B[2][:5]), fragment("0", arguments=A[2][:5])],
        [fragment("0", arguments=A[2][5:]), fragment("1", arguments=B[2][5:])],
    ),
    "fragments without a function": (
        [fragment(0, "a", "clean", A[2])],
        [{"index": 0, "function": None}],
        [{"index": 0, "type": "function"}],
        [fragment(1, "b", "look", B[2])],
        [{"index": 1, "id": "b"}],
        [{"index": 2, "function": None}],
    ),
    "fenced": (
        [fragment(0, "a", "clean", "```json\n")],
        [fragment(0, arguments=A[2])],
        [fragment(0, arguments="\n```")],
        [fragment(1, "b", "look", "```" + B[2] + "```")],
    ),
}


def test_call_with_the_id_of_another_and_other_arguments_is_kept():
    chunks = ("clean", ""), (None, '{"path"'), (None, ': "y"}')
    second = [[fragment(1, "a" if name else None, name, arguments)] for name, arguments in chunks]
    found = assemble([fragment(0, *A)], *second)
    assert [arguments for _, _, arguments in found] == [A[2], '{"path": "y"}']
    assert len({identifier for identifier, _, _ in found}) == 2


@pytest.mark.parametrize("case", STREAMS)
def test_fragments_of_every_host_are_joined_to_two_calls(case):
    assert assemble(*STREAMS[case]) == [A, B]


NAMES_IN_PIECES = {
    "with the arguments": (
        [fragment(0, "a", "cl")],
        [fragment(0, None, "ean", A[2])],
        [fragment(1, "b", "look", B[2])],
    ),
    "before the arguments": (
        [fragment(0, "a", "cl", "")],
        [fragment(0, None, "e", "")],
        [fragment(0, None, "an", "")],
        [fragment(0, arguments=A[2])],
        [fragment(1, "b", "lo", "")],
        [fragment(1, None, "ok", B[2])],
    ),
    "an id for every piece": (
        [fragment(0, "a", "cl")],
        [fragment(0, "x", "ean", A[2])],
        [fragment(0, "b", "look", B[2])],
    ),
    "as far as it came": (
        [fragment(0, "a", "cl")],
        [fragment(0, "a", "clean")],
        [fragment(0, "a", "clean", A[2])],
        [fragment(1, "b", "look", B[2])],
    ),
    "whole in every fragment": (
        [fragment(0, "a", "clean", "")],
        [fragment(0, "a", "clean", '{"path"')],
        [fragment(0, None, "clean", ': "x"}')],
        [fragment(1, "b", "look", '{"q": ')],
        [fragment(1, "b", "look", '"y"}')],
    ),
    "no index": ([fragment(None, "a", "cl")], [fragment(None, "a", "ean", A[2])], [fragment(None, "b", "look", B[2])]),
}


@pytest.mark.parametrize("case", NAMES_IN_PIECES)
def test_names_in_pieces_are_joined(case):
    assert assemble(*NAMES_IN_PIECES[case], tools=("clean", "look")) == [A, B]


def test_name_of_two_equal_pieces_is_joined():
    ((_, name, _),) = assemble([fragment(0, "a", "a")], [fragment(0, "a", "a", "{}")], tools=("aa", "b"))
    assert name == "aa"


@pytest.mark.parametrize("index", [0, None])
def test_calls_of_two_tools_without_arguments_stay_separate(index):
    chunks = [fragment(index, None, "get")], [fragment(index, None, "get_all")]
    assert [name for _, name, _ in assemble(*chunks, tools=("get", "get_all"))] == ["get", "get_all"]


def test_unknown_tool_in_pieces_is_joined():
    ((_, name, arguments),) = assemble([fragment(0, "a", "no")], [fragment(0, "a", "such", "{}")], tools=("clean",))
    assert (name, arguments) == ("nosuch", "{}")


def test_two_calls_of_one_tool_without_ids_stay_separate():
    first, second = assemble(
        [fragment(0, None, "clean", '{"path": "x"}')], [fragment(0, None, "clean", '{"path": "y"}')]
    )
    assert (first[1:], second[1:]) == (("clean", '{"path": "x"}'), ("clean", '{"path": "y"}'))
    assert first[0] != second[0]


def test_one_id_for_two_calls_is_made_unique():
    first, second = assemble([fragment(0, "a", "clean", A[2])], [fragment(1, "a", "look", B[2])])
    assert (first, second[1:]) == (A, B[1:])
    assert second[0] not in ("", "a")


@pytest.mark.parametrize("text", ["{}", "null", "", "{ }"])
def test_calls_without_arguments_stay_separate(text):
    first, second = assemble([fragment(0, "a", "clean", text)], [fragment(1, "b", "clean", text)])
    assert (first[:2], second[:2]) == (("a", "clean"), ("b", "clean"))
    assert parse_arguments(first[2]) == parse_arguments(second[2]) == {}


def test_argument_fragments_are_passed_on_immediately():
    assembler = ToolCallAssembler()
    chunks = ([fragment(0, "a", "clean", "")], [fragment(0, arguments='{"path"')], [fragment(0, arguments=': "x"}')])
    sent = [[one["function"].get("arguments") for one in assembler.add(chunk)] for chunk in chunks]
    assert sent == [[""], ['{"path"'], [': "x"}']]
    assert assembler.finish() == []


@pytest.mark.parametrize("text", ['{"path": "/ho', "clean everything", "[1]", '{"a": 1}{"b": 2}'])
def test_invalid_arguments_of_a_stream_are_invalidated(text):
    ((_, _, found),) = assemble([fragment(0, "a", "clean", text)])
    assert found == text + invalidating_suffix(text)


def test_index_that_counts_fragments_is_one_call():
    chunks = [fragment(0, "a", "clean", '{"pa')], [fragment(1, arguments='th": "x')], [fragment(2, arguments='"}')]
    assert assemble(*chunks) == [A]
    assert assemble(*chunks, [fragment(3, "b", "look", '{"q": "y"}')]) == [A, B]


def test_ids_that_are_new_in_every_fragment_are_one_call():
    chunks = [fragment(0, "a", "clean", '{"path"')], [fragment(0, "a2", "clean", ': "x"}')]
    assert assemble(*chunks) == [A]
    assert assemble(*chunks, [fragment(0, "b", "look", '{"q": "y"}')]) == [A, B]
    cut = assemble([fragment(0, "a", "clean", '{"pa')], [fragment(0, "c", "clean", '{"path": "y"}')])
    assert [parse_arguments(arguments) for _, _, arguments in cut] == [None, {"path": "y"}]


CUMULATIVE = {
    "pieces": ['{"pa', '{"path": "x', '{"path": "x"}'],
    "character by character": ['{"path": "x"}'[:end] for end in range(1, 14)],
    "the whole twice": ['{"path"', '{"path": "x"}', '{"path": "x"}'],
    "nothing first": ["", '{"path"', "", '{"path": "x"}'],
    "an empty object first": ["{}", '{"path"', '{"path": "x"}'],
    "fenced": ["```json", '```json\n{"path": "x"', '```json\n{"path": "x"}\n```'],
}


@pytest.mark.parametrize("pieces", CUMULATIVE.values(), ids=CUMULATIVE)
@pytest.mark.parametrize("name", ["clean", None], ids=["with the name", "without a name"])
def test_arguments_that_are_sent_whole_again_in_every_chunk_are_parsed(pieces, name):
    chunks = [[fragment(0, "a" if name else None, name, piece)] for piece in pieces]
    (call,) = assemble([fragment(0, "a", "clean")], *chunks)
    assert (call[0], call[1], parse_arguments(call[2])) == ("a", "clean", {"path": "x"})
    first, second = assemble([fragment(0, "a", "clean")], *chunks, [fragment(1, "b", "look", '{"q": "y"}')])
    assert (parse_arguments(first[2]), second) == ({"path": "x"}, B)


@pytest.mark.parametrize(
    "pieces", [['{"', '{": 1}'], ['{"a": "', '{"a": "', '"}'], ["[", "[1]]"], ['{"', '{"}', ": 1}"]]
)
def test_pieces_that_only_begin_alike_are_joined(pieces):
    ((_, _, found),) = assemble([fragment(0, "a", "clean")], *[[fragment(0, arguments=piece)] for piece in pieces])
    joined = "".join(pieces)
    assert found in (joined, joined + invalidating_suffix(joined))


@pytest.mark.parametrize("pieces", [['{"path"', '{"path": "/ho'], ['{"path": "x"}', '{"path": "x"}{"path": "y"}']])
def test_cumulative_arguments_without_an_end_are_invalidated(pieces):
    ((_, _, found),) = assemble([fragment(0, "a", "clean")], *[[fragment(0, arguments=piece)] for piece in pieces])
    assert parse_arguments(found) is None


def test_fields_of_the_provider_are_kept_in_streams():
    extra = {"google": {"thought_signature": "abc"}}
    assembler = ToolCallAssembler()
    (sent,) = assembler.add([fragment(0, "a", "clean", "{}", extra_content=extra)])
    assert sent["extra_content"] == extra


def test_input_of_a_custom_call_that_is_text_is_made_unreadable():
    custom = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "run", "input": "print(1)"}}
    ((identifier, name, arguments),) = assemble([custom])
    assert (identifier, name) == ("a", "run")
    assert parse_arguments(arguments) is None


def test_one_call_under_the_names_of_two_tools_is_an_error():
    with pytest.raises(errors.ReplyError, match="two names: 'clean' and 'look'"):
        assemble([fragment(0, "a", "clean", "")], [fragment(0, "a", "look", '{"q": "x"}')], tools=["clean", "look"])


@pytest.mark.parametrize("bad", [[None], [{"index": 0}], [{"index": 0, "function": {"arguments": "{}"}}]])
def test_fragments_without_a_name_are_an_error(bad):
    with pytest.raises(errors.ReplyError, match="without a name"):
        assemble(bad)


@given(
    st.lists(
        st.tuples(st.sampled_from(["clean", "look"]), st.dictionaries(st.text(max_size=4), VALUES, max_size=3)),
        max_size=4,
    ),
    st.integers(1, 7),
    st.booleans(),
)
def test_calls_survive_being_cut_into_fragments(calls, size, shared_index):
    chunks = []
    for position, (name, arguments) in enumerate(calls):
        index = 0 if shared_index else position
        text = json.dumps(arguments)
        chunks.append([fragment(index, f"id{position}", name, "")])
        chunks += [[fragment(index, arguments=text[at : at + size])] for at in range(0, len(text), size)]
    expected = [(f"id{position}", name, json.dumps(arguments)) for position, (name, arguments) in enumerate(calls)]
    assert assemble(*chunks) == expected

"""Checks of JSON documents against the part of JSON Schema that frameworks write."""

import pytest

from nanogpt_core.chat.json_schema import schema_violation

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"]},
        "mood": {"enum": ["dry", "wry"]},
        "friends": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    "document",
    [
        {"name": "Ann", "age": 5},
        {"name": "Ann", "age": None},
        {"name": "Ann", "age": 5.0, "mood": "wry", "friends": [{"name": "Bo"}], "more": [1]},
        {"name": "Ann", "age": 5, "friends": None, "mood": None},
    ],
)
def test_document_that_follows_the_schema_has_no_violation(document):
    assert schema_violation(document, PERSON) is None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "it is [], and not of type object"),
        ({"name": "Ann"}, "age is missing"),
        ({"name": None, "age": 5}, "name is null, and not of type string"),
        ({"name": "Ann", "age": True}, "age is true, and not of type ['integer', 'null']"),
        ({"name": "Ann", "age": 5.5}, "age is 5.5, and not of type ['integer', 'null']"),
        ({"name": "Ann", "age": 5, "mood": "sad"}, 'mood is "sad", and none of ["dry", "wry"]'),
        ({"name": "Ann", "age": 5, "friends": [{"name": "Bo"}, {}]}, "friends[1].name is missing"),
        ({"name": "Ann", "age": 5, "friends": {}}, "friends is {}, and not of type array"),
    ],
)
def test_violation_names_the_place_and_the_reason(document, words):
    assert schema_violation(document, PERSON) == words


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "nullable": True},
        {"type": ["string", "null"], "enum": ["dry", "wry"]},
        {"enum": ["dry", None]},
    ],
    ids=str,
)
def test_required_field_may_be_null_if_its_schema_says_so(schema):
    assert schema_violation({"mood": None}, {"properties": {"mood": schema}, "required": ["mood"]}) is None


@pytest.mark.parametrize("schema", [{"required": True}, {"required": "name"}, {"properties": ["name"]}], ids=str)
def test_keyword_with_a_wrong_value_checks_nothing(schema):
    assert schema_violation({"name": 5}, schema) is None
    assert schema_violation({}, schema) is None


@pytest.mark.parametrize("schema", [None, {}, True, {"type": "date"}, {"type": 5}, {"$ref": "#/$defs/Person"}])
def test_schema_that_says_nothing_here_is_followed(schema):
    assert schema_violation({"name": 5}, schema) is None

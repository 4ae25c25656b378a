"""JSON of other programs."""

import orjson
import pytest

from nanogpt_core._runtime.json_values import parse_json


@pytest.mark.parametrize("kind", [str, str.encode])
def test_numbers_that_are_none_become_none(kind):
    assert parse_json(kind('{"a": NaN, "b": [-Infinity, Infinity, 1.5, "NaN"]}')) == {
        "a": None,
        "b": [None, None, 1.5, "NaN"],
    }


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b'{"a": nan}',
        b'{"a": NaN} {}',
        rb'{"a": "\ud800", "b": NaN}',
        b'\xff{"a": NaN}',
        '{"a": NaN}'.encode("utf-16-be"),
        b"[" * 5000,
    ],
)
def test_other_json_is_an_error(text):
    with pytest.raises(orjson.JSONDecodeError):
        parse_json(text)

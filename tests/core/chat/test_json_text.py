"""Surrogate pairs that a host has split."""

from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.chat.json_text import SurrogateJoiner, join_surrogates, join_surrogates_in


@given(st.lists(st.text(max_size=6), max_size=4), st.integers(0, 10))
def test_text_cut_between_code_units_is_joined(texts, place):
    text = "".join(texts)
    units = text.encode("utf-16-le", "surrogatepass")
    at = 2 * min(place, len(units) // 2)
    parts = [units[:at].decode("utf-16-le", "surrogatepass"), units[at:].decode("utf-16-le", "surrogatepass")]
    joiner = SurrogateJoiner()
    joined = joiner.join("content", parts[0]) + joiner.join("content", parts[1], is_last=True)
    assert joined == text


def test_texts_are_joined_by_their_keys():
    joiner = SurrogateJoiner()
    first, second = "\ud83d", "\udc1d"
    assert [joiner.join(key, text) for key, text in (("x", f"a{first}"), ("y", "b"), ("x", f"{second}c"))] == [
        "a",
        "b",
        "\U0001f41dc",
    ]


@given(st.text(st.characters(codec=None), max_size=8))
def test_joined_text_can_be_encoded(text):
    assert join_surrogates(text).encode().decode() == join_surrogates(text)
    assert join_surrogates_in({text: [text, 1, None]}) == {join_surrogates(text): [join_surrogates(text), 1, None]}

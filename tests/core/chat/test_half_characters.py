"""Characters that a host has cut in halves."""

from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.chat.half_characters import HalfCharacters, mend, mend_all


@given(st.lists(st.text(max_size=6), max_size=4), st.integers(0, 10))
def test_text_cut_between_code_units_is_joined(texts, place):
    text = "".join(texts)
    units = text.encode("utf-16-le", "surrogatepass")
    at = 2 * min(place, len(units) // 2)
    parts = [units[:at].decode("utf-16-le", "surrogatepass"), units[at:].decode("utf-16-le", "surrogatepass")]
    halves = HalfCharacters()
    joined = halves.join(0, parts[0]) + halves.join(0, parts[1], is_last=True)
    assert joined == text


def test_texts_are_joined_by_their_keys():
    halves = HalfCharacters()
    first, second = "\ud83d", "\udc1d"
    assert [halves.join(key, text) for key, text in ((0, f"a{first}"), (1, "b"), (0, f"{second}c"))] == [
        "a",
        "b",
        "\U0001f41dc",
    ]


@given(st.text(st.characters(codec=None), max_size=8))
def test_mended_text_can_be_encoded(text):
    assert mend(text).encode().decode() == mend(text)
    assert mend_all({text: [text, 1, None]}) == {mend(text): [mend(text), 1, None]}

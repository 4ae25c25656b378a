"""Words of messages."""

import pytest

from nanogpt_core._runtime.words import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 texts"), (1, "1 text"), (2, "2 texts"), (1024, "1,024 texts"), (None, "? texts")]
)
def test_noun_is_singular_for_one_and_plural_for_others(number, words):
    assert counted(number, "text") == words

"""Division of texts into chunks."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanogpt_core import count_tokens
from nanogpt_core.cli.reading.chunking import Chunker

MODEL = "text-embedding-3-small"
words = st.text(st.sampled_from("ab .!?\n#\t你。😀"), max_size=40) | st.sampled_from(
    ["word " * 30, "x" * 300, "\n\n# Head\n"]
)
texts = st.lists(words, max_size=12).map("".join)


@settings(max_examples=60)
@given(texts, st.integers(16, 80), st.floats(0, 0.5))
@example("????aa" + "word " * 30, 24, 0.0)  # "aaword" has more tokens than "aa" and "word"
@example("word " * 30, 18, 0.34)  # the blank at the end is no chunk
@example(" \t" * 60 + "word " * 60, 16, 0.0)  # the blanks have more tokens than a chunk
def test_chunks_fit_keep_their_place_and_hold_every_character(text, tokens, share):
    covered = 0
    for start, chunk in Chunker(tokens, int(tokens * share)).chunks(text):
        assert count_tokens(chunk, MODEL) <= tokens
        assert text[start : start + len(chunk)] == chunk
        assert not text[covered:start].strip()
        assert start + len(chunk) > covered
        covered = start + len(chunk)
    assert not text[covered:].strip()


def test_chunk_ends_at_the_strongest_border():
    paragraph = "A sentence of some words. " * 6
    text = f"{paragraph}\n\n{paragraph}\n\n# Heading\n{paragraph}"
    chunks = [chunk for _, chunk in Chunker(100, 0).chunks(text)]
    assert [chunk.split()[0] for chunk in chunks] == ["A", "#"]
    assert chunks[0].count("A sentence") == 12


def test_overlap_repeats_the_end_of_the_chunk_before():
    text = " ".join(f"Sentence number {number}." for number in range(60))
    chunks = [chunk for _, chunk in Chunker(50, 10).chunks(text)]
    assert len(chunks) > 3
    for before, after in pairwise(chunks):
        repeated = after.partition(". ")[0]
        assert repeated in before
        assert count_tokens(repeated, MODEL) <= 10


def test_chunk_never_only_repeats_the_one_before():
    text = "Some short words. " * 9 + "Then " + "a long sentence of words, " * 8 + "ends. " + "Some short words. " * 9
    ends = [start + len(chunk) for start, chunk in Chunker(60, 30).chunks(text)]
    assert len(ends) > 2
    assert ends == sorted(set(ends))


def test_chunks_without_overlap_repeat_nothing():
    text = " ".join(f"Sentence number {number}." for number in range(60))
    joined = " ".join(chunk for _, chunk in Chunker(50, 0).chunks(text))
    assert joined == text


def test_memory_does_not_grow_with_the_text():
    text = "A sentence of words. " * 6000
    list(Chunker(50, 5).chunks("This loads the vocabulary."))
    tracemalloc.start()
    try:
        chunks = sum(1 for _ in Chunker(50, 5).chunks(text))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert chunks > 600
    assert peak < 1 << 19


@pytest.mark.parametrize("text", ["", " \n\t\n "])
def test_blank_text_has_no_chunks(text):
    assert list(Chunker(50, 5).chunks(text)) == []

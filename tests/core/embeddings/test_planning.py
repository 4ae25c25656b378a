"""Planning without I/O: input checks, deduplication, batches, and assembly of the results."""

import string
from itertools import pairwise
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nanogpt_core.embeddings.inputs import check_text, check_texts
from nanogpt_core.embeddings.planning import make_plan, pack
from nanogpt_core.errors import InvalidInputError, InvalidTypeError, NanoGPTError, TextTooLongError
from nanogpt_core.models.catalog import ModelInfo
from nanogpt_core.models.tokens import TokenCounter

COUNTER = TokenCounter(ModelInfo(id="tiny", tokenizer="cl100k_base", max_tokens=8))
ENDLESS = TokenCounter(ModelInfo(id="endless"))
WORDS = st.lists(st.sampled_from(["one", "two", "über", "你好", "🎉", "long-winded"]), min_size=1, max_size=25).map(
    " ".join
)
TEXTS = st.lists(WORDS | st.sampled_from(["same", "same again"]), max_size=12)
# Blank by `str.isspace`.
BLANK = st.text(" \t\n\r\x0b\x0c\u00a0\u2003\u3000", max_size=4)


# --- input checks ---


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: not t.isspace())))
def test_check_texts_returns_texts_unchanged(texts):
    assert check_texts(texts) == texts
    assert check_texts(tuple(texts)) == texts
    assert check_texts(text for text in texts) == texts
    assert check_texts(dict.fromkeys(texts).keys()) == list(dict.fromkeys(texts))


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "a\x00b",
        "\x01\x02",
        "\u200b",
        "\ufeff",
        "\u0301",
        "e\u0301",
        "𝄞",
        "👩🏽‍🚀",
        "\ufffe",
        "\U0010ffff",
        "\x7f",
        "-",
    ],
)
def test_control_and_combining_characters_are_accepted(text):
    assert check_texts([text]) == [text]
    assert check_text(text) == text


class Loud(str):
    """A str that claims to be another one."""

    __slots__ = ()

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return True

    def __str__(self):
        return "LOUD"

    def encode(self, *_, **__):
        return b"LOUD"

    def isspace(self):
        return False

    def isascii(self):
        return True

    def __bool__(self):
        return True


def test_str_subclasses_become_plain_str():
    checked = check_texts([Loud("quiet"), np.str_("numpy"), *np.array(["array", "of"])])
    assert checked == ["quiet", "numpy", "array", "of"]
    assert {type(text) for text in checked} == {str}
    query = check_text(Loud("quiet"))
    assert (query, type(query)) == ("quiet", str)


@pytest.mark.parametrize("check", [lambda text: check_texts([text]), check_text], ids=["texts", "query"])
@pytest.mark.parametrize("text", ["", "  ", "\ud800"])
def test_str_subclasses_are_checked_by_their_plain_characters(check, text):
    with pytest.raises(InvalidInputError):
        check(Loud(text))


@pytest.mark.parametrize(
    "texts",
    [
        "text",
        b"text",
        bytearray(b"text"),
        None,
        5,
        5.0,
        True,
        {"a": "b"},
        MappingProxyType({}),
        {"a"},
        frozenset("a"),
        object(),
        len,
        np.array("t"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_input_that_is_not_a_list_of_texts_is_a_type_error(texts):
    with pytest.raises(InvalidTypeError) as caught:
        check_texts(texts)
    assert isinstance(caught.value, NanoGPTError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "wrong", [None, 5, 1.5, b"text", ["text"], {"a": "b"}, True, object()], ids=lambda v: type(v).__name__
)
def test_entries_of_wrong_type_are_named_by_position(wrong):
    with pytest.raises(InvalidTypeError, match=r"positions 1, 3 \(from 0\)") as caught:
        check_texts(["good", wrong, "good", wrong])
    assert caught.value.positions == (1, 3)
    assert type(wrong).__name__ in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_table_is_refused_and_a_column_of_it_is_accepted(library):
    table = pytest.importorskip(library).DataFrame({"text": ["one", "two"]})
    with pytest.raises(InvalidTypeError, match="names of its columns"):
        check_texts(table)
    assert check_texts(table["text"]) == ["one", "two"]


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: pytest.importorskip("pyarrow").array(["one", "two"]), r"column\.to_pylist\(\)"),
        (lambda: [SimpleNamespace(page_content="one")], r"document\.page_content for"),
        (lambda: SimpleNamespace(page_content="one"), "Put its text in a list"),
        (lambda: [SimpleNamespace(get_content=str)], r"node\.get_content\(\) for"),
        (lambda: SimpleNamespace(__aiter__=iter), "text async for text in texts"),
    ],
    ids=["pyarrow column", "documents", "one document", "nodes", "async generator"],
)
def test_texts_in_another_container_are_refused_with_the_conversion(make, remedy):
    with pytest.raises(InvalidTypeError, match=remedy):
        check_texts(make())


def test_memoryview_and_2d_arrays_are_type_errors():
    for texts in (memoryview(b"text"), np.array([["a", "b"]]), np.arange(3)):
        with pytest.raises(InvalidTypeError):
            check_texts(texts)


@given(st.lists(st.just("good") | BLANK, max_size=30))
def test_blank_texts_are_named_by_position(texts):
    blank = tuple(i for i, text in enumerate(texts) if text != "good")
    if not blank:
        assert check_texts(texts) == texts
        return
    with pytest.raises(InvalidInputError) as caught:
        check_texts(texts)
    assert caught.value.positions == blank
    assert isinstance(caught.value, ValueError)
    shown = str(caught.value)
    assert all(str(position) in shown for position in blank[:10])
    assert (f"and {len(blank) - 10} more" in shown) == (len(blank) > 10)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            ["A first page,\nwith lines.", " ", "The third."],
            "after the text 'A first page, with lines.' and before the text",
        ),
        (["", "The second."], "the first is before the text 'The second.'"),
        (["The first.", "\t"], "the first is after the text 'The first.'"),
        (["x" * 500, ""], "xxx…'"),
        (["", " "], "positions 0 and 1|0, 1"),
    ],
)
def test_error_about_a_blank_text_shows_the_texts_around_it(texts, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        check_texts(texts)
    assert len(str(caught.value)) < 400


@given(st.text(max_size=4), st.sampled_from(["\ud800", "\udfff", "\udcff"]), st.text(max_size=4))
def test_lone_surrogate_is_refused_by_position(before, half, after):
    with pytest.raises(InvalidInputError) as caught:
        check_texts(["good", before + half + after])
    assert caught.value.positions == (1,)
    str(caught.value).encode()
    with pytest.raises(InvalidInputError):
        check_text(half + after)


@pytest.mark.parametrize("query", ["", " ", "\n", "\u3000"])
def test_blank_query_is_refused(query):
    with pytest.raises(InvalidInputError) as caught:
        check_text(query)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("query", [None, b"text", 5, ["text"]])
def test_query_that_is_not_a_string_is_a_type_error(query):
    with pytest.raises(InvalidTypeError) as caught:
        check_text(query)
    assert isinstance(caught.value, TypeError)


# --- plans ---


@given(TEXTS)
def test_plan_has_each_distinct_text_once_with_its_first_position(texts):
    plan = make_plan(texts, ENDLESS)
    assert len(plan.text_positions) == len(texts)
    assert plan.request_texts == list(dict.fromkeys(texts))
    assert list(plan.positions) == [texts.index(text) for text in plan.request_texts]
    assert len(plan.weights) == len(plan.request_texts)
    assert not plan.pieces


@given(TEXTS)
def test_too_long_texts_raise_with_the_first_position_of_each(texts):
    long = {text for text in texts if COUNTER.count(text) > 8}
    first = tuple(sorted(texts.index(text) for text in long))
    if not long:
        assert make_plan(texts, COUNTER).request_texts == list(dict.fromkeys(texts))
        return
    with pytest.raises(TextTooLongError) as caught:
        make_plan(texts, COUNTER)
    assert caught.value.positions == first
    assert "takes 8 per text" in str(caught.value)
    assert isinstance(caught.value, ValueError)


@given(TEXTS)
def test_truncated_texts_are_prefixes_within_the_limit(texts):
    plan = make_plan(texts, COUNTER, "truncate")
    assert not plan.pieces
    for text, number in zip(texts, plan.index_of, strict=True):
        sent = plan.request_texts[plan.request_index_of[number]]
        assert text.startswith(sent)
        assert COUNTER.count(sent) <= 8
        assert sent == text or COUNTER.count(text) > 8


@given(TEXTS)
def test_pieces_of_split_texts_fit_and_join_to_the_text(texts):
    plan = make_plan(texts, COUNTER, "split")
    for text, number in zip(texts, plan.index_of, strict=True):
        pieces = plan.pieces.get(number)
        if pieces is None:
            assert plan.request_texts[plan.request_index_of[number]] == text
            continue
        assert COUNTER.count(text) > 8
        assert "".join(plan.request_texts[row] for row, _ in pieces) == text
        for row, tokens in pieces:
            assert tokens == COUNTER.count(plan.request_texts[row]) <= 8


@pytest.mark.parametrize("overflow", ["truncate", "split"])
@given(texts=TEXTS)
def test_plan_is_deterministic_and_has_no_duplicates(overflow, texts):
    plan = make_plan(texts, COUNTER, overflow)
    assert plan == make_plan(texts, COUNTER, overflow)
    assert len(set(plan.request_texts)) == len(plan.request_texts)
    assert all(text.strip() for text in plan.request_texts)
    assert all(weight > 0 for weight in plan.weights)


@given(TEXTS, st.sampled_from(["truncate", "split"]))
def test_texts_done_adds_up_to_the_number_of_texts(texts, overflow):
    counts = make_plan(texts, COUNTER, overflow).texts_done()
    assert sum(counts) == len(texts)
    assert all(count >= 0 for count in counts)


# --- assembly ---


def rows_for(wire):
    return np.array([[len(text), ord(text[0]), ord(text[-1]), 1 + i] for i, text in enumerate(wire)], dtype=np.float32)


@given(TEXTS)
def test_assemble_returns_vectors_in_input_order_with_weighted_means(texts):
    plan = make_plan(texts, COUNTER, "split")
    assume(plan.request_texts)
    vectors = rows_for(plan.request_texts)
    result = plan.assemble(vectors.copy())
    assert result.shape == (len(texts), 4)
    assert result.dtype == np.float32
    for row, number in zip(result, plan.index_of, strict=True):
        if number not in plan.pieces:
            assert (row == vectors[plan.request_index_of[number]]).all()
            continue
        # The token-weighted mean, scaled to length 1, written out.
        weights = [tokens for _, tokens in plan.pieces[number]]
        mean = sum(w * vectors[r].astype(float) for w, (r, _) in zip(weights, plan.pieces[number], strict=True)) / sum(
            weights
        )
        np.testing.assert_allclose(row, mean / np.sqrt((mean * mean).sum()), rtol=1e-6)


@pytest.mark.parametrize("texts", [["a", "a"], ["a", "b", "a"], ["b", "a", "a", "b"]])
def test_repeated_texts_get_equal_rows(texts):
    plan = make_plan(texts, ENDLESS)
    result = plan.assemble(rows_for(plan.request_texts))
    for text, row in zip(texts, result, strict=True):
        assert (row == rows_for(plan.request_texts)[plan.request_texts.index(text)]).all()


def test_first_piece_is_used_if_the_mean_of_the_pieces_is_zero():
    text = " ".join(string.ascii_lowercase)
    plan = make_plan([text], COUNTER, "split")
    (pieces,) = plan.pieces.values()
    vectors = np.zeros((len(plan.request_texts), 2), dtype=np.float32)
    weights = [tokens for _, tokens in pieces]
    vectors[0] = [sum(weights[1:]), 0]
    for row, _ in pieces[1:]:
        vectors[row] = [-weights[0], 0]
    result = plan.assemble(vectors)
    assert np.isfinite(result).all()
    assert result[0].tolist() == [1.0, 0.0]


# --- batches ---

WEIGHTS = st.lists(st.integers(0, 50) | st.integers(0, 400), max_size=60)


@given(WEIGHTS, st.integers(1, 20), st.none() | st.integers(1, 300))
def test_batches_keep_order_and_respect_both_limits(weights, max_items, max_tokens):
    parts = list(pack(weights, max_items, max_tokens))
    assert [index for part in parts for index in part] == list(range(len(weights)))
    for part in parts:
        assert 1 <= len(part) <= max_items
        total = sum(weights[index] for index in part)
        assert max_tokens is None or total <= max_tokens or len(part) == 1


@given(WEIGHTS, st.integers(1, 20), st.none() | st.integers(1, 300))
def test_batches_are_as_full_as_order_allows(weights, max_items, max_tokens):
    parts = list(pack(weights, max_items, max_tokens))
    for part, following in pairwise(parts):
        grown = sum(weights[index] for index in part) + weights[following.start]
        assert len(part) == max_items or (max_tokens is not None and grown > max_tokens)


def test_no_texts_give_no_batches():
    assert list(pack([], 5, 10)) == []
    assert make_plan([], COUNTER).request_texts == []

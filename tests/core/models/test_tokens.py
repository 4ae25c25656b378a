"""Token counts and splitting, compared with tiktoken if its vocabulary is available."""

import inspect
import os
import subprocess
import sys

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core import MODELS
from nanogpt_core.models.catalog import ModelInfo
from nanogpt_core.models.tokens import TokenCounter, byte_lengths, load_encoding

OPENAI = MODELS["text-embedding-3-small"]
# A limit small enough that short texts pass it; the first two are counted exactly, the others scaled.
TINY = [
    ModelInfo(id="a", tokenizer="cl100k_base", max_tokens=5),
    ModelInfo(id="b", tokenizer="cl100k_base", max_tokens=40),
    ModelInfo(id="c", tokenizer="qwen", max_tokens=12),
    ModelInfo(id="d", tokenizer="bert", max_tokens=20),
    ModelInfo(id="e", max_tokens=30),
]
ALPHABET = st.sampled_from("ab \n\t.,é你𝄞👩🏽‍🚀\u0301\x00ßz") | st.characters(exclude_categories=["Cs"])
TEXTS = st.text(ALPHABET, max_size=300) | st.lists(st.sampled_from(["word ", "über", "你好", "  ", "🎉"])).map("".join)

exact = pytest.mark.skipif(
    not os.environ.get("TIKTOKEN_CACHE_DIR"), reason="cl100k_base is not at hand without a download"
)


@exact
@given(TEXTS)
def test_openai_models_are_counted_exactly(text):
    assert TokenCounter(OPENAI).kind == "exact"
    assert TokenCounter(OPENAI).count(text) == len(load_encoding().encode_ordinary(text))


@exact
@given(st.sampled_from(["<|endoftext|>", "<|fim_prefix|>"]))
def test_special_tokens_are_counted_as_text(text):
    assert TokenCounter(OPENAI).count(text) > 1


@exact
def test_half_of_a_surrogate_pair_is_counted():
    assert TokenCounter(OPENAI).count("a\ud800b") == TokenCounter(OPENAI).count("a\ufffdb")


@exact
@pytest.mark.parametrize(("tokenizer", "factor"), [("qwen", 1.1), ("bert", 1.5), ("xlm-roberta", 1.5), (None, 1.5)])
def test_other_models_are_counted_with_the_measured_factor(tokenizer, factor):
    counter = TokenCounter(ModelInfo(id="x", tokenizer=tokenizer, max_tokens=512))
    text = "The quick brown fox jumps over the lazy dog. " * 20
    native = len(load_encoding().encode_ordinary(text))
    assert counter.kind == "scaled"
    assert native * factor <= counter.count(text) <= native * factor + 3


@exact
@pytest.mark.parametrize(
    "text", [inspect.getdoc(dict.fromkeys), inspect.getsource(inspect.cleandoc), "Über den Wolken."]
)
def test_weight_is_a_high_estimate_for_openai_models(text):
    counter = TokenCounter(OPENAI)
    tokens = counter.count(text)
    assert tokens <= counter.weights(byte_lengths([text]))[0] <= 2 * tokens


def test_weight_is_at_most_the_limit_of_the_model():
    assert TokenCounter(OPENAI).weights([1, 3, 4, 10**9]) == [1, 1, 2, 8191]


@given(TEXTS, st.sampled_from(TINY))
def test_count_if_too_long_equals_count_above_the_limit(text, model):
    counter = TokenCounter(model)
    tokens = counter.count(text)
    assert counter.count_if_too_long(text) == (tokens if tokens > model.max_tokens else None)


@exact
def test_text_at_the_limit_fits():
    counter = TokenCounter(OPENAI)
    text = "a" + " a" * 8190
    assert counter.count(text) == 8191
    assert counter.count_if_too_long(text) is None
    assert counter.count_if_too_long(text + " a") == 8192


def test_model_without_limit_takes_any_text():
    assert TokenCounter(ModelInfo(id="x")).count_if_too_long("word " * 100_000) is None


@given(st.text(ALPHABET, min_size=1, max_size=400).filter(str.strip), st.sampled_from(TINY))
def test_pieces_fit_and_join_to_the_text(text, model):
    counter = TokenCounter(model)
    pieces = list(counter.split(text))
    assert pieces == list(counter.split(text))
    assert pieces
    rest = text
    for piece, tokens in pieces:
        assert piece.strip()
        assert tokens == counter.count(piece)
        # A single character may be more tokens than the tiniest of these limits.
        assert tokens <= model.max_tokens or len(piece) == 1
        blanks, found, rest = rest.partition(piece)
        assert found
        assert not blanks.strip()
    assert not rest.strip()


@given(st.text(ALPHABET, min_size=1, max_size=200).filter(str.strip), st.sampled_from(TINY))
def test_text_that_fits_is_one_piece(text, model):
    counter = TokenCounter(model)
    if counter.count_if_too_long(text) is None:
        assert list(counter.split(text)) == [(text, counter.count(text))]


def test_pieces_end_at_blanks():
    counter = TokenCounter(ModelInfo(id="x", tokenizer="cl100k_base", max_tokens=30))
    words = [f"consideration{i}" for i in range(100)]
    pieces = [piece for piece, _ in counter.split(" ".join(words))]
    assert len(pieces) > 3
    assert [word for piece in pieces for word in piece.split()] == words


def test_pieces_use_most_of_the_limit():
    counter = TokenCounter(MODELS["BAAI/bge-large-en-v1.5"])
    text = "Every word of this text is short and plain. " * 300
    pieces = [tokens for _, tokens in counter.split(text)]
    assert len(pieces) > 3
    assert all(tokens > 512 * 0.7 for tokens in pieces[:-1])


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "^" * 300_000,
        " " * 300_000 + "x",
        "你" * 100_000,
        "👩🏽‍🚀" * 30_000,
        "\x00" * 300_000,
        "\u0301" * 100_000,
    ],
    ids=["letters", "signs", "blanks", "chinese", "emoji", "nul", "combining"],
)
def test_long_runs_without_blanks_are_counted_and_split(text):
    counter = TokenCounter(OPENAI)
    assert counter.count(text) > 0
    piece, tokens = next(counter.split(text))
    assert 0 < tokens <= 8191
    assert piece in text


@exact
def test_splitting_takes_linear_time(monkeypatch):
    # The total length given to tiktoken must grow with the text, not with its square.
    handed = 0
    encode = tiktoken.Encoding.encode_ordinary

    def recording(self, text):
        nonlocal handed
        handed += len(text)
        return encode(self, text)

    monkeypatch.setattr(tiktoken.Encoding, "encode_ordinary", recording)
    model = ModelInfo(id="x", tokenizer="cl100k_base", max_tokens=50)
    work = {}
    for words in (1_000, 8_000):
        handed = 0
        text = " ".join(f"word{i}" for i in range(words))
        list(TokenCounter(model).split(text))
        work[words] = handed / len(text)
    assert work[8_000] < work[1_000] * 2


class Sliced(str):
    """A text that counts the characters of its parts that were copied, of those parts too."""

    __slots__ = ()
    copied = 0

    def __getitem__(self, key):
        part = super().__getitem__(key)
        Sliced.copied += len(part)
        return Sliced(part)


def test_splitting_copies_no_more_than_a_few_times_the_text(monkeypatch):
    monkeypatch.setattr(Sliced, "copied", 0)
    text = Sliced("word " * 16_000)
    pieces = list(TokenCounter(ModelInfo(id="x", max_tokens=50)).split(text))
    assert len(pieces) > 100
    assert Sliced.copied < 50 * len(text)


BOUNDS = """
import os, sys, warnings, tiktoken
os.environ.pop("TIKTOKEN_CACHE_DIR", None)
before = dict(os.environ)
def refuse(*_, **__): raise OSError("no network")
import tiktoken.load
tiktoken.load.read_file = refuse
tiktoken.load.read_file_cached = refuse
from nanogpt_core import MODELS
from nanogpt_core.models.tokens import TokenCounter, byte_lengths, load_encoding
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    counter = TokenCounter(MODELS["text-embedding-3-small"])
    assert counter.kind == "bound"
    assert load_encoding() is None
    sizes = [counter.count(text) for text in ("a", "word " * 6000, "你好" * 3000)]
    assert counter.count("a\\ud800b") == 3, "half of a surrogate pair"
    assert sizes[0] >= 1 and 6000 <= sizes[1] <= 8191 * 2 and sizes[2] >= 6000, sizes
    text = "one two three four, " * 5000 + "你好" * 5000
    for model in MODELS.values():
        counter = TokenCounter(model)
        pieces = list(counter.split(text))
        assert "".join(piece for piece, _ in pieces) == text
        assert all(tokens <= (model.max_tokens or sys.maxsize) for _, tokens in pieces)
        assert counter.count_if_too_long(text) or (model.max_tokens or sys.maxsize) > 8192
assert len(caught) == 1, [str(w.message) for w in caught]
assert "TIKTOKEN_CACHE_DIR" in str(caught[0].message)
assert caught[0].filename == "<string>", "the warning must point at this program"
assert dict(os.environ) == before
"""


def test_missing_vocabulary_gives_estimates_and_one_warning():
    done = subprocess.run([sys.executable, "-c", BOUNDS], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr

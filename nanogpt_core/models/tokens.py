"""Token counts: exact for models with a known tokenizer, otherwise high estimates.

Three kinds of count:

- ``exact``: OpenAI's models, counted with tiktoken's ``cl100k_base``.
- ``scaled``: other models; the ``cl100k_base`` count times a factor that covers nearly all prose measured (own
  measurement over English, German, Spanish, Chinese and Python code: native count over cl100k count is at most 1.21 for
  Qwen, 1.6 for prose in BERT and XLM-R models, and more for code).
- ``bound``: ``cl100k_base`` is not available (tiktoken downloads it on first use). The count is estimated from the
  length: ASCII text rarely has more than a token in 3 bytes, other text rarely more than one in 2.

A text is counted only if its length does not settle the question: a byte-level token covers at least one byte.
"""

from __future__ import annotations

import bisect
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from nanogpt_core._runtime.log import warn
from nanogpt_core._runtime.signals import raised_by_signal_handler
from nanogpt_core._runtime.threads import run_within
from nanogpt_core._runtime.validation import check_model_name
from nanogpt_core.errors import InvalidTypeError
from nanogpt_core.models.catalog import ModelInfo, get_model

if TYPE_CHECKING:
    import tiktoken

Counting = Literal["exact", "scaled", "bound"]
"""The kind of a token count."""

_LOAD_SECONDS = 10.0  # limit on the wait for tiktoken's vocabulary file, which it may have to download

_FACTORS = {"cl100k_base": 1.0, "qwen": 1.1}  # native tokens per cl100k_base token, by tokenizer
_OTHER_FACTOR = 1.5
# Other models add [CLS] and [SEP], or an end-of-text mark, to the text's own tokens; OpenAI's models add none.
_SPECIAL_TOKENS = 2
# tiktoken slows down, and its regular expressions overflow, on very long runs without a blank.
_SLICE_CHARACTERS = 100_000
_MAX_CHARACTERS_PER_TOKEN = 8  # rarely exceeded


@functools.cache
def load_encoding() -> tiktoken.Encoding | None:
    """Return tiktoken's ``cl100k_base``; None, with one warning, if its file is not available within 10 seconds.

    tiktoken downloads without a time limit: a thread does it, and may outlast the wait.
    """

    def load() -> tiktoken.Encoding:
        import tiktoken  # takes 30 ms, and is often not needed

        return tiktoken.get_encoding("cl100k_base")

    try:
        return run_within(_LOAD_SECONDS, load, "nanogpt-load-cl100k_base")
    except Exception as error:
        # tiktoken passes on every error of requests and of the disk.
        if raised_by_signal_handler(error):
            raise
        problem = type(error).__name__
    warn(
        f"tiktoken's cl100k_base file is not available ({problem}): token counts are estimated from the "
        "texts' length. For exact counts, run once with network access, or point TIKTOKEN_CACHE_DIR at a copy."
    )
    return None


class TokenCounter:
    """Counts tokens for one model. For an unknown tokenizer the highest factor is used."""

    def __init__(self, model: ModelInfo) -> None:
        self.limit = model.max_tokens
        self._exact = model.tokenizer == "cl100k_base"
        self._factor = _FACTORS.get(model.tokenizer or "", _OTHER_FACTOR)
        self._special = 0 if self._exact else _SPECIAL_TOKENS

    @property
    def kind(self) -> Counting:
        """The kind of count."""
        if load_encoding() is None:
            return "bound"
        return "exact" if self._exact else "scaled"

    def measure(self, texts: Sequence[str]) -> tuple[list[int], dict[int, int]]:
        """Return for each text its weight, see :meth:`weights`, and the tokens of those over the limit, by index."""
        lengths = byte_lengths(texts)
        counts = {index: self.count_if_too_long(texts[index]) for index in self.may_be_too_long(lengths)}
        return self.weights(lengths), {index: tokens for index, tokens in counts.items() if tokens}

    def weights(self, lengths: Sequence[int]) -> list[int]:
        """Return estimates of tokens for making batches, from lengths in bytes: a token in 3 bytes.

        A text over the model's limit counts as one of that size.
        """
        most = self.limit or sys.maxsize
        return [min(math.ceil(length * self._factor / 3) + self._special, most) for length in lengths]

    def count(self, text: str) -> int:
        """Return the number of tokens of ``text``; :attr:`kind` tells its accuracy."""
        return self.scale(count_base_tokens(text))

    def scale(self, base_tokens: int) -> int:
        """Return the model's number of tokens of a text that has ``base_tokens`` by :func:`count_base_tokens`."""
        return math.ceil(base_tokens * self._factor) + self._special

    def may_be_too_long(self, lengths: Sequence[int]) -> list[int]:
        """Return the indices of texts that may be over the model's limit, by their lengths in bytes."""
        if self.limit is None:
            return []
        # Word-piece and sentence-piece tokenizers normalize first, which can lengthen a text; the factor covers that.
        longest = (self.limit - self._special) / self._factor
        if max(lengths, default=0) <= longest:
            return []
        return [number for number, length in enumerate(lengths) if length > longest]

    def count_if_too_long(self, text: str) -> int | None:
        """Return the number of tokens of ``text`` if it is over the model's limit, else None."""
        if not self.may_be_too_long(byte_lengths([text])):
            return None
        tokens = self.count(text)
        return tokens if self.limit is not None and tokens > self.limit else None

    def split(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield ``text`` in pieces that fit the model, each with its number of tokens; joined, they are ``text``.

        Pieces end at a blank if there is one near the end: words stay whole. Pieces of only blanks are left out, since
        no model embeds them.
        """
        start = 0
        while start < len(text):
            piece = self._longest_piece(text, start)
            if piece.strip():
                yield piece, self.count(piece)
            start += len(piece)

    def _longest_piece(self, text: str, start: int) -> str:
        if self.limit is None:
            return text
        # Without this window, each piece would copy and count the whole rest of the text.
        window = text[start : start + self.limit * _MAX_CHARACTERS_PER_TOKEN]
        if start + len(window) == len(text) and self.count_if_too_long(window) is None:
            return window
        prefix = self._first_tokens(window, int((self.limit - self._special) / self._factor))
        # A text that ends within a token can have a few more tokens than it was made of.
        while self.count(prefix) > self.limit and len(prefix) > 1:
            prefix = prefix[: -max(1, len(prefix) // 64)]
        end = start + len(prefix)
        return _end_at_blank(prefix, text[end : end + 1])

    @staticmethod
    def _first_tokens(text: str, tokens: int) -> str:
        encoding = load_encoding()
        if encoding is not None:
            # The last character may be incomplete, if it has several tokens; it is dropped.
            return encoding.decode_bytes(encoding.encode_ordinary(text)[:tokens]).decode(errors="ignore") or text[:1]
        longer = bisect.bisect_right(range(len(text) + 1), tokens, key=lambda end: _likely_tokens(text[:end]))
        return text[: max(longer - 1, 1)]


def count_base_tokens(text: str) -> int:
    """Return the number of ``cl100k_base`` tokens of ``text``; an estimate if tiktoken's file is not available."""
    encoding = load_encoding()
    if encoding is None:
        return _likely_tokens(text)
    slices = (text[start : start + _SLICE_CHARACTERS] for start in range(0, len(text), _SLICE_CHARACTERS))
    return sum(len(encoding.encode_ordinary(part)) for part in slices)


def count_tokens(text: str, model: str | ModelInfo) -> int:
    """Return the number of tokens of ``text`` for a model: exact for OpenAI's models, else a high estimate.

    Args:
        text: The text.
        model: The model's name or row. For an unknown model the highest factor is used.

    Raises:
        InvalidTypeError: An argument of the wrong type.
        ConfigurationError: ``model`` is empty.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"text must be a str, not {type(text).__name__}.")
    return TokenCounter(model if isinstance(model, ModelInfo) else get_model(check_model_name(model))).count(text)


def byte_lengths(texts: Sequence[str]) -> list[int]:
    """Return the length of each text in UTF-8, in bytes."""
    if all(map(str.isascii, texts)):
        return list(map(len, texts))
    return [len(text) if text.isascii() else len(text.encode()) for text in texts]


def _likely_tokens(text: str) -> int:
    if text.isascii():
        return math.ceil(len(text) / 3)
    ascii_length = sum(map(str.isascii, text))
    # tiktoken counts a single surrogate too, which only the check of a text to embed refuses.
    length = len(text.encode(errors="surrogatepass"))
    return math.ceil(ascii_length / 3 + (length - ascii_length) / 2)


def _end_at_blank(piece: str, following: str) -> str:
    if not following or following.isspace():
        return piece
    # Only the last eighth is searched, to keep pieces long; a text without blanks is split between any two characters.
    start = len(piece) - len(piece) // 8
    for index in range(len(piece) - 1, start, -1):
        if piece[index].isspace():
            return piece[: index + 1]
    return piece

"""How many tokens a text has: exact where the model's tokenizer is at hand, on the safe side elsewhere.

Three kinds of count, by what is known:

- ``exact``: OpenAI's models, counted with tiktoken's ``cl100k_base``.
- ``scaled``: other models; the ``cl100k_base`` count times a factor that covers nearly all prose measured (own
  measurement over English, German, Spanish, Chinese and Python code: native count over cl100k count is at most 1.21 for
  Qwen, 1.6 for prose in BERT and XLM-R models, and more for code).
- ``bound``: ``cl100k_base`` cannot be had (tiktoken downloads it on first use). Then a text's length decides: ASCII
  text rarely has more than a token in 3 bytes, other text rarely more than one in 2.

No text is counted whose length alone settles the question: a byte-level token covers at least one byte.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nanogpt_core.models.catalog import ModelInfo

if TYPE_CHECKING:
    import tiktoken

__all__ = ["LOAD_TIMEOUT", "TokenCounter", "byte_lengths", "load_encoding"]

LOAD_TIMEOUT = 10.0
"""Seconds to wait for tiktoken's vocabulary file, which it may have to download."""

_FACTORS = {"cl100k_base": 1.0, "qwen": 1.1}
_OTHER_FACTOR = 1.5
# [CLS] and [SEP], or an end-of-text mark, come on top of the text's own tokens; OpenAI's models add none.
_SPECIAL_TOKENS = 2
# tiktoken slows down, and its regular expressions overflow, on very long runs without a blank.
_SLICE = 100_000


@functools.cache
def load_encoding() -> tiktoken.Encoding | None:
    """Return tiktoken's ``cl100k_base``, or None with one warning where its file cannot be had within 10 seconds.

    tiktoken downloads without a time limit, so it is left to a thread that may go on by itself.
    """
    box: list[tiktoken.Encoding | Exception] = []

    def load() -> None:
        try:
            import tiktoken  # costs 30 ms and is often not needed at all

            box.append(tiktoken.get_encoding("cl100k_base"))
        except Exception as error:  # noqa: BLE001 - tiktoken lets every error of requests and of the disk through
            box.append(error)

    thread = threading.Thread(target=load, name="nanogpt-load-cl100k_base", daemon=True)
    thread.start()
    thread.join(LOAD_TIMEOUT)
    result = box[0] if box else TimeoutError(f"no answer within {LOAD_TIMEOUT:g} s")
    if not isinstance(result, Exception):
        return result
    warnings.warn(
        f"tiktoken's cl100k_base file cannot be had ({type(result).__name__}), so token counts are bounds from the "
        "texts' length. To have exact counts, run once with network access, or point TIKTOKEN_CACHE_DIR at a copy.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


class TokenCounter:
    """Counts tokens for one model.

    Args:
        model: The model; an unknown tokenizer is treated as the most expensive kind.
    """

    def __init__(self, model: ModelInfo) -> None:
        self.limit = model.max_tokens
        self._exact = model.tokenizer == "cl100k_base"
        self._factor = _FACTORS.get(model.tokenizer or "", _OTHER_FACTOR)
        self._special = 0 if self._exact else _SPECIAL_TOKENS

    @property
    def kind(self) -> str:
        """``"exact"``, ``"scaled"`` or ``"bound"``: how :meth:`count` counts."""
        if load_encoding() is None:
            return "bound"
        return "exact" if self._exact else "scaled"

    def weights(self, lengths: Sequence[int]) -> list[int]:
        """Return quick figures for packing requests: true upper bounds for OpenAI's models, else estimates.

        Args:
            lengths: The texts' lengths, in bytes; none of these texts is over the model's limit.
        """
        most = self.limit or sys.maxsize
        if self._exact:
            return [min(length, most) for length in lengths] if max(lengths, default=0) > most else list(lengths)
        return [min(math.ceil(length * self._factor / 3) + self._special, most) for length in lengths]

    def count(self, text: str) -> int:
        """Return the tokens of ``text``, counted in the way that :attr:`kind` names."""
        encoding = load_encoding()
        if encoding is None:
            tokens = _likely_tokens(text)
        else:
            slices = (text[start : start + _SLICE] for start in range(0, len(text), _SLICE))
            tokens = sum(len(encoding.encode_ordinary(part)) for part in slices)
        return math.ceil(tokens * self._factor) + self._special

    def count_all(self, texts: Sequence[str]) -> int:
        """Return the tokens of all ``texts`` together."""
        return sum(map(self.count, texts))

    def suspects(self, lengths: Sequence[int]) -> list[int]:
        """Return the numbers of those texts that may be over the model's limit, by their lengths in bytes."""
        if self.limit is None:
            return []
        longest = (self.limit - self._special) / self._worst_per_byte
        return [number for number, length in enumerate(lengths) if length > longest]

    def over(self, text: str) -> int | None:
        """Return the tokens of ``text`` where it is over the model's limit, else None."""
        if not self.suspects(byte_lengths([text])):
            return None
        tokens = self.count(text)
        return tokens if self.limit is not None and tokens > self.limit else None

    @property
    def _worst_per_byte(self) -> float:
        # Word-piece and sentence-piece tokenizers normalise first, which can lengthen a text; the factor covers that.
        return 1.0 if self._exact else self._factor

    def cut(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield ``text`` in pieces that fit the model, each with its tokens; joined, the pieces are ``text``.

        Pieces end at a character; where blanks are near the end, at a blank, so that words stay whole. A piece of
        blanks alone is left out, since no model embeds it.
        """
        rest = text
        while rest:
            piece = self._longest_prefix(rest)
            if piece.strip():
                yield piece, self.count(piece)
            rest = rest[len(piece) :]

    def _longest_prefix(self, text: str) -> str:
        if self.limit is None:
            return text
        # A token seldom covers more characters than this; looking no further keeps the work in step with the text.
        window = text[: self.limit * 8]
        if len(window) == len(text) and self.over(text) is None:
            return text
        prefix = self._first_tokens(window, int((self.limit - self._special) / self._factor))
        # A text cut within a token can have a few more tokens than the tokens it was made of.
        while self.count(prefix) > self.limit and len(prefix) > 1:
            prefix = prefix[: -max(1, len(prefix) // 64)]
        return _end_at_blank(prefix, text[len(prefix) : len(prefix) + 1])

    @staticmethod
    def _first_tokens(text: str, tokens: int) -> str:
        encoding = load_encoding()
        if encoding is not None:
            # A character may be spread over tokens; the part of one at the end is dropped.
            return encoding.decode_bytes(encoding.encode_ordinary(text)[:tokens]).decode(errors="ignore") or text[:1]
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if _likely_tokens(text[:middle]) <= tokens else (low, middle - 1)
        return text[:low]


def byte_lengths(texts: Sequence[str]) -> list[int]:
    """Return how many bytes each text has in UTF-8."""
    return [len(text) if text.isascii() else len(text.encode()) for text in texts]


def _likely_tokens(text: str) -> int:
    length = len(text)
    if text.isascii():
        return math.ceil(length / 3)
    ascii_length = sum(map(str.isascii, text))
    return math.ceil(ascii_length / 3 + (len(text.encode()) - ascii_length) / 2)


def _end_at_blank(piece: str, following: str) -> str:
    if not following or following.isspace():
        return piece
    # Looking back over an eighth keeps pieces long; a text without blanks is cut between any two characters.
    start = len(piece) - len(piece) // 8
    for index in range(len(piece) - 1, start, -1):
        if piece[index].isspace():
            return piece[: index + 1]
    return piece

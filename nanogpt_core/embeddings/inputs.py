"""Checks of the texts that callers pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from nanogpt_core.errors import InvalidInputError, InvalidTypeError

__all__ = ["MAX_POSITIONS_SHOWN", "check_query", "check_texts", "describe_positions", "iterate_texts"]

MAX_POSITIONS_SHOWN = 10
"""Positions that an error message lists."""


def check_texts(texts: Iterable[str], first: int = 0) -> list[str]:
    """Return ``texts`` as a list, after checking each of them.

    Args:
        texts: The texts.
        first: The position of the first of them in the caller's row.

    Raises:
        InvalidTypeError: It is not an iterable of strings.
        InvalidInputError: A text is empty, holds only blanks, or holds half a surrogate pair.
    """
    if isinstance(texts, (str, bytes, bytearray)):
        raise InvalidTypeError(
            f"texts is a single {type(texts).__name__}, where a list of strings is meant.",
            remedy="Put it in a list: [text].",
        )
    if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
        raise InvalidTypeError(f"texts must be a list of strings, not {type(texts).__name__}.")
    try:
        items = iter(texts)
    except TypeError as error:
        raise InvalidTypeError(f"texts must be a list of strings, not {type(texts).__name__}.") from error
    checked = list(items)
    # Here and below, a quick look at all first: it nearly always finds nothing.
    if set(map(type, checked)) <= {str}:
        _check_contents(checked, first)
        return checked
    wrong = [i for i, text in enumerate(checked, first) if not isinstance(text, str)]
    if wrong:
        kinds = ", ".join(sorted({type(checked[i - first]).__name__ for i in wrong}))
        raise InvalidTypeError(
            f"texts must hold strings only, but there is {kinds} at {describe_positions(wrong)}.",
            remedy="Convert or drop these entries.",
            positions=wrong,
        )
    # A subclass of str may hash or encode in its own way; its plain characters are what is embedded.
    plain = [text if type(text) is str else str.__str__(text) for text in checked]
    _check_contents(plain, first)
    return plain


def check_query(text: str) -> str:
    """Return the query ``text`` after checking it.

    Raises:
        InvalidTypeError: It is not a string.
        InvalidInputError: It is empty, holds only blanks, or holds half a surrogate pair.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"The query must be a string, not {type(text).__name__}.")
    plain = str.__str__(text)
    _check_contents([plain])
    return plain


def _check_contents(texts: Sequence[str], first: int = 0) -> None:
    if not all(texts) or any(map(str.isspace, texts)):
        blank = [i for i, text in enumerate(texts, first) if not text or text.isspace()]
        raise InvalidInputError(
            f"A text is empty or holds only blanks, and has no embedding: {describe_positions(blank)}.",
            remedy="Drop these texts, or put something in their place.",
            positions=blank,
        )
    if all(map(str.isascii, texts)):
        return
    broken = [i for i, text in enumerate(texts, first) if not _encodes(text)]
    if broken:
        raise InvalidInputError(
            f"A text holds half a surrogate pair, which UTF-8 cannot carry: {describe_positions(broken)}.",
            remedy='Clean it, for example with text.encode("utf-8", "replace").decode().',
            positions=broken,
        )


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_positions(indices: Sequence[int]) -> str:
    """Return ``indices``, counted from 0, in words; at most :data:`MAX_POSITIONS_SHOWN` of them."""
    shown = ", ".join(map(str, indices[:MAX_POSITIONS_SHOWN]))
    more = f" and {len(indices) - MAX_POSITIONS_SHOWN} more" if len(indices) > MAX_POSITIONS_SHOWN else ""
    return f"position {shown}{more} (counted from 0)" if len(indices) == 1 else f"positions {shown}{more} (from 0)"


def iterate_texts(texts: Iterable[str]) -> Iterator[str]:
    """Return an iterator over ``texts``.

    Raises:
        InvalidTypeError: It is a single string, or no iterable at all.
    """
    if isinstance(texts, (str, bytes, bytearray)):
        raise InvalidTypeError(
            f"texts is a single {type(texts).__name__}, where an iterable of strings is meant.",
            remedy="Put it in a list: [text].",
        )
    try:
        return iter(texts)
    except TypeError as error:
        raise InvalidTypeError(f"texts must be an iterable of strings, not {type(texts).__name__}.") from error

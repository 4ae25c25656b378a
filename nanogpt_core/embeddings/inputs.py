"""Checks of the texts that callers pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from nanogpt_core._runtime.validation import check_number
from nanogpt_core.errors import InvalidInputError, InvalidTypeError
from nanogpt_core.http.error_body import excerpt

MAX_POSITIONS_SHOWN = 10
"""Positions that an error message lists."""

_MAX_NEIGHBOUR_CHARACTERS = 40


def check_texts(texts: Iterable[str], first: int | Sequence[int] = 0) -> list[str]:
    """Return ``texts`` as a list, after checking each of them.

    ``first`` is the position of the first one in the caller's list, or a sequence with the position of each.

    Raises:
        InvalidTypeError: The argument is not an iterable of strings, or ``first`` holds no whole numbers.
        InvalidInputError: A text is empty or blank, or has an unpaired surrogate; or ``first`` is a sequence of another
            length.
        ConfigurationError: ``first`` is negative.
    """
    checked = list(iterate_texts(texts))
    positions = _positions_of(len(checked), first)
    # Here and below, all texts are tested together first. That nearly always finds nothing.
    if not set(map(type, checked)) <= {str}:
        wrong = [index for index, text in enumerate(checked) if not isinstance(text, str)]
        if wrong:
            kinds = ", ".join(sorted({type(checked[index]).__name__ for index in wrong}))
            found = [positions[index] for index in wrong]
            raise InvalidTypeError(
                f"texts must contain only strings; there is {kinds} at {describe_positions(found)}.",
                remedy=_conversion(checked[wrong[0]]),
                positions=found,
            )
        # A subclass of str may hash or encode differently; its plain characters are embedded.
        checked = list(map(str.__str__, checked))
    _check_contents(checked, positions)
    return checked


def _positions_of(count: int, first: int | Sequence[int]) -> Sequence[int]:
    """Return the positions of ``count`` texts in the caller's list: from ``first`` on, or ``first``, a sequence."""
    if isinstance(first, int):
        if type(first) is not int or first < 0:
            check_number("first", first, 0)
        return range(first, first + count)
    if not isinstance(first, Sequence) or not all(type(position) is int for position in first):
        raise InvalidTypeError("first must be a whole number, or a list of them.")
    if len(first) != count:
        raise InvalidInputError(f"first has {len(first)} positions for {count} texts.")
    return first


def check_text(text: str, noun: str = "text") -> str:
    """Return a single text after checking it; errors call it the ``noun``.

    Raises:
        InvalidTypeError: It is not a string.
        InvalidInputError: It is empty or blank, or has an unpaired surrogate.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"The {noun} must be a string, not {type(text).__name__}.")
    plain = str.__str__(text)
    if not plain or plain.isspace():
        raise InvalidInputError(
            f"The {noun} is empty or blank, and has no embedding.", remedy=f"Pass a {noun} with words.", positions=[0]
        )
    if not _encodes(plain):
        raise InvalidInputError(
            f"The {noun} has an unpaired surrogate, which UTF-8 cannot encode.",
            remedy='Clean it, for example with text.encode("utf-8", "replace").decode().',
            positions=[0],
        )
    return plain


def iterate_texts(texts: Iterable[str]) -> Iterator[str]:
    """Return an iterator over ``texts``.

    Raises:
        InvalidTypeError: The argument is a single string, a set, a table, or not iterable.
    """
    if isinstance(texts, (str, bytes, bytearray)):
        raise InvalidTypeError(
            f"texts is a single {type(texts).__name__}, not a list of strings.", remedy="Put it in a list: [text]."
        )
    if isinstance(texts, Mapping):
        raise InvalidTypeError(f"texts must be a list of strings, not {type(texts).__name__}.")
    if isinstance(texts, (set, frozenset)):
        raise InvalidTypeError(
            f"texts is a {type(texts).__name__}, which has no order: vectors could not be matched to their texts.",
            remedy="Pass a list, for example sorted(texts).",
        )
    if hasattr(texts, "columns"):  # a DataFrame of pandas, Polars or others
        raise InvalidTypeError(
            f"texts is a {type(texts).__name__}, and iterating over a table gives the names of its columns.",
            remedy='Pass one column, as in table["text"].',
        )
    if hasattr(texts, "page_content") or hasattr(texts, "get_content"):  # iterating over it gives the model's fields
        raise InvalidTypeError(
            f"texts is a single {type(texts).__name__}, not a list of strings.", remedy="Put its text in a list."
        )
    try:
        return iter(texts)
    except TypeError as error:
        collect = "Collect it first, [text async for text in texts], or pass it to Embedder.astream()."
        remedy = collect if hasattr(texts, "__aiter__") else ""
        raise InvalidTypeError(
            f"texts must be a list of strings, not {type(texts).__name__}.", remedy=remedy
        ) from error


def _conversion(entry: object) -> str:
    """Return the remedy for a list with an entry that is no string."""
    if hasattr(entry, "as_py"):
        return "Pass column.to_pylist() in place of a pyarrow column."
    if hasattr(entry, "page_content"):
        return "Pass [document.page_content for document in documents]."
    if hasattr(entry, "get_content"):
        return "Pass [node.get_content() for node in nodes]."
    return "Convert or remove these entries."


def _check_contents(texts: Sequence[str], positions: Sequence[int]) -> None:
    if not all(texts) or any(map(str.isspace, texts)):
        blank = [index for index, text in enumerate(texts) if not text or text.isspace()]
        found = [positions[index] for index in blank]
        raise InvalidInputError(
            f"A text is empty or blank and has no embedding: {describe_positions(found)}"
            f"{_describe_neighbours(texts, blank[0])}.",
            remedy="Remove these texts, or put something in their place.",
            positions=found,
        )
    if all(map(str.isascii, texts)):
        return
    broken = [position for position, text in zip(positions, texts, strict=True) if not _encodes(text)]
    if broken:
        raise InvalidInputError(
            f"A text has an unpaired surrogate, which UTF-8 cannot encode: {describe_positions(broken)}.",
            remedy='Clean it, for example with text.encode("utf-8", "replace").decode().',
            positions=broken,
        )


def _describe_neighbours(texts: Sequence[str], index: int) -> str:
    """Return the beginnings of the texts around ``index``, in words: frameworks hide positions from their users."""
    around = (("after", index - 1), ("before", index + 1))
    shown = [
        f"{word} the text {excerpt(texts[place], _MAX_NEIGHBOUR_CHARACTERS)!r}"
        for word, place in around
        if 0 <= place < len(texts) and texts[place].strip()
    ]
    return f"; the first is {' and '.join(shown)}" if shown else ""


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_positions(positions: Sequence[int]) -> str:
    """Return ``positions``, counted from 0, in words; at most :data:`MAX_POSITIONS_SHOWN` of them."""
    shown = ", ".join(map(str, positions[:MAX_POSITIONS_SHOWN]))
    more = f" and {len(positions) - MAX_POSITIONS_SHOWN} more" if len(positions) > MAX_POSITIONS_SHOWN else ""
    return f"position {shown}{more} (counted from 0)" if len(positions) == 1 else f"positions {shown}{more} (from 0)"

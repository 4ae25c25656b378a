r"""Characters that a host has cut in halves: joined again in streams, and replaced elsewhere. No I/O.

Gateways in JavaScript cut texts between the two UTF-16 code units of a character. JSON can hold each half, as an escape
such as ``\ud83d``; UTF-8 cannot, so every later step of a program fails.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

__all__ = ["HalfCharacters", "ends_in_half", "mend", "mend_all"]

_FIRST_HALVES = ("\ud800", "\udbff")  # the code units that begin a character
_REPLACEMENT = "\ufffd"


def ends_in_half(text: str) -> bool:
    """Return whether the last character of ``text`` is only begun."""
    return _FIRST_HALVES[0] <= text[-1:] <= _FIRST_HALVES[1]


def mend(text: str) -> str:
    """Return ``text`` with joined halves, and a replacement character for a half that has no other."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mend_all(value: Any) -> Any:
    """Return a document with all its texts mended."""
    if isinstance(value, dict):
        return {mend(name): mend_all(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [mend_all(inner) for inner in value]
    return mend(value) if isinstance(value, str) else value


class HalfCharacters:
    """Holds the first half of a character back until the next part of its text."""

    def __init__(self) -> None:
        self._held: dict[Hashable, str] = {}

    def join(self, key: Hashable, text: str, *, is_last: bool = False) -> str:
        """Return the text to send on.

        Args:
            key: Names the text.
            text: The next part of it.
            is_last: Whether it ends with this part.
        """
        text = self._held.pop(key, "") + text
        if ends_in_half(text) and not is_last:
            self._held[key], text = text[-1], text[:-1]
        return text if text.isascii() else mend(text)

r"""Surrogates: UTF-16 pairs that a host has split are joined in streams, and replaced if one has no other. No I/O.

Gateways in JavaScript cut texts between the two UTF-16 code units of a character. JSON can hold each surrogate, as an
escape such as ``\ud83d``; UTF-8 cannot, so every later step of a program fails.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

_FIRST_HIGH, _LAST_HIGH = "\ud800", "\udbff"  # the code units that begin a pair


def ends_in_high_surrogate(text: str) -> bool:
    """Return whether the last character of ``text`` is only begun."""
    return _FIRST_HIGH <= text[-1:] <= _LAST_HIGH


def join_surrogates(text: str) -> str:
    """Return ``text`` with joined pairs, and with a replacement character for a surrogate that has no other."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def join_surrogates_in(value: Any) -> Any:
    """Return a JSON document with the surrogates of all its texts joined."""
    if isinstance(value, dict):
        return {join_surrogates(name): join_surrogates_in(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [join_surrogates_in(inner) for inner in value]
    return join_surrogates(value) if isinstance(value, str) else value


class SurrogateJoiner:
    """Holds a high surrogate at the end of a part of a text back until the next part."""

    def __init__(self) -> None:
        self._held: dict[Hashable, str] = {}

    def join(self, key: Hashable, text: str, *, is_last: bool = False) -> str:
        """Return the text to send on, for the next part of the text that ``key`` names."""
        text = self._held.pop(key, "") + text
        if ends_in_high_surrogate(text) and not is_last:
            self._held[key], text = text[-1], text[:-1]
        return text if text.isascii() else join_surrogates(text)

"""Plural forms for messages."""

from __future__ import annotations


def counted(number: int | None, noun: str) -> str:
    """Return a number with its noun, such as ``"1 text"`` or ``"1,024 texts"``; ``?`` for None.

    The plural of the noun ends in s.
    """
    return f"{'?' if number is None else f'{number:,}'} {noun}{'' if number == 1 else 's'}"

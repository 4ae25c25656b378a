"""A token count that needs no vocabulary: an estimate that is the same everywhere."""

from __future__ import annotations

import re

__all__ = ["count_tokens", "first_tokens"]

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Inside of a regular expression's character class: letters of scripts that write no blanks between words."""

# Every match takes one character or more, so that no count is above the number of UTF-8 bytes. Matches are long, so
# that the count stays a little under cl100k_base's on ordinary text: what a client counted exactly is not refused.
_TOKEN = re.compile(rf"[{CJK}]|[^\W\d_{CJK}]{{1,16}}|\d{{1,3}}|[^\w\s]{{1,3}}|_+")


def count_tokens(text: str) -> int:
    """Return about how many tokens ``text`` has; never more than it has UTF-8 bytes, and 1 at least if it has any."""
    return len(_TOKEN.findall(text)) or int(bool(text))


def first_tokens(text: str, limit: int) -> str:
    """Return the longest start of ``text`` that has at most ``limit`` tokens."""
    for number, match in enumerate(_TOKEN.finditer(text)):
        if number == limit:
            return text[: match.start()].rstrip()
    return text

"""Token counts without a vocabulary: an estimate that is the same on every machine."""

from __future__ import annotations

import re

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Letters of scripts without blanks between words, for the character class of a regular expression."""

# Every match has one character or more: no count is above the number of UTF-8 bytes. Matches are long, which keeps the
# count a little below cl100k_base's on ordinary text: a text that a client counted exactly is not refused.
_TOKEN = re.compile(rf"[{CJK}]|[^\W\d_{CJK}]{{1,16}}|\d{{1,3}}|[^\w\s]{{1,3}}|_+")


def count_tokens(text: str) -> int:
    """Return an estimate of the tokens of ``text``: at most its UTF-8 bytes, and at least 1 unless it is empty."""
    return len(_TOKEN.findall(text)) or int(bool(text))


def first_tokens(text: str, limit: int) -> str:
    """Return the longest prefix of ``text`` with at most ``limit`` tokens."""
    for number, match in enumerate(_TOKEN.finditer(text)):
        if number == limit:
            return text[: match.start()].rstrip()
    return text

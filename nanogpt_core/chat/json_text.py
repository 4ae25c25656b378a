"""JSON in answers of models: fences are removed, and incomplete JSON is made unreadable. Pure functions and classes.

Both frameworks complete truncated JSON and take the beginning of an object for the whole.
"""

from __future__ import annotations

import json
import re

_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n?(.*?)\s*```\s*", re.DOTALL)
_OPEN_FENCE = re.compile(r"```[\w-]*(.*)", re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
# Levels. The SDK's parser, jiter, ends here; Python's, which LangChain uses, fails a little later with RecursionError.
_MAX_DEPTH = 200


def is_json(text: str) -> bool:
    """Return whether ``text`` is JSON; control characters in strings are accepted."""
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def strip_code_fence(text: str) -> str:
    """Return the inside of ``text`` if it is a fenced code block, else ``text``."""
    fenced = _FENCE.fullmatch(text)
    return fenced[1] if fenced else text


class JsonTextStream:
    """The text of structured output in a stream; a fenced code block is held back until it is whole."""

    def __init__(self) -> None:
        self._text = ""
        self._may_be_fenced = True
        self._brackets = _OpenBrackets()

    @property
    def is_too_deep(self) -> bool:
        """True if the text is nested too deeply for the frameworks' parsers."""
        return len(self._brackets.closing) > _MAX_DEPTH

    def add(self, content: str | None, *, is_last: bool, expects_json: bool = True) -> str | None:
        """Return the text to send on, for the next part; beside calls of the tools that were sent, it is no JSON."""
        self._text += content or ""
        self._brackets.add(content or "")
        begun = self._text.strip()
        if self._may_be_fenced and not is_last and "```".startswith(begun[:3]):
            return None
        if self._may_be_fenced:
            self._may_be_fenced = False
            content = strip_code_fence(self._text) if expects_json else self._text
        if not (is_last and expects_json):
            return content
        suffix = invalidating_suffix(_inner(self._text)) if is_incomplete(self._text) else ""
        return (content or "") + suffix


def is_incomplete(text: str) -> bool:
    """Return whether ``text``, or the fenced code block in it, begins like JSON and is none."""
    inner = _inner(text)
    if not inner.startswith(("{", "[")):
        return False
    try:
        json.JSONDecoder(strict=False).raw_decode(inner)
    except (ValueError, RecursionError):
        return True
    return False


def _inner(text: str) -> str:
    fenced = _OPEN_FENCE.search(text)
    return (text if fenced is None or text.lstrip().startswith(("{", "[")) else fenced[1]).strip(" \n\r\t`")


def invalidating_suffix(text: str) -> str:
    """Return the text to append to ``text``, which is not the JSON asked for, so no parser takes it for that.

    Both frameworks complete truncated JSON, and a tool would run with a part of its arguments. A closing bracket that
    does not match makes their parsers refuse the text, and their own handling of invalid calls begins.
    """
    brackets = _OpenBrackets()
    brackets.add(text)
    wrong = "]" if brackets.closing[-1:] == ["}"] else "}"
    return ("\\" if brackets.is_escaped else "") + ('"' if brackets.is_in_string else "") + wrong


class _OpenBrackets:
    """The brackets that are open at the end of JSON text.

    Attributes:
        closing: The brackets that close them, the innermost last.
        is_in_string: Whether the text ends in a string.
        is_escaped: Whether it ends in a backslash that begins an escape.
    """

    def __init__(self) -> None:
        self.closing: list[str] = []
        self.is_in_string = self.is_escaped = False

    def add(self, text: str) -> None:
        """Read the next part of the text."""
        for character in text:
            if self.is_in_string:
                self.is_in_string = character != '"' or self.is_escaped
                self.is_escaped = character == "\\" and not self.is_escaped
            elif character == '"':
                self.is_in_string = True
            elif character in _CLOSING:
                self.closing.append(_CLOSING[character])
            elif self.closing[-1:] == [character]:
                self.closing.pop()

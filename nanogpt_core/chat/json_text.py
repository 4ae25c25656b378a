r"""JSON in answers of models: fences, truncated JSON and surrogates. Pure functions and classes.

Both frameworks complete truncated JSON and take the beginning of an object for the whole, so it is made unreadable.

Gateways in JavaScript cut texts between the two UTF-16 code units of a character. JSON can hold each surrogate, as an
escape such as ``\ud83d``; UTF-8 cannot, so every later step of a program fails. In streams, pairs are joined.
"""

from __future__ import annotations

import json
import re
from typing import Any

from nanogpt_core.errors import ReplyError

_FENCE = re.compile(r"\s*```[\w-]*[ \t]*\n?(.*?)\s*```\s*", re.DOTALL)
_OPEN_FENCE = re.compile(r"```[\w-]*(.*)", re.DOTALL)
_CLOSING = {"{": "}", "[": "]"}
# Levels. The SDK's parser, jiter, ends here; Python's, which LangChain uses, fails a little later with RecursionError.
_MAX_DEPTH = 200
_FIRST_HIGH, _LAST_HIGH = "\ud800", "\udbff"  # surrogates that begin a pair


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

    def add(self, content: str | None, *, is_last: bool, expects_json: bool) -> str | None:
        """Return the text to send on, for the next part; beside calls of the tools that were sent, it is no JSON.

        Raises:
            ReplyError: It is nested too deeply for the frameworks' parsers.
        """
        self._text += content or ""
        self._brackets.add(content or "")
        if len(self._brackets.closing) > _MAX_DEPTH:
            raise ReplyError(
                "The answer does not follow the schema asked for: its JSON is nested too deeply.",
                remedy="Ask again, or another model.",
            )
        if self._may_be_fenced:
            if not is_last and "```".startswith(self._text.strip()[:3]):
                return None
            self._may_be_fenced = False
            content = strip_code_fence(self._text) if expects_json else self._text
        if is_last and expects_json:
            suffix = invalidating_suffix(_inner(self._text)) if is_incomplete(self._text) else ""
            content = (content or "") + suffix
        return content


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


# --- surrogates ---


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
        self._held: dict[str, str] = {}

    def join(self, key: str, text: str, *, is_last: bool = False) -> str:
        """Return the text to send on, for the next part of the text that ``key`` names."""
        text = self._held.pop(key, "") + text
        if ends_in_high_surrogate(text) and not is_last:
            self._held[key], text = text[-1], text[:-1]
        return text if text.isascii() else join_surrogates(text)

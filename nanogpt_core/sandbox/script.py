"""Scripted answers for tests: replies of the chat, and faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from nanogpt_core._runtime.validation import check_not_negative, check_number, is_header
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.sandbox.http_errors import failed_function

_MIN_STATUS, _MAX_STATUS = 200, 599
_WORDS: dict[Any, str] = {
    str: "a str",
    Mapping: "a mapping",
    Iterable: "a list",
    Sequence: "a list",
    Callable: "a function",
}


def check_type(name: str, value: Any, kind: Any) -> None:
    """Check that ``value`` is an object of ``kind``."""
    if not isinstance(value, kind):
        raise InvalidTypeError(f"{name} must be {_WORDS.get(kind, kind.__name__)}, not {type(value).__name__}.")


def as_json(name: str, value: Any) -> bytes:
    """Return ``value`` as JSON, with any mapping as an object."""
    try:
        return orjson.dumps(value, default=dict)
    except TypeError as error:
        raise InvalidTypeError(f"{name} cannot be sent as JSON: {error}.") from error


def check_faults(name: str, value: Any) -> None:
    """Check that ``value`` is an iterable, and if it is a sequence, that it holds faults and None only."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InvalidTypeError(f"{name} must be a list of Fault objects and None, not {type(value).__name__}.")
    for fault in value if isinstance(value, Sequence) else ():  # not of an iterator, which may be endless
        if fault is not None and not isinstance(fault, Fault):
            raise InvalidTypeError(f"{name} must hold Fault objects and None, not {type(fault).__name__}.")


@dataclass(frozen=True)
class Fault:
    """The answer to one ``/embeddings`` or ``/chat/completions`` request in place of the normal one.

    Attributes:
        status: HTTP status, 200 to 599; None gives the normal answer, after ``delay``.
        headers: Response headers, for example ``{"Retry-After": "1"}``.
        body: Bytes and text are sent unchanged, other values as JSON; None gives an error object. With status 204 or
            304, nothing is sent, as HTTP says.
        delay: Seconds to wait before answering.
    """

    status: int | None = 429
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, Any] | list[Any] | None = None
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.status is not None:
            check_number("status", self.status, _MIN_STATUS, _MAX_STATUS)
        check_not_negative("delay", self.delay)
        check_type("headers", self.headers, Mapping)
        for name, value in self.headers.items():
            check_type("A name in headers", name, str)
            check_type(f"headers[{name!r}]", value, str)
            if not is_header(name, value, ascii_only=False):
                raise ConfigurationError(f"headers: the entry {name!r} is not a legal HTTP header.")
        if not isinstance(self.body, bytes):
            as_json("body", self.body)


@dataclass(frozen=True)
class ToolCall:
    """One tool call of a reply.

    Attributes:
        name: The tool's name.
        arguments: Its arguments; a string is sent unchanged, valid JSON or not.
        id: The call's id. Default: made from its position.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    def __post_init__(self) -> None:
        check_type("name", self.name, str)
        if not isinstance(self.arguments, str):
            check_type("arguments", self.arguments, Mapping)
        for name in ("name", "arguments", "id"):
            as_json(name, getattr(self, name))

    @property
    def arguments_text(self) -> str:
        """The arguments as they are sent."""
        return self.arguments if isinstance(self.arguments, str) else as_json("arguments", self.arguments).decode()


@dataclass(frozen=True)
class Reply:
    """The answer to one ``/chat/completions`` request in place of quotes.

    It is sent whole or streamed, as requested: first reasoning, then text, then tool calls in pieces.

    Attributes:
        text: The text.
        json: Any value, sent as JSON in place of ``text``.
        tool_calls: Parallel tool calls.
        reasoning: Reasoning text.
        reasoning_field: The field for reasoning text: NanoGPT's endpoints use one or the other.
        finish_reason: Default: ``"tool_calls"`` if there are any, else ``"stop"``.
        usage: Token counts in place of the sandbox's own.
        error: An error object such as ``{"status": 503, "message": "...", "code": "..."}``. A stream sends it in a
            last chunk; a reply that is not streamed is only the error, with its status if that is 200 to 599, else 500.
        cut_off: End a stream without a finish_reason and without ``[DONE]``.
        model: Answer only requests for this model.
        when: Answer only requests for whose decoded body this returns true.
    """

    text: str = ""
    json: Any = None
    tool_calls: Sequence[ToolCall] = ()
    reasoning: str = ""
    reasoning_field: Literal["reasoning", "reasoning_content"] = "reasoning"
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    cut_off: bool = False
    model: str | None = None
    when: Callable[[Mapping[str, Any]], bool] | None = None

    def __post_init__(self) -> None:
        if self.text and self.json is not None:
            raise ConfigurationError("A reply has text or json, not both.")
        for name, kind in _REPLY_TYPES.items():
            value = getattr(self, name)
            if value is not None or name in ("text", "reasoning", "tool_calls"):
                check_type(name, value, kind)
        for name in ("text", "json", "reasoning", "finish_reason", "usage", "error"):
            as_json(name, getattr(self, name))
        if not all(isinstance(call, ToolCall) for call in self.tool_calls):
            raise ConfigurationError("tool_calls must hold ToolCall objects.")
        if self.reasoning_field not in ("reasoning", "reasoning_content"):
            raise ConfigurationError(
                f'reasoning_field must be "reasoning" or "reasoning_content", not {self.reasoning_field!r}.'
            )

    @property
    def content(self) -> str:
        """The text that is sent."""
        return self.text if self.json is None else as_json("json", self.json).decode()

    @property
    def reason(self) -> str:
        """The finish_reason that is sent."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Return True if this reply answers the request with this decoded body."""
        try:
            return (self.model is None or self.model == body.get("model")) and (self.when is None or self.when(body))
        except Exception as error:
            raise failed_function("The function `when` of a reply", error) from error


_REPLY_TYPES: dict[str, Any] = {
    **dict.fromkeys(("text", "reasoning", "finish_reason", "model"), str),
    **dict.fromkeys(("usage", "error"), Mapping),
    "tool_calls": Sequence,
    "when": Callable,
}


class Script:
    """Replies and faults for chat requests, in order, each given once. Safe to use from any thread."""

    def __init__(self, entries: Iterable[Reply | Fault] = ()) -> None:
        self._lock = threading.RLock()  # a function `when` may add replies
        self._entries: list[Reply | Fault] = []
        self.add(entries)

    def add(self, entries: Iterable[Reply | Fault]) -> None:
        """Append entries; raise a ConfigurationError for one that is neither a reply nor a fault with a status."""
        added = list(entries)
        for entry in added:
            if not isinstance(entry, (Reply, Fault)):
                raise ConfigurationError(f"A script holds Reply and Fault objects, not {type(entry).__name__}.")
            if isinstance(entry, Fault) and entry.status is None:
                raise ConfigurationError("A fault in a script needs a status.", remedy="Delays go into `faults`.")
        with self._lock:
            self._entries += added

    def take(self, body: Mapping[str, Any]) -> Reply | Fault | None:
        """Remove and return the first entry that answers this request; None if there is none."""
        with self._lock:
            for position, entry in enumerate(self._entries):
                if isinstance(entry, Fault) or entry.answers(body):
                    return self._entries.pop(position)
        return None

    def clear(self) -> None:
        """Drop all entries."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

"""Scripted answers for tests: replies of the chat, and faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from nanogpt_core.errors import ConfigurationError


@dataclass(frozen=True)
class Fault:
    """The answer to one ``/embeddings`` or ``/chat/completions`` request in place of the normal one.

    Attributes:
        status: HTTP status; None gives the normal answer, after ``delay``.
        headers: Response headers, for example ``{"Retry-After": "1"}``.
        body: Bytes and text are sent unchanged, other values as JSON; None gives an error object.
        delay: Seconds to wait before answering.
    """

    status: int | None = 429
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, Any] | list[Any] | None = None
    delay: float = 0.0


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

    @property
    def arguments_text(self) -> str:
        """The arguments as they are sent."""
        if isinstance(self.arguments, str):
            return self.arguments
        return orjson.dumps(self.arguments, default=dict).decode()


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
            last chunk; a reply that is not streamed is only the error, with its status (default 500).
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
        if not all(isinstance(call, ToolCall) for call in self.tool_calls):
            raise ConfigurationError("tool_calls must hold ToolCall objects.")
        if self.reasoning_field not in {"reasoning", "reasoning_content"}:
            raise ConfigurationError(f'reasoning_field is {self.reasoning_field!r}, not "reasoning" or the like.')

    @property
    def content(self) -> str:
        """The text that is sent."""
        return self.text if self.json is None else orjson.dumps(self.json, default=dict).decode()

    @property
    def reason(self) -> str:
        """The finish_reason that is sent."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Return True if this reply answers the request with this decoded body."""
        return (self.model is None or self.model == body.get("model")) and (self.when is None or self.when(body))


class Script:
    """Replies and faults for chat requests, each given once. Safe to use from any thread.

    Args:
        entries: Replies and faults, in order.

    Raises:
        ConfigurationError: One is neither a reply nor a fault with a status.
    """

    def __init__(self, entries: Iterable[Reply | Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._entries: list[Reply | Fault] = []
        self.add(entries)

    def add(self, entries: Iterable[Reply | Fault]) -> None:
        """Append entries."""
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

"""Scripted chat replies: what a test says that the model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from nanogpt_core.errors import ConfigurationError

__all__ = ["Reply", "ToolCall"]


@dataclass(frozen=True)
class ToolCall:
    """One tool call of a reply.

    Attributes:
        name: The tool's name.
        arguments: Its arguments; a string goes out as it is, well-formed or not.
        id: The call's id. Default: one made of its position.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str | None = None

    @property
    def arguments_text(self) -> str:
        """The arguments as they go on the wire."""
        if isinstance(self.arguments, str):
            return self.arguments
        return orjson.dumps(self.arguments, default=dict).decode()


@dataclass(frozen=True)
class Reply:
    """What one ``/chat/completions`` request gets instead of quotes.

    It goes out whole or streamed, as the request asks: reasoning first, then text, then tool calls in pieces.

    Attributes:
        text: The text.
        json: Any value, sent as JSON in place of ``text``.
        tool_calls: Tool calls, side by side.
        reasoning: Reasoning text.
        reasoning_field: The field that carries it: NanoGPT's endpoints use the one or the other.
        finish_reason: Default: ``"tool_calls"`` where there are any, else ``"stop"``.
        usage: Token counts in place of the sandbox's own.
        error: An error object such as ``{"status": 503, "message": "...", "code": "..."}``. A stream sends it in a last
            chunk after everything else; a plain reply is nothing but the error, with its status (default 500).
        cut_off: Let a stream end after everything else without a finish_reason and without ``[DONE]``.
        model: Answer requests for this model alone.
        when: Answer requests alone for whose decoded body this returns true.
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
        """The text that goes out."""
        return self.text if self.json is None else orjson.dumps(self.json, default=dict).decode()

    @property
    def reason(self) -> str:
        """The finish_reason that goes out."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    def answers(self, body: Mapping[str, Any]) -> bool:
        """Whether this is for the request with this decoded body."""
        return (self.model is None or self.model == body.get("model")) and (self.when is None or self.when(body))

"""The parts of a chat request that decide how its reply is checked. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanogpt_core.errors import InvalidTypeError


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The parts of a request's body that decide how its reply is checked.

    Attributes:
        streams: Whether a stream was asked for.
        structured: Whether the reply must be structured: JSON, or a tool call in any case.
        wants_json: Whether the text of the reply must be JSON.
        choices: Number of choices asked for.
        wants_usage: Whether a stream should end with the token usage.
        tools: Names of the tools.
        model: Name of the model.
        parameters: Parameters for a span: those that are numbers or bools, and ``"text"`` or ``"json"`` as the
            ``response_format``.
    """

    streams: bool = False
    structured: bool = False
    wants_json: bool = False
    choices: int = 1
    wants_usage: bool = False
    tools: frozenset[str] = frozenset()
    model: str = ""
    parameters: Mapping[str, str | float] = field(default_factory=dict)

    @classmethod
    def parse(cls, body: bytes) -> ChatRequest:
        """Read a request's body, as the SDK writes it.

        Raises:
            InvalidTypeError: It is nested too deeply, which the SDK may have been just able to write.
        """
        try:
            document = json.loads(body)
        except RecursionError as error:
            raise InvalidTypeError(
                "An option or a message is nested too deeply.", remedy="Pass it with fewer levels."
            ) from error
        response_format, tool_choice = document.get("response_format"), document.get("tool_choice")
        wants_json = isinstance(response_format, Mapping) and response_format.get("type") != "text"
        stream_options, choices = document.get("stream_options"), document.get("n")
        parameters = {name: value for name, value in document.items() if isinstance(value, (int, float))}
        output = {"response_format": "json" if wants_json else "text"} if isinstance(response_format, Mapping) else {}
        return cls(
            streams=document.get("stream") is True,
            structured=wants_json or isinstance(tool_choice, Mapping) or tool_choice == "required",
            wants_json=wants_json,
            choices=choices if isinstance(choices, int) else 1,
            wants_usage=isinstance(stream_options, Mapping) and bool(stream_options.get("include_usage")),
            tools=frozenset(_tool_names(document.get("tools"))),
            model=str(document.get("model", "")),
            parameters={**parameters, **output},
        )


def _tool_names(tools: Any) -> Iterator[str]:
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"]

"""Parts of tool calls: names, ids and arguments are found, and arguments are parsed or refused. Pure functions.

A tool must never run with arguments that the model did not write. Both frameworks complete truncated JSON, and take
falsy or unreadable arguments for none, so the checks are here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from nanogpt_core.chat.json_text import strip_code_fence
from nanogpt_core.errors import ReplyError
from nanogpt_core.http.error_body import excerpt

_ARGUMENTS = ("arguments", "parameters", "args", "input")  # other names are those of Llama, Cohere and Anthropic


def parse_arguments(arguments: object) -> str | None:
    """Return the arguments of a tool call as the text of a JSON object; None if they are not one.

    A fenced code block, an object that was encoded twice, and an object in place of its text are accepted. No text and
    null are no arguments: an empty object.
    """
    if isinstance(arguments, Mapping):
        return json.dumps(arguments)
    text = "" if arguments is None else arguments
    if not isinstance(text, str):
        return None
    text = strip_code_fence(text.lstrip("\ufeff"))
    try:
        value = json.loads(text, strict=False) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return text if text.strip() else "{}"
    return parse_arguments(value) if value is None or isinstance(value, str) else None


def normalize_call(call: Any) -> Any:
    """Return a call, or a fragment of one, with its name and its arguments in ``function``, as OpenAI has them."""
    if not isinstance(call, dict):
        return call
    custom = call.get("custom")
    if isinstance(custom, dict):  # a call of a tool with text as its input: a JSON object is parsed, other text is not
        call = {**{name: value for name, value in call.items() if name != "custom"}, "function": custom}
    function = call.get("function")
    if function is None and any(isinstance(call.get(name), (str, dict)) for name in ("name", "arguments")):
        function = {name: call[name] for name in ("name", *_ARGUMENTS) if name in call}
        call = {name: value for name, value in call.items() if name not in function}
    if isinstance(function, dict) and not function.get("arguments"):
        found = next((name for name in _ARGUMENTS if function.get(name)), None)
        if found is not None:
            rest = {name: value for name, value in function.items() if name != found}
            function = {**rest, "arguments": function[found]}
    return call if function is None else {**call, "function": function}


def call_id(call: Mapping[str, Any]) -> str | None:
    """Return the id of a call, or of a fragment of one; None if it has none."""
    identifier = call.get("id")
    return identifier if isinstance(identifier, str) and identifier else None


def new_call_id() -> str:
    """Return a new id; the frameworks match results to calls by their ids."""
    return f"call_{uuid.uuid4().hex[:24]}"


def missing_name_error(call: object) -> ReplyError:
    """Return the error for a call without a name."""
    return ReplyError(
        f"The service sent a tool call without a name: {excerpt(json.dumps(call))}.",
        remedy="Try again, or with another model.",
    )

"""Answers that were cut off: text may stay as it is, but half a tool call, or half of a form, is no answer.

Frameworks close the open brackets of what came and take it for whole: a tool would run with half its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanogpt_core.errors import ReplyError

__all__ = ["check_cut", "has_calls", "wants_structured_output"]

_REASONS = {
    "length": ("it reached max_tokens, or the model's limit", "Raise max_tokens, or ask for less."),
    "content_filter": ("a content filter stopped it", "Ask in other words, or another model."),
}


def wants_structured_output(options: Any) -> bool:
    """Return whether a request (the SDK's options of it) asks for JSON, or for a tool call in any case."""
    parts = (getattr(options, name, None) for name in ("json_data", "extra_json"))
    body: dict[str, Any] = {}
    for part in parts:
        body.update(part if isinstance(part, Mapping) else {})
    form, choice = body.get("response_format"), body.get("tool_choice")
    wants_json = isinstance(form, Mapping) and form.get("type") != "text"
    return wants_json or isinstance(choice, Mapping) or choice == "required"


def has_calls(message: Any) -> bool:
    """Return whether a message, or the piece of one in a stream, has tool calls or pieces of them."""
    return isinstance(message, Mapping) and bool(message.get("tool_calls") or message.get("function_call"))


def check_cut(reason: Any, *, calls: bool, form: bool, request_id: str | None = None) -> None:
    """Check that an answer that was cut off is text.

    Args:
        reason: The ``finish_reason``, or None.
        calls: Whether the answer has tool calls.
        form: Whether a form was asked for; see :func:`wants_structured_output`.
        request_id: The service's ``X-Request-ID``, for the error.

    Raises:
        ReplyError: It is not.
    """
    if not (calls or form) or not isinstance(reason, str) or reason not in _REASONS:
        return
    why, remedy = _REASONS[reason]
    what = "its tool calls are not whole" if calls else "it does not have the form asked for"
    raise ReplyError(
        f"The answer was cut off (finish_reason {reason!r}: {why}), so that {what}.",
        remedy=remedy,
        request_id=request_id,
    )

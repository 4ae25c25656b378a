"""Chat replies: checks and repairs of one reply, whole or a chunk of a stream. Pure functions, without I/O.

Errors that the service sends with status 200, replies without an answer, and truncated tool calls or structured output
are found here; :mod:`~nanogpt_core.chat.repair` and :mod:`~nanogpt_core.chat.tool_calls` repair the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jiter import from_json

from nanogpt_core.chat.repair import repair_message, repair_reply
from nanogpt_core.chat.tool_calls import repair_tool_calls, unfence
from nanogpt_core.errors import DamagedReplyError, RefusalError, ReplyError
from nanogpt_core.http.error_body import error_message, excerpt

__all__ = ["ChatRequest", "ErrorBody", "check_truncated", "check_whole", "find_error", "parse_object"]

# The reference page's status for these codes: the service does not always repeat the status in a stream.
_STATUS_BY_CODE = {
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "invalid_parameter_value": 400,
    "invalid_api_key": 401,
    "insufficient_balance": 402,
    "model_not_found": 404,
    "rate_limited": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "daily_rpd_limit_exceeded": 429,
    "daily_usd_limit_exceeded": 429,
    "service_unavailable": 503,
}
_FIRST_ERROR_STATUS, _LAST_STATUS = 400, 599

_TRUNCATED = {
    "length": ("it reached max_tokens, or the model's limit", "Raise max_tokens, or ask for less."),
    "content_filter": ("a content filter stopped it", "Ask in other words, or another model."),
}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The parts of a request's body that decide how its reply is checked.

    Attributes:
        streams: Whether a stream was asked for.
        structured: Whether the reply must be structured: JSON, or a tool call in any case.
        wants_json: Whether the text of the reply must be JSON.
        choices: Number of choices asked for.
        wants_usage: Whether a stream should end with the token usage.
    """

    streams: bool = False
    structured: bool = False
    wants_json: bool = False
    choices: int = 1
    wants_usage: bool = False

    @classmethod
    def parse(cls, body: bytes) -> ChatRequest:
        """Read a request's body, as it is sent."""
        try:
            document = from_json(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            return cls()
        response_format, tool_choice = document.get("response_format"), document.get("tool_choice")
        wants_json = isinstance(response_format, Mapping) and response_format.get("type") != "text"
        stream_options, choices = document.get("stream_options"), document.get("n")
        return cls(
            streams=document.get("stream") is True,
            structured=wants_json or isinstance(tool_choice, Mapping) or tool_choice == "required",
            wants_json=wants_json,
            choices=choices if isinstance(choices, int) else 1,
            wants_usage=isinstance(stream_options, Mapping) and bool(stream_options.get("include_usage")),
        )


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error that the service put into a reply of status 200.

    Attributes:
        document: The reply that contains the error.
        status: The HTTP status that it names or implies; None if neither is clear.
    """

    document: dict[str, Any]
    status: int | None


def check_whole(body: bytes, request: ChatRequest, request_id: str | None = None) -> dict[str, Any] | ErrorBody:
    """Check and repair the reply to a request that asked for no stream.

    Args:
        body: The body of the response.
        request: The request.
        request_id: The service's ``X-Request-ID``, for errors.

    Returns:
        The reply, or the service's own error if it contains one.

    Raises:
        DamagedReplyError: It is not JSON.
        ReplyError: It contains no answer, or a truncated tool call or structured output.
    """
    document = parse_object(body, request_id)
    error = find_error(document)
    if error is not None:
        return error
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not all(map(_is_answer, choices)):
        raise ReplyError(
            f"The service sent no answer, but {excerpt(body)!r}.",
            remedy="Try again, or with another model.",
            request_id=request_id,
        )
    repair_reply(document, streamed=False)
    for choice in choices:
        message = choice.get("message")
        if message is not None:
            repair_message(message, streamed=False, request_id=request_id)
            calls = repair_tool_calls(message.pop("tool_calls", None), request_id)
            message.update({"tool_calls": calls} if calls else {})
            if request.wants_json and isinstance(message["content"], str):
                message["content"] = unfence(message["content"])
        check_truncated(
            choice["finish_reason"],
            has_calls=message is not None and bool(message.get("tool_calls") or message.get("function_call")),
            structured=request.structured,
            request_id=request_id,
        )
    return document


def parse_object(body: bytes, request_id: str | None = None) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        DamagedReplyError: It is not JSON.
        ReplyError: It is JSON of another type.
    """
    try:
        document = from_json(body)
    except ValueError as error:
        found = f"begins {excerpt(body)!r}" if body.strip() else "is empty"
        raise DamagedReplyError(
            f"The service's reply is not JSON; it {found}.", remedy="Try again.", request_id=request_id
        ) from error
    if not isinstance(document, dict):
        raise ReplyError(
            f"The service's reply is no JSON object; it begins {excerpt(body)!r}.",
            remedy="Check base_url.",
            request_id=request_id,
        )
    return document


def find_error(document: dict[str, Any]) -> ErrorBody | None:
    """Return the error that a reply, or a chunk of a stream, contains; None if it contains none."""
    choices = document.get("choices")
    ended_by_error = isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == "error" for choice in choices
    )
    if document.get("error"):
        return ErrorBody(document, _status(document))
    if ended_by_error or (not choices and error_message(document)):
        return ErrorBody({"error": {"message": error_message(document) or "no reason given"}}, None)
    return None


def check_truncated(reason: Any, *, has_calls: bool, structured: bool, request_id: str | None = None) -> None:
    """Check that a truncated answer is plain text: frameworks complete truncated JSON and take it for the whole.

    Args:
        reason: The ``finish_reason``, or None.
        has_calls: Whether the answer contains tool calls.
        structured: Whether structured output was asked for.
        request_id: The service's ``X-Request-ID``, for the error.

    Raises:
        ReplyError: It is a truncated tool call or structured output; a RefusalError if a content filter stopped it.
    """
    if not (has_calls or structured) or not isinstance(reason, str) or reason not in _TRUNCATED:
        return
    why, remedy = _TRUNCATED[reason]
    effect = "its tool calls are incomplete" if has_calls else "it does not follow the schema asked for"
    kind = RefusalError if reason == "content_filter" else ReplyError
    raise kind(
        f"The answer was cut off (finish_reason {reason!r}: {why}), so {effect}.",
        remedy=remedy,
        request_id=request_id,
    )


def _status(document: dict[str, Any]) -> int | None:
    error = document["error"]
    inner = error if isinstance(error, dict) else {}
    for value in (inner.get("status"), document.get("status"), inner.get("code"), document.get("code")):
        status = _STATUS_BY_CODE.get(value) if isinstance(value, str) else value
        if isinstance(status, int) and _FIRST_ERROR_STATUS <= status <= _LAST_STATUS:
            return status
    return None


def _is_answer(choice: Any) -> bool:
    # The older endpoint, /completions, has the text in the choice itself.
    return isinstance(choice, dict) and (isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str))

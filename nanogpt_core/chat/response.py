"""Chat replies: checks and repairs of one reply, whole or a chunk of a stream. Pure functions, without I/O.

Errors that the service sends with status 200, replies without an answer, and truncated tool calls or structured output
are found here; :mod:`~nanogpt_core.chat.repair` and :mod:`~nanogpt_core.chat.tool_calls` repair the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jiter import from_json

from nanogpt_core.chat.half_characters import mend_all
from nanogpt_core.chat.json_text import repair_json_text
from nanogpt_core.chat.provider_fields import ProviderFields, call_fields
from nanogpt_core.chat.repair import repair_message, repair_reply
from nanogpt_core.chat.tool_calls import repair_tool_calls
from nanogpt_core.errors import DamagedReplyError, RefusalError, ReplyError
from nanogpt_core.http.error_body import error_message, error_status, excerpt

__all__ = ["ChatRequest", "ErrorBody", "check_truncated", "check_whole", "find_error", "parse_object"]

# Finish reasons, in lower case. DeepSeek and GLM have names of their own for a failure, Mistral and GLM for an end;
# Gemini, Bedrock and the gateways before them have several for a filter.
_HALF = b"\\ud"  # the beginning of an escape of a half, or of a whole character of two halves
_FAILED = ("error", "network_error", "insufficient_system_resource")
_TOO_LONG = ("it reached max_tokens, or the model's limit", "Raise max_tokens, or ask for less.")
_FILTERED = ("a content filter stopped it", "Ask in other words, or another model.")
_TRUNCATED = {
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens"), _TOO_LONG),
    **dict.fromkeys(("content_filter", "content-filter", "content_filtered", "guardrail_intervened"), _FILTERED),
    **dict.fromkeys(("safety", "prohibited_content", "recitation", "blocklist", "spii", "image_safety"), _FILTERED),
    **dict.fromkeys(("sensitive", "refusal"), _FILTERED),
    "malformed_function_call": ("the model wrote a tool call that cannot be read", "Ask again, or another model."),
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
        tools: Names of the tools.
        model: Name of the model.
    """

    streams: bool = False
    structured: bool = False
    wants_json: bool = False
    choices: int = 1
    wants_usage: bool = False
    tools: frozenset[str] = frozenset()
    model: str = ""

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
            tools=frozenset(_tool_names(document.get("tools"))),
            model=str(document.get("model", "")),
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
        if not isinstance(message, dict):
            message = choice["message"] = {"content": choice["text"]}
        fields = ProviderFields(streams=False)
        fields.add(message)
        repair_message(message, streamed=False, tools=request.tools, request_id=request_id)
        calls = repair_tool_calls(message.pop("tool_calls", None), request_id)
        fields.add_calls({call["id"]: call_fields(call) for call in calls})
        message.update({"tool_calls": calls} if calls else {})
        message.update(fields.document())
        if request.wants_json and isinstance(message["content"], str):
            message["content"] = repair_json_text(message["content"])
        check_truncated(
            choice["finish_reason"],
            has_calls=bool(message.get("tool_calls") or message.get("function_call")),
            structured=request.structured,
            request_id=request_id,
        )
    return document


def parse_object(body: bytes, request_id: str | None = None, *, keep_halves: bool = False) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        body: Its text.
        request_id: The service's ``X-Request-ID``, for errors.
        keep_halves: Whether halves of characters stay in its texts. If not, replacement characters are in their place.

    Raises:
        DamagedReplyError: It is not JSON.
        ReplyError: It is JSON of another type.
    """
    try:
        document = from_json(body) if _HALF not in body.lower() else _parse_with_halves(body, keep=keep_halves)
    except (ValueError, RecursionError) as error:
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


def _parse_with_halves(body: bytes, *, keep: bool) -> Any:
    document = json.loads(body)  # the other parser takes no halves
    return document if keep else mend_all(document)


def find_error(document: dict[str, Any]) -> ErrorBody | None:
    """Return the error that a reply, or a chunk of a stream, contains; None if it contains none."""
    found = document.get("choices")
    choices = found if isinstance(found, list) else []
    parts = [choice for choice in choices if isinstance(choice, dict)]
    reasons = [choice.get("finish_reason") for choice in parts]
    inside = next((choice for choice in parts if choice.get("error")), None)
    if document.get("error") or (not choices and error_message(document)):
        return ErrorBody(document, error_status(document))
    if inside is not None:  # as OpenRouter has it
        return ErrorBody({"error": inside["error"]}, error_status(inside))
    if any(isinstance(reason, str) and reason.lower() in _FAILED for reason in reasons):
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
    ending = _TRUNCATED.get(reason.lower()) if isinstance(reason, str) else None
    if ending is None or not (has_calls or structured):
        return
    why, remedy = ending
    effect = "its tool calls are incomplete" if has_calls else "it does not follow the schema asked for"
    kind = RefusalError if ending is _FILTERED else ReplyError
    raise kind(
        f"The answer was cut off (finish_reason {reason!r}: {why}), so {effect}.",
        remedy=remedy,
        request_id=request_id,
    )


def _tool_names(tools: Any) -> Iterator[str]:
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"]


def _is_answer(choice: Any) -> bool:
    # The older endpoint, /completions, has the text in the choice itself.
    return isinstance(choice, dict) and (isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str))

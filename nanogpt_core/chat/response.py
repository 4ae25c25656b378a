"""Checks of one chat reply, whole or a chunk of a stream. Pure functions, without I/O.

Errors that the service sends with status 200, and truncated tool calls or structured output are found here;
:mod:`~nanogpt_core.chat.repair` and :mod:`~nanogpt_core.chat.tool_calls` repair the rest.
"""

from __future__ import annotations

import json
import re
from typing import Any

from jiter import from_json

from nanogpt_core.chat.json_text import join_surrogates_in
from nanogpt_core.chat.repair import from_ollama
from nanogpt_core.errors import DamagedReplyError, RefusalError, ReplyError
from nanogpt_core.http.error_body import error_message, error_status, excerpt, remedy_of_page

# JSON escapes of UTF-16 surrogates, single or in pairs.
_SURROGATE = re.compile(rb"\\ud[89a-f][0-9a-f]{2}", re.IGNORECASE)
# Finish reasons, in lower case. DeepSeek, GLM, vLLM and watsonx have names of their own for a failure, Mistral, GLM and
# watsonx for an end; Gemini, Bedrock, Cohere and the gateways before them have several for a filter.
_FAILED = frozenset(
    {"error", "network_error", "insufficient_system_resource", "abort", "aborted", "timeout"}
    | {"cancelled", "canceled", "user_cancel"}
)
_TOO_LONG = ("it reached max_tokens, or the model's limit", "Raise max_tokens, or ask for less.")
_FILTERED = ("a content filter stopped it", "Ask in other words, or another model.")
_UNREADABLE = ("the model wrote a tool call that cannot be read", "Ask again, or another model.")
_TRUNCATED = {
    **dict.fromkeys(("length", "max_tokens", "model_length", "max_output_tokens", "max_output"), _TOO_LONG),
    **dict.fromkeys(("token_limit", "time_limit", "error_limit", "model_context_window_exceeded"), _TOO_LONG),
    **dict.fromkeys(("content_filter", "content-filter", "content_filtered", "guardrail_intervened"), _FILTERED),
    **dict.fromkeys(("safety", "prohibited_content", "recitation", "blocklist", "spii", "image_safety"), _FILTERED),
    **dict.fromkeys(("image_prohibited_content", "image_recitation", "error_toxic"), _FILTERED),
    **dict.fromkeys(("sensitive", "refusal"), _FILTERED),
    **dict.fromkeys(("malformed_function_call", "malformed_tool_use", "malformed_model_output"), _UNREADABLE),
    **dict.fromkeys(("unexpected_tool_call", "too_many_tool_calls"), _UNREADABLE),
}


class ReportedError(Exception):
    """An error that the service reports in a reply of status 200.

    Attributes:
        document: The reply that contains the error.
        status: The HTTP status that it names or implies; None if neither is clear.
    """

    def __init__(self, document: dict[str, Any], status: int | None) -> None:
        super().__init__(error_message(document))
        self.document = document
        self.status = status


def parse_object(body: bytes, *, keep_surrogates: bool = False) -> dict[str, Any]:
    """Parse a JSON object. Replacement characters are in the place of single surrogates, unless these are kept.

    Raises:
        DamagedReplyError: It is not JSON.
        ReplyError: It is JSON of another type.
    """
    # Without a byte order mark, and with replacement characters in place of bytes that are no UTF-8.
    text = body.decode("utf-8-sig", errors="replace").encode()
    try:
        has_surrogates = _SURROGATE.search(text) is not None
        document = _parse_with_surrogates(text, keep=keep_surrogates) if has_surrogates else from_json(text)
    except ValueError as error:
        found = f"begins {excerpt(body)!r}" if body.strip() else "is empty"
        raise DamagedReplyError(
            f"The service's reply is not JSON; it {found}.", remedy=remedy_of_page(text, "Try again.")
        ) from error
    if isinstance(document, list) and len(document) == 1:  # Gemini's endpoint puts an error into an array
        (document,) = document
    if not isinstance(document, dict):
        raise ReplyError(
            f"The service's reply is no JSON object; it begins {excerpt(body)!r}.", remedy="Check base_url."
        )
    return from_ollama(document)


def _parse_with_surrogates(text: bytes, *, keep: bool) -> Any:
    # jiter refuses single surrogates, and deep nesting, which json takes.
    from_json(_SURROGATE.sub(rb"\\u0041", text))
    document = json.loads(text)
    return document if keep else join_surrogates_in(document)


def check_no_error(document: dict[str, Any]) -> None:
    """Check that a reply, or a chunk of a stream, contains no error of the service.

    Raises:
        ReportedError: It contains one.
    """
    found = document.get("choices")
    choices = found if isinstance(found, list) else []
    is_error = _is_error(document.get("error"))
    words = "" if choices else error_message({**document, "error": document["error"] if is_error else None})
    if is_error or words:
        raise ReportedError(document, error_status(document))
    for choice in choices:
        fields = choice if isinstance(choice, dict) else {}
        if _is_error(fields.get("error")):  # as OpenRouter has it
            raise ReportedError({"error": fields["error"]}, error_status(fields))
        reason = fields.get("finish_reason")
        if not _FAILED.isdisjoint(_reason_names(reason)):
            words = error_message(document) or f"finish_reason {reason!r}, no reason given"
            raise ReportedError({"error": {"message": words}}, None)


def _is_error(error: Any) -> bool:
    """Return whether a field ``error`` is one: gateways in Go send it in every reply, with nothing in it."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def check_truncated(reason: Any, *, has_calls: bool, structured: bool) -> None:
    """Check that a truncated answer is plain text: frameworks complete truncated JSON and take it for the whole.

    Raises:
        ReplyError: It is a truncated tool call or structured output, or lacks a tool call that could not be read; a
            RefusalError if a content filter stopped it.
    """
    ending = next((_TRUNCATED[name] for name in reversed(_reason_names(reason)) if name in _TRUNCATED), None)
    if ending is None or not (has_calls or structured or ending is _UNREADABLE):
        return
    why, remedy = ending
    if has_calls:
        effect = "its tool calls are incomplete"
    else:
        effect = "it does not follow the schema asked for" if structured else "it lacks a tool call"
    kind = RefusalError if ending is _FILTERED else ReplyError
    raise kind(f"The answer was cut off (finish_reason {reason!r}: {why}), so {effect}.", remedy=remedy)


def _reason_names(reason: Any) -> list[str]:
    """Return the names in a finish reason; Gemini's have two: ``content_filter: RECITATION``."""
    return re.split(r"\W*[:\s]\W*", reason.strip().lower()) if isinstance(reason, str) else []

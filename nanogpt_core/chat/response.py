"""What a chat reply must hold, whole or as a stream of events. Pure: says what is wrong with what came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jiter import from_json

from nanogpt_core.chat.truncation import check_cut, has_calls
from nanogpt_core.errors import DamagedReplyError, ReplyError
from nanogpt_core.http.error_body import error_message, excerpt

__all__ = ["ErrorBody", "StreamReader", "check_whole"]

_DONE = "[DONE]"
# What the reference gives with these codes, where the service does not repeat the status in a stream.
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


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error that the service put into a reply of status 200.

    Attributes:
        document: What it sent, with the error in it.
        status: The HTTP status that it names or means; None where neither is clear.
    """

    document: dict[str, Any]
    status: int | None


def check_whole(body: bytes, request_id: str | None = None, *, form: bool = False) -> ErrorBody | None:
    """Check the reply to a request that asked for no stream.

    Args:
        body: What came.
        request_id: The service's ``X-Request-ID``, for errors.
        form: Whether a form was asked for, as :func:`~nanogpt_core.chat.truncation.wants_structured_output` tells.

    Returns:
        The service's own error, if the reply is one; None for an answer.

    Raises:
        DamagedReplyError: It is not JSON.
        ReplyError: It holds no answer, or half a tool call, or half a form.
    """
    document = _document(body, request_id)
    complaint = _complaint(document)
    if complaint is None:
        choices = document.get("choices")
        if not isinstance(choices, list) or not choices or not all(map(_is_answer, choices)):
            raise ReplyError(
                f"The service sent no answer, but {excerpt(body)!r}.",
                remedy="Try again, or with another model.",
                request_id=request_id,
            )
        for choice in choices:
            calls = has_calls(choice.get("message"))
            check_cut(choice.get("finish_reason"), calls=calls, form=form, request_id=request_id)
    return complaint


class StreamReader:
    """Reads a stream's events one after another, and knows whether its end has come.

    Args:
        request_id: The service's ``X-Request-ID``, for errors.
        form: Whether a form was asked for, as :func:`~nanogpt_core.chat.truncation.wants_structured_output` tells.
    """

    def __init__(self, request_id: str | None = None, *, form: bool = False) -> None:
        self._request_id = request_id
        self._form = form
        self._calling: set[int] = set()
        self._done = False
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether the answer is whole: ``[DONE]`` has come, or a finish_reason for each choice that has begun."""
        return self._done or (bool(self._finished) and self._begun <= self._finished)

    def read(self, event: str) -> dict[str, Any] | ErrorBody | None:
        """Return the chunk that an event holds, or the error, or None where the event ends the stream.

        Raises:
            DamagedReplyError: It is not JSON.
            ReplyError: It is something else than a chunk, or cuts off a tool call or a form.
        """
        if event.startswith(_DONE):
            self._done = True
            return None
        document = _document(event.encode(), self._request_id)
        complaint = _complaint(document)
        if complaint is None:
            _fill_gaps(document)
            for choice in document["choices"]:
                self._note(choice["index"], choice)
        return complaint or document

    def _note(self, index: int, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if has_calls(choice["delta"]):
            self._calling.add(index)
        check_cut(reason, calls=index in self._calling, form=self._form, request_id=self._request_id)
        (self._finished if reason else self._begun).add(index)

    def end(self) -> None:
        """Check that the stream may end here.

        Raises:
            DamagedReplyError: It broke off.
        """
        if not self.complete:
            raise DamagedReplyError(
                "The service's answer broke off: its stream ended without a finish_reason and without [DONE].",
                remedy="Try again.",
                request_id=self._request_id,
            )


def _document(body: bytes, request_id: str | None) -> dict[str, Any]:
    try:
        document = from_json(body)
    except ValueError as error:
        what = f"begins {excerpt(body)!r}" if body.strip() else "is empty"
        raise DamagedReplyError(
            f"The service's reply is not JSON; it {what}.", remedy="Try again.", request_id=request_id
        ) from error
    if not isinstance(document, dict):
        raise ReplyError(
            f"The service's reply is no JSON object; it begins {excerpt(body)!r}.",
            remedy="Check base_url.",
            request_id=request_id,
        )
    return document


def _complaint(document: dict[str, Any]) -> ErrorBody | None:
    choices = document.get("choices")
    broken = isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == "error" for choice in choices
    )
    if document.get("error"):
        return ErrorBody(document, _status(document))
    if broken or (not choices and error_message(document)):
        return ErrorBody({"error": {"message": error_message(document) or "no reason given"}}, None)
    return None


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


def _fill_gaps(chunk: dict[str, Any]) -> None:
    """Put in what the frameworks rely on and some hosts leave out."""
    choices = chunk.get("choices")
    chunk["choices"] = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    for choice in chunk["choices"]:
        if not isinstance(choice.get("index"), int):
            choice["index"] = 0
        if not isinstance(choice.get("delta"), dict):
            choice["delta"] = {}
        if choice["delta"].get("content") is None and {"reasoning", "reasoning_content"} & choice["delta"].keys():
            # LlamaIndex's async stream passes over a first chunk without content.
            choice["delta"]["content"] = ""
        calls = choice["delta"].get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict) and not isinstance(call.get("index"), int):
                call["index"] = position

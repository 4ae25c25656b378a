"""Whole replies: read as a stream of one chunk, or as the stream that a host sends without being asked. No I/O."""

from __future__ import annotations

import codecs
from dataclasses import replace
from typing import Any

from nanogpt_core.chat.event_parser import EventParser
from nanogpt_core.chat.json_text import is_json
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.response import check_no_error, parse_object
from nanogpt_core.chat.stream import StreamReader
from nanogpt_core.chat.tool_calls import missing_name_error, normalize_call
from nanogpt_core.errors import ReplyError
from nanogpt_core.http.error_body import excerpt

_EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def is_stream(body: bytes) -> bool:
    """Return whether a body is server-sent events, or lines of JSON; its content type may be wrong."""
    body = body.removeprefix(codecs.BOM_UTF8).lstrip()
    first_line, _, more = body.partition(b"\n")
    has_lines = (
        body.startswith(b"{") and more.lstrip().startswith(b"{") and is_json(first_line.decode(errors="replace"))
    )
    return has_lines or body.lower().startswith(_EVENT_FIELDS)


def first_event(body: bytes) -> bytes:
    """Return the data of the first event of a body, since some hosts send an error as an event; else the body."""
    parser = EventParser()
    events = [*parser.feed(body), *parser.finish()] if is_stream(body) else []
    return events[0].encode() if events else body


def parse_reply(body: bytes, request: ChatRequest) -> dict[str, Any]:
    """Parse, check and repair the body of the reply to a request that asked for no stream.

    Raises:
        ReportedError: The service reports an error.
        DamagedReplyError: It is not JSON.
        ReplyError: It contains no answer, or a truncated tool call or structured output.
    """
    if is_stream(body):
        reader = StreamReader(request)
        reader.push(body)
    else:
        chunk = _parse_chunk(body)
        reader = StreamReader(replace(request, choices=max(request.choices, len(chunk["choices"]))))
        reader.add(chunk)
        reader.push(b"data: [DONE]\n\n")
    reader.push(None)
    reply: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    while chunk := reader.pop_chunk() or {}:
        for part in chunk.pop("choices"):
            _add_part(choices.setdefault(part["index"], {"message": {}, "finish_reason": None}), part)
        reply.update(chunk)
    return {**reply, "object": "chat.completion", "choices": [choices[index] for index in sorted(choices)]}


def _parse_chunk(body: bytes) -> dict[str, Any]:
    """Return a whole reply as the only chunk of a stream: its choices and tool calls are numbered."""
    document = parse_object(body)
    check_no_error(document)
    found = document.get("choices")
    choices = [one for one in found if _is_answer(one)] if isinstance(found, list) else []
    if not choices:
        raise ReplyError(
            f"The service sent no answer, but {excerpt(body)!r}.", remedy="Try again, or with another model."
        )
    if sorted(str(choice.get("index")) for choice in choices) != [str(at) for at in range(len(choices))]:
        choices = [{**choice, "index": at} for at, choice in enumerate(choices)]
    for choice in choices:
        message = choice.get("message")
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for at, call in enumerate(calls if isinstance(calls, list) else ()):
            if not isinstance(call, dict):
                continue
            function = normalize_call(call).get("function")
            if not (isinstance(function, dict) and function.get("name")):
                raise missing_name_error(call)  # in a stream it could be a part of the call before
            call["index"] = at  # many hosts give all calls one
    return {**document, "choices": choices}


def _is_answer(choice: Any) -> bool:
    # The older endpoint, /completions, has the text in the choice itself. A single chunk is whole if it has an end.
    if not isinstance(choice, dict):
        return False
    is_message = isinstance(choice.get("message"), dict) or isinstance(choice.get("text"), str)
    return is_message or (isinstance(choice.get("delta"), dict) and bool(choice.get("finish_reason")))


def _add_part(choice: dict[str, Any], part: dict[str, Any]) -> None:
    """Add the part of a choice that one event has, to the choice; in place."""
    message, delta = choice["message"], part.pop("delta")
    for fragment in delta.pop("tool_calls", ()):
        calls, index = message.setdefault("tool_calls", []), fragment.pop("index")
        if index == len(calls):
            calls.append({})
        _join(calls[index], fragment)
    _join(message, delta)
    _join(choice, part)


def _join(known: dict[str, Any], further: dict[str, Any]) -> None:
    """Add further fields: texts, lists and objects are joined, ids and other values replaced; in place."""
    for name, value in further.items():
        before = known.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _join(before, value)
        elif isinstance(before, str) and isinstance(value, str) and name != "id":
            known[name] = before + value
        elif isinstance(before, list) and isinstance(value, list):
            before += value
        elif value is not None or before is None:
            known[name] = value

"""Streams that come although none was asked for: their events become one whole reply. No I/O."""

from __future__ import annotations

import codecs
import json
from typing import Any

from nanogpt_core.chat.event_parser import EventParser
from nanogpt_core.chat.json_text import is_json
from nanogpt_core.chat.response import ChatRequest
from nanogpt_core.chat.stream import StreamReader

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


def join_stream(body: bytes, request: ChatRequest) -> dict[str, Any]:
    """Return the whole reply that the events of a body make.

    Args:
        body: The body of a response, with all events.
        request: The request.

    Raises:
        ReplyError: See :meth:`~nanogpt_core.chat.stream.StreamReader.pop`.
        ReportedError: An event reports an error.
    """
    reader = StreamReader(request)
    reader.push(body)
    reader.push(None)
    reply: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    while (event := reader.pop()) is not None and not reader.has_ended:
        chunk = json.loads(event.removeprefix(b"data:"))
        for part in chunk.pop("choices"):
            _add_part(choices.setdefault(part["index"], {"message": {}, "finish_reason": None}), part)
        reply.update(chunk)
    whole = [_with_joined_texts(choices[index]) for index in sorted(choices)]
    return {**reply, "object": "chat.completion", "choices": whole}


class _TextParts:
    """The parts of a text, which are joined once: there may be many."""

    def __init__(self) -> None:
        self.parts: list[str] = []


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
    """Add further fields: texts, lists and objects are joined, other values replaced; in place."""
    for name, value in further.items():
        before = known.get(name)
        if isinstance(value, str):
            known[name] = before if isinstance(before, _TextParts) else _TextParts()
            known[name].parts.append(value)
        elif isinstance(value, list):
            known[name] = before if isinstance(before, list) else []
            known[name] += value
        elif isinstance(value, dict):
            known[name] = before if isinstance(before, dict) else {}
            _join(known[name], value)
        elif value is not None or before is None:
            known[name] = value


def _with_joined_texts(value: Any) -> Any:
    """Return a value with a text in place of each :class:`_TextParts` in it."""
    if isinstance(value, _TextParts):
        return "".join(value.parts)
    if isinstance(value, list):
        return [_with_joined_texts(one) for one in value]
    return {name: _with_joined_texts(one) for name, one in value.items()} if isinstance(value, dict) else value

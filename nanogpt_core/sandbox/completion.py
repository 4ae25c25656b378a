"""A chat reply on the wire: the JSON of a plain one, the server-sent events of a streamed one."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from nanogpt_core.sandbox.problems import Problem
from nanogpt_core.sandbox.replies import Reply

__all__ = ["ChatAnswer"]

_PIECES = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")
_ARGUMENT_PIECES = re.compile(r".{1,7}", re.DOTALL)


@dataclass(frozen=True)
class ChatAnswer:
    """An answer, ready to be sent in either form."""

    model: str
    reply: Reply
    usage: Mapping[str, Any]
    streamed: bool
    usage_in_stream: bool

    def whole(self) -> bytes:
        """Return the JSON of the plain reply.

        Raises:
            Problem: The reply is an error.
        """
        reply = self.reply
        if reply.error is not None:
            status = reply.error.get("status", 500)
            raise Problem(status, str(reply.error.get("message")), body={"error": dict(reply.error)})
        calls = [{"id": name, "type": "function", "function": function} for name, function in self._calls()]
        message: dict[str, Any] = {"role": "assistant", "content": reply.content or (None if calls else "")}
        if reply.reasoning:
            message[reply.reasoning_field] = reply.reasoning
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.reason}
        return orjson.dumps({**self._head("chat.completion"), "choices": [choice], "usage": self.usage})

    def events(self) -> Iterator[bytes]:
        """Yield the server-sent events of the streamed reply."""
        head = self._head("chat.completion.chunk")
        if self.usage_in_stream:
            head["usage"] = None
        for delta in self._deltas():
            yield _event({**head, "choices": [_choice(delta, None)]})
        if self.reply.cut_off:
            return
        if self.reply.error is not None:
            yield _event({**head, "choices": [_choice({}, "error")], "error": self.reply.error})
        else:
            yield _event({**head, "choices": [_choice({}, self.reply.reason)]})
            if self.usage_in_stream:
                yield _event({**head, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        for piece in _PIECES.findall(self.reply.reasoning):
            yield {self.reply.reasoning_field: piece}
        for piece in _PIECES.findall(self.reply.content):
            yield {"content": piece}
        for index, (name, function) in enumerate(self._calls()):
            begun = {"name": function["name"], "arguments": ""}
            yield {"tool_calls": [{"index": index, "id": name, "type": "function", "function": begun}]}
            for piece in _ARGUMENT_PIECES.findall(function["arguments"]):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _calls(self) -> Iterator[tuple[str, dict[str, str]]]:
        for position, call in enumerate(self.reply.tool_calls):
            yield call.id or f"call_{position}", {"name": call.name, "arguments": call.arguments_text}

    def _head(self, kind: str) -> dict[str, Any]:
        name = f"chatcmpl-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.model}


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk, default=dict) + b"\n\n"


def _choice(delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

"""Chat streams: server-sent events that are checked and repaired one by one, without I/O."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from nanogpt_core.chat.event_parser import EventParser, is_done
from nanogpt_core.chat.json_text import JsonTextStream, is_json
from nanogpt_core.chat.provider_fields import ProviderFields
from nanogpt_core.chat.repair import PRICING, merge_usage, repair_message, repair_reply, repair_usage, wrong_type
from nanogpt_core.chat.response import ChatRequest, check_no_error, check_truncated, parse_object
from nanogpt_core.chat.surrogates import SurrogateJoiner
from nanogpt_core.chat.tool_call_stream import ToolCallAssembler
from nanogpt_core.errors import DamagedReplyError, ReplyError
from nanogpt_core.http.error_body import excerpt, remedy_of_page

__all__ = ["StreamReader"]

# Waits after the last finish_reason: some servers send no [DONE] and keep the connection open.
_GRACE_SECONDS = 0.5
_USAGE_GRACE_SECONDS = 3.0
_TEXTS = ("content", "refusal", "reasoning", "reasoning_content")
_JOINED_FIELDS = ("role", *_TEXTS, "tool_calls", "function_call")


class StreamReader:
    """Checks the events of one stream, and knows whether the answer is complete.

    :meth:`push` takes bytes as they come, :meth:`pop` returns clean events one by one: one choice and one tool call an
    event, a finish_reason once for each choice, and the usage once, at the end.

    Args:
        request: The request.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._parser = EventParser()
        self._events: deque[str] = deque()
        self._ready: deque[bytes] = deque()
        self._calls: dict[int, ToolCallAssembler] = {}
        self._old_calls: set[int] = set()
        self._fields: dict[int, ProviderFields] = {}
        self._refusals: dict[int, str] = {}
        self._json_texts: dict[int, JsonTextStream] = {}
        self._places: dict[int, int] = {}
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._left_out: dict[int, bool] = {}  # choices with content that were not asked for: whether they are finished
        self._held: list[
            dict[str, Any]
        ] = []  # parts of the only choice under another index, or parts of another choice
        self._envelope: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._pricing: Any = None
        self._surrogates = SurrogateJoiner()
        self._has_said: set[int] = set()
        self._goes_on = False
        self._done = False
        self._at_end = False
        self._ended = False

    @property
    def has_ended(self) -> bool:
        """True after the last event."""
        return self._ended and not self._ready

    @property
    def is_complete(self) -> bool:
        """True after ``[DONE]``, or after a finish_reason for each choice that has begun."""
        return self._done or (bool(self._finished) and self._begun <= self._finished)

    @property
    def needs_nothing(self) -> bool:
        """True once every choice that was asked for is complete, and the usage is there if it was asked for."""
        return self._has_all_choices and (self._usage is not None or not self._request.wants_usage)

    @property
    def _has_all_choices(self) -> bool:
        return self.is_complete and len(self._finished) >= self._request.choices

    @property
    def usage(self) -> dict[str, Any] | None:
        """The token usage and the cost so far, as :func:`~nanogpt_core.chat.repair.repair_usage` gives them."""
        return repair_usage(self._usage, self._pricing)

    def wait_seconds(self, timeout: float) -> float:
        """Return the seconds to wait for the next event: ``timeout``, or a short grace after a complete answer."""
        if not self._has_all_choices or self._goes_on:
            return timeout
        return min(timeout, _GRACE_SECONDS if self.needs_nothing else _USAGE_GRACE_SECONDS)

    def push(self, data: bytes | None) -> None:
        """Take the next bytes; None at the end."""
        if data is not None:
            self._events.extend(self._parser.feed(data))
            return
        self._at_end = True
        # A last event without its blank line counts if it is whole.
        events = [event for event in self._parser.finish() if is_done(event) or is_json(event)]
        if events:
            self._events += events
        elif is_json(self._parser.other_text):
            # An answer that came whole, in several lines; or an error after the beginning of an answer.
            self._events += [self._parser.other_text] if self._begun else [self._parser.other_text, "[DONE]"]

    def pop(self) -> bytes | None:
        """Return the next clean event; None if further bytes are needed, or at the end.

        Raises:
            DamagedReplyError: An event is not JSON, or the stream broke off.
            ReplyError: An event is not a chunk, or truncates a tool call or structured output.
            ReportedError: The service reports an error.
        """
        while not self._ready and not self._ended:
            if self._events:
                self._read(self._events.popleft())
            elif self._at_end:
                self._end()
            else:
                return None
        return self._ready.popleft() if self._ready else None

    def _read(self, event: str) -> None:
        if is_done(event):
            self._done = True
            self._end()
            return
        if event.strip() in ("null", '""'):
            return
        chunk = parse_object(event.encode(errors="replace"), keep_surrogates=True)
        check_no_error(chunk)
        repair_reply(chunk, streamed=True)
        # Some hosts repeat the usage so far in every chunk, and LangChain would add it up.
        usage, pricing = chunk.pop("usage", None), chunk.pop(PRICING, None)
        self._usage, self._pricing = merge_usage(self._usage, usage), pricing or self._pricing
        choices = chunk.pop("choices")
        self._envelope = chunk
        for choice in choices:
            self._read_choice(choice)
        # After the answer, an event that says nothing must not begin a new wait.
        if not choices and not usage and not pricing and not self._has_all_choices:
            self._emit()

    def _read_choice(self, choice: dict[str, Any]) -> None:
        choice["index"] = self._place(choice["index"])
        choice["delta"] = self._delta(choice)
        if not self._is_left_out(choice):
            self._send_on(choice)

    def _delta(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return the delta of a choice. Some hosts send a message or a text in its place, or the message once more."""
        delta, message, text = choice.get("delta"), choice.pop("message", None), choice.get("text")
        if isinstance(delta, str):
            delta = {"content": delta}
        if not delta and isinstance(message, dict) and choice["index"] not in self._has_said:
            delta = message
        if not delta and isinstance(text, str):
            delta = {"content": text}
        if delta and not isinstance(delta, dict):
            raise wrong_type("a delta", delta)
        return delta or {}

    def _send_on(self, choice: dict[str, Any]) -> None:
        index, reason, delta = choice["index"], choice["finish_reason"], choice["delta"]
        if _has_content(delta):
            self._has_said.add(index)
            # A host that ends each part can take long for the next one.
            self._goes_on = self._goes_on or index in self._finished
        self._fields.setdefault(index, ProviderFields(streams=True)).add(delta)
        repair_message(delta, streamed=True, tools=self._request.tools)
        for name in _TEXTS:
            if isinstance(delta.get(name), str):
                delta[name] = self._surrogates.join((index, name), delta[name], is_last=bool(reason))
        # The SDK joins the parts of an answer in JSON: all texts, and lists by the index of their entries.
        delta.pop("role", None)
        delta.update({"role": "assistant"} if index not in self._begun else {})
        if self._request.wants_json:
            delta = choice["delta"] = {name: value for name, value in delta.items() if name in _JOINED_FIELDS}
        # A refusal is sent on whole: LangChain raises its first part.
        self._refusals[index] = self._refusals.get(index, "") + (delta.pop("refusal", None) or "")
        fragments = self._tool_calls(index, delta.pop("tool_calls", None))
        if delta.get("function_call"):
            self._old_calls.add(index)
        check_truncated(
            reason,
            has_calls=index in self._calls or index in self._old_calls,
            structured=self._request.structured,
        )
        if self._request.wants_json:
            text = self._json_texts.setdefault(index, JsonTextStream())
            delta["content"] = text.add(delta.get("content"), is_last=bool(reason) and index not in self._finished)
            if text.is_too_deep:
                raise ReplyError(
                    "The answer does not follow the schema asked for: its JSON is nested too deeply.",
                    remedy="Ask again, or another model.",
                )
        if index not in self._begun and not fragments:
            # LlamaIndex's async stream passes over a first chunk without content.
            delta["content"] = delta["content"] or ""
        # After tool calls, which can be held back until the end: LlamaIndex takes the last part as the answer.
        if reason and self._refusals[index] and index not in self._calls:
            delta["refusal"] = self._refusals.pop(index)
        if index in self._finished:
            choice["finish_reason"] = None  # LangChain would join the two
        says_nothing = self._has_all_choices and not fragments and not any(delta.values())
        self._begun.add(index)
        if reason:
            self._finished.add(index)
        if not says_nothing:
            self._emit_choice(choice, fragments)

    def _is_left_out(self, choice: dict[str, Any]) -> bool:
        """Return whether a part of a choice is not sent on.

        The frameworks would join a choice that was not asked for to the first one. But if the first one goes no
        further, it is the first one under another index; so its parts are held until that is certain.
        """
        index, reason = choice["index"], choice["finish_reason"]
        has_content = _has_content(choice["delta"])
        if index < self._request.choices:
            if has_content or reason:
                for held in self._held:
                    self._leave_out(held)
                self._held = []
            return False
        may_be_first = self._request.choices == 1 and not self._left_out and not self._finished
        if may_be_first and not self._held and not has_content:
            choice["index"] = 0  # the end of the only choice
            return False
        if may_be_first:
            self._held.append(choice)
        elif has_content or index in self._left_out:
            self._leave_out(choice)
        return True

    def _leave_out(self, choice: dict[str, Any]) -> None:
        index = choice["index"]
        self._left_out[index] = bool(choice["finish_reason"]) or self._left_out.get(index, False)

    def _place(self, index: int) -> int:
        """Return the position of a choice; some hosts count from 1, or give a number that means something else."""
        if index not in self._places:
            free = [place for place in range(len(self._places) + 1) if place not in self._places.values()]
            wanted = index < self._request.choices and index not in self._places.values()
            self._places[index] = index if wanted else free[0]
        return self._places[index]

    def _tool_calls(self, index: int, fragments: Any) -> list[dict[str, Any]]:
        if not fragments:
            return []
        if not isinstance(fragments, list | dict):
            raise wrong_type("tool calls", fragments)
        if index not in self._calls:
            self._calls[index] = ToolCallAssembler(self._request.tools)
        return self._calls[index].add(fragments)

    def _emit_choice(self, choice: dict[str, Any], fragments: list[dict[str, Any]]) -> None:
        # LlamaIndex looks only at the first tool call of a chunk.
        reason = choice["finish_reason"]
        for number, fragment in enumerate(fragments):
            choice["delta"]["tool_calls"] = [fragment]
            choice["finish_reason"] = reason if number == len(fragments) - 1 else None
            self._emit(choice)
            choice = {"index": choice["index"], "delta": {}, "finish_reason": None}
        if not fragments:
            self._emit(choice)

    def _end(self) -> None:
        held, self._held = self._held, []
        for choice in held:
            self._send_on({**choice, "index": 0})
        if not self.is_complete:
            other = self._parser.other_text
            raise DamagedReplyError(
                f"The service sent no stream, but {excerpt(other)!r}."
                if other and not self._begun
                else "The service's answer broke off: its stream ended without a finish_reason and without [DONE].",
                remedy="Try again." if self._begun else remedy_of_page(other.encode(), "Try again."),
            )
        if not self._begun:
            raise DamagedReplyError("The service's stream ended without an answer.", remedy="Try again.")
        if self._done and self._left_out and not (all(self._left_out.values()) and self._begun <= self._finished):
            raise ReplyError(
                "The service sent parts of its answer under several indices, and they are not whole choices.",
                remedy="Ask without streaming, or another model.",
            )
        rest: list[tuple[int, dict[str, Any]]] = []
        for index, calls in self._calls.items():
            rest += [(index, {"tool_calls": [fragment]}) for fragment in calls.finish()]
            self._fields[index].add_calls(calls.fields())
        rest += [(index, {"refusal": text}) for index, text in self._refusals.items() if text]
        unfinished = {index: text for index, text in self._json_texts.items() if index not in self._finished}
        rest += [(index, {"content": text.add(None, is_last=True)}) for index, text in unfinished.items()]
        rest += [(index, delta) for index, fields in self._fields.items() if (delta := fields.document())]
        for index, delta in rest:
            self._emit({"index": index, "delta": delta, "finish_reason": None})
        if self._usage is not None or self._pricing is not None:
            more = {} if self._pricing is None else {PRICING: self._pricing}
            self._envelope.update(more, usage=repair_usage(self._usage, self._pricing))
            self._emit()
        self._ended = True
        self._ready.append(_sse("[DONE]"))

    def _emit(self, *choices: dict[str, Any]) -> None:
        self._ready.append(_sse(json.dumps({**self._envelope, "choices": choices})))


def _has_content(delta: dict[str, Any]) -> bool:
    return any(value for name, value in delta.items() if name != "role")


def _sse(data: str) -> bytes:
    return f"data: {data}\n\n".encode()

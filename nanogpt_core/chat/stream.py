"""Chat streams: server-sent events that are checked and repaired one by one, without I/O."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from itertools import count
from typing import Any

from nanogpt_core.chat.choice_stream import ChoiceStream, find_delta, has_content
from nanogpt_core.chat.event_parser import EventParser, is_done
from nanogpt_core.chat.json_text import is_json
from nanogpt_core.chat.repair import PRICING, merge_usage, repair_chunk, repair_usage
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.response import check_no_error, parse_object
from nanogpt_core.errors import DamagedReplyError, ReplyError
from nanogpt_core.http.error_body import excerpt, remedy_of_page

# Waits after the last finish_reason, since some servers send no [DONE] and keep the connection open; and after [DONE],
# since some send the usage then, and since a connection can be used again only if all bytes were read.
_GRACE_SECONDS = 0.5
_USAGE_GRACE_SECONDS = 3.0


class StreamReader:
    """Checks the events of one stream, and knows whether the answer is complete.

    :meth:`push` takes bytes as they come, :meth:`pop` returns clean events one by one: one choice and one tool call an
    event, a finish_reason once for each choice, and the usage once, at the end.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._parser = EventParser()
        self._events: deque[str] = deque()
        self._ready: deque[dict[str, Any]] = deque()
        self._choices: dict[int, ChoiceStream] = {}
        self._positions: dict[int, int] = {}
        # Parts under further indices: of choices that were not asked for, or of the only choice under another index.
        self._further_parts: list[dict[str, Any]] = []
        self._are_further_choices = False
        self._envelope: dict[str, Any] = {}
        self._finish_reasons: dict[int, str] = {}
        self._usage: dict[str, Any] | None = None
        self._pricing: Any = None
        self._without_answer = ""  # the last event with no choice and no usage
        self._has_done_event = False
        self._has_all_data = False
        self._ended = False

    @property
    def has_ended(self) -> bool:
        """True after the last event."""
        return self._ended and not self._ready

    @property
    def is_complete(self) -> bool:
        """True after ``[DONE]``, or after a finish_reason for each choice that has begun."""
        return self._has_done_event or self._are_all_finished

    @property
    def has_everything(self) -> bool:
        """True after ``[DONE]``, or once each choice asked for is complete, and the usage is there if asked for."""
        has_usage = self._usage is not None or not self._request.wants_usage
        return self._has_done_event or (self._has_all_choices and has_usage)

    @property
    def _are_all_finished(self) -> bool:
        return bool(self._choices) and all(stream.is_finished for stream in self._choices.values())

    @property
    def _has_all_choices(self) -> bool:
        return self._are_all_finished and len(self._choices) >= self._request.choices

    @property
    def model(self) -> str:
        """The model that the last chunk names; empty if it names none."""
        return str(self._envelope.get("model", ""))

    @property
    def finish_reasons(self) -> list[str]:
        """The finish_reasons so far, in the order of their choices."""
        return [self._finish_reasons[index] for index in sorted(self._finish_reasons)]

    @property
    def usage(self) -> dict[str, Any] | None:
        """The token usage and the cost so far, as :func:`~nanogpt_core.chat.repair.repair_usage` gives them."""
        return repair_usage(self._usage, self._pricing)

    def wait_seconds(self, timeout: float) -> float:
        """Return the seconds to wait for the next event: ``timeout``, or a short grace after a complete answer."""
        goes_on = any(stream.goes_on for stream in self._choices.values())
        if not self._has_done_event and (not self._has_all_choices or goes_on):
            return timeout
        return min(timeout, _GRACE_SECONDS if self.has_everything else _USAGE_GRACE_SECONDS)

    def push(self, data: bytes | None) -> None:
        """Take the next bytes; None at the end."""
        if data is not None:
            self._events.extend(self._parser.feed(data))
            return
        self._has_all_data = True
        # A last event without its blank line counts if it is whole.
        events = [event for event in self._parser.finish() if is_done(event) or is_json(event)]
        if events:
            self._events += events
        elif is_json(self._parser.other_text):
            # An answer that came whole, in several lines; or an error after the beginning of an answer.
            self._events += [self._parser.other_text] if self._choices else [self._parser.other_text, "[DONE]"]

    def pop(self) -> bytes | None:
        """Return the next clean event; None if further bytes are needed, or at the end; see :meth:`pop_chunk`."""
        chunk = self.pop_chunk()
        return None if chunk is None else b"data: %b\n\n" % (json.dumps(chunk).encode() if chunk else b"[DONE]")

    def pop_chunk(self) -> dict[str, Any] | None:
        """Return the next clean chunk, at last an empty one; None if further bytes are needed, or at the end.

        Raises:
            DamagedReplyError: An event is not JSON, or the stream broke off.
            ReplyError: An event is not a chunk, or truncates a tool call or structured output.
            ReportedError: The service reports an error.
        """
        while not self._ready and not self._ended:
            if self._events:
                self._read(self._events.popleft())
            elif self._has_all_data:
                self._end()
            else:
                return None
        return self._ready.popleft() if self._ready else None

    def _read(self, event: str) -> None:
        if self._has_done_event:
            self._read_late(event)
            return
        if is_done(event):
            self._has_done_event = True
            self._finish_choices()
            return
        if event.strip() in ("null", '""'):
            return
        chunk = parse_object(event.encode(errors="replace"), keep_surrogates=True)
        if not chunk.get("choices") and chunk.get("usage") is None:
            self._without_answer = event
        self.add(chunk)

    def add(self, chunk: dict[str, Any]) -> None:
        """Take a chunk, in place of its bytes; it raises as :meth:`pop_chunk` does."""
        check_no_error(chunk)
        repair_chunk(chunk)
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

    def _read_late(self, event: str) -> None:
        """Take the usage and the cost of an event after ``[DONE]`` if there were none; the rest is no answer."""
        with contextlib.suppress(ReplyError):
            chunk = parse_object(event.encode(errors="replace"))
            repair_chunk(chunk)
            self._usage, self._pricing = self._usage or chunk.get("usage"), self._pricing or chunk.get(PRICING)

    def _read_choice(self, choice: dict[str, Any]) -> None:
        """Send a part of a choice on, unless its choice was not asked for: the frameworks would join it to the first.

        But if the only choice goes no further, such parts are its own under another index; so they are kept.
        """
        index = choice["index"] = self._position(choice["index"])
        known = self._choices.get(index)
        choice["delta"] = find_delta(choice, accepts_message=known is None or not known.has_content)
        says_something = has_content(choice["delta"])
        if index < self._request.choices:
            goes_on = bool(self._further_parts) and (says_something or bool(choice["finish_reason"]))
            self._are_further_choices = self._are_further_choices or goes_on
            self._send_on(choice)
        elif self._may_change_index and not self._further_parts and not says_something:
            self._send_on({**choice, "index": 0})  # the end of the only choice
        elif self._may_change_index or says_something or any(one["index"] == index for one in self._further_parts):
            self._further_parts.append(choice)

    @property
    def _may_change_index(self) -> bool:
        return self._request.choices == 1 and not self._are_further_choices and not self._are_all_finished

    def _send_on(self, choice: dict[str, Any]) -> None:
        was_complete = self._has_all_choices
        stream = self._choices.get(choice["index"])
        if stream is None:
            stream = self._choices[choice["index"]] = ChoiceStream(choice["index"], self._request)
        for part in stream.add(choice):
            if not was_complete or any(part["delta"].values()):
                self._emit(part)

    def _position(self, index: int) -> int:
        """Return the position of a choice; some hosts count from 1, or give a number that means something else."""
        if index not in self._positions:
            taken = self._positions.values()
            wanted = index < self._request.choices and index not in taken
            self._positions[index] = index if wanted else next(free for free in count() if free not in taken)
        return self._positions[index]

    def _finish_choices(self) -> None:
        if self._may_change_index:
            for choice in self._further_parts:
                self._send_on({**choice, "index": 0})
            self._further_parts = []
        self._check_end()
        for part in [part for stream in self._choices.values() for part in stream.finish()]:
            self._emit(part)

    def _end(self) -> None:
        if not self._has_done_event:
            self._finish_choices()
        # Without a finish_reason too, the end is a chunk: LlamaIndex's plugin adds the audio to it.
        if self._usage is not None or self._pricing is not None or not self._are_all_finished:
            more = {} if self._pricing is None else {PRICING: self._pricing}
            self._envelope.update(more, usage=self.usage)
            self._emit()
        self._ended = True
        self._ready.append({})

    def _check_end(self) -> None:
        if not self._choices and (found := self._parser.other_text or self._without_answer):
            raise DamagedReplyError(
                f"The service sent no answer, but {excerpt(found)!r}.",
                remedy=remedy_of_page(found.encode(), "Try again."),
            )
        if not self.is_complete:
            raise DamagedReplyError(
                "The service's answer broke off: its stream ended without a finish_reason and without [DONE].",
                remedy="Try again.",
            )
        if not self._choices:
            raise DamagedReplyError("The service's stream ended without an answer.", remedy="Try again.")
        ended = {one["index"] for one in self._further_parts if one["finish_reason"]}
        are_whole = self._are_all_finished and all(one["index"] in ended for one in self._further_parts)
        if self._has_done_event and self._further_parts and not are_whole:
            raise ReplyError(
                "The service sent parts of its answer under several indices, and they are not whole choices.",
                remedy="Ask without streaming, or another model.",
            )

    def _emit(self, *choices: dict[str, Any]) -> None:
        self._finish_reasons.update({one["index"]: one["finish_reason"] for one in choices if one.get("finish_reason")})
        self._ready.append({**self._envelope, "choices": choices})

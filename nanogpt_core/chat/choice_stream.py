"""One choice of a chat stream: its deltas are checked, repaired and put in order. No I/O."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterator
from io import StringIO
from typing import Any

from nanogpt_core.chat.json_text import JsonTextStream, SurrogateJoiner
from nanogpt_core.chat.provider_fields import ANNOTATIONS, ProviderFields
from nanogpt_core.chat.repair import repair_delta, wrong_type_error
from nanogpt_core.chat.request import ChatRequest
from nanogpt_core.chat.response import check_truncated
from nanogpt_core.chat.tool_calls import ToolCallAssembler

_TEXTS = ("content", "refusal", "reasoning", "reasoning_content")
# The SDK joins the parts of an answer in JSON itself: all texts, and lists by the index of their entries.
_FIELDS_IN_JSON_MODE = ("role", *_TEXTS, "audio", "tool_calls", "function_call")


class ChoiceStream:
    """The deltas of one choice of a stream.

    Attributes:
        is_finished: True after a finish_reason.
        has_content: True after a delta with more than a role.
        goes_on: True if something that is new came after the finish_reason: the host can take long for the next part.
    """

    def __init__(self, index: int, request: ChatRequest) -> None:
        self._index = index
        self._request = request
        self._calls = ToolCallAssembler(request.tools, streams=request.streams)
        self._fields = ProviderFields()
        self._surrogates = SurrogateJoiner()
        self._json_text = JsonTextStream()
        self._refusal = ""
        self._annotations: list[dict[str, Any]] = []
        self._links: list[str] = []  # of images
        self._audio = _Base64Joiner()
        self._texts: dict[str, StringIO] = defaultdict(StringIO)  # the texts of all fields of the deltas
        self._late: list[dict[str, Any]] = []  # parts after the finish_reason that may be the answer again
        self._late_texts: dict[str, StringIO] = defaultdict(StringIO)  # their texts
        self._ends_each_part = False
        self._has_begun = self._has_calls = False
        self.is_finished = self.has_content = self.goes_on = False

    def add(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        """Take a part of the choice, and return the parts to send on, each with at most one tool call.

        Some hosts give every part a finish_reason. If not all have one, parts after it are held back as long as they
        may be the answer again.

        Raises:
            ReplyError: It is invalid, or truncates a tool call or structured output.
        """
        says_something = has_content(choice["delta"])
        if says_something and not self.has_content:
            self._ends_each_part = self.is_finished or bool(choice["finish_reason"])
        elif says_something and self.is_finished and not self._ends_each_part:
            return self._add_late(choice)
        self.goes_on = self.goes_on or (says_something and self.is_finished)
        self.has_content = self.has_content or says_something
        _add_texts(self._texts, choice["delta"])
        return self._take(choice)

    def _add_late(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        """Hold back a part after the finish_reason, or send on all of them, since they say something new."""
        self._late.append(choice)
        _add_texts(self._late_texts, choice["delta"])
        self.goes_on = not all(_repeats(said, again, whole=True) for said, again in self._compared_texts())
        if all(again in said or _repeats(said, again) for said, again in self._compared_texts()):
            return []  # it can still become a repetition
        self._ends_each_part = True
        late, self._late = self._late, []
        return [part for one in late for part in self._take(one)]

    def _compared_texts(self) -> Iterator[tuple[str, str]]:
        """Yield the texts of the fields of parts that are held back, each after the text of that field before."""
        for name, again in self._late_texts.items():
            yield self._texts[name].getvalue(), again.getvalue()

    def _take(self, choice: dict[str, Any]) -> list[dict[str, Any]]:
        """Repair a part of the choice, and return the parts to send on."""
        reason = choice["finish_reason"]
        delta = self._repair(choice["delta"], is_last=bool(reason))
        calls = delta.pop("tool_calls", None)
        self._has_calls = self._has_calls or bool(calls or delta.get("function_call"))
        fragments = self._calls.add(calls or ())
        check_truncated(reason, has_calls=self._has_calls, structured=self._request.structured)
        if self._request.wants_json:
            is_last = bool(reason) and not self.is_finished
            delta["content"] = self._json_text.add(delta["content"], is_last=is_last, expects_json=self._expects_json)
        if self._request.streams and not self._has_begun and not fragments:
            # LlamaIndex's async stream passes over a first chunk without content.
            delta["content"] = delta["content"] or ""
        # A refusal is sent on whole: LangChain raises its first part. If there are tool calls, which can be held back
        # until the end, it comes after them: LlamaIndex takes the last part as the answer.
        self._refusal += delta.pop("refusal", None) or ""
        if reason and self._refusal and not self._has_calls:
            delta["refusal"], self._refusal = self._refusal, ""
        if self.is_finished:
            reason = None  # LangChain would join the two
        self._has_begun = True
        self.is_finished = self.is_finished or bool(reason)
        return self._split_by_call({**choice, "delta": delta, "finish_reason": reason}, fragments)

    def finish(self) -> list[dict[str, Any]]:
        """Return the parts that complete the choice at the end of the stream."""
        is_repetition = all(_repeats(said, again) for said, again in self._compared_texts())
        late = [] if is_repetition else self._late
        parts = [part for choice in late for part in self._take(choice)]
        deltas: list[dict[str, Any]] = [{"tool_calls": [fragment]} for fragment in self._calls.finish()]
        if self._refusal:
            deltas.append({"refusal": self._refusal})
        if self._request.wants_json and not self.is_finished:
            text = self._json_text.add(None, is_last=True, expects_json=self._expects_json)
            deltas.append({"content": text})
        if rest := self._audio.add("", is_last=True):
            deltas.append({"audio": {"data": rest}})
        if self._annotations:
            deltas.append({ANNOTATIONS: self._annotations})
        if fields := self._fields.document(self._calls.fields()):
            deltas.append(fields)
        return [*parts, *map(self._make_part, deltas)]

    @property
    def _expects_json(self) -> bool:
        return not (self._has_calls and self._request.tools)

    def _repair(self, delta: dict[str, Any], *, is_last: bool) -> dict[str, Any]:
        """Return a delta with the fields to send on, and keep those that are sent at the end."""
        self._fields.add(delta)
        # Annotations are sent on once, at the end: hosts repeat them, and LangChain would append them all.
        found = delta.pop(ANNOTATIONS, None)
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, dict) and one and one not in self._annotations:
                self._annotations.append(one)
        repair_delta(delta, self._request.tools)
        if "content_blocks" in delta:
            delta["content_blocks"] = [block for block in delta["content_blocks"] if self._is_new(block)]
        audio = delta.get("audio") or {}
        if isinstance(audio.get("data"), str):
            delta["audio"] = {**audio, "data": self._audio.add(audio["data"])}
        for name in _TEXTS:
            if isinstance(delta.get(name), str):
                delta[name] = self._surrogates.join(name, delta[name], is_last=is_last)
        delta.pop("role", None)
        if not self._has_begun:
            delta["role"] = "assistant"
        if self._request.wants_json and self._request.streams:
            return {name: value for name, value in delta.items() if name in _FIELDS_IN_JSON_MODE}
        return delta

    def _is_new(self, block: dict[str, Any]) -> bool:
        """Return whether a content block is no image that came before, and number a further image without an index.

        Hosts repeat images. LangChain would join blocks of one index, and those of several deltas without one.
        """
        link = block["image_url"].get("url") if isinstance(block.get("image_url"), dict) else None
        if not isinstance(link, str):
            return True
        if link in self._links:
            return False
        if self._links:
            block.setdefault("index", len(self._links))
        self._links.append(link)
        return True

    def _split_by_call(self, choice: dict[str, Any], fragments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return parts with one tool call each: LlamaIndex looks only at the first one of a chunk."""
        if not fragments:
            return [choice]
        # The last part has the finish_reason.
        first, *rest = fragments
        choice["delta"]["tool_calls"] = [first]
        parts = [choice, *(self._make_part({"tool_calls": [fragment]}) for fragment in rest)]
        reason, choice["finish_reason"] = choice["finish_reason"], None
        parts[-1]["finish_reason"] = reason
        return parts

    def _make_part(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "finish_reason": None}


class _Base64Joiner:
    """Makes pieces of base64 one text: hosts encode each piece by itself, and frameworks only join the texts."""

    def __init__(self) -> None:
        self._text, self._rest = "", b""  # that the next piece may complete

    def add(self, piece: str, *, is_last: bool = False) -> str:
        """Return the text to send on for a piece. Text that is not base64 is sent on as it is."""
        text = self._text + piece
        if is_last:
            text += "=" * (-len(text) % 4)  # some hosts leave it out
        whole = len(text) // 4 * 4
        try:
            data = self._rest + b64decode(text[:whole], validate=True)
        except ValueError:
            held_back, self._text, self._rest = b64encode(self._rest).decode() + self._text, "", b""
            return held_back + piece
        end = len(data) if is_last else len(data) // 3 * 3
        self._text, self._rest = text[whole:], data[end:]
        return b64encode(data[:end]).decode()


def _add_texts(texts: dict[str, StringIO], delta: dict[str, Any]) -> None:
    """Collect the text of each field, so that answers in chunks of different sizes can be compared; in place."""
    for name, value in delta.items():
        if value and name != "role":
            texts[name].write(value if isinstance(value, str) else json.dumps(value))


def _repeats(said: str, again: str, *, whole: bool = False) -> bool:
    """Return whether a text repeats the end of another, or all of it, once or several times; the last time in part."""
    if not said:
        return False
    times, more = divmod(len(again), len(said))
    return said.endswith(again) or ((said * (times + 1)).startswith(again) and not (whole and more))


def has_content(delta: dict[str, Any]) -> bool:
    """Return whether a delta has more than a role."""
    return any(value for name, value in delta.items() if name != "role")


def find_delta(choice: dict[str, Any], *, accepts_message: bool) -> dict[str, Any]:
    """Return the delta of a part of a choice. Some hosts send a message or a text in its place; a message is removed.

    Without ``accepts_message`` no message counts: some hosts repeat the answer in one at the end.
    """
    delta, message, text = choice.get("delta"), choice.pop("message", None), choice.get("text")
    if isinstance(delta, str):
        delta = {"content": delta}
    if not delta and accepts_message and isinstance(message, dict):
        delta = message
    if not delta and isinstance(text, str):
        delta = {"content": text}
    if delta and not isinstance(delta, dict):
        raise wrong_type_error("a delta", delta)
    return delta or {}

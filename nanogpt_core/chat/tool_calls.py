"""Tool calls: fragments of streams are put in order, each call whole before the next; arguments are parsed or refused.

Hosts give parallel calls the same index, none at all, interleave them, or repeat ids, names and arguments.

A tool must never run with arguments that the model did not write. Both frameworks complete truncated JSON, and take
falsy or unreadable arguments for none, so the checks are here. No I/O.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanogpt_core.chat.json_text import (
    ends_in_high_surrogate,
    invalidating_suffix,
    is_json,
    join_surrogates,
    strip_code_fence,
)
from nanogpt_core.chat.provider_fields import call_fields, merge_fields
from nanogpt_core.chat.repair import wrong_type_error
from nanogpt_core.errors import ReplyError
from nanogpt_core.http.error_body import excerpt

_INDEX = re.compile(r"\d{1,9}", re.ASCII)
_ARGUMENTS = ("arguments", "parameters", "args", "input")  # other names are those of Llama, Cohere and Anthropic


def normalize_arguments(arguments: object) -> str | None:
    """Return the arguments of a tool call as the text of a JSON object; None if they are not one.

    A fenced code block, an object that was encoded twice, and an object in place of its text are accepted. No text and
    null are no arguments: an empty object.
    """
    if isinstance(arguments, Mapping):
        return json.dumps(arguments)
    text = "" if arguments is None else arguments
    if not isinstance(text, str):
        return None
    text = strip_code_fence(text.lstrip("\ufeff"))
    try:
        value = json.loads(text, strict=False) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        return text if text.strip() else "{}"
    return normalize_arguments(value) if value is None or isinstance(value, str) else None


def parse_arguments(arguments: object) -> dict[str, Any] | None:
    """Return the arguments of a tool call; None if they are not a JSON object. See :func:`normalize_arguments`."""
    text = normalize_arguments(arguments)
    values: dict[str, Any] | None = None if text is None else json.loads(text, strict=False)
    return values


def normalize_call(call: Any) -> Any:
    """Return a call, or a fragment of one, with its name and its arguments in ``function``, as OpenAI has them."""
    if not isinstance(call, dict):
        return call
    custom = call.get("custom")
    if isinstance(custom, dict):  # a call of a tool with text as its input: a JSON object is parsed, other text is not
        call = {**{name: value for name, value in call.items() if name != "custom"}, "function": custom}
    function = call.get("function")
    if function is None and any(isinstance(call.get(name), (str, dict)) for name in ("name", "arguments")):
        function = {name: call[name] for name in ("name", *_ARGUMENTS) if name in call}
        call = {name: value for name, value in call.items() if name not in function}
    if isinstance(function, dict) and not function.get("arguments"):
        found = next((name for name in _ARGUMENTS if function.get(name)), None)
        if found is not None:
            rest = {name: value for name, value in function.items() if name != found}
            function = {**rest, "arguments": function[found]}
    return call if function is None else {**call, "function": function}


def missing_name_error(call: object) -> ReplyError:
    """Return the error for a call without a name."""
    return ReplyError(
        f"The service sent a tool call without a name: {excerpt(json.dumps(call))}.",
        remedy="Try again, or with another model.",
    )


@dataclass(frozen=True)
class _Fragment:
    """One fragment of a tool call; name and arguments may be pieces, and ``fields`` are provider fields."""

    index: int | None
    id: str | None
    name: str
    arguments: str
    fields: dict[str, Any]

    @classmethod
    def parse(cls, fragment: Any) -> _Fragment:
        """Read a fragment in any form."""
        fragment = normalize_call(fragment)
        function = fragment.get("function") if isinstance(fragment, dict) else None
        if isinstance(fragment, dict) and function is None:
            function = {}  # it ends a call, or has further fields of one
        if not isinstance(function, dict):
            raise missing_name_error(fragment)
        index, identifier = fragment.get("index"), fragment.get("id")
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(index, str) and _INDEX.fullmatch(index):
            index = int(index)
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments) if arguments is not None else ""
        return cls(
            index if isinstance(index, int) else None,
            identifier if isinstance(identifier, str) and identifier else None,
            name if isinstance(name, str) else "",
            arguments,
            call_fields(fragment),
        )


@dataclass(eq=False)
class _Call:
    """One tool call of a stream, as far as it has come.

    Attributes:
        indices: The indices that the service gave.
        arguments: The pieces of its arguments, joined.
        latest: The latest piece, as long as each piece has begun with the one before it: some hosts send the whole
            arguments so far in every chunk. None if one has not.
        repetition: Text after complete arguments that begins like them; held back, since some hosts send them again.
        pending: Provider fields to send with the next fragment.
        fields: All provider fields, also those that came too late to be sent with a fragment.
        sent: Length of the arguments that were sent.
        sent_name: Length of the name that was sent: 0 before the first fragment of the call.
        may_repeat: An earlier call with the same id and name. This one is held back until it is complete: only then is
            it clear whether it is another call or that one again.
    """

    indices: set[int | None]
    id: str | None = None
    name: str = ""
    arguments: str = ""
    latest: str | None = ""
    repetition: str = ""
    pending: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    sent: int = 0
    sent_name: int = 0
    may_repeat: _Call | None = None

    @property
    def may_be_cumulative(self) -> bool:
        """True if each piece of the arguments may be the whole so far; they are held back until they are complete."""
        return self.latest not in (None, self.arguments)

    @property
    def text(self) -> str:
        """The arguments. The pieces are joined unless only the latest one can be the whole."""
        is_whole = self.may_be_cumulative and not is_json(self.arguments)
        return self.latest if is_whole and self.latest is not None else self.arguments

    @property
    def is_placeholder(self) -> bool:
        """True if the arguments are none so far; some hosts begin each call so, and send the real ones later."""
        return self.sent == 0 and self.arguments.strip() in ("{}", "null")

    @property
    def is_object(self) -> bool:
        """True if the arguments may be an object; others are held back until they are complete."""
        return self.arguments.lstrip().startswith("{")

    def is_repeated_by(self, fragment: _Fragment) -> bool:
        """Return whether a fragment with the same id only repeats this call."""
        is_same = fragment.name in ("", self.name) and fragment.arguments == self.arguments
        return is_same and fragment.arguments != "" and is_json(fragment.arguments)

    def is_continued_by(self, fragment: _Fragment) -> bool:
        """Return whether a fragment with the same id, but another index, is a part of this call."""
        may_begin = fragment.name != self.name or fragment.arguments.lstrip()[:1] in ("", "{")
        return not (fragment.name and may_begin) and not is_json(self.arguments)

    def is_renamed_by(self, fragment: _Fragment, tools: frozenset[str]) -> bool:
        """Return whether a fragment with the same id and index has the name of another tool, and no arguments came."""
        return not self.arguments and fragment.name != self.name and {self.name, fragment.name} <= tools

    def is_followed_by(self, fragment: _Fragment, tools: frozenset[str]) -> bool:
        """Return whether a fragment with the same index, or none, begins another call."""
        name, arguments = fragment.name, fragment.arguments
        if not name or not self.name:
            return False  # some hosts invent an id for every fragment
        if self.arguments == "" and self.name not in tools and self._joins(name, tools):
            return False
        if fragment.id is not None and self.id not in (None, fragment.id):
            # Some hosts invent an id for every fragment, and repeat the name.
            return name != self.name or arguments.lstrip()[:1] in ("", "{") or is_json(self.text) or not self.arguments
        if fragment.id is not None and name == self.name and self.is_placeholder:
            return False
        if name != self.name:
            return self.arguments != "" or {self.name, name} <= tools
        return arguments != "" and is_json(self.arguments)

    def _joins(self, name: str, tools: frozenset[str]) -> bool:
        """Return whether ``name`` continues the name of a tool, or repeats its beginning."""
        repeated = name.startswith(self.name)
        return any(tool.startswith(self.name + name) or (repeated and tool.startswith(name)) for tool in tools)

    def add(self, fragment: _Fragment, tools: frozenset[str]) -> None:
        """Add a fragment."""
        self.add_fields(fragment.fields)
        self._add_name(fragment.name, tools)
        self._add_arguments(fragment.arguments)

    def add_fields(self, fields: dict[str, Any]) -> None:
        """Add provider fields."""
        self.fields = merge_fields(self.fields, fields)
        self.pending.update({name: value for name, value in fields.items() if name != "function"})

    def _add_arguments(self, arguments: str) -> None:
        """Add a piece of the arguments."""
        if self.is_placeholder and arguments.strip():
            self.arguments = self.latest = arguments
        elif self.repetition or (arguments.lstrip().startswith("{") and self.is_object and is_json(self.arguments)):
            self.repetition += arguments
        elif arguments:
            self.arguments += arguments
            self.latest = arguments if self.latest is not None and arguments.startswith(self.latest) else None

    def end_arguments(self) -> None:
        """Drop :attr:`repetition` if it repeats the arguments, once or several times; otherwise they are unreadable."""
        if self.repetition.replace(self.arguments, "").strip():
            self.arguments, self.latest = self.arguments + self.repetition, None
        self.repetition = ""

    def _add_name(self, name: str, tools: frozenset[str]) -> None:
        """Add a piece of the name; some hosts repeat the name in every fragment, as a whole or as far as it came."""
        if name == self.name and self.name + name not in tools:
            return
        self.name = name if name.startswith(self.name) and name in tools else self.name + name


class ToolCallAssembler:
    """Puts the fragments of one choice's tool calls in order: each call whole before the next, with its own index.

    Args:
        tools: Names of the tools in the request.
        streams: Whether the frameworks get a stream. They complete arguments in streams, so those that are not JSON are
            made unreadable; in whole replies they stay, for the frameworks' own handling of invalid calls.
    """

    def __init__(self, tools: frozenset[str] = frozenset(), *, streams: bool = True) -> None:
        self._tools = tools
        self._streams = streams
        self._calls: list[_Call] = []
        self._current = 0

    def add(self, fragments: Any) -> list[dict[str, Any]]:
        """Take the fragments of one chunk, and return those that can be sent on, each for one call."""
        fragments = [fragments] if isinstance(fragments, dict) else fragments
        if not isinstance(fragments, (list, tuple)):
            raise wrong_type_error("tool calls", fragments)
        for position, fragment in enumerate(fragments):
            self._add(position, _Fragment.parse(fragment))
        return self._take()

    def finish(self) -> list[dict[str, Any]]:
        """Return the fragments that complete all calls."""
        return self._take(finishing=True)

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return the provider fields of the calls that have some, by the ids of the calls."""
        return {call.id: call.fields for call in self._calls if call.id is not None and call.fields}

    def _add(self, position: int, fragment: _Fragment) -> None:
        """Add a fragment to its call, or begin a call with it."""
        known = next((call for call in self._calls if call.id == fragment.id), None) if fragment.id else None
        same_index = [call for call in self._calls if fragment.index is None or fragment.index in call.indices]
        if known is not None and known.is_repeated_by(fragment):
            known.indices.update(() if same_index else (fragment.index,))
            known.add_fields(fragment.fields)
            return
        call = self._find(fragment, known, same_index)
        if call is None or call.is_followed_by(fragment, self._tools):
            call = _Call({len(self._calls) + position if fragment.index is None else fragment.index})
            if known is not None and known.name == fragment.name:
                call.may_repeat = known
            self._calls.append(call)
        if call.id is None and all(fragment.id != other.id for other in self._calls):
            call.id = fragment.id
        call.add(fragment, self._tools)

    def _find(self, fragment: _Fragment, known: _Call | None, same_index: list[_Call]) -> _Call | None:
        """Return the call that a fragment may belong to, or that it follows under the same index; None for a new one.

        ``known`` is the call with its id, ``same_index`` are those with its index; all calls if it has none.
        """
        if known is not None and known in same_index:
            if known.is_renamed_by(fragment, self._tools):
                raise ReplyError(
                    f"The service sent one tool call under two names: {known.name!r} and {fragment.name!r}.",
                    remedy="Try again, or with another model.",
                )
            return known
        if same_index:
            return same_index[-1]
        if known is not None and known.is_continued_by(fragment):
            call = known
        elif self._calls and not fragment.name and fragment.id is None and not is_json(self._calls[-1].text):
            call = self._calls[-1]  # the index counts fragments
        else:
            return None
        call.indices.add(fragment.index)
        return call

    def _take(self, *, finishing: bool = False) -> list[dict[str, Any]]:
        """Return the fragments that can be sent on: of the current call, and of the next ones if it is complete."""
        taken = []
        while self._current < len(self._calls):
            call = self._calls[self._current]
            is_last = self._current == len(self._calls) - 1
            is_complete = finishing or (not is_last and not call.is_placeholder and is_json(call.text))
            earlier = call.may_repeat
            if earlier is not None and not is_complete:
                break
            if earlier is not None and call.text in ("", earlier.text):
                earlier.indices |= call.indices
                earlier.add_fields(call.fields)
                del self._calls[self._current]
                continue
            if finishing and len(self._calls) > 1 and not call.name and not call.arguments:
                del self._calls[self._current]
                continue
            fragment = self._fragment(call, is_complete=is_complete)
            if fragment is not None:
                taken.append(fragment)
            if not is_complete:
                break
            self._current += 1
        return taken

    def _fragment(self, call: _Call, *, is_complete: bool) -> dict[str, Any] | None:
        """Return a fragment with the parts of a call that were not sent yet; None if there is nothing to send."""
        if is_complete and not call.name:
            raise missing_name_error({"arguments": call.arguments})
        if is_complete:
            call.end_arguments()
        if not call.name:
            return None
        may_change = call.is_placeholder or call.may_be_cumulative
        is_held_back = not call.is_object or (may_change and not is_complete)
        text = "" if is_held_back else call.text[call.sent :]
        text = text[:-1] if ends_in_high_surrogate(text) and not is_complete else text
        call.sent += len(text)
        if is_complete:
            text += self._ending(call)
        text = join_surrogates(text)
        is_first, name = call.sent_name == 0, call.name[call.sent_name :]
        call.sent_name += len(name)
        if not text and not name and not call.pending:
            return None
        fragment: dict[str, Any] = {**call.pending, "index": self._current, "function": {"arguments": text}}
        call.pending = {}
        if name:
            fragment["function"]["name"] = name
        if is_first:
            # The frameworks match results to calls by their ids.
            call.id = call.id or f"call_{uuid.uuid4().hex[:24]}"
            fragment.update(id=call.id, type="function")
        return fragment

    def _ending(self, call: _Call) -> str:
        """Return the last text of the arguments of a call: the rest, or text that makes them unreadable."""
        text = normalize_arguments(call.text)
        if text is not None:
            return "" if call.is_object else text
        is_kept = not self._streams and not is_json(call.text)
        return ("" if call.is_object else call.text) + ("" if is_kept else invalidating_suffix(call.text))

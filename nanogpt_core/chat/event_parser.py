"""Parser of server-sent events, without I/O."""

from __future__ import annotations

import codecs
import json

from nanogpt_core.chat.json_text import is_json

_FIELDS = ("", "data", "event", "id", "retry")  # an empty name begins a comment
_PINGS = frozenset({"ping", "heartbeat", "keepalive", "keep-alive"})  # names of events, or their data
_MAX_LINES = 20  # of an event that may end without a blank line, and of text that is no JSON


def is_done(event: str) -> bool:
    """Return whether the data of an event is the end of a stream, ``[DONE]``; some hosts add blanks or quotes."""
    return event.lstrip(' \t"').upper().startswith("[DONE]")


class EventParser:
    """Parses server-sent events incrementally; only their data is of use here.

    Source: the HTML standard, section "Server-sent events". A byte order mark at the beginning is ignored, as it says.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._parts: list[str] = []  # of a line that is not complete; joined only once, since a line may be long
        self._data: list[str] = []
        self._name = ""  # of the event
        self._id = ""
        self._known: dict[str, int] = {}  # hashes of the data of events, by their ids
        self._are_ids_unique = True
        self._other: list[str] = []

    @property
    def other_text(self) -> str:
        """The lines that are no fields of events, such as those of a page in HTML: all if they may be JSON."""
        return "\n".join(self._other)

    def feed(self, data: bytes) -> list[str]:
        """Return the data of the events that ``data`` completes."""
        text = self._decoder.decode(data)
        # "\r" at the end of a part may be the first half of "\r\n".
        held = bool(self._parts) and self._parts[-1] == "\r"
        if not held and "\n" not in text and "\r" not in text:
            self._parts.append(text)
            return []
        text = "".join([*self._parts, text])
        rest = ["\r"] if text.endswith("\r") else []
        lines = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._parts = [lines.pop(), *rest]
        return [event for event in map(self._line, lines) if event is not None]

    def finish(self) -> list[str]:
        """Return the data of the events that the end of the stream completes: their final blank line is missing."""
        lines = "".join(self._parts).removesuffix("\r"), ""
        self._parts = []
        return [event for event in map(self._line, lines) if event is not None]

    def _line(self, line: str) -> str | None:
        if not line:
            event, name, identifier = "\n".join(self._data), self._name, self._id
            self._data, self._name, self._id = [], "", ""
            if {name, event.strip(' []"').lower()} & _PINGS or self._is_repeated(identifier, event):
                return None
            return (_as_error(event) if name == "error" else event) or None
        line = line.lstrip("\ufeff")
        name, _, value = line.partition(":")
        name = name.strip(" ").lower()
        if name == "data":
            value = value.removeprefix(" ")
            # Some hosts leave the blank line between events out.
            may_end = 0 < len(self._data) <= _MAX_LINES and value.startswith(("{", "[DONE]"))
            ended = "\n".join(self._data) if may_end else ""
            if not is_json(ended):
                self._data.append(value)
                return None
            self._data = [value]
            return ended
        if name == "event":
            self._name = value.strip().lower()
        if name == "id":
            self._id = value.strip()
        if line.startswith("{") and is_json(line):
            return line  # some hosts send lines of JSON, or an error as it is
        if name not in _FIELDS and (len(self._other) < _MAX_LINES or self._other[0].startswith("{")):
            self._other.append(line)
        return None

    def _is_repeated(self, identifier: str, event: str) -> bool:
        """Return whether an event was sent before. Some hosts give all events one id, which says nothing."""
        if not identifier:
            return False
        data = hash(event)
        if identifier not in self._known:
            self._known[identifier] = data
            return False
        self._are_ids_unique = self._are_ids_unique and self._known[identifier] == data
        return self._are_ids_unique and len(self._known) > 1


def _as_error(event: str) -> str:
    """Return the data of an event named ``error`` as an object with an error, unless it is one already."""
    try:
        data = json.loads(event)
    except ValueError:
        data = event
    is_named = isinstance(data, dict) and not data.keys().isdisjoint(("error", "choices"))
    return event if not event or is_named or is_done(event) else json.dumps({"error": data})

"""The definition of a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.faults.server import Reply, Request, Step, good

RIGHT = "right"
ERROR = "typed error"
EITHER = "either"

OURS_RETRY = 6
"""Requests that this project's default of five retries allows for one batch."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        group: Heading in the report.
        name: Short, unique description.
        reply: The server's response.
        want: Required outcome for this project: ``"right"``, ``"typed error"`` or ``"either"``.
        most: Embedding requests that this project may send.
        words: An error's message has to hold one of these, in lower case; a plain ``ValueError`` of another client
            that does counts as typed.
        waits: Seconds that the service asks to wait; this project must have waited so long.
        task: Task of the client; a function of :mod:`benchmarks.faults.tasks`, or after ``chat_`` one of
            :mod:`benchmarks.faults.chat_tasks`.
        place: Target of the client: ``"server"``, ``"no path"``, ``"refused"``, ``"unknown"``, ``"remote"``, or a kind
            of certificate of :mod:`benchmarks.faults.certificates`.
        settings: Options of the client, beside address and key.
        environment: Variables to set in the client's process.
        secrets: Values that must not arrive at the server, by the name under which they are reported.
        clients: Names of the clients that it concerns; empty for all embedding clients.
        repeats: Texts that this project may have to send a second time; None if they are not counted.
    """

    group: str
    name: str
    reply: Reply = good
    want: str = ERROR
    most: int = 1
    words: tuple[str, ...] = ()
    waits: float = 0.0
    task: str = "embed"
    place: str = "server"
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    clients: tuple[str, ...] = ()
    repeats: int | None = None

    @property
    def slow(self) -> bool:
        """Return True if clients wait for it in real time, and need no processor meanwhile."""
        return self.group == "Time" or "timeout" in self.settings

    @property
    def gathers(self) -> bool:
        """Return True if several calls of one text, in place of one of eight, can have it too."""
        return self.task in ("embed", "in_loop") and self.place == "server" and not self.clients

    @property
    def is_chat(self) -> bool:
        """Return True if it is a fault of chat."""
        return self.task.startswith("chat_")


def always(*steps: Step) -> Reply:
    """Return a reply of the same steps every time."""
    return lambda _: steps


def once(reply: Reply) -> Reply:
    """Return a reply that is this one the first time, and right from then on."""
    return lambda request: reply(request) if request.number == 1 else good(request)


def changed(change: Callable[[dict[str, Any], Request], Any]) -> Reply:
    """Return the right reply after ``change``, which alters the document or returns another."""
    from benchmarks.faults.server import response, right_document

    def reply(request: Request) -> list[Step]:
        document = right_document(request)
        other = change(document, request)
        return [response(document if other is None else other)]

    return reply

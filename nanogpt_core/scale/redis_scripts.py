"""Lua scripts of ``RedisLimits``, in the folder ``lua``. Each runs atomically in the server, by the server's clock."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any, NamedTuple

KEYS = ("state", "open", "starts", "workers", "done", "released")
"""Names of the keys, in the order of ``KEYS`` in the scripts; ``lua/state.lua`` explains them."""

READY, WAIT, BUDGET_REFUSED = 0, 1, 2
"""Status of a request in a reply of :data:`ADMIT`."""


MICROSECONDS = 1_000_000
"""Microseconds of a second: the scripts' unit of time."""


class Reply(NamedTuple):
    """Reply of the script :data:`ADMIT`.

    Attributes:
        status: ``READY``, ``WAIT`` or ``BUDGET_REFUSED``.
        delay: Seconds until the start time.
        generation: Name of the server's data: another one if it has lost them.
        committed: Billionths of a US dollar that are spent, or may be.
        rate: Requests per second over all workers.
        workers: Workers of the last minute, at least 1.
        peak: Learned peak of the rate; 0 if the service has refused nothing.
        now: The server's time, in microseconds since 1970.
    """

    status: int
    delay: float
    generation: str
    committed: int
    rate: float
    workers: int
    peak: float
    now: int

    @property
    def share(self) -> float:
        """Requests per second of one worker."""
        return self.rate / self.workers

    @classmethod
    def parse(cls, state: list[Any], answer: list[Any]) -> Reply:
        """Return the reply to one request: the state is that of all requests of the round trip."""
        generation, rate, workers, peak, now = state
        status, delay, committed = answer
        return cls(
            status=status,
            delay=delay / MICROSECONDS,
            generation=generation.decode(),
            committed=committed,
            rate=rate / 1000,
            workers=max(workers, 1),
            peak=peak / 1000,
            now=now,
        )


class Script:
    """A Lua script, in one or more files, one after the other."""

    def __init__(self, *names: str) -> None:
        folder = files("nanogpt_core.scale") / "lua"
        self._text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()  # the server's name for it

    def run(self, client: Any, keys: list[str], *arguments: Any) -> Any:
        """Run the script in one round trip; in two if the server does not have it yet."""
        try:
            return _execute(client, "EVALSHA", self._sha, len(keys), *keys, *arguments)
        except Exception as error:
            from redis.exceptions import NoScriptError

            if not isinstance(error, NoScriptError):
                raise
        return _execute(client, "EVAL", self._text, len(keys), *keys, *arguments)


def _execute(client: Any, *command: Any) -> Any:
    connection = getattr(client, "connection", None)
    if connection is None:  # a cluster has many
        return client.execute_command(*command)
    # The client's own method also measures each command for telemetry, which takes half of the CPU time.
    connection.send_command(*command)
    return connection.read_response()


ADMIT = Script("state.lua", "admit.lua")
"""Applies records of ended attempts; then, for each request, reserves a cost and a start time or confirms a time."""

RELEASE = Script("state.lua", "release.lua")
"""Takes abandoned reservations out of the budget; returns their sum."""

RESET = Script("reset.lua")
"""Begins again at 0."""

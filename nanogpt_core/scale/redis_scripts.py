"""Lua scripts of ``RedisLimits``, in the folder ``lua``. Each runs atomically in the server, by the server's clock."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

KEYS = ("state", "open", "starts", "workers", "done", "released")
"""Names of the keys, in the order of ``KEYS`` in the scripts; ``lua/state.lua`` explains them."""

READY, WAIT, BUDGET_REFUSED = 0, 1, 2
"""Status of a request in a reply of :data:`ADMIT`."""


class Script:
    """A Lua script.

    Args:
        *names: Names of the files that it consists of, one after the other.
    """

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

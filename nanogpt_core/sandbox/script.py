"""The order in which scripted replies are given."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.sandbox.config import Fault
from nanogpt_core.sandbox.replies import Reply

__all__ = ["Script"]


class Script:
    """Replies and faults for chat requests, each given once. Safe to use from any thread.

    Args:
        entries: In their order.

    Raises:
        ConfigurationError: One is neither a reply nor a fault with a status.
    """

    def __init__(self, entries: Iterable[Reply | Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._entries: list[Reply | Fault] = []
        self.add(entries)

    def add(self, entries: Iterable[Reply | Fault]) -> None:
        """Put more entries at the end."""
        added = list(entries)
        for entry in added:
            if not isinstance(entry, (Reply, Fault)):
                raise ConfigurationError(f"A script holds Reply and Fault objects, not {type(entry).__name__}.")
            if isinstance(entry, Fault) and entry.status is None:
                raise ConfigurationError("A fault in a script needs a status.", remedy="Delays go into `faults`.")
        with self._lock:
            self._entries += added

    def take(self, body: Mapping[str, Any]) -> Reply | Fault | None:
        """Return the first entry that is for this request and was not given yet; None where there is none."""
        with self._lock:
            for position, entry in enumerate(self._entries):
                if isinstance(entry, Fault) or entry.answers(body):
                    return self._entries.pop(position)
        return None

    def __len__(self) -> int:
        return len(self._entries)

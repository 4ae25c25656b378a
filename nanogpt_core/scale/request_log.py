"""The request log of shared limits: a JSON line for each finished request, in a file that processes share."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from datetime import datetime, timezone
from pathlib import Path

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core._runtime.validation import check_path
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.limits import Cost, Outcome


class RequestLog(ForkSafe):
    """Appends one JSON line to a file for each request that has ended. Threads and processes may share the file.

    Args:
        path: The file. It is created with mode 0600.

    Raises:
        InvalidTypeError: ``path`` is not a path.
        ConfigurationError: It cannot name a file, or names the folder of a user who does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = check_path("request_log", path)
        try:
            resolved = Path(name).expanduser().absolute()
        except (OSError, RuntimeError) as error:  # no current folder, no such user
            raise ConfigurationError(f"request_log cannot be resolved: {error}", remedy="Pass another path.") from error
        self.path = resolved
        """The path, absolute: a worker may have another working folder."""
        self._lines: deque[bytes] = deque()
        self._is_torn = False
        self._warnings = DistinctWarnings()
        super().__init__()

    def _in_child(self) -> None:
        self._lines.clear()  # the parent writes them

    def check(self) -> None:
        """Create the file if there is none.

        Raises:
            ConfigurationError: It cannot be written.
        """
        try:
            self._append(b"")
        except OSError as error:
            raise ConfigurationError(f"request_log cannot be written: {error}.", remedy="Pass another path.") from error

    def write(self, name: str, worker: str, cost: Cost, outcome: Outcome) -> None:
        """Add a line about a request of a worker, for :meth:`flush`; does not block, since event loops call it."""
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "id": name,
            "worker": worker,
            "model": cost.model,
            "texts": cost.texts,
            "reserved_usd": cost.usd,
            "billed_usd": outcome.usd,
            "tokens": outcome.tokens,
            "answered": outcome.answered,
            "error": outcome.error or None,
        }
        self._lines.append(json.dumps(line).encode() + b"\n")

    def flush(self) -> None:
        """Write all lines; if the file cannot be written, warn once, and drop them: their requests are paid for.

        A line that was written in part stays, and the next one begins after it.
        """
        lines = []
        with contextlib.suppress(IndexError):  # several threads may do this
            while True:
                lines.append(self._lines.popleft())
        try:
            if lines:
                self._append(b"".join(lines))
        except OSError as error:
            self._warnings.warn(f"The request log cannot be written: {error}; continuing without its lines.")

    def _append(self, data: bytes) -> None:
        # One write in append mode: lines of several processes do not mix, unless the disk is full.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if self._is_torn and data:
                data = b"\n" + data
            while data:
                data = data[os.write(file, data) :]
                self._is_torn = bool(data)  # if the next write fails, the file ends within a line
        finally:
            os.close(file)

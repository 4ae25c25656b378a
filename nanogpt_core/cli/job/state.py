"""The folder beside an output that is not finished: a lock, passages, vectors, and usage of earlier runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import uuid
from dataclasses import asdict
from pathlib import Path

from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.names import UNFINISHED
from nanogpt_core.observability.usage import Usage


def state_folder(output: Path) -> Path:
    """Return the folder with the state of an output that is not finished."""
    return output.with_name(output.name + UNFINISHED)


class State:
    """The state of one output. Only one process at a time can have it open; a kill releases it.

    Args:
        output: The output.

    Attributes:
        is_new: True if no earlier run has left a state.
        keep: Whether the folder stays: True once a request was answered, until the output is in its place.

    Raises:
        CommandError: Another process has it open.
        OSError: The folder cannot be written.
    """

    def __init__(self, output: Path) -> None:
        self.folder = state_folder(output)
        self.is_new = not self.folder.exists()
        self.keep = not self.is_new
        self.folder.mkdir(mode=0o700, exist_ok=True)
        # SQLite's lock of an empty database works on every system, and ends with the process.
        self._lock = sqlite3.connect(self.folder / "lock", isolation_level=None, timeout=0)
        try:
            self._lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            self._lock.close()
            raise CommandError(f"Another process is writing {output}.", remedy="Wait for it, or stop it.") from None
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise CommandError(f"{self.folder / 'lock'} is damaged ({error}).", remedy="Delete it.") from None
        self._before = self._read_usage()
        self._run = uuid.uuid4().hex
        self._log = (self.folder / "usage.jsonl").open("a", encoding="utf-8")

    def _read_usage(self) -> Usage:
        total = Usage()
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "usage.jsonl").read_text(encoding="utf-8").splitlines()
            # A kill can leave half a line.
            last: dict[str, Usage] = {}
            for line in lines:
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    entry = json.loads(line)
                    run = entry.pop("run")
                    last[run] = Usage(**entry)
            for usage in last.values():
                total += usage
        return total

    @property
    def earlier_usage(self) -> Usage:
        """Usage of earlier runs, as far as they could note it before they ended."""
        return self._before

    def note_usage(self, usage: Usage) -> None:
        """Note the usage of this run so far."""
        self.keep = self.keep or usage.requests > 0
        self._log.write(json.dumps({"run": self._run, **asdict(usage)}) + "\n")
        self._log.flush()

    def close(self) -> None:
        """Release the lock; delete the folder unless it is to be kept."""
        self._log.close()
        self._lock.close()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

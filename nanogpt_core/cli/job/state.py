"""The folder beside an output that is not finished: a lock, passages, vectors, and usage of earlier runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import orjson

from nanogpt_core.cache.sqlite_file import file_identity
from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.paths import state_folder
from nanogpt_core.observability.usage import Usage


class State:
    """The state of one output. Only one process at a time can have it open; a kill releases it.

    Attributes:
        part: Path at which the output is written, from which it is moved when it is complete.
        is_new: True if no earlier run has left a state.
        is_rest: True if a kill has left a part of a state that was being deleted, since its output was in its place.
        keep: Whether the folder stays: True once a request was answered, until the output is in its place.
        earlier_usage: Usage of earlier runs, as far as they could note it before they ended.

    Raises:
        CommandError: Another process has it open.
        OSError: The folder cannot be written.
    """

    def __init__(self, output: Path) -> None:
        self.folder = state_folder(output)
        self.part = self.folder / f"output{output.suffix.lower()}"
        self._lock_file = self.folder / "lock"
        self._usage_file = self.folder / "usage.jsonl"
        while (lock := self._take_lock(output)) is None:
            pass
        self._lock = lock
        self.is_new = not self._files()
        self.is_rest = not self.is_new and not self._usage_file.exists()
        self.keep = not self.is_new
        for file in self._parts_of_output():  # they are written again: their space is free
            _remove(file)
        self.earlier_usage = self._read_usage()
        self._run = uuid.uuid4().hex
        self._log = self._usage_file.open("a", encoding="utf-8")
        self._noting = threading.Lock()

    def _take_lock(self, output: Path) -> sqlite3.Connection | None:
        """Return a connection that holds the lock; None if another process has deleted the folder meanwhile."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            if self.folder.is_symlink() or self.folder.is_file():
                raise
            return None
        with contextlib.suppress(FileNotFoundError):
            self._lock_file.touch(mode=0o600)
        identity = file_identity(self._lock_file)
        with contextlib.ExitStack() as stack:
            try:
                # SQLite's lock of an empty database works on every system, and ends with the process.
                lock = sqlite3.connect(self._lock_file, isolation_level=None, timeout=0)
                stack.callback(lock.close)
                lock.execute("PRAGMA journal_mode = OFF")  # nothing is written: no second file
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.DatabaseError as error:
                failure: sqlite3.DatabaseError | None = error
            else:
                failure = None
            # The lock of a file that was deleted after it was opened would not exclude other processes.
            if identity is None or identity != file_identity(self._lock_file):
                return None
            if isinstance(failure, sqlite3.OperationalError):
                raise CommandError(f"Another process is writing {output}.", remedy="Wait for it, or stop it.")
            if failure is not None:
                raise CommandError(f"{self._lock_file} is damaged ({failure}).", remedy="Delete it.")
            stack.pop_all()
            return lock

    def _read_usage(self) -> Usage:
        total = Usage()
        with contextlib.suppress(FileNotFoundError):
            last: dict[str, Usage] = {}
            for line in self._usage_file.read_bytes().splitlines():
                # A kill can leave half a line.
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    entry = orjson.loads(line)
                    run = entry.pop("run")
                    last[run] = Usage(**entry)
            for usage in last.values():
                total += usage
        return total

    def note_usage(self, read_usage: Callable[[], Usage]) -> None:
        """Note the usage of this run so far, which ``read_usage`` returns. Thread-safe: the last note is the latest."""
        with self._noting:
            usage = read_usage()
            self.keep = self.keep or usage.requests > 0
            self._log.write(json.dumps({"run": self._run, **asdict(usage)}) + "\n")
            self._log.flush()

    def sync_output(self) -> None:
        """Have the disk store the output, before the vectors are deleted: a power failure must not take both."""
        for path in self._parts_of_output():
            for file in path.rglob("*") if path.is_dir() else [path]:
                if file.is_file():
                    with file.open("rb+") as opened:  # Windows needs the right to write
                        os.fsync(opened.fileno())

    def _parts_of_output(self) -> list[Path]:
        return [file for file in self._files() if file.name.startswith("output.")]

    def close(self) -> None:
        """Delete the folder unless it is to be kept, and release the lock."""
        self._log.close()
        if not self.keep:
            # The usage goes first: without it, a kill leaves a rest, and no state of an unfinished output.
            for file in sorted(self._files(), key=lambda file: file != self._usage_file):
                with contextlib.suppress(OSError):
                    _remove(file)
            if sys.platform == "win32":  # an open file cannot be deleted there
                self._lock.close()
            # Last, and while it is locked: until then no other process can have files in the folder.
            with contextlib.suppress(OSError):
                self._lock_file.unlink()
                self.folder.rmdir()
        self._lock.close()

    def _files(self) -> list[Path]:
        return [file for file in self.folder.iterdir() if file != self._lock_file]


def _remove(file: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()

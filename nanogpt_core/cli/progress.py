"""Progress on standard error: a bar in a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import timedelta
from typing import Any

from nanogpt_core.cli.console import make_console

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows the progress of one stage after the other: a line at its beginning, every 5 seconds, and at its end."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def begin(self, stage: str, total: int | None) -> None:
        """Begin a stage; ``total`` is None if it is not known."""
        self._stage, self._total = stage, total
        self._start = self._last = time.monotonic()
        self._first_done: int | None = None
        self._print(f"{stage} ..." if total is None else f"{stage}: {total:,} ...")

    def advance_to(self, done: int, detail: str = "") -> None:
        """Show the number of items done, and a detail such as the cost."""
        now = time.monotonic()
        if self._first_done is None:
            self._first_done, self._start = done, now
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        # From the second report on: the first one may count texts of an earlier run.
        rate = (done - self._first_done) / max(now - self._start, 1e-9)
        parts = [f"{self._stage}: {done:,}" + ("" if self._total is None else f" of {self._total:,}")]
        parts += [*([f"{rate:,.0f}/s"] if rate else []), *([detail] if detail else [])]
        if self._total is not None and rate:
            parts.append(f"{timedelta(seconds=round((self._total - done) / rate))} left")
        self._print(", ".join(parts))

    def end(self, summary: str) -> None:
        """End the stage."""
        self._print(f"{self._stage}: {summary}")

    def close(self) -> None:
        """Remove a bar that is left, after an error."""

    def _print(self, line: str) -> None:
        if self._quiet:
            return
        with contextlib.suppress(OSError):  # a reader of the progress who has gone, or a full disk, must not end a run
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


class _Bar(Progress):
    """A bar of ``rich``."""

    _bar: Any = None

    def begin(self, stage: str, total: int | None) -> None:
        from rich import progress

        self.close()
        self._stage = stage
        columns = [
            progress.TextColumn("{task.description}", markup=False),
            *([progress.SpinnerColumn()] if total is None else [progress.BarColumn()]),
            progress.TextColumn("{task.completed:,.0f}" + ("" if total is None else "/{task.total:,.0f}")),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TextColumn("{task.fields[detail]}"),
            *([] if total is None else [progress.TimeRemainingColumn()]),
        ]
        self._bar = progress.Progress(*columns, console=make_console(stderr=True), transient=True)
        self._bar.add_task(stage, total=total, detail="", rate="")
        self._bar.start()

    def advance_to(self, done: int, detail: str = "") -> None:
        task = self._bar.tasks[0]
        rate = f"{task.speed:,.0f}/s" if task.speed else ""
        self._bar.update(task.id, completed=done, detail=detail, rate=rate)

    def end(self, summary: str) -> None:
        self.close()
        super().end(summary)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def make_progress(*, quiet: bool) -> Progress:
    """Return the progress display for standard error."""
    can_move_cursor = sys.stderr.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
    return _Bar(quiet=False) if can_move_cursor and not quiet else Progress(quiet=quiet)

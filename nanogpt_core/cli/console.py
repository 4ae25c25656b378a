"""Standard output and standard error, in a terminal, a pipe or a file: tables, JSON, messages and questions."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_core.cli.exit_codes import CommandError, ExitCode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Not in a terminal, lines stay whole: grep and cut work on them.
_PIPE_WIDTH_CHARACTERS = 4096
_USUAL_WIDTH_CHARACTERS = 80

# A document may hold escape sequences, which would move the cursor or change the terminal's title.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def make_console(*, stderr: bool = False) -> Console:
    """Return a console on standard output, or on standard error for progress and messages.

    It has colours only in a terminal, and none with ``NO_COLOR``.
    """
    from rich.console import Console

    class PrintableConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    # rich takes the width of the terminal or of COLUMNS if none is given, and prints nothing if COLUMNS is 0.
    columns, width = os.environ.get("COLUMNS", ""), None
    if not (columns.isdecimal() and int(columns)):
        is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
        width = (_USUAL_WIDTH_CHARACTERS if columns else None) if is_terminal else _PIPE_WIDTH_CHARACTERS
    # Without markup: a text with brackets is printed as it is.
    return PrintableConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def make_table(*columns: str, right: Sequence[str], narrow: bool) -> Any:
    """Return an empty ``rich.table.Table``; the columns named in ``right`` are aligned to the right, as numbers are."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0 if narrow else (0, 1), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def print_json(value: object) -> None:
    """Print ``value`` as one JSON document on standard output: indented in a terminal, else in one line.

    Raises:
        CommandError: ``value`` holds NaN or infinity, for example from a reply of the service.
    """
    indent = 2 if sys.stdout.isatty() else None
    # In another encoding than UTF-8, a character that is not in it would be replaced by a question mark.
    is_utf_8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    try:
        text = json.dumps(value, ensure_ascii=not is_utf_8, indent=indent, allow_nan=False)
    except ValueError as error:
        raise CommandError(f"The result cannot be printed as JSON: {error}.", code=ExitCode.SERVICE) from None
    # JSON escapes the other control characters itself.
    sys.stdout.write(_CONTROL_CHARACTERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def print_error(message: str) -> None:
    """Print a message on standard error, in one line, after the program's name."""
    with contextlib.suppress(OSError):  # the exit code tells the rest if nobody reads standard error
        sys.stderr.write(f"nanogpt: {one_line(message)}\n")


def print_warning(message: str) -> None:
    """Print a warning on standard error, in one line, after the program's name."""
    print_error(f"warning: {message}")


def answered_yes(question: str) -> bool:
    """Ask on standard error, and return True for "y" or "yes". Without a terminal the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def printable(text: str) -> str:
    """Return ``text`` with a replacement character for each control character but tabs and line breaks."""
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Return ``text`` in one line, without control characters: names of files and replies may hold line breaks."""
    return printable(" ".join(filter(None, map(str.strip, text.splitlines()))))

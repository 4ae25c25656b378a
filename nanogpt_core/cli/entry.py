"""The entry point: runs a command, and turns every error into one line and an exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from nanogpt_core._runtime.extras import install_command
from nanogpt_core.cli.console import print_error, print_warning
from nanogpt_core.cli.exit_codes import CommandError, ExitCode, exit_code_of, message_of
from nanogpt_core.cli.paths import STDIN
from nanogpt_core.errors import NanoGPTError

# Windows has no SIGHUP, which a closed terminal or connection sends.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
_TRACEBACK_VARIABLE = "NANOGPT_TRACEBACK"
_EXTRAS = {
    "cyclopts": "cli",
    "ir_measures": "compare",
    "lance": "lance",
    "matplotlib": "compare",
    "pyarrow": "arrow",
    "pypdfium2": "pdf",
    "rich": "cli",
    "starlette": "sandbox",
    "uvicorn": "sandbox",
}
"""The extra that brings a package, by the name of its module."""


def main() -> NoReturn:
    """Run the command of the process's arguments, and exit."""
    _open_closed_streams()
    _handle_signals()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again at exit, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            code = ExitCode.OUTPUT_CLOSED
        else:
            print_error(f"standard output: {error.strerror}")
            code = ExitCode.USAGE
    gc.freeze()  # at exit, Python would look for garbage among the objects of all modules, which takes 0.3 s
    sys.exit(code)


def _open_closed_streams() -> None:
    """Replace standard streams that the caller has closed, as in ``nanogpt ... <&-``, by the null device."""
    # In this order: each takes the lowest free file descriptor, and no other file gets it.
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def _handle_signals() -> None:
    """Let SIGTERM, and closing the terminal, end a command as Ctrl-C does; a second signal ends it at once."""
    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):  # else it is ignored: nohup
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def run(arguments: Sequence[str]) -> int:
    """Run one command, and return its exit code; ``arguments`` do not have the program's name."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal may not have every character
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _WarningPrinter()
            return _run(arguments)
    except KeyboardInterrupt:
        print_error("Interrupted.")
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, SystemExit):  # rich exits when the reader of its output has gone
        return ExitCode.OUTPUT_CLOSED
    except Exception as error:  # noqa: BLE001 - no error may end in a traceback
        return _report(error)


def _run(arguments: Sequence[str]) -> int:
    from cyclopts import CycloptsError

    from nanogpt_core.cli.app import make_app

    app = make_app()
    try:
        words = [STDIN if word == "-" else word for word in arguments]
        result = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print_error(_usage_message(error))
        return ExitCode.USAGE
    return result if isinstance(result, int) else ExitCode.OK


def _usage_message(error: Exception) -> str:
    from cyclopts import MissingArgumentError, UnusedCliTokensError

    message = str(error)
    # `nanogpt sandbox` has such an option, whose value may be missing.
    if "--api-key" in message and not isinstance(error, MissingArgumentError):
        return (
            "There is no option for the key, since every user of this machine can read the arguments of a process. "
            "Set NANOGPT_API_KEY in the environment."
        )
    if isinstance(error, UnusedCliTokensError):
        message = f"Too many arguments: {' '.join(error.unused_tokens or ())}. A text with blanks needs quotes."
    command = " ".join(["nanogpt", *(getattr(error, "command_chain", None) or ())])
    return f"{message} See {command} --help.".replace(STDIN, "-")


def _report(error: Exception) -> int:
    if os.environ.get(_TRACEBACK_VARIABLE):
        traceback.print_exc()
    if isinstance(error, CommandError):
        print_error(str(error))
        return error.code
    if isinstance(error, NanoGPTError):
        print_error(message_of(error))
        return exit_code_of(error)
    package = str(error.name).partition(".")[0] if isinstance(error, ImportError) else ""
    if package in _EXTRAS:
        print_error(f"{package} is not installed. Run: {install_command(_EXTRAS[package])}")
        return ExitCode.USAGE
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        print_error(f"{place}{error.strerror or error}")
        return ExitCode.USAGE
    if isinstance(error, Warning):  # raised on request: python -W error, or PYTHONWARNINGS=error
        print_error(f"{error} Warnings are errors here, by Python's options.")
        return ExitCode.USAGE
    print_error(
        f"Internal error: {type(error).__name__}: {error}. This is a defect of nanogpt-rag: please report "
        f"it, with the output of the same command under {_TRACEBACK_VARIABLE}=1."
    )
    return ExitCode.INTERNAL


class _WarningPrinter:
    """Prints each warning once, wherever it comes from: Python would repeat it for each line of a source."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def __call__(self, message: Warning | str, *_place: Any, **_more: Any) -> None:
        if str(message) not in self._printed:
            self._printed.add(str(message))
            print_warning(str(message))

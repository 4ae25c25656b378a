"""The commands of ``nanogpt``. A command's module is imported when it is called, and not for ``nanogpt --help``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclopts import App, Parameter

from nanogpt_core._runtime.extras import package_version
from nanogpt_core.cli.paths import STDIN

_HELP = """\
Embed documents with NanoGPT's models, and search them.

The key is read from NANOGPT_API_KEY, the address from NANOGPT_BASE_URL."""

# The docstrings of the commands, which a list of them shows without an import. Further text is in their epilogues.
_COMMANDS = {
    "estimate": "Show tokens, requests, cost and time of embedding files, and send nothing.",
    "embed": "Embed files and folders, into one file with passages and vectors.",
    "search": "Find the passages of an output that answer a question.",
    "verify": "Compare an output with its manifest, and name rows without a vector.",
    "models": "List the embedding models: dimensions, price, longest text and languages.",
    "compare": "Compare models on your own questions: quality, price, dimensions and time.",
    "usage": "Print requests, tokens and cost of the key, as the service counted them.",
    "balance": "Print the balance of the account that the key belongs to.",
    "doctor": "Check versions, key, address, proxy, certificates, token counts, the service and a cache.",
    "cache": "Inspect, verify, export or clear a cache file, the SQLite file that `cache=` names in Python.",
    "sandbox": "Run a local NanoGPT API for trials and tests, until Ctrl-C.",
    "completion": "Print a script that completes commands and options in a shell.",
}


def make_app() -> App:
    """Return the application with all commands."""
    app = App(
        name="nanogpt",
        help=_HELP,
        help_format="plaintext",
        version=lambda: f"nanogpt {package_version()}",
        default_parameter=Parameter(negative=(), show_default=_shown_default, validator=_refuse_standard_stream),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app["--help"].group = app["--version"].group = "Options"
    for name, summary in _COMMANDS.items():
        app.command(f"nanogpt_core.cli.{name}:command", name=name, help=summary)
    return app


def _refuse_standard_stream(_type: object, value: object) -> None:
    if isinstance(value, Path) and str(value) == STDIN:  # inputs and questions, which may be it, are text
        raise ValueError("Name a file.")


def _shown_default(value: Any) -> str | None:
    """Return a default as the help shows it; None for a flag that is off, and for an empty list."""
    if value is None or value is False or value == ():
        return None
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)

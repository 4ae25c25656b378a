"""Short endings for a script, from its first import on: Ctrl-C, and packages that are not installed.

Imported before all slow imports. Ctrl-C ends the script quietly with the usual status 130; a missing package ends it
with one line that names the make target.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType

_TARGETS = {"web": "web", "evaluate": "evaluate"}
"""Target of the Makefile that installs the packages of a script; ``demo`` for all others."""
_previous_hook = sys.excepthook


def _short_ending(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(130)
    if isinstance(error, ModuleNotFoundError):
        target = _TARGETS.get(Path(sys.argv[0]).stem, "demo")
        sys.exit(f"error: The package {error.name} is not installed: `make {target}` installs it and runs this script.")
    _previous_hook(kind, error, traceback)


sys.excepthook = _short_ending

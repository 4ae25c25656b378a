"""Lets Ctrl-C end a script quietly, with the usual status 130, from its first import on."""

from __future__ import annotations

import sys
from types import TracebackType

_usual = sys.excepthook


def _quiet(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(130)
    _usual(kind, error, traceback)


sys.excepthook = _quiet

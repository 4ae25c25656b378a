"""The logger of this project, ``nanogpt_core``, and its warnings. They hold no key, no header's value and no text."""

from __future__ import annotations

import inspect
import logging
import warnings

_MAX_WARNINGS_KEPT = 100
# Packages whose lines a warning does not point at: this project's, and those between it and its callers.
_INNER_PACKAGES = {
    *("nanogpt_core", "langchain_nanogpt", "llama_index_nanogpt"),
    *("langchain_core", "llama_index", "llama_index_instrumentation", "pydantic", "wrapt"),
    *("langchain_openai", "openai", "httpx", "httpx2", "httpcore", "anyio"),
    *("asyncio", "concurrent", "contextlib", "contextvars", "functools", "threading"),
}

logger = logging.getLogger("nanogpt_core")
"""INFO: retries, pauses, splits, truncated texts, and everything that is learned. DEBUG: each request. WARNING: a hook
that failed."""

logger.addHandler(logging.NullHandler())  # silent, unless the application sets up logging


def describe(error: BaseException) -> str:
    """Return the class of an error, and its HTTP status. Not its message: that may repeat the key or a text."""
    status = getattr(error, "status", None)
    name = type(error).__name__
    return name if status is None else f"{name} (status {status})"


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Give a warning that points at the line that called this project, or in its own threads at the line that warns."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INNER_PACKAGES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=2 if frame is None else level)


class DistinctWarnings:
    """Gives each warning once: a condition that lasts must not give one in every call."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def warn(self, message: str) -> None:
        """Give a ``RuntimeWarning``, unless it was given before."""
        if message not in self._given and len(self._given) < _MAX_WARNINGS_KEPT:
            self._given.add(message)
            warn(message)

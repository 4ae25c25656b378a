"""The logger of this project, ``nanogpt_core``. Its messages hold no key, no header's value and no text."""

from __future__ import annotations

import logging
import warnings

_MAX_WARNINGS_KEPT = 100

logger = logging.getLogger("nanogpt_core")
"""INFO: retries, pauses, splits, truncated texts, and everything that is learned. DEBUG: each request. WARNING: a hook
that failed."""

logger.addHandler(logging.NullHandler())  # silent, unless the application sets up logging


def describe(error: BaseException) -> str:
    """Return the class of an error, and its HTTP status. Not its message: that may repeat the key or a text."""
    status = getattr(error, "status", None)
    name = type(error).__name__
    return name if status is None else f"{name} (status {status})"


class OneWarning:
    """Gives each warning once: a condition that lasts must not give one in every call."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def warn(self, message: str) -> None:
        """Give a ``RuntimeWarning``, unless it was given before."""
        if message not in self._given and len(self._given) < _MAX_WARNINGS_KEPT:
            self._given.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=3)

"""Exit codes of the command line, the error that names one, and the messages of other errors."""

from __future__ import annotations

import re
from enum import IntEnum

from nanogpt_core.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientBalanceError,
    InvalidInputError,
    InvalidTypeError,
    ModelNotFoundError,
    NanoGPTError,
    PermissionDeniedError,
)


class ExitCode(IntEnum):
    """Exit codes, for scripts. ``docs/cli/README.md`` lists them.

    Attributes:
        OK: The command did its work.
        FOUND_PROBLEM: A check ran, and found a problem: ``verify``, ``doctor`` or ``cache verify``.
        USAGE: The command line, the configuration or the environment is wrong. Nothing was sent, unless a file could
            not be written.
        BAD_INPUT: A file cannot be read, or a text cannot be embedded. Nothing was sent for it.
        REFUSED: The service refuses the key, the balance, the rights or the model. Repeating does not help.
        SERVICE: The service was not reached, or failed. The same command may succeed later.
        NOT_CONFIRMED: The command would spend more than was allowed, or delete vectors, and nobody confirmed it.
        INTERNAL: A defect of this program.
        INTERRUPTED: Ctrl-C, SIGTERM, or a closed terminal.
        OUTPUT_CLOSED: The reader of the output has gone, as in ``nanogpt search ... | head``.
    """

    OK = 0
    FOUND_PROBLEM = 1
    USAGE = 2
    BAD_INPUT = 3
    REFUSED = 4
    SERVICE = 5
    NOT_CONFIRMED = 6
    INTERNAL = 70
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


class CommandError(Exception):
    """Ends a command with one line on standard error: ``message``, the problem with its place, and the remedy."""

    def __init__(self, message: str, *, remedy: str = "", code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


_CODES: tuple[tuple[type[NanoGPTError], ExitCode], ...] = (
    (BudgetExceededError, ExitCode.NOT_CONFIRMED),
    (ConfigurationError, ExitCode.USAGE),
    (InvalidInputError, ExitCode.BAD_INPUT),
    (InvalidTypeError, ExitCode.BAD_INPUT),
    (AuthenticationError, ExitCode.REFUSED),
    (InsufficientBalanceError, ExitCode.REFUSED),
    (PermissionDeniedError, ExitCode.REFUSED),
    (ModelNotFoundError, ExitCode.REFUSED),
)

_REMEDIES = {
    "allow_insecure_http=": "Use https://. The command line sends nothing over plain HTTP to another machine.",
    "on_overflow=": "Shorten it, or pass --on-overflow truncate or --on-overflow split.",
    "model_info=": "Leave --budget out, and pass --yes.",
    "budget_usd": "Pass a higher --budget.",
    "default_headers": "Leave them out. The key is read from NANOGPT_API_KEY.",
    "text.encode(": "Pass it in UTF-8.",
}
"""Remedies on the command line, by the option of Python that the package's remedy names."""

_WORDS = {
    "Pass api_key=... or set": "Set",
    "api_key or ": "",
    "base_url": "--base-url",
    "batch_size": "--chunk-tokens",
    "budget_usd": "--budget",
    "clear_cache()": "`nanogpt cache clear`",
    "list_models()": "`nanogpt models`",
    ", or raise timeout": "",
    "`dimensions`": "--dimensions",
    "query_instruction": "--query-instruction",
    "requests_per_second": "--requests-per-second",
}
"""Words of the command line, by those of Python."""

# An error about NANOGPT_BASE_URL, or the URL of MODEL@URL, begins with that name.
_PYTHON_WORDS = re.compile(f"(?<!: )(?:{'|'.join(map(re.escape, _WORDS))})")


def message_and_remedy_of(error: NanoGPTError) -> tuple[str, str]:
    """Return message and remedy of an error of the package, with options of the command line in place of Python's."""
    remedy = next((own for option, own in _REMEDIES.items() if option in error.remedy), error.remedy)
    message, remedy = (_PYTHON_WORDS.sub(lambda found: _WORDS[found[0]], text) for text in (error.message, remedy))
    return message, remedy


def message_of(error: NanoGPTError) -> str:
    """Return message and remedy of an error in one text."""
    return " ".join(filter(None, message_and_remedy_of(error)))


def exit_code_of(error: NanoGPTError) -> ExitCode:
    """Return the exit code for an error of the package."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.SERVICE)

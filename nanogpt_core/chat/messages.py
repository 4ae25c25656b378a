"""Messages that a framework cannot write as a request: the error names the one, and the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from nanogpt_core.errors import InvalidInputError, NanoGPTError
from nanogpt_core.http.error_body import as_sentence, excerpt

M = TypeVar("M")


@contextlib.contextmanager
def naming_bad_message(messages: Sequence[M], convert: Callable[[M], object]) -> Iterator[None]:
    """Raise an error of this project for a framework's raw one about a message; other errors pass.

    Args:
        messages: The messages that the block converts.
        convert: Converts one of them; called only after an error, to find the message.

    Raises:
        InvalidInputError: A message cannot be converted. It is a ``ValueError``.
    """
    try:
        yield
    except NanoGPTError:
        raise
    except Exception:
        for position, message in enumerate(messages):
            try:
                convert(message)
            except Exception as reason:
                raise _bad_message_error(position, reason) from reason
        raise


def _bad_message_error(position: int, reason: Exception) -> InvalidInputError:
    words = f"{reason} is missing" if isinstance(reason, KeyError) else excerpt(str(reason)) or type(reason).__name__
    return InvalidInputError(
        as_sentence(f"The message at position {position} (counted from 0) cannot be sent: {words}"),
        remedy="Correct its content, or leave it out; chat takes texts, images, files and audio.",
        positions=[position],
    )

"""Messages and options that cannot be written as a request: the error names the one, and the reason."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from nanogpt_core.errors import InvalidInputError, InvalidTypeError, NanoGPTError
from nanogpt_core.http.error_body import as_sentence, excerpt

M = TypeVar("M")

# Words of Python's encoder of JSON.
_NO_JSON = re.compile(r"(not JSON (serializable|compliant)|^Circular reference detected|coding a JSON object)")
_ANY = "An option or a message"


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


@contextlib.contextmanager
def naming_unsendable_value(body: Mapping[str, Any]) -> Iterator[None]:
    """Raise an error of this project for a value of a request's ``body`` that JSON or UTF-8 cannot hold.

    Raises:
        InvalidInputError: A text has an unpaired surrogate. It is a ``ValueError``.
        InvalidTypeError: Another value cannot be sent. It is a ``TypeError``.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":  # a header
            raise
        name, positions = _name_of_first(body)
        raise InvalidInputError(
            f"{name or _ANY} has an unpaired surrogate, which UTF-8 cannot encode.",
            remedy='Clean the text: text.encode("utf-8", "replace").decode().',
            positions=positions,
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, NanoGPTError):
            raise
        name, positions = _name_of_first(body)
        if not name and not _NO_JSON.search(str(error)):
            raise
        raise InvalidTypeError(
            f"{name or _ANY} cannot be sent: {error}.",
            remedy="Pass texts, finite numbers, lists and dicts.",
            positions=positions,
        ) from error


def _name_of_first(body: Mapping[str, Any]) -> tuple[str, list[int]]:
    """Return the name of the first message or option that cannot be sent, or "", and the positions of messages."""
    messages = body.get("messages")
    for position, message in enumerate(messages if isinstance(messages, list | tuple) else ()):
        if not _can_be_sent(message):
            return f"The message at position {position} (counted from 0)", [position]
    return next((name for name, value in body.items() if not _can_be_sent(value)), ""), []


def _can_be_sent(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_json).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _as_json(value: Any) -> Any:
    """Return a value of the types that the SDK's encoder takes beside those of JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True, mode="json", by_alias=True)
    raise TypeError

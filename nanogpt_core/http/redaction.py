"""Keeps the key out of errors: a service, or a proxy before it, may repeat the key in its messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nanogpt_core.errors import NanoGPTError, causes
from nanogpt_core.http.endpoint import Endpoint

__all__ = ["redacted"]

_HIDDEN = "**********"
_SHORTEST = 6


@contextlib.contextmanager
def redacted(endpoint: Endpoint) -> Iterator[None]:
    """Let errors of this project out of the block without the endpoint's key, in them or in their causes."""
    try:
        yield
    except NanoGPTError as error:
        key = endpoint.key.reveal_or_empty() if endpoint.key else ""
        # A few letters can stand anywhere; a key is longer.
        if len(key) >= _SHORTEST:
            for cause in causes(error):
                _redact(cause, key)
        raise


def _redact(error: BaseException, key: str) -> None:
    error.args = tuple(_without(value, key) for value in error.args)
    for name, value in vars(error).items():
        with contextlib.suppress(
            AttributeError, TypeError
        ):  # an attribute that cannot be set holds no text of the service's
            setattr(error, name, _without(value, key))


def _without(value: Any, key: str) -> Any:
    if isinstance(value, str):
        return value.replace(key, _HIDDEN)
    if isinstance(value, bytes):
        return value.replace(key.encode(), _HIDDEN.encode())
    if isinstance(value, dict):
        return {name: _without(item, key) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, key) for item in value]
    return value

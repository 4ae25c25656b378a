"""Keeps secrets out of errors: a service, or a proxy before it, may repeat the key or a header in its messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from nanogpt_core.errors import NanoGPTError, causes
from nanogpt_core.http.endpoint import Endpoint

_HIDDEN = "**********"
_MIN_KEY_CHARACTERS = 6  # a few letters can stand anywhere; a key is longer
_MIN_HEADER_CHARACTERS = 8
# Headers without secrets. Their values, such as a URL, may stand in our own messages.
_PUBLIC_HEADERS = frozenset({"accept", "accept-language", "http-referer", "origin", "referer", "user-agent", "x-title"})


@contextlib.contextmanager
def redacted(endpoint: Endpoint) -> Iterator[None]:
    """Let errors out of the block without the endpoint's key and headers, in them or in their causes."""
    try:
        yield
    except NanoGPTError as error:
        for cause in causes(error):
            for secret in _secrets(endpoint):
                _redact(cause, secret)
        raise


def without_secrets(text: str, endpoint: Endpoint) -> str:
    """Return ``text`` without the endpoint's key and headers."""
    for secret in _secrets(endpoint):
        text = text.replace(secret, _HIDDEN)
    return text


def _secrets(endpoint: Endpoint) -> list[str]:
    """Return the texts to hide, long ones first: one may contain another."""
    key = endpoint.key.reveal_or_empty() if endpoint.key else ""
    secrets = {key} if len(key) >= _MIN_KEY_CHARACTERS else set()
    for name, value in endpoint.headers.items():
        if name.lower() not in _PUBLIC_HEADERS:
            # The word after a scheme such as Bearer may be repeated without it.
            secrets |= {part for part in (value, value.rpartition(" ")[2]) if len(part) >= _MIN_HEADER_CHARACTERS}
    return sorted(secrets, key=len, reverse=True)


def _redact(error: BaseException, secret: str) -> None:
    error.args = tuple(_without(value, secret) for value in error.args)
    for name, value in vars(error).items():
        # An attribute that cannot be set holds no text of the service's.
        with contextlib.suppress(AttributeError, TypeError):
            setattr(error, name, _without(value, secret))


def _without(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, _HIDDEN)
    if isinstance(value, bytes):
        return value.replace(secret.encode(), _HIDDEN.encode())
    if isinstance(value, dict):
        return {name: _without(item, secret) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, secret) for item in value]
    return value

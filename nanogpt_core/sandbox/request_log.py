"""The log of requests that the sandbox answered."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RecordedRequest:
    """One request that the sandbox answered.

    Attributes:
        method: HTTP method.
        path: Path of the URL, without the query.
        status: HTTP status of the answer.
        model: The requested model, or None.
        items: Number of texts in ``input``.
        inputs: The texts of ``input``.
        headers: Request headers, names in lower case. Not in the ``repr``: they contain the key.
        body: The decoded JSON object; empty if the body is not one.
        time: Time of the answer, in seconds since 1970.
    """

    method: str
    path: str
    status: int
    model: str | None = None
    items: int = 0
    inputs: tuple[str, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    time: float = field(default_factory=time.time, compare=False)


class RequestLog:
    """The latest requests, bounded in number and in bytes of their bodies; safe to use from any thread."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: deque[tuple[int, RecordedRequest]] = deque()
        self._bytes = 0

    def add(self, request: RecordedRequest, size: int) -> None:
        """Append a request whose body has ``size`` bytes, and drop the oldest ones beyond the limits."""
        with self._lock:
            self._entries.append((size, request))
            self._bytes += size
            while self._entries and (len(self._entries) > self._max_requests or self._bytes > self._max_bytes):
                self._bytes -= self._entries.popleft()[0]

    def snapshot(self) -> list[RecordedRequest]:
        """Return a copy of the log, oldest request first."""
        with self._lock:
            return [request for _, request in self._entries]

    def clear(self) -> None:
        """Drop all requests."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0


def describe(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a :class:`RecordedRequest` from a decoded body of any content."""
    model, texts = body.get("model"), body.get("input")
    items = texts if isinstance(texts, list) else [] if texts is None else [texts]
    return {
        "model": model if isinstance(model, str) else None,
        "items": len(items),
        "inputs": tuple(text for text in items if isinstance(text, str)),
        "body": body,
    }

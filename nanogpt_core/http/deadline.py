"""Time and size limits of one attempt.

An HTTP client's own time limit is one for each read, which a reply that trickles in never reaches; and it unpacks a
compressed reply however large that grows. Both limits are set for a block with :func:`request_limits`. The network
backends and transports of this package keep to them.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from nanogpt_core.errors import DamagedReplyError, ReplyError

__all__ = ["BodyReader", "RequestLimits", "remaining", "request_limits"]

_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits of one attempt.

    Attributes:
        deadline: When it has to be over, in seconds of ``time.monotonic()``.
        max_bytes: Maximum size of a reply, unpacked.
    """

    deadline: float
    max_bytes: int


_current: ContextVar[RequestLimits | None] = ContextVar("nanogpt_request_limits", default=None)


@contextlib.contextmanager
def request_limits(timeout: float, max_bytes: int) -> Iterator[None]:
    """Limit the attempt, or the read of a stream, in this block to ``timeout`` seconds and a reply to ``max_bytes``."""
    token = _current.set(RequestLimits(time.monotonic() + timeout, max_bytes))
    try:
        yield
    finally:
        _current.reset(token)


def remaining(timeout: float | None) -> float | None:
    """Return ``timeout`` in seconds, or the time left of the attempt if that is less: 0 or less after its deadline."""
    limits = _current.get()
    if limits is None:
        return timeout
    seconds = limits.deadline - time.monotonic()
    return seconds if timeout is None else min(timeout, seconds)


class BodyReader:
    """Unpacks the body of a reply, and keeps it to the size limit of the attempt.

    Args:
        headers: The reply's headers.

    Raises:
        ReplyError: The headers announce more, or an unknown compression.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        limits = _current.get()
        max_bytes = _UNLIMITED_BYTES if limits is None else limits.max_bytes
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
            raise ReplyError(f"The reply is compressed as {encoding!r}, which was not asked for.")
        self.is_compressed = encoding not in ("identity", "")
        # 32: either a gzip or a zlib header, whichever comes.
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32) if self.is_compressed else None
        self._left = max_bytes
        self._most = max_bytes

    def feed(self, chunk: bytes) -> bytes:
        """Return the unpacked bytes of ``chunk``.

        Raises:
            DamagedReplyError: The compression is damaged.
            ReplyError: The body is too large.
        """
        if self._inflater is not None:
            try:
                # A byte more than is allowed, to tell a body of the allowed size from a larger one.
                chunk = self._inflater.decompress(chunk, self._left + 1)
            except zlib.error as error:
                raise DamagedReplyError(f"The reply's compression is damaged: {error}.") from error
        self._left -= len(chunk)
        if self._left < 0:
            raise _too_large(self._most)
        return chunk

    def finish(self) -> None:
        """Check that nothing is missing at the end.

        Raises:
            DamagedReplyError: The compressed body is not complete.
        """
        if self._inflater is not None and not self._inflater.eof:
            raise DamagedReplyError("The compressed reply was cut off.")


def _too_large(max_bytes: int) -> ReplyError:
    return ReplyError(
        f"The reply is larger than {max_bytes:,} bytes, more than what was asked for can take; it was not read."
    )

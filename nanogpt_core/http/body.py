"""Bodies of replies: unpacked, counted, and refused above the size limit of the attempt."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from nanogpt_core.errors import DamagedReplyError, ReplyError
from nanogpt_core.http.connections import AsyncLease, Lease
from nanogpt_core.http.deadline import max_reply_bytes
from nanogpt_core.http.library import httpx

__all__ = ["AsyncBody", "Body", "BodyReader"]

_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate"})
_NOT_ASKED_FOR = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})


class BodyReader:
    """Unpacks the body of a reply, and keeps it to the size limit of the attempt.

    Args:
        headers: The reply's headers.

    Raises:
        ReplyError: The headers announce more, or another compression.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._max_bytes = self._left = max_reply_bytes()
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        encodings = {name.strip().lower() for name in headers.get("content-encoding", "").split(",")}
        others = encodings & _NOT_ASKED_FOR
        if others:
            raise ReplyError(f"The reply is compressed as {min(others)!r}, which was not asked for.")
        # Some servers name a character set there, or "none".
        self.is_compressed = not encodings.isdisjoint(_COMPRESSIONS)
        # 32: either a gzip or a zlib header, whichever comes.
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32) if self.is_compressed else None

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
            raise self._too_large()
        return chunk

    def finish(self) -> None:
        """Check that nothing is missing at the end.

        Raises:
            DamagedReplyError: The compressed body is not complete.
        """
        if self._inflater is not None and not self._inflater.eof:
            raise DamagedReplyError("The compressed reply was cut off.")

    def _too_large(self) -> ReplyError:
        limit = f"{self._max_bytes:,} bytes, more than what was asked for can take"
        return ReplyError(f"The reply is larger than {limit}; it was not read.")


class Body(httpx.SyncByteStream):  # type: ignore[misc] # the library is known only when this runs
    """The body of a reply.

    Args:
        stream: The bytes as they come.
        reader: Unpacks and counts them.
        lease: The use of the connection, which ends with the body; or None.
    """

    def __init__(self, stream: Any, reader: BodyReader, lease: Lease | None = None) -> None:
        self._stream, self._reader, self._lease = stream, reader, lease

    def __iter__(self) -> Iterator[bytes]:
        """Yield the unpacked chunks."""
        for chunk in self._stream:
            yield self._reader.feed(chunk)
        self._reader.finish()

    def close(self) -> None:
        """Close the stream below."""
        try:
            self._stream.close()
        finally:
            if self._lease is not None:
                self._lease.end()


class AsyncBody(httpx.AsyncByteStream):  # type: ignore[misc]
    """The body of an async reply; see :class:`Body`."""

    def __init__(self, stream: Any, reader: BodyReader, lease: AsyncLease | None = None) -> None:
        self._stream, self._reader, self._lease = stream, reader, lease

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the unpacked chunks."""
        async for chunk in self._stream:
            yield self._reader.feed(chunk)
        self._reader.finish()

    async def aclose(self) -> None:
        """Close the stream below."""
        try:
            await self._stream.aclose()
        finally:
            if self._lease is not None:
                await self._lease.end()

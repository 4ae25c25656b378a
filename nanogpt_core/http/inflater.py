"""Unpacks bodies that are compressed with gzip or deflate, in every form in which servers send them. No I/O."""

from __future__ import annotations

import zlib
from typing import Any

from nanogpt_core.errors import DamagedReplyError

GZIP_MAGIC = b"\x1f\x8b"
"""The first bytes of gzip."""
# A body of gzip may have several members, one after another. Real ones hold at least some kilobytes each; unpacking
# very many tiny ones takes long.
_MAX_MEMBERS = 256
_FIRST_BYTE_NOT_ASCII = 0x80
_RESERVED_BLOCK_TYPE = 0b110  # RFC 1951, 3.2.3


class Inflater:
    """Unpacks one body, whose form its first two bytes tell.

    They begin gzip or zlib. If not, the body is raw deflate, as some servers send it, also as gzip, or it is not
    compressed at all: a proxy has unpacked it and kept the header. Deflated JSON does not begin as JSON does.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._waiting = b""
        self._members = 0
        self._is_plain = False
        self._inflater: Any = None

    def feed(self, data: bytes, max_bytes: int) -> bytes:
        """Return the unpacked bytes of ``data``, about ``max_bytes`` of them at most."""
        if self._is_plain:
            return data
        unpacked = b""
        data = self._waiting + data if self._waiting else data
        self._waiting = b""
        while data and len(unpacked) < max_bytes:
            if self._inflater is None or self._inflater.eof:
                if len(data) < len(GZIP_MAGIC):
                    self._waiting = bytes(data)
                    break
                if not self._begin(data):
                    return data if self._is_plain else unpacked
            try:
                unpacked += self._inflater.decompress(data, max_bytes - len(unpacked))
            except zlib.error as error:
                raise DamagedReplyError(f"The reply's compression is damaged: {error}.") from error
            data = self._inflater.unused_data
        return unpacked

    def _begin(self, data: bytes) -> bool:
        """Make the inflater for a body or a further member; False if ``data`` is not compressed, or after the end."""
        start = bytes(data[:2])
        self._members += 1
        if start == GZIP_MAGIC and self._members <= _MAX_MEMBERS:
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        elif self._members > 1:
            return False
        elif start[0] & 0x0F == zlib.DEFLATED and int.from_bytes(start, "big") % 31 == 0:  # RFC 1950
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS)
        elif self._is_raw_deflate(start[0]):
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        else:
            self._is_plain = True
        return not self._is_plain

    def _is_raw_deflate(self, byte: int) -> bool:
        if self._coding == "deflate":
            return byte not in b"{["
        # JSON and HTML begin in ASCII or with a byte order mark, which would be of the reserved block type.
        return byte >= _FIRST_BYTE_NOT_ASCII and byte & _RESERVED_BLOCK_TYPE != _RESERVED_BLOCK_TYPE

    def finish(self) -> None:
        """Raise a DamagedReplyError if the body is not complete."""
        if not self._is_plain and (self._inflater is None or not self._inflater.eof):
            raise DamagedReplyError("The compressed reply was cut off.")

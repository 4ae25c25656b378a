"""Bounds on one attempt, below the SDK: how long it may take in all, and how many bytes a reply may have.

An HTTP client's own time limit is one for each read, which a reply that trickles in never reaches; and it unpacks a
compressed reply however large that grows. Both bounds are set for a block with :func:`bounds`, and hold in the clients
that :func:`protect` and :func:`protect_async` have prepared.
"""

from __future__ import annotations

import contextlib
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

from nanogpt_core.errors import DamagedReplyError, ReplyError

__all__ = [
    "Bounds",
    "bounds",
    "current_bounds",
    "protect",
    "protect_async",
    "protect_pool",
    "renewed",
    "shortened",
    "too_large",
]


@dataclass(slots=True)
class Bounds:
    """What one attempt may take.

    Attributes:
        deadline: When it has to be over, in seconds of ``time.monotonic()``.
        most_bytes: Most bytes of a reply, unpacked.
    """

    deadline: float
    most_bytes: int

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, negative after it."""
        return self.deadline - time.monotonic()


_current: ContextVar[Bounds | None] = ContextVar("nanogpt_bounds", default=None)


@contextlib.contextmanager
def bounds(seconds: float, most_bytes: int) -> Iterator[None]:
    """Let attempts in this block take ``seconds`` in all and replies have at most ``most_bytes`` bytes."""
    with _set(Bounds(time.monotonic() + seconds, most_bytes)):
        yield


def current_bounds() -> Bounds | None:
    """Return the bounds of the block that this is called in."""
    return _current.get()


@contextlib.contextmanager
def renewed(limits: Bounds, seconds: float) -> Iterator[None]:
    """Let what a stream reads in this block take ``seconds`` from now; ``limits`` are those that it began under."""
    limits.deadline = time.monotonic() + seconds
    with _set(limits):
        yield


@contextlib.contextmanager
def _set(limits: Bounds) -> Iterator[None]:
    token = _current.set(limits)
    try:
        yield
    finally:
        _current.reset(token)


def protect(client: Any) -> None:
    """Make the replies of a sync ``httpx`` client keep to the bounds of the block that it is used in."""
    client.event_hooks = _with_hook(client, _guard_response)


def protect_pool(client: Any) -> None:
    """Make the connections of a sync ``httpx`` client keep to the deadline of the block that they are used in."""
    for transport in (client._transport, *client._mounts.values()):
        _set_deadlines(transport)


def protect_async(client: Any) -> None:
    """Make the replies of an async ``httpx`` client keep to the bounds of the block that it is used in."""
    client.event_hooks = _with_hook(client, _guard_async_response)


def _with_hook(client: Any, hook: Callable[[Any], Any]) -> dict[str, list[Callable[[Any], Any]]]:
    hooks = client.event_hooks
    return {**hooks, "response": [*hooks.get("response", []), hook]}


def _guard_response(response: Any) -> None:
    response.encoding = "utf-8"  # as JSON is, whatever the service says: the SDK would decode by that
    limits = _current.get()
    if limits is not None:
        sync_stream, _ = _stream_classes(_library(response))
        response.stream = sync_stream(response.stream, _unpacker(response, limits), limits)


async def _guard_async_response(response: Any) -> None:
    response.encoding = "utf-8"  # see above
    limits = _current.get()
    if limits is not None:
        _, async_stream = _stream_classes(_library(response))
        response.stream = async_stream(response.stream, _unpacker(response, limits), limits)


def _library(thing: object) -> str:
    return type(thing).__module__.partition(".")[0]


class _Unpacker:
    """Passes a reply's bytes on, unpacked and counted."""

    def __init__(self, packed: bool, most_bytes: int) -> None:
        # 32: either a gzip or a zlib header, whichever comes.
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32) if packed else None
        self._left = most_bytes
        self._most = most_bytes

    def feed(self, chunk: bytes) -> bytes:
        """Return what ``chunk`` holds."""
        if self._inflater is not None:
            try:
                # A byte more than is allowed, to tell a reply that fills the bound from one that goes past it.
                chunk = self._inflater.decompress(chunk, self._left + 1)
            except zlib.error as error:
                raise DamagedReplyError(f"The reply's compression is damaged: {error}.") from error
        self._left -= len(chunk)
        if self._left < 0:
            raise too_large(self._most)
        return chunk

    def finish(self) -> None:
        """Check that nothing is missing at the end."""
        if self._inflater is not None and not self._inflater.eof:
            raise DamagedReplyError("The compressed reply was cut off.")


def too_large(most_bytes: int) -> ReplyError:
    """Return the error for a reply of more than ``most_bytes`` bytes."""
    return ReplyError(
        f"The reply is larger than {most_bytes:,} bytes, more than what was asked for can take; it was not read."
    )


def _unpacker(response: Any, limits: Bounds) -> _Unpacker:
    headers = response.headers
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.most_bytes:
        raise too_large(limits.most_bytes)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise ReplyError(f"The reply is compressed as {encoding!r}, which was not asked for.")
    if encoding not in ("identity", ""):
        # It is unpacked here, within the bounds, and no longer by the HTTP client.
        del headers["content-encoding"]
        return _Unpacker(packed=True, most_bytes=limits.most_bytes)
    return _Unpacker(packed=False, most_bytes=limits.most_bytes)


@cache
def _stream_classes(library: str) -> tuple[type[Any], type[Any]]:
    http = sys.modules[library]

    class SyncStream(http.SyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, inner: Any, unpacker: _Unpacker, limits: Bounds) -> None:
            self._inner, self._unpacker, self._limits = inner, unpacker, limits

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self._inner:
                if self._limits.seconds_left <= 0:
                    raise http.ReadTimeout("the reply did not end in time")
                yield self._unpacker.feed(chunk)
            self._unpacker.finish()

        def close(self) -> None:
            self._inner.close()

    class AsyncStream(http.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, inner: Any, unpacker: _Unpacker, limits: Bounds) -> None:
            self._inner, self._unpacker, self._limits = inner, unpacker, limits

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._inner:
                if self._limits.seconds_left <= 0:
                    raise http.ReadTimeout("the reply did not end in time")
                yield self._unpacker.feed(chunk)
            self._unpacker.finish()

        async def aclose(self) -> None:
            await self._inner.aclose()

    return SyncStream, AsyncStream


def _set_deadlines(transport: Any) -> None:
    # Headers can trickle in too, below what the client's public interface reaches. Where the pool looks otherwise, as
    # in a transport of the caller's own, the bound on the body is still there.
    pool = getattr(transport, "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if backend is not None:
        pool._network_backend = _backend_class(_library(pool))(backend)  # type: ignore[union-attr]


@cache
def _backend_class(library: str) -> type[Any]:
    core = sys.modules[library]

    class Stream(core.NetworkStream):  # type: ignore[misc, name-defined]
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            data: bytes = self._inner.read(max_bytes, shortened(timeout, core.ReadTimeout))
            return data

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._inner.write(buffer, shortened(timeout, core.WriteTimeout))

        def close(self) -> None:
            self._inner.close()

        def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
            limit = shortened(timeout, core.ConnectTimeout)
            return Stream(self._inner.start_tls(ssl_context, server_hostname, limit))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    class Backend(core.NetworkBackend):  # type: ignore[misc, name-defined]
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def connect_tcp(self, *args: Any, **kwargs: Any) -> Any:
            return Stream(self._inner.connect_tcp(*args, **kwargs))

        def connect_unix_socket(self, *args: Any, **kwargs: Any) -> Any:
            return Stream(self._inner.connect_unix_socket(*args, **kwargs))

        def sleep(self, seconds: float) -> None:
            self._inner.sleep(seconds)

    return Backend


def shortened(timeout: float | None, error: type[Exception]) -> float | None:
    """Return the seconds that may still be taken: ``timeout``, or what is left of the attempt.

    Raises:
        Exception: The one given, when nothing is left.
    """
    limits = _current.get()
    if limits is None:
        return timeout
    left = limits.seconds_left
    if left <= 0:
        raise error("the attempt's time is over")
    return left if timeout is None else min(timeout, left)

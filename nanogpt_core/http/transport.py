"""A transport of ``httpx`` with an endpoint's key and headers, over the connections of the process or event loop.

Bodies of replies are unpacked, counted, and refused above the size limit of the attempt.

:class:`Transport` looks up the connections for each request, so a client may be used after a fork, and in one event
loop after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import anyio  # a dependency of the SDK

from nanogpt_core._runtime.clock import current_attempt
from nanogpt_core._runtime.loop_turns import take_turn
from nanogpt_core._runtime.task_cancellation import hold_cancellation
from nanogpt_core.errors import ReplyError
from nanogpt_core.http.client import LARGE_REPLY_BYTES, Lifetime
from nanogpt_core.http.connections import Lease, take_async_lease, take_lease
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.environment import Proxy, proxy_for
from nanogpt_core.http.inflater import GZIP_MAGIC, Inflater
from nanogpt_core.http.own_client import asend_with, send_with
from nanogpt_core.http.sdk import SDK_HEADERS, SDK_KEY, httpx
from nanogpt_core.http.secrets import SecretHeaders

_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate"})
_UNSUPPORTED_COMPRESSIONS = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})


class Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):  # type: ignore[misc] # known only when this runs
    """Sends requests with an endpoint's key and headers, within the limits of the attempt.

    Any thread and any event loop of asyncio's may use it, and a forked process too. No client above has to hold the
    key.

    Args:
        endpoint: Key and headers.
        http_client: The caller's own client of ``httpx`` or ``httpx2`` to send with, sync or async, with its headers,
            cookies, authentication and event hooks. It is never closed here. Default: the connections that all objects
            of this process or event loop share.
        owner: The object whose requests these are: connections stay open as long as it is open. None for single
            requests.
    """

    def __init__(self, endpoint: Endpoint, http_client: Any = None, owner: Lifetime | None = None) -> None:
        self._endpoint, self._client, self._owner = endpoint, http_client, owner
        self._headers = SecretHeaders(endpoint.headers)
        if endpoint.key is not None and "authorization" not in map(str.lower, self._headers):
            self._headers["Authorization"] = f"Bearer {endpoint.key.get_secret_value()}"

    @property
    def _proxy(self) -> Proxy | None:
        """The proxy of the environment, as it is at the first request; looking for it takes 0.2 ms."""
        # No cached_property: before Python 3.12 it has a lock, which a fork in another thread would leave locked.
        if not hasattr(self, "_found_proxy"):
            url = httpx.URL(self._endpoint.base_url)
            self._found_proxy = proxy_for(url.scheme, url.host, url.port)
        return self._found_proxy

    def handle_request(self, request: Any) -> Any:
        """Send one sync request."""
        request = _with_headers(request, self._headers)
        if self._client is not None:
            return _with_body(send_with(self._client, request))
        lease = take_lease(request.url, self._owner, self._proxy)
        try:
            return _with_body(lease.transport.handle_request(request), lease)
        except BaseException as error:
            lease.close()
            lease.add_proxy_to(error)
            raise

    async def handle_async_request(self, request: Any) -> Any:
        """Send one async request."""
        request = _with_headers(request, self._headers)
        if self._client is not None:
            return _with_body(await asend_with(self._client, request))
        lease = await take_async_lease(request.url, self._owner, self._proxy)
        try:
            return _with_body(await hold_cancellation(lease.transport.handle_async_request(request)), lease)
        except BaseException as error:
            await lease.aclose()
            lease.add_proxy_to(error)
            raise


# --- bodies ---


def _with_body(response: Any, lease: Lease | None = None) -> Any:
    response.encoding = "utf-8"  # as JSON is, whatever the service says: the SDK would decode by that
    reader = BodyReader(response.headers, is_error=not response.is_success)
    if "location" in response.headers:
        # For error_mapping. From the header, the HTTP client would make the request to follow, and raise if it cannot.
        response.extensions["location"] = response.headers.pop("location")
    if reader.is_compressed:
        del response.headers["content-encoding"]  # unpacked here, and no longer by the HTTP client
    response.stream = _Body(response.stream, reader, lease)
    return response


class BodyReader:
    """Unpacks the body of a reply, and keeps it to the size limit of the attempt.

    If the status is an error (``is_error``), the body is read as far as possible, and its own errors are ignored.

    Attributes:
        ignored_errors: Errors of reading that end the body, and are not raised.
        is_compressed: Whether the headers announce a compression.
    """

    def __init__(self, headers: Mapping[str, str], *, is_error: bool = False) -> None:
        self.ignored_errors = (ReplyError, httpx.TransportError) if is_error else ()
        self._max_bytes = self._left = current_attempt.get().max_bytes
        length = headers.get("content-length", "")
        self._announced_bytes = int(length) if length.isdigit() and not is_error else 0
        codings = [name.strip().lower() for name in headers.get("content-encoding", "").split(",")]
        self._not_asked_for = min(_UNSUPPORTED_COMPRESSIONS.intersection(codings), default="")
        # Some servers name a character set there, or "none".
        compressions = [name for name in codings if name in _COMPRESSIONS]
        self.is_compressed = bool(self._not_asked_for or compressions)
        self._inflaters = [Inflater(name) for name in reversed(compressions)]
        self._at_start = True

    def feed(self, chunk: bytes) -> bytes:
        """Return the unpacked bytes of ``chunk``.

        Raises:
            DamagedReplyError: The compression is damaged.
            ReplyError: The body is too large, or compressed in a way that was not asked for.
        """
        if self._not_asked_for:
            raise ReplyError(f"The reply is compressed as {self._not_asked_for!r}, which was not asked for.")
        if self._announced_bytes > self._max_bytes:
            raise self._too_large()
        if self._at_start and chunk[:1] == GZIP_MAGIC[:1] and not self._inflaters:
            self._inflaters = [Inflater("gzip")]  # without a header; no other reply begins like that
        self._at_start = False
        for inflater in self._inflaters:
            # A byte more than is allowed, to tell a body of the allowed size from a larger one.
            chunk = inflater.feed(chunk, self._left + 1)
        self._left -= len(chunk)
        if self._left < 0:
            raise self._too_large()
        return chunk

    @property
    def byte_count(self) -> int:
        """Unpacked bytes until now."""
        return self._max_bytes - self._left

    def finish(self) -> None:
        """Check that nothing is missing at the end.

        Raises:
            DamagedReplyError: The compressed body is not complete.
        """
        for inflater in self._inflaters:
            inflater.finish()

    def _too_large(self) -> ReplyError:
        limit = f"{self._max_bytes:,} bytes, more than what was asked for can take"
        return ReplyError(f"The reply is larger than {limit}; it was not read.")


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):  # type: ignore[misc]
    """The body of a sync or async reply. The use of the connection, its ``lease``, ends with it."""

    def __init__(self, stream: Any, reader: BodyReader, lease: Lease | None = None) -> None:
        self._stream, self._reader, self._lease = stream, reader, lease

    def __iter__(self) -> Iterator[bytes]:
        with contextlib.suppress(*self._reader.ignored_errors):
            for chunk in self._stream:
                yield self._reader.feed(chunk)
            self._reader.finish()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            if self._lease is not None:
                self._lease.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with contextlib.suppress(*self._reader.ignored_errors):
            async for chunk in self._stream:
                yield self._reader.feed(chunk)
            self._reader.finish()

    async def aclose(self) -> None:
        try:
            with anyio.CancelScope(shield=True):  # anyio would cancel again in each turn of the event loop
                await hold_cancellation(self._stream.aclose())
        finally:
            if self._lease is not None:
                await self._lease.aclose()
        if self._reader.byte_count >= LARGE_REPLY_BYTES:
            # The HTTP client joins the parts next: 6 ms for 10 MB. A cancellation here would lose a paid reply.
            await hold_cancellation(take_turn())


# --- key and headers ---

# Values that the SDK and the HTTP client set by themselves: the endpoint's headers replace them.
_REPLACEABLE = {
    **{name.lower().encode(): value.encode() for name, value in SDK_HEADERS.items()},
    b"authorization": f"Bearer {SDK_KEY}".encode(),
    b"connection": b"keep-alive",
}
_DROPPED_PREFIXES = (b"x-stainless-", b"openai-")  # the SDK's notes on the machine and on OpenAI's account


def _with_headers(request: Any, endpoint_headers: SecretHeaders) -> Any:
    """Return the request with the endpoint's headers; one that was given with this one call stays."""
    # A copy: the SDK reads its own request again, and its errors, which show it, must not hold the key.
    # Names are sent as they were given: some tools for tests compare them with their case. The SDK may send a header of
    # make_client() twice, with another case.
    own = {name.lower().encode(): (name.encode(), value.encode()) for name, value in endpoint_headers.items()}
    headers, seen = [], set()
    for name, value in request.headers.raw:
        lower = name.lower()
        if lower.startswith(_DROPPED_PREFIXES) or (lower, value) in seen:
            continue
        seen.add((lower, value))
        # The SDK's placeholder for the key goes, if there is no key.
        own_name, own_value = own.pop(lower, (name, None if lower == b"authorization" else value))
        default = request.url.netloc if lower == b"host" else _REPLACEABLE.get(lower)
        chosen = own_value if value == default else value  # any other value was given with this one call
        if chosen is not None:
            headers.append((own_name, chosen))
    return httpx.Request(
        request.method,
        request.url,
        headers=[*headers, *own.values()],
        stream=request.stream,
        extensions=request.extensions,
    )

"""Transports of ``httpx`` with an endpoint's key and headers, over the connections of the process or event loop.

:class:`Transport` looks up the connections for each request, so a client may be used after a fork, and in one event
loop after another.
"""

from __future__ import annotations

from typing import Any

import openai

from nanogpt_core.http.body import AsyncBody, Body, BodyReader
from nanogpt_core.http.connections import AsyncLease, Lease
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.library import httpx
from nanogpt_core.http.lifetime import Lifetime
from nanogpt_core.http.own_client import asend_with, send_with

__all__ = ["SDK_HEADERS", "SDK_KEY", "AsyncTransport", "Transport"]


class Transport(httpx.BaseTransport):  # type: ignore[misc] # the library is known only when this runs
    """Sends sync requests with an endpoint's key and headers, within the limits of the attempt.

    Any thread may use it, and a forked process too. No client above has to hold the key.

    Args:
        endpoint: Key and headers.
        http_client: The caller's own client of ``httpx`` or ``httpx2`` to send with, with its headers, cookies,
            authentication and event hooks. It is never closed here. Default: the connections that all objects of this
            process share.
        user: The object whose requests these are: connections stay open as long as it is open. None for single
            requests.
    """

    def __init__(self, endpoint: Endpoint, http_client: Any = None, user: Lifetime | None = None) -> None:
        self._endpoint, self._client, self._user = endpoint, http_client, user

    def handle_request(self, request: Any) -> Any:
        """Send one request."""
        request = _with_headers(request, self._endpoint)
        if self._client is not None:
            response = send_with(self._client, request)
            response.stream = _body(response)
            return response
        lease = Lease(request.url, self._user)
        try:
            response = lease.transport.handle_request(request)
            response.stream = _body(response, lease)
        except BaseException:
            lease.end()
            raise
        return response


class AsyncTransport(httpx.AsyncBaseTransport):  # type: ignore[misc]
    """Sends async requests; see :class:`Transport`.

    Any event loop of asyncio's may use it; a caller's own client belongs to one event loop.
    """

    def __init__(self, endpoint: Endpoint, http_client: Any = None, user: Lifetime | None = None) -> None:
        self._endpoint, self._client, self._user = endpoint, http_client, user

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request."""
        request = _with_headers(request, self._endpoint)
        if self._client is not None:
            response = await asend_with(self._client, request)
            response.stream = await _async_body(response)
            return response
        lease = await AsyncLease.of(request.url, self._user)
        try:
            response = await lease.transport.handle_async_request(request)
            response.stream = await _async_body(response, lease)
        except BaseException:
            await lease.end()
            raise
        return response


def _body(response: Any, lease: Lease | None = None) -> Body:
    try:
        return Body(response.stream, _reader(response), lease)
    except BaseException:
        response.stream.close()
        raise


async def _async_body(response: Any, lease: AsyncLease | None = None) -> AsyncBody:
    try:
        return AsyncBody(response.stream, _reader(response), lease)
    except BaseException:
        await response.stream.aclose()
        raise


def _reader(response: Any) -> BodyReader:
    response.encoding = "utf-8"  # as JSON is, whatever the service says: the SDK would decode by that
    reader = BodyReader(response.headers)
    if reader.is_compressed:
        del response.headers["content-encoding"]  # unpacked here, and no longer by the HTTP client
    return reader


# --- key and headers ---

SDK_KEY = "in-the-transport"
"""The SDK requires a key; the transports replace this one."""

# Vectors in base64 hardly shrink, and a compressed reply costs both ends more than it saves.
SDK_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"nanogpt-rag openai-python/{openai.__version__}",
}
"""Headers of every request, for the SDK's clients. The endpoint's headers replace them."""

_REPLACEABLE = {
    **{name.lower().encode(): value.encode() for name, value in SDK_HEADERS.items()},
    b"authorization": f"Bearer {SDK_KEY}".encode(),
    b"content-type": b"application/json",
    b"connection": b"keep-alive",
}
_DROPPED_PREFIXES = (b"x-stainless-", b"openai-")  # the SDK's notes on the machine and on OpenAI's account


def _with_headers(request: Any, endpoint: Endpoint) -> Any:
    # A copy: the SDK reads its own request again, and its errors, which show it, must not hold the key.
    added = {name.lower().encode(): value.encode() for name, value in endpoint.headers.items()}
    if endpoint.key is not None:
        added.setdefault(b"authorization", f"Bearer {endpoint.key.get_secret_value()}".encode())
    headers = []
    for name, value in request.headers.raw:
        lower = name.lower()
        if lower.startswith(_DROPPED_PREFIXES):
            continue
        replacement = added.pop(lower, None)
        # A header that was given with this one call comes first.
        if value == (request.url.netloc if lower == b"host" else _REPLACEABLE.get(lower)):
            if replacement is None and lower == b"authorization":
                continue
            headers.append((name, value if replacement is None else replacement))
        else:
            headers.append((name, value))
    return httpx.Request(
        request.method,
        request.url,
        headers=[*headers, *added.items()],
        stream=request.stream,
        extensions=request.extensions,
    )

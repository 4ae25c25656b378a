"""Requests through a caller's own client of ``httpx`` or ``httpx2``."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from nanogpt_core._runtime.clock import current_attempt
from nanogpt_core._runtime.signals import unwrap_signal_errors
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.network import cancel_after, seconds_left
from nanogpt_core.http.sdk import httpx

_OTHER_LOOP = re.compile(r"event loop is closed|different (?:event )?loop", re.IGNORECASE)


def send_with(client: Any, request: Any) -> Any:
    """Send a request with the client's own headers, cookies, authentication and event hooks."""
    own = _request_of(client, request, request.read())
    with _as_httpx_errors(client):
        try:
            response = client.send(own, stream=True, follow_redirects=False)
        except Exception as error:  # noqa: BLE001 - raised again
            response = _response_in(error)
    return _response_of(response, _Body(client, response))


async def asend_with(client: Any, request: Any) -> Any:
    """Do the same as :func:`send_with` on an event loop; the client is stopped at the deadline of the attempt."""
    with _as_httpx_errors(client), cancel_after(seconds_left(None), httpx.ReadTimeout):
        own = _request_of(client, request, await request.aread())
        try:
            response = await client.send(own, stream=True, follow_redirects=False)
        except Exception as error:  # noqa: BLE001 - raised again
            response = _response_in(error)
    return _response_of(response, _Body(client, response))


def _request_of(client: Any, request: Any, body: bytes) -> Any:
    headers, extensions = request.headers.raw, request.extensions
    return client.build_request(request.method, str(request.url), headers=headers, content=body, extensions=extensions)


def _response_in(error: Exception) -> Any:
    """Return the response of an error that an event hook has raised with ``raise_for_status()``; raise all others."""
    if type(error).__name__ != "HTTPStatusError":  # of httpx or httpx2
        raise error
    return error.response  # type: ignore[attr-defined]


def _response_of(response: Any, stream: Any) -> Any:
    headers = response.headers.raw
    if response.is_stream_consumed or response.is_closed:
        # An event hook has read the body, or a client that tests replies with, such as MockTransport.
        stream = httpx.ByteStream(_content_of(response))
        headers = [(name, value) for name, value in headers if name.lower() != b"content-encoding"]
    kept = {name: value for name, value in response.extensions.items() if name in ("http_version", "reason_phrase")}
    return httpx.Response(response.status_code, headers=headers, stream=stream, extensions=kept)


def _content_of(response: Any) -> bytes:
    """Return the body of a response that was read, unpacked."""
    try:
        content: bytes = response.content
    except Exception as error:  # ResponseNotRead, of httpx or httpx2
        if not response.is_success:
            return b""  # the status tells enough
        raise ConfigurationError(
            "An event hook of the HTTP client that was passed has used up the reply.",
            remedy="Call response.read() in it, or await response.aread(): that keeps the reply.",
        ) from error
    return content


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):  # type: ignore[misc] # known only when this runs
    """The body of a sync or async reply, as it comes. The deadline is checked between the chunks of a sync one."""

    def __init__(self, client: Any, response: Any) -> None:
        self._client, self._response = client, response

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors(self._client):
            for chunk in self._response.iter_raw():
                yield chunk
                if current_attempt.get().deadline <= time.monotonic():
                    raise httpx.ReadTimeout("the reply did not end in time")

    def close(self) -> None:
        self._response.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._response.aiter_raw())
        while True:
            with _as_httpx_errors(self._client), cancel_after(seconds_left(None), httpx.ReadTimeout):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


@contextlib.contextmanager
def _as_httpx_errors(client: Any) -> Iterator[None]:
    try:
        with unwrap_signal_errors():
            yield
    except Exception as error:
        if client.is_closed:
            raise ConfigurationError(
                "The HTTP client that was passed is closed.", remedy="Pass an open one."
            ) from error
        if isinstance(error, RuntimeError) and _OTHER_LOOP.search(str(error)):
            raise ConfigurationError(
                "The HTTP client that was passed belongs to another event loop.",
                remedy="Pass a new one in each event loop, or none: this project's connections work in all of them.",
            ) from error
        # A client of httpx may be used with an SDK on httpx2, and the other way round: same names, other classes.
        same = getattr(httpx, type(error).__name__, None)
        if same is None or isinstance(error, same) or not issubclass(same, httpx.RequestError):
            raise
        raise same(str(error)) from error

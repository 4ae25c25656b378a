"""One request to the service through the OpenAI SDK: one attempt, within its bounds.

Whatever goes wrong comes out as one of our errors, with the SDK's as its cause.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nanogpt_core.errors import NanoGPTError, causes
from nanogpt_core.http.deadline import bounds
from nanogpt_core.http.endpoint import Endpoint

if TYPE_CHECKING:
    from nanogpt_core.http.client import AsyncClient, Client

__all__ = ["Requester"]


class Requester:
    """Sends single requests, sync and async. Safe in threads, after a fork, and in one event loop after another.

    Args:
        endpoint: Where to and with which key.
        http_client: The caller's own ``httpx`` client for sync requests, or None.
        http_async_client: The caller's own ``httpx`` client for async requests, or None. It belongs to one event loop.
    """

    def __init__(self, endpoint: Endpoint, http_client: Any = None, http_async_client: Any = None) -> None:
        self.endpoint = endpoint
        self._http_client = http_client
        self._http_async_client = http_async_client
        self._client: Client | None = None
        self._async_client: AsyncClient | None = None

    def client(self) -> Client:
        """Return the SDK's client, made at the first call."""
        if self._client is None:
            from nanogpt_core.http.client import make_client  # takes most of a second, so not before it is needed

            # Two threads may make one each; either will do.
            self._client = make_client(self.endpoint, self._http_client)
        return self._client

    async def async_client(self) -> AsyncClient:
        """Return the SDK's async client, made at the first call; the event loop goes on meanwhile."""
        if self._async_client is None:
            self._async_client = await asyncio.to_thread(self._make_async_client)
        return self._async_client

    def _make_async_client(self) -> AsyncClient:
        from nanogpt_core.http.client import make_async_client  # see above

        return make_async_client(self.endpoint, self._http_async_client)

    def send(self, path: str, body: bytes | None, seconds: float, most_bytes: int) -> bytes:
        """POST ``body`` to ``path``, or GET it where there is no body; return the reply's bytes.

        Args:
            path: Where to, below the base URL.
            body: JSON, or None.
            seconds: How long it may take, from the first byte sent to the last received.
            most_bytes: How many bytes the reply may have.

        Raises:
            NanoGPTError: The one of its subclasses that fits.
        """
        client = self.client()
        from nanogpt_core.http.client import call

        try:
            with bounds(seconds, most_bytes):
                return _content(call(client, self.endpoint, path, body))
        except Exception as error:  # noqa: BLE001 - raised again, as one of ours
            failure = self._map_error(error, seconds)
        # Raised out here, since an error of the bounds comes wrapped in the SDK's, and causes must not run in a circle.
        raise failure

    async def asend(self, path: str, body: bytes | None, seconds: float, most_bytes: int) -> bytes:
        """Do what :meth:`send` does, without blocking the event loop."""
        import anyio  # comes with the SDK

        client = await self.async_client()
        from nanogpt_core.http.client import call

        try:
            with bounds(seconds, most_bytes), anyio.fail_after(_with_grace(seconds)):
                return _content(await call(client, self.endpoint, path, body))
        except Exception as error:  # noqa: BLE001 - raised again, as one of ours
            failure = self._map_error(error, seconds)
        # Raised out here, since an error of the bounds comes wrapped in the SDK's, and causes must not run in a circle.
        raise failure

    def _map_error(self, error: Exception, seconds: float) -> NanoGPTError:
        from nanogpt_core.http.error_mapping import map_error, truncate_sdk_error  # needs the SDK

        failure = map_error(error, self.endpoint.host, seconds)
        if failure not in causes(error):
            truncate_sdk_error(error)
            failure.__cause__ = error
        return failure


def _with_grace(seconds: float) -> float:
    # The HTTP client's own limits and the guard come first, since they say more; this one catches what they do not.
    return seconds * 1.1 + 0.5


def _content(response: Any) -> bytes:
    content: bytes = response.content
    return content

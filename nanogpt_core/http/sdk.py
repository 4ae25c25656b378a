"""The OpenAI SDK's clients, for NanoGPT. Imported at the first request, since the SDK takes most of a second to import.

Works with openai 2.x, which stands on ``httpx``, and 3.x, which stands on ``httpx2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openai

from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.library import httpx
from nanogpt_core.http.transport import (
    AsyncEndpointTransport,
    EndpointTransport,
    shared_async_transport,
    shared_transport,
)

__all__ = ["make_async_openai_client", "make_openai_client"]

_KEY = "in-the-transport"
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}


class _Client(openai.OpenAI):
    @property
    def default_headers(self) -> Any:
        """The headers of every request; not those of the variable ``OPENAI_CUSTOM_HEADERS``."""
        return dict(_HEADERS)


class _AsyncClient(openai.AsyncOpenAI):
    @property
    def default_headers(self) -> Any:
        """The headers of every request; see :class:`_Client`."""
        return dict(_HEADERS)


def _options(endpoint: Endpoint) -> Mapping[str, Any]:
    return {
        "api_key": _KEY,
        "base_url": endpoint.base_url,
        "timeout": httpx.Timeout(endpoint.timeout, connect=min(10.0, endpoint.timeout)),
        "max_retries": 0,  # the one retry layer is ours
    }


def _without_openai_variables(client: Any) -> None:
    # The SDK fills these from OPENAI_* variables, which are meant for another service.
    client.organization = client.project = client.webhook_secret = client.admin_api_key = None


def make_openai_client(endpoint: Endpoint, http_client: Any = None) -> openai.OpenAI:
    """Return a sync client that never follows a redirect. It may be used in any thread, and after a fork.

    The endpoint's key and headers are added below the client, which does not hold them.

    Args:
        endpoint: Base URL, key and headers.
        http_client: The caller's own ``httpx`` client to send with, or None.
    """
    transport = EndpointTransport(endpoint, shared_transport(http_client))
    client = _Client(http_client=httpx.Client(transport=transport), **_options(endpoint))
    _without_openai_variables(client)
    return client


def make_async_openai_client(endpoint: Endpoint, http_client: Any = None) -> openai.AsyncOpenAI:
    """Return an async client that never follows a redirect; see :func:`make_openai_client`."""
    transport = AsyncEndpointTransport(endpoint, shared_async_transport(http_client))
    client = _AsyncClient(http_client=httpx.AsyncClient(transport=transport), **_options(endpoint))
    _without_openai_variables(client)
    return client

"""The OpenAI SDK's clients, for NanoGPT. Imported at the first request, since the SDK takes most of a second to import.

Works with openai 2.x, which stands on ``httpx``, and 3.x, which stands on ``httpx2``.
"""

from __future__ import annotations

from typing import Any

import openai

from nanogpt_core._runtime.fork import delay_forks
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.library import httpx
from nanogpt_core.http.transport import SDK_HEADERS, SDK_KEY

__all__ = ["make_async_openai_client", "make_async_plain_client", "make_openai_client", "make_plain_client"]

_CONNECT_SECONDS = 10.0


def make_openai_client(endpoint: Endpoint, transport: Any) -> openai.OpenAI:
    """Return a sync client that never follows a redirect. It may be used in any thread, and after a fork.

    Args:
        endpoint: Base URL and timeout. The transport adds key and headers, so no object of the SDK holds them.
        transport: Sends the requests.
    """
    client = openai.OpenAI(http_client=httpx.Client(transport=transport), **_options(endpoint))
    own: openai.OpenAI = _with_own_headers(client)
    return own


def make_async_openai_client(endpoint: Endpoint, transport: Any) -> openai.AsyncOpenAI:
    """Return an async client that never follows a redirect; see :func:`make_openai_client`."""
    client = openai.AsyncOpenAI(http_client=httpx.AsyncClient(transport=transport), **_options(endpoint))
    own: openai.AsyncOpenAI = _with_own_headers(client)
    return own


def make_plain_client(endpoint: Endpoint, transport: Any) -> openai.OpenAI:
    """Return a client for requests whose bodies are bytes; see :func:`make_openai_client`.

    Instrumentation of other packages replaces ``openai.OpenAI.request``, and reads the model from bodies that are
    dictionaries. Of ours it would make a span without a model beside the one of this project.
    """
    client = _PlainClient(http_client=httpx.Client(transport=transport), **_options(endpoint))
    own: openai.OpenAI = _with_own_headers(client)
    return own


def make_async_plain_client(endpoint: Endpoint, transport: Any) -> openai.AsyncOpenAI:
    """Return an async client for requests whose bodies are bytes; see :func:`make_plain_client`."""
    client = _AsyncPlainClient(http_client=httpx.AsyncClient(transport=transport), **_options(endpoint))
    own: openai.AsyncOpenAI = _with_own_headers(client)
    return own


class _PlainClient(openai.OpenAI):
    request = super(openai.OpenAI, openai.OpenAI).request


class _AsyncPlainClient(openai.AsyncOpenAI):
    request = super(openai.AsyncOpenAI, openai.AsyncOpenAI).request


def _options(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "api_key": SDK_KEY,
        "base_url": endpoint.base_url,
        "timeout": httpx.Timeout(endpoint.timeout, connect=min(_CONNECT_SECONDS, endpoint.timeout)),
        "max_retries": 0,  # the one retry layer is ours
    }


def _with_own_headers(client: Any) -> Any:
    """Return ``client`` without the headers of ``OPENAI_*`` variables and those that describe this machine."""
    own: dict[str, Any] = {
        **SDK_HEADERS,
        "Authorization": f"Bearer {SDK_KEY}",  # the SDK needs one; the transport replaces it
        "Content-Type": "application/json",
    }
    # The SDK asks the system for its headers once, under locks of the standard library before Python 3.12.
    with delay_forks():
        foreign = client.default_headers.keys() - own.keys()
    client = client.copy(default_headers={**dict.fromkeys(foreign, openai.Omit()), **own})
    client.organization = client.project = client.webhook_secret = client.admin_api_key = None
    return client

"""The OpenAI SDK's clients, for NanoGPT. Imported at the first request, since the SDK takes most of a second to import.

Works with openai 2.x, which stands on ``httpx``, and 3.x, which stands on ``httpx2``.
"""

from __future__ import annotations

import os
from typing import Any

import openai

from nanogpt_core._runtime.fork import delay_forks
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.library import httpx
from nanogpt_core.http.transport import SDK_HEADERS, SDK_KEY

__all__ = ["make_async_openai_client", "make_openai_client"]

_CONNECT_SECONDS = 10.0


def make_openai_client(endpoint: Endpoint, transport: Any) -> openai.OpenAI:
    """Return a sync client that never follows a redirect. It may be used in any thread, and after a fork.

    Args:
        endpoint: Base URL and timeout. The transport adds key and headers, so no object of the SDK holds them.
        transport: Sends the requests.
    """
    client = openai.OpenAI(http_client=httpx.Client(transport=transport), **_options(endpoint))
    _prepare(client)
    return client


def make_async_openai_client(endpoint: Endpoint, transport: Any) -> openai.AsyncOpenAI:
    """Return an async client that never follows a redirect; see :func:`make_openai_client`."""
    client = openai.AsyncOpenAI(http_client=httpx.AsyncClient(transport=transport), **_options(endpoint))
    _prepare(client)
    return client


def _options(endpoint: Endpoint) -> dict[str, Any]:
    # OPENAI_* variables are meant for another service. The SDK reads headers from this one, a line each.
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    names = [line.partition(":")[0].strip() for line in lines if ":" in line]
    # The SDK needs an Authorization header. The transport replaces the one with the stand-in for the key.
    foreign: dict[str, Any] = {
        name: f"Bearer {SDK_KEY}" if name.lower() == "authorization" else openai.Omit() for name in names
    }
    return {
        "api_key": SDK_KEY,
        "base_url": endpoint.base_url,
        "timeout": httpx.Timeout(endpoint.timeout, connect=min(_CONNECT_SECONDS, endpoint.timeout)),
        "max_retries": 0,  # the one retry layer is ours
        "default_headers": {**foreign, **SDK_HEADERS},
    }


def _prepare(client: Any) -> None:
    client.organization = client.project = client.webhook_secret = client.admin_api_key = None
    # The SDK asks the system for its headers once, under locks of the standard library before Python 3.12.
    with delay_forks():
        _ = client.default_headers

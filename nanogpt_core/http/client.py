"""The OpenAI SDK as NanoGPT needs it. Imported at the first request, since the SDK takes most of a second to import.

Works with openai 2.x, which stands on ``httpx``, and 3.x, which stands on ``httpx2``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import openai
from openai._version import __version__ as sdk_version

from nanogpt_core.http.deadline import protect, protect_async
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.pool import AsyncSharedTransport, SharedTransport, http

__all__ = ["AsyncClient", "Client", "call", "make_async_client", "make_client"]

# Vectors in base64 hardly shrink, and a compressed reply costs both ends more than it saves.
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": f"nanogpt-rag openai-python/{sdk_version}",
}


def _own_environment(client: Client | AsyncClient, headers: Mapping[str, str]) -> None:
    # The SDK fills these from OPENAI_* variables, which are meant for another service.
    client.organization = None
    client.project = None
    client.webhook_secret = None
    client.admin_api_key = None
    # Header names do not depend on letter case, but the SDK's dictionaries do.
    names = {name.lower(): name for name in (*_HEADERS, "Authorization")}
    own = {names.get(name.lower(), name): value for name, value in headers.items()}
    client._custom_headers = {**_HEADERS, **own}


def _plain_key(endpoint: Endpoint) -> str:
    return endpoint.key.get_secret_value() if endpoint.key else "none"


class Client(openai.OpenAI):
    """The SDK's client, sending our headers alone."""

    @staticmethod
    def key_for_sdk(endpoint: Endpoint) -> str:
        """Return what the SDK is given as its key."""
        return _plain_key(endpoint)

    @property
    def default_headers(self) -> dict[str, Any]:
        """The headers of every request, beside the key."""
        return dict(self._custom_headers)

    def _prepare_url(self, url: str) -> Any:
        return _kept(self, url, super()._prepare_url)


class AsyncClient(openai.AsyncOpenAI):
    """The SDK's async client, sending our headers alone."""

    @staticmethod
    def key_for_sdk(endpoint: Endpoint) -> str:
        """Return what the SDK is given as its key."""
        return _plain_key(endpoint)

    @property
    def default_headers(self) -> dict[str, Any]:
        """The headers of every request, beside the key."""
        return dict(self._custom_headers)

    def _prepare_url(self, url: str) -> Any:
        return _kept(self, url, super()._prepare_url)


def _kept(client: Client | AsyncClient, path: str, prepare: Callable[[str], Any]) -> Any:
    # There are two or three paths, and taking a URL apart takes a tenth of the time of a request.
    urls = client.__dict__.setdefault("_urls", {})
    base, url = urls.get(path, (None, None))
    if base is not client.base_url:
        url = prepare(path)
        urls[path] = client.base_url, url
    return url


class _Cookies(http.Cookies):  # type: ignore[misc] # the library is known only when this runs
    """Cookies, which are looked for where there are any: that, too, takes a tenth of the time."""

    def extract_cookies(self, response: Any) -> None:
        if "set-cookie" in response.headers:
            super().extract_cookies(response)


def _with_cookies(client: Any) -> Any:
    client._cookies = _Cookies()
    return client


ClientT = TypeVar("ClientT", bound=Client)
AsyncClientT = TypeVar("AsyncClientT", bound=AsyncClient)


def call(client: Client | AsyncClient, endpoint: Endpoint, path: str, body: bytes | None) -> Any:
    """POST ``body`` to ``path``, or GET it where there is no body.

    Returns:
        The HTTP response; from an async client, an awaitable of it.
    """
    options: Any = {"follow_redirects": False}
    if endpoint.key is None:
        options["headers"] = {"Authorization": openai.Omit()}
    if body is None:
        return client.get(path, cast_to=http.Response, options=options)
    return client.post(path, cast_to=http.Response, content=body, options=options)


def _arguments(endpoint: Endpoint) -> dict[str, Any]:
    timeout = endpoint.timeout
    return {
        "base_url": endpoint.base_url,
        "timeout": http.Timeout(timeout, connect=min(10.0, timeout)),
        "max_retries": 0,  # the one retry layer is ours
    }


# A caller's own client is copied: the copy shares its connections, and bounds are set on the copy alone.


def make_client(endpoint: Endpoint, http_client: Any = None, kind: type[ClientT] = Client) -> ClientT:  # type: ignore[assignment]
    """Return a sync client that never follows a redirect. It may be used in any thread, and after a fork.

    Args:
        endpoint: Where to and with which key.
        http_client: The caller's own ``httpx`` client, or None.
        kind: The class to make.
    """
    own = copy.copy(http_client) or _with_cookies(http.Client(transport=SharedTransport(), follow_redirects=False))
    protect(own)
    client = kind(http_client=own, api_key=kind.key_for_sdk(endpoint), **_arguments(endpoint))
    _own_environment(client, endpoint.headers)
    return client


def make_async_client(
    endpoint: Endpoint,
    http_client: Any = None,
    kind: type[AsyncClientT] = AsyncClient,  # type: ignore[assignment]
) -> AsyncClientT:
    """Return an async client that never follows a redirect; see :func:`make_client`. Any event loop may use it."""
    own = copy.copy(http_client) or _with_cookies(
        http.AsyncClient(transport=AsyncSharedTransport(), follow_redirects=False)
    )
    protect_async(own)
    client = kind(http_client=own, api_key=kind.key_for_sdk(endpoint), **_arguments(endpoint))
    _own_environment(client, endpoint.headers)
    return client

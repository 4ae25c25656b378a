"""One request to the service through the OpenAI SDK: one attempt, within its limits.

Failures are raised as this project's errors, caused by the SDK's.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from nanogpt_core._runtime.clock import attempt_limits
from nanogpt_core._runtime.fork import import_modules
from nanogpt_core._runtime.workers import call_in_thread
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import DEFAULT_TIMEOUT, Endpoint
from nanogpt_core.http.secrets import redacted

if TYPE_CHECKING:
    import openai
    from typing_extensions import Self

# Imported before the first request: a fork in the middle of an import leaves the child with a locked module, and an
# import fails if the process has no file descriptors left.
_MODULES = ("nanogpt_core.http.transport", "nanogpt_core.http.error_mapping", "openai.resources.embeddings")
_MAX_ERROR_BYTES = 1 << 16  # a larger reply of status 200 has vectors

MAX_LIST_BYTES = 16 << 20
"""Limit on the size of a list of models, and of facts about an account, in bytes."""

LARGE_REPLY_BYTES = 1 << 18
"""Size of a reply that takes about a millisecond to parse: on an event loop, such work takes turns."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request to send; the result is the reply.

    Attributes:
        path: Path below the base URL.
        body: JSON to POST; None for a GET.
        timeout: Seconds from the first byte sent to the last received.
        max_bytes: Maximum size of the unpacked reply, in bytes.
    """

    path: str
    body: bytes | None
    timeout: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A reply with a status below 300.

    Attributes:
        body: Its content, without a byte order mark.
        request_id: The service's ``X-Request-ID``, or None.
    """

    body: bytes
    request_id: str | None = None


class Lifetime:
    """The state of one object: open or closed.

    Connections are shared. They stay open as long as an object that has used them is open.
    """

    def __init__(self) -> None:
        self.is_closed = False

    def check_open(self) -> None:
        """Raise a ConfigurationError if the object was closed."""
        if self.is_closed:
            raise ConfigurationError(
                "This object was closed, by close() or at the end of a with block.",
                remedy="Make a new one, or close it after the last call.",
            )


class Closeable:
    """A base class of objects with :meth:`close` and :meth:`aclose`: they work in ``with`` and ``async with``."""

    def close(self) -> None:
        """Close the object."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the object, without blocking the event loop."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class HttpClient:
    """Sends single requests, sync and async. Safe in threads, after a fork, and in one event loop after another.

    The requests are for the object with the state ``lifetime``, or for none. ``modules`` are imported before the first
    one. An async client of the caller's own belongs to one event loop.

    Requests can still be sent after closing, for calls under way: each then uses a connection of its own.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        http_client: Any = None,
        http_async_client: Any = None,
        lifetime: Lifetime | None = None,
        modules: Collection[str] = (),
    ) -> None:
        self.endpoint = endpoint
        self._lifetime = lifetime
        self._modules = (*_MODULES, *modules)
        self._http_client = http_client
        self._http_async_client = http_async_client
        self._client: openai.OpenAI | None = None
        self._async_client: openai.AsyncOpenAI | None = None

    def get_ready(self) -> openai.OpenAI:
        """Return the SDK's client, made at the first call; that imports the SDK, which takes most of a second."""
        if self._client is None:  # two threads may make one each; either will do
            self._client = self._make(is_async=False)
        return self._client

    async def aget_ready(self) -> openai.AsyncOpenAI:
        """Return the SDK's async client, made at the first call; the event loop goes on meanwhile."""
        if self._async_client is None:
            return await call_in_thread(self._make_async_client)
        return self._async_client

    def _make_async_client(self) -> openai.AsyncOpenAI:
        if self._async_client is None:  # of many calls that begin at once, most find it made
            self._async_client = self._make(is_async=True)
        return self._async_client

    def _make(self, *, is_async: bool) -> Any:
        import_modules(self._modules)
        from nanogpt_core.http.sdk import AsyncPlainClient, PlainClient, make_client
        from nanogpt_core.http.transport import Transport

        http_client = self._http_async_client if is_async else self._http_client
        transport = Transport(self.endpoint, http_client, self._lifetime)
        return make_client(AsyncPlainClient if is_async else PlainClient, self.endpoint, transport)

    def close(self) -> None:
        """Close the object that the requests are for, and the connections of this process that no other one uses."""
        if self._lifetime is not None:
            self._lifetime.is_closed = True
        if self._client is not None or self._async_client is not None:
            from nanogpt_core.http.connections import close_connections

            close_connections()

    async def aclose(self) -> None:
        """Do the same as :meth:`close`, and close the connections of the running event loop that no other one uses."""
        self.close()
        if self._async_client is not None:
            from nanogpt_core.http.connections import aclose_connections

            await aclose_connections()

    def send(self, request: HttpRequest) -> HttpReply:
        """Send a request, and return the reply.

        Raises:
            NanoGPTError: The one of its subclasses that fits. Errors that are not about the request pass unchanged.
        """
        client = self.get_ready()
        try:
            call = self._make_call(client, request)
            with attempt_limits(request.timeout, request.max_bytes):
                return _checked(call())
        except Exception as error:  # noqa: BLE001 - raised again
            failure = self._failure(error, request.timeout)
        # After the except clause: the SDK wraps our errors in its own, and causes must not run in a circle. Calls that
        # share a request get copies of the error, with this frame in their tracebacks: no variable may show a secret.
        with redacted(self.endpoint):
            raise failure

    async def asend(self, request: HttpRequest) -> HttpReply:
        """Do the same as :meth:`send`, without blocking the event loop."""
        client = await self.aget_ready()
        try:
            call = self._make_call(client, request)
            with attempt_limits(request.timeout, request.max_bytes):
                return _checked(await call())
        except Exception as error:  # noqa: BLE001 - raised again
            failure = self._failure(error, request.timeout)
        with redacted(self.endpoint):
            raise failure

    def _make_call(self, client: Any, request: HttpRequest) -> Callable[[], Any]:
        from nanogpt_core.http.sdk import OMITTED_HEADERS, httpx

        url = f"{self.endpoint.base_url}{request.path}"
        # The client's own values. For each that is not given, the SDK makes a deep copy of a marker: 2 % of a query.
        options = {"headers": OMITTED_HEADERS, "max_retries": client.max_retries, "timeout": client.timeout}
        if request.body is None:
            return partial(client.get, url, cast_to=httpx.Response, options=options)
        return partial(client.post, url, cast_to=httpx.Response, options=options, content=request.body)

    def _failure(self, error: Exception, timeout: float) -> BaseException:
        from nanogpt_core.http.error_mapping import foreign_error, map_error

        return foreign_error(error) or map_error(error, self.endpoint.host, timeout)


def fetch(
    endpoint: Endpoint, path: str, parse: Callable[[bytes], T], *, body: bytes | None = None, http_client: Any = None
) -> T:
    """Send one request that belongs to no object; return the reply's body as parsed, with no secret in any error.

    ``path`` is below the base URL; ``body`` is JSON to POST, or None for a GET.

    Raises:
        NanoGPTError: The request failed, or ``parse`` raised it.
    """
    seconds = min(endpoint.timeout, DEFAULT_TIMEOUT)  # a chat model's own timeout is longer, for answers
    with redacted(endpoint):
        return parse(HttpClient(endpoint, http_client).send(HttpRequest(path, body, seconds, MAX_LIST_BYTES)).body)


def _checked(response: Any) -> HttpReply:
    content = response.content
    response.stream = None  # breaks a reference cycle, so that the body is freed at once
    if len(content) <= _MAX_ERROR_BYTES and b'"error"' in content:
        from nanogpt_core.http.error_mapping import raise_for_error_body

        raise_for_error_body(response)
    return HttpReply(content.removeprefix(codecs.BOM_UTF8), response.headers.get("x-request-id"))

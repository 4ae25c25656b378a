"""Chat clients: the OpenAI SDK's own, over a transport that adds rate limit, retries, limits, checks and errors.

Everything happens in :class:`ChatTransport` and :class:`AsyncChatTransport`, below the SDK's public API: they wait for
the rate limiter that is shared with embeddings, send, retry, check replies and streams, and raise errors of this
project. The SDK wraps these; :func:`map_sdk_errors` unwraps them. See docs/adr/0015-chat-in-a-transport.md.

``timeout`` bounds an attempt until its answer is there, or until the first event of its stream, and then the wait for
each further event. A stream that has begun is not retried.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, TypeVar

import anyio  # a dependency of the SDK
import openai
from jiter import from_json

from nanogpt_core import errors
from nanogpt_core._runtime import clock
from nanogpt_core.chat.response import ChatRequest, ErrorBody, check_whole
from nanogpt_core.chat.stream import (
    READ_ERRORS,
    AsyncEventStream,
    EventStream,
    StreamContext,
    StreamReader,
    recorded,
)
from nanogpt_core.errors import NanoGPTError, ReplyError, causes
from nanogpt_core.http.deadline import RequestLimits, extend_deadline
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.error_body import error_message, excerpt
from nanogpt_core.http.error_mapping import map_error, truncate_sdk_error
from nanogpt_core.http.library import httpx
from nanogpt_core.http.rate_limiter import RateLimit
from nanogpt_core.http.redaction import redacted
from nanogpt_core.http.retry import CallLimits, Wait, backoff_delay, send_with_retries
from nanogpt_core.http.transport import shared_async_transport, shared_transport
from nanogpt_core.validation import MIN_REQUESTS_PER_SECOND, check_number, check_positive

__all__ = [
    "DEFAULT_RETRIES",
    "AsyncChatTransport",
    "ChatSession",
    "ChatTransport",
    "aiterate_stream",
    "iterate_stream",
    "make_async_chat_client",
    "make_chat_client",
    "map_sdk_errors",
]

T = TypeVar("T")

DEFAULT_RETRIES = 2
"""Attempts after the first of a chat call: fewer than for embeddings, since each may be billed."""

# A broken or hostile server must not fill the memory. No real reply comes near these.
_MAX_REPLY_BYTES = 64 << 20
_MAX_STREAM_BYTES = 256 << 20

_CONNECT_SECONDS = 10.0
_FIRST_ERROR_STATUS = 300

# The SDK requires a key. The real one is added by the transport, so no object of the SDK holds it.
_SDK_KEY = "none"
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": f"nanogpt-rag openai-python/{openai.__version__}",
}
_SDK_HEADER_PREFIXES = ("x-stainless-", "openai-")

_TRUNCATED_ERRORS = (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError)


class ChatSession:
    """Settings and rate limit shared by the sync and the async chat client of one object.

    Args:
        endpoint: Base URL, key and headers.
        max_retries: Attempts after the first that one call may take, at least 0.
        requests_per_second: Maximum number of attempts to start in a second, over all objects of this process that use
            the same key and base URL, embeddings among them; the lowest value that is set counts. Default: the rate
            that the service documents.

    Raises:
        ConfigurationError: A number out of range.
        InvalidTypeError: A value that is not a number.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_retries: int = DEFAULT_RETRIES,
        requests_per_second: float | None = None,
    ) -> None:
        check_number("max_retries", max_retries, 0)
        check_positive("requests_per_second", requests_per_second, optional=True, at_least=MIN_REQUESTS_PER_SECOND)
        self.endpoint = endpoint
        self._max_retries = max_retries
        self._rate_limit = RateLimit(endpoint, requests_per_second)

    def __repr__(self) -> str:
        return f"<ChatSession of {self.endpoint.host}>"

    def __deepcopy__(self, memo: object) -> ChatSession:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.endpoint, self._max_retries, self._rate_limit.requests_per_second)

    def attempts(self) -> Generator[Wait | None, NanoGPTError | None, None]:
        """Run one call without I/O. Yields a wait, or None for an attempt; is sent the error of the attempt, or None.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        return send_with_retries(
            _attempt, limiter=self._rate_limit.limiter, max_retries=self._max_retries, limits=CallLimits()
        )

    def on_stream_error(self, error: NanoGPTError) -> None:
        """Pause all calls with this key if an error in the middle of a stream asks for it."""
        delay = backoff_delay(0, error)
        if delay is not None:
            self._rate_limit.limiter().on_error(error, delay)

    def map_error(self, error: Exception, seconds: float) -> NanoGPTError:
        """Return this project's error for an error of the SDK or of the HTTP library.

        Args:
            error: The error.
            seconds: The time that the attempt was allowed.
        """
        if isinstance(error, _TRUNCATED_ERRORS):
            failure: NanoGPTError = ReplyError(
                "The answer was cut off, so it does not follow the schema asked for.",
                remedy="Raise max_tokens, or ask for less.",
            )
        else:
            failure = _for_chat(map_error(error, self.endpoint.host, seconds))
        if failure not in causes(error):
            truncate_sdk_error(error)
            failure.__cause__ = error
        return failure


class _Call:
    """One request of the SDK, as it is sent and checked.

    Args:
        session: The session.
        request: The SDK's request, which holds no key.

    Attributes:
        limits: Time and size limits. Its deadline is set for each attempt, and for each event of a stream.
    """

    def __init__(self, session: ChatSession, request: Any) -> None:
        self._session = session
        self._request = request
        # The SDK's clients can also list models, for example.
        self._is_chat = request.url.path.endswith("/completions")
        self._asked = ChatRequest.parse(request.content) if self._is_chat else ChatRequest()
        self.limits = RequestLimits(0.0, _MAX_STREAM_BYTES if self._asked.streams else _MAX_REPLY_BYTES)

    @property
    def timeout(self) -> float:
        """Seconds that an attempt may take: the timeout of this call, or of the session."""
        timeout = self._request.extensions.get("timeout", {}).get("read")
        return timeout or self._session.endpoint.timeout

    def headers(self) -> Any:
        """Return the headers to send, with the key.

        Raises:
            ConfigurationError: There is no key, as in an object from a pickle.
        """
        sent = self._request.headers.items()
        headers = httpx.Headers([(name, value) for name, value in sent if not name.startswith(_SDK_HEADER_PREFIXES)])
        defaults = httpx.Headers({"Authorization": f"Bearer {_SDK_KEY}", **_HEADERS})
        endpoint = self._session.endpoint
        ours = {"Authorization": f"Bearer {endpoint.key.get_secret_value()}"} if endpoint.key else {}
        for name, value in {**ours, **endpoint.headers}.items():
            # A header that was given with this one call comes first.
            if headers.get(name) in (None, defaults.get(name)):
                headers[name] = value
        return headers

    def request(self, client: Any) -> Any:
        """Return the request to send by ``client``, which adds its own headers and cookies."""
        return client.build_request(
            self._request.method,
            self._request.url,
            headers=self.headers(),
            content=self._request.content,
            extensions=self._request.extensions,
        )

    def streams(self, response: Any) -> bool:
        """Return whether ``response`` is the stream that was asked for."""
        content_type = response.headers.get("content-type", "").lower()
        is_whole = "json" in content_type or "html" in content_type
        return self._is_chat and self._asked.streams and not is_whole and response.status_code < _FIRST_ERROR_STATUS

    def check(self, response: Any) -> Any:
        """Return the response for the SDK, made from the service's response, which has been read.

        Raises:
            NanoGPTError: The service sent an error, or no answer.
        """
        # No local variable holds the body: it may repeat the key, and crash reports show local variables.
        if response.status_code >= _FIRST_ERROR_STATUS:
            raise self._map_status(response.status_code, response.content, response)
        if not self._is_chat:
            return self._response(response, response.headers.get("content-type"), content=response.content)
        request_id = response.headers.get("x-request-id")
        reply = check_whole(response.content, self._asked, request_id)
        if isinstance(reply, ErrorBody):
            raise self._map_error_body(reply, response)
        if self._asked.streams:
            raise ReplyError(
                "A stream was asked for, and the service sent its answer whole.",
                remedy="Ask without streaming.",
                request_id=request_id,
            )
        return self._response(response, "application/json", content=json.dumps(reply).encode())

    def stream_response(self, response: Any, stream: Any) -> Any:
        """Return the response for the SDK, with its checked stream."""
        return self._response(response, "text/event-stream; charset=utf-8", stream=stream)

    def reader(self, response: Any) -> StreamReader:
        """Return a reader for the stream of ``response``."""
        return StreamReader(
            self._asked,
            lambda error: self._map_error_body(error, response),
            response.headers.get("x-request-id"),
        )

    def context(self, has_deadline: bool) -> StreamContext:
        """Return the settings of a stream."""
        return StreamContext(
            endpoint=self._session.endpoint,
            timeout=self.timeout,
            limits=self.limits,
            map_error=self.map_stream_error,
            on_error=self._session.on_stream_error,
            has_deadline=has_deadline,
        )

    def map_error(self, error: Exception) -> NanoGPTError:
        """Return this project's error for an error of an attempt."""
        return self._session.map_error(self._as_sdk_error(error), self.timeout)

    def map_stream_error(self, error: Exception) -> NanoGPTError:
        """Return this project's error for one that ended a stream."""
        failure = self.map_error(error)
        if type(failure) is errors.ConnectionFailedError:
            reason = f"{excerpt(str(error)) or 'no reason given'} ({type(error).__name__})"
            failure = errors.ConnectionFailedError(
                f"The answer of {self._session.endpoint.host} broke off: {reason}.", remedy="Try again."
            )
            failure.__cause__ = error
        return failure

    def _as_sdk_error(self, error: Exception) -> Exception:
        # Callers know the SDK's errors as causes.
        is_late = isinstance(error, (httpx.TimeoutException, TimeoutError))
        kind = openai.APITimeoutError if is_late else openai.APIConnectionError
        wrapped: Exception = kind(request=self._request)
        wrapped.__cause__ = error
        return wrapped

    def _map_status(self, status: int, body: bytes, response: Any) -> NanoGPTError:
        names = ("x-request-id", "retry-after", "retry-after-ms")
        headers = {name: response.headers[name] for name in names if name in response.headers}
        document: Any = None
        with contextlib.suppress(ValueError):
            document = from_json(body)
        stand_in = httpx.Response(status, content=body, headers=headers, request=self._request)
        error = openai.APIStatusError(f"Error code: {status}", response=stand_in, body=document)
        return self._session.map_error(error, self.timeout)

    def _map_error_body(self, error: ErrorBody, response: Any) -> NanoGPTError:
        if error.status is not None:
            return self._map_status(error.status, json.dumps(error.document).encode(), response)
        detail = error_message(error.document) or "no words with it"
        return ReplyError(
            f"The service ended its answer with an error: {detail}.".replace("..", "."),
            remedy="Try again, or with another model.",
            request_id=response.headers.get("x-request-id"),
        )

    def _response(self, response: Any, content_type: str | None, **content: Any) -> Any:
        # These describe the body as it came.
        left_out = ("content-encoding", "content-length", "transfer-encoding", "content-type")
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in left_out]
        if content_type is not None:
            headers.append(("content-type", content_type))
        return httpx.Response(response.status_code, headers=headers, extensions=response.extensions, **content)


class ChatTransport(httpx.BaseTransport):  # type: ignore[misc] # the library is known only at run time
    """Sends the SDK's chat requests: rate limit, retries, limits, checks and errors.

    Args:
        session: The session.
        http_client: A client of the caller's own to send with, or None for the connections of this process.
    """

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._has_deadline = http_client is None
        self._client = httpx.Client(transport=shared_transport(http_client))

    def handle_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        request.read()
        call = _Call(self._session, request)
        response, failure = None, None
        with redacted(self._session.endpoint), contextlib.closing(self._session.attempts()) as attempts:
            while True:
                try:
                    step = attempts.send(failure)
                except StopIteration:
                    return response
                failure = None
                if step is None:
                    response, failure = self._attempt(call)
                else:
                    clock.sleep(step.seconds)

    def _attempt(self, call: _Call) -> tuple[Any, NanoGPTError | None]:
        try:
            with extend_deadline(call.limits, call.timeout):
                return self._send(call), None
        except NanoGPTError as error:
            return None, error
        except READ_ERRORS as error:
            return None, call.map_error(error)

    def _send(self, call: _Call) -> Any:
        response = self._client.send(call.request(self._client), stream=True, follow_redirects=False)
        try:
            if call.streams(response):
                stream = EventStream(response, call.reader(response), call.context(self._has_deadline))
                stream.begin()
                return call.stream_response(response, stream)
            response.read()
            return call.check(response)
        except BaseException:
            response.close()
            raise


class AsyncChatTransport(httpx.AsyncBaseTransport):  # type: ignore[misc] # the library is known only at run time
    """Sends the SDK's async chat requests; see :class:`ChatTransport`."""

    def __init__(self, session: ChatSession, http_client: Any = None) -> None:
        self._session = session
        self._client = httpx.AsyncClient(transport=shared_async_transport(http_client))

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request, with retries, and return its checked response.

        Raises:
            NanoGPTError: The error of the last attempt.
        """
        await request.aread()
        call = _Call(self._session, request)
        response, failure = None, None
        with redacted(self._session.endpoint), contextlib.closing(self._session.attempts()) as attempts:
            while True:
                try:
                    step = attempts.send(failure)
                except StopIteration:
                    return response
                failure = None
                if step is None:
                    response, failure = await self._attempt(call)
                else:
                    await clock.async_sleep(step.seconds)

    async def _attempt(self, call: _Call) -> tuple[Any, NanoGPTError | None]:
        try:
            with extend_deadline(call.limits, call.timeout):
                return await self._send(call), None
        except NanoGPTError as error:
            return None, error
        except READ_ERRORS as error:
            return None, call.map_error(error)

    async def _send(self, call: _Call) -> Any:
        response = await self._client.send(call.request(self._client), stream=True, follow_redirects=False)
        try:
            if call.streams(response):
                stream = AsyncEventStream(response, call.reader(response), call.context(has_deadline=True))
                await stream.begin()
                return call.stream_response(response, stream)
            await response.aread()
            return call.check(response)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await response.aclose()
            raise


def make_chat_client(session: ChatSession, http_client: Any = None) -> openai.OpenAI:
    """Return a sync client for chat. Any thread may use it, and a forked process too.

    Args:
        session: Endpoint, retries and rate.
        http_client: The caller's own ``httpx`` client, or None.
    """
    transport = ChatTransport(session, http_client)
    client = openai.OpenAI(http_client=httpx.Client(transport=transport), **_sdk_options(session.endpoint))
    _forget_environment(client)
    return client


def make_async_chat_client(session: ChatSession, http_client: Any = None) -> openai.AsyncOpenAI:
    """Return an async client for chat; see :func:`make_chat_client`. Any event loop may use it."""
    transport = AsyncChatTransport(session, http_client)
    client = openai.AsyncOpenAI(http_client=httpx.AsyncClient(transport=transport), **_sdk_options(session.endpoint))
    _forget_environment(client)
    return client


def _sdk_options(endpoint: Endpoint) -> dict[str, Any]:
    # OPENAI_* variables are meant for another service. The SDK reads headers from this one, a line each.
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    omitted = {line.partition(":")[0].strip(): openai.Omit() for line in lines if ":" in line}
    return {
        "api_key": _SDK_KEY,
        "base_url": endpoint.base_url,
        "timeout": httpx.Timeout(endpoint.timeout, connect=min(_CONNECT_SECONDS, endpoint.timeout)),
        "max_retries": 0,  # the transport retries
        "default_headers": {**omitted, **_HEADERS},
    }


def _forget_environment(client: openai.OpenAI | openai.AsyncOpenAI) -> None:
    client.organization = client.project = client.webhook_secret = client.admin_api_key = None


@contextlib.contextmanager
def map_sdk_errors(session: ChatSession) -> Iterator[None]:
    """Raise errors of the SDK in this block as this project's errors, and an error of our own as it is.

    Raises:
        NanoGPTError: The SDK raised an error.
    """
    try:
        yield
    except openai.OpenAIError as error:
        cause = _wrapped_error(error)
        failure = session.map_error(error, session.endpoint.timeout) if cause is None else cause
    else:
        return
    with redacted(session.endpoint):
        raise failure


def _wrapped_error(error: BaseException) -> Exception | None:
    """Return the error that a transport raised, which the SDK wraps, and LangChain once more."""
    cause: BaseException | None = error
    while isinstance(cause, openai.APIConnectionError):
        cause = cause.__cause__
    return cause if isinstance(cause, Exception) and not isinstance(cause, openai.OpenAIError) else None


def iterate_stream(session: ChatSession, stream: Iterator[T]) -> Iterator[T]:
    """Yield the items of a framework's stream; raise the SDK's errors as ours, and close its responses at the end."""
    opened: list[EventStream] = []
    end = object()
    try:
        while True:
            with map_sdk_errors(session), recorded(opened):
                item: Any = next(stream, end)
            if item is end:
                return
            yield item
    finally:
        for one in opened:
            one.close()


async def aiterate_stream(session: ChatSession, stream: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield the items of a framework's async stream; see :func:`iterate_stream`."""
    opened: list[AsyncEventStream] = []
    end = object()
    try:
        while True:
            with map_sdk_errors(session), recorded(opened):
                item: Any = await anext(stream, end)
            if item is end:
                return
            yield item
    finally:
        for one in opened:
            await one.aclose()


def _attempt() -> Generator[None, NanoGPTError | None, None]:
    error = yield None
    if error is not None:
        raise error


def _restore(endpoint: Endpoint, max_retries: int, requests_per_second: float | None) -> ChatSession:
    return ChatSession(endpoint, max_retries=max_retries, requests_per_second=requests_per_second)


def _for_chat(error: NanoGPTError) -> NanoGPTError:
    if isinstance(error, errors.ModelNotFoundError) and not error.wrong_base_url:
        error.remedy = "Check the model's name, with its suffixes, and base_url; GET /models lists what there is."
    elif isinstance(error, errors.RequestTooLargeError):
        error.remedy = "Send shorter messages, ask for fewer tokens, or take a model with a larger context window."
    error.args = (error.message, error.remedy)
    return error

"""Chat clients: the OpenAI SDK's own, over a transport that adds rate limit, retries, limits, checks and errors.

Everything happens in the transport of :mod:`~nanogpt_core.chat.transport`, below the SDK's public API: it waits for
the rate limiter that is shared with embeddings, sends, retries, checks replies and streams, and raises errors of this
project. The SDK wraps these; :func:`map_sdk_errors` unwraps them. See docs/adr/0015-chat-in-a-transport.md.

``timeout`` bounds an attempt until its answer is there, or until the first event of its stream, and then the wait for
each further event. A stream that has begun is not retried.
"""

from __future__ import annotations

import contextlib
import functools
import re
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, TypedDict, TypeVar

import openai

from nanogpt_core import errors
from nanogpt_core.chat.transport import ChatTransport, EventStream, recorded
from nanogpt_core.errors import NanoGPTError, ReplyError
from nanogpt_core.http.client import Lifetime
from nanogpt_core.http.connections import aclose_connections, close_connections
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.error_mapping import foreign_error, map_error
from nanogpt_core.http.limits import SharedLimits, check_limits
from nanogpt_core.http.rate_limiter import ProcessLimits, RateCap, RateLimiter
from nanogpt_core.http.sdk import AsyncChatClient, ChatClient, make_client
from nanogpt_core.http.secrets import ApiKey, redacted
from nanogpt_core.observability.observer import Observer
from nanogpt_core.observability.records import OnRequest, check_on_request
from nanogpt_core.validation import MIN_REQUESTS_PER_SECOND, check_number, check_positive

T = TypeVar("T")

DEFAULT_RETRIES = 2
"""Attempts after the first of a chat call, as in ``ChatOpenAI``: fewer than for embeddings, as each may be billed."""

# Words of Python's encoder of JSON.
_NO_JSON = re.compile(r"(not JSON (serializable|compliant)|^Circular reference detected)")
_TRUNCATED_ERRORS = (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError)


class SessionOptions(TypedDict, total=False):
    """Options of a session and of its endpoint, which the chat classes of both plugins take."""

    api_key: ApiKey
    base_url: str | None
    timeout: float | None
    max_retries: int | None
    requests_per_second: float | None
    limits: SharedLimits | None
    on_request: OnRequest | None
    default_headers: Mapping[str, str] | None
    allow_insecure_http: bool


class ChatSession:
    """Settings, rate limit and lifetime shared by the sync and the async chat client of one object.

    The arguments are options of the plugins' chat classes, which describe them.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_retries: int = DEFAULT_RETRIES,
        requests_per_second: float | None = None,
        limits: SharedLimits | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        check_number("max_retries", max_retries, 0)
        check_positive("requests_per_second", requests_per_second, at_least=MIN_REQUESTS_PER_SECOND)
        check_limits(limits, requests_per_second=requests_per_second)
        check_on_request(on_request)
        self.endpoint = endpoint
        self.lifetime = Lifetime()
        self.max_retries = max_retries
        self._requests_per_second = requests_per_second
        self._rate_cap = RateCap(endpoint, requests_per_second)
        self._shared = limits
        self.observer = Observer("chat", endpoint, on_request)

    def __repr__(self) -> str:
        return f"<ChatSession of {self.endpoint.host}>"

    def __reduce__(self) -> tuple[functools.partial[ChatSession], tuple[()]]:
        # Copies and pickles are new sessions with the same options.
        make = functools.partial(
            ChatSession,
            self.endpoint,
            max_retries=self.max_retries,
            requests_per_second=self._requests_per_second,
            limits=self._shared,
            on_request=self.observer.hook,
        )
        return make, ()

    def for_client(self) -> ChatSession:
        """Return this session for a client of the SDK, with a weak reference to the rate cap.

        The SDK's clients are part of reference cycles. A cap must end with the object that set it, and not when the
        garbage collector runs.
        """
        session = object.__new__(ChatSession)
        session.__dict__.update(self.__dict__, _rate_cap=weakref.proxy(self._rate_cap))
        return session

    def close(self) -> None:
        """Close the object, and the connections of this process that no other object uses. Calls under way go on."""
        self.lifetime.is_closed = True
        self._rate_cap.lift()
        close_connections()

    async def aclose(self) -> None:
        """Do the same as :meth:`close`, and close the connections of the running event loop that no other one uses."""
        self.lifetime.is_closed = True
        self._rate_cap.lift()
        await aclose_connections()

    @property
    def limits(self) -> SharedLimits:
        """Rate and budget of all calls with this key. Not kept: they refer to this session, and so to the cap."""
        return ProcessLimits(self._limiter) if self._shared is None else self._shared

    def _limiter(self) -> RateLimiter:
        try:
            return self._rate_cap.limiter()
        except ReferenceError:  # the client has outlived the object that it was made for
            self._rate_cap = RateCap(self.endpoint, self._requests_per_second)
            return self._rate_cap.limiter()

    def map_error(self, error: Exception, seconds: float) -> NanoGPTError:
        """Return this project's error for an error of the SDK or of the HTTP library; the attempt had ``seconds``."""
        failure = map_error(error, self.endpoint.host, seconds)
        if isinstance(failure, errors.ModelNotFoundError) and not failure.wrong_base_url:
            failure.remedy = "Check the model's name, with its suffixes, and base_url; GET /models lists what there is."
        elif isinstance(failure, errors.RequestTooLargeError):
            failure.remedy = (
                "Send shorter messages, ask for fewer tokens, or take a model with a larger context window."
            )
        failure.args = (failure.message, failure.remedy)
        return failure


def make_chat_client(session: ChatSession, http_client: Any = None) -> openai.OpenAI:
    """Return a sync client for chat. Any thread may use it, and a forked process too."""
    return make_client(ChatClient, session.endpoint, ChatTransport(session.for_client(), http_client))


def make_async_chat_client(session: ChatSession, http_client: Any = None) -> openai.AsyncOpenAI:
    """Return an async client for chat; see :func:`make_chat_client`. Any event loop may use it."""
    return make_client(AsyncChatClient, session.endpoint, ChatTransport(session.for_client(), http_client))


@contextlib.contextmanager
def map_sdk_errors(session: ChatSession) -> Iterator[None]:
    """Raise errors of the SDK in this block as this project's errors, and an error of our own as it is.

    Raises:
        NanoGPTError: The SDK raised an error, or could not write the request.
    """
    try:
        yield
    except (openai.OpenAIError, TypeError, ValueError) as error:
        failure = _as_own_error(session, error)
        if failure is None:
            raise
    else:
        return
    with redacted(session.endpoint):
        raise failure


def _as_own_error(session: ChatSession, error: Exception) -> BaseException | None:
    """Return the error that the transport raised, or this project's one for an error of the SDK; None for others."""
    failure: NanoGPTError
    if isinstance(error, _TRUNCATED_ERRORS):
        failure = ReplyError(
            "The answer was cut off, so it does not follow the schema asked for.",
            remedy="Raise max_tokens, or ask for less.",
        )
    elif isinstance(error, openai.OpenAIError):
        while isinstance(error.__cause__, openai.APIConnectionError):  # LangChain wraps it once more
            error = error.__cause__
        return foreign_error(error) or session.map_error(error, session.endpoint.timeout)
    elif isinstance(error, UnicodeEncodeError):
        failure = errors.InvalidInputError(
            "A message or an option has an unpaired surrogate, which UTF-8 cannot encode.",
            remedy='Clean the text: text.encode("utf-8", "replace").decode().',
        )
    elif _NO_JSON.search(str(error)):
        failure = errors.InvalidTypeError(
            f"An option or a message cannot be sent: {error}.", remedy="Pass texts, finite numbers, lists and dicts."
        )
    else:
        return None
    failure.__cause__ = error
    return failure


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
    opened: list[EventStream] = []
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

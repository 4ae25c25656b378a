"""Chat clients: the OpenAI SDK's own, over a transport that adds rate limit, retries, limits, checks and errors.

Everything happens in the transport of :mod:`~nanogpt_core.chat.transport`, below the SDK's public API: it waits for
the rate limiter that is shared with embeddings, sends, retries, checks replies and streams, and raises errors of this
project. The SDK wraps these; :func:`map_sdk_errors` unwraps them. See docs/adr/0015-chat-in-a-transport.md.

``timeout`` bounds an attempt until its answer is there, or until the first event of its stream, and then the wait for
each further event. A stream that has begun is not retried.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from nanogpt_core.chat.messages import naming_unsendable_value
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.chat.transport import ChatTransport, EventStream, recorded
from nanogpt_core.errors import ReplyError
from nanogpt_core.http.error_mapping import foreign_error
from nanogpt_core.http.sdk import NoMachineHeaders, make_client
from nanogpt_core.http.secrets import redacted

T = TypeVar("T")

# Pydantic builds the models of the SDK at their first use, under a lock: a child that another thread forks meanwhile
# would wait for it for ever. It takes 5 ms.
for _model in (ChatCompletion, ChatCompletionChunk):
    _model.model_rebuild()

_TRUNCATED_ERRORS = (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError)


class ChatClient(NoMachineHeaders, openai.OpenAI):
    """A client for chat."""

    def post(self, path: str, **options: Any) -> Any:
        """Send a request. A value that JSON cannot hold is an error of this project, with its place."""
        with naming_unsendable_value(_body_of(options)):
            return super().post(path, **options)


class AsyncChatClient(NoMachineHeaders, openai.AsyncOpenAI):
    """An async client for chat; see :class:`ChatClient`. To make it does not block an event loop."""

    async def post(self, path: str, **options: Any) -> Any:
        """Send a request, as :class:`ChatClient` does."""
        with naming_unsendable_value(_body_of(options)):
            return await super().post(path, **options)


def _body_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request of the SDK, with the fields of ``extra_body`` over its own."""
    parts = (options.get("body"), options.get("options", {}).get("extra_json"))
    return {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}


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
        NanoGPTError: The SDK raised an error.
    """
    try:
        yield
    except openai.OpenAIError as error:
        failure = _as_own_error(session, error)
    else:
        return
    with redacted(session.endpoint):
        raise failure


def _as_own_error(session: ChatSession, error: openai.OpenAIError) -> BaseException:
    """Return the error that the transport raised, or this project's one for an error of the SDK."""
    if isinstance(error, _TRUNCATED_ERRORS):
        failure = ReplyError(
            "The answer was cut off, so it does not follow the schema asked for.",
            remedy="Raise max_tokens, or ask for less.",
        )
        failure.__cause__ = error
        return failure
    while isinstance(error.__cause__, openai.APIConnectionError):  # LangChain wraps it once more
        error = error.__cause__
    return foreign_error(error) or session.map_error(error, session.endpoint.timeout)


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

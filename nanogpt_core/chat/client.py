"""Chat through the OpenAI SDK, as both plugins use it: paced, retried by one layer, bounded, with our errors alone.

The clients made here are the SDK's, so that the frameworks' own chat classes work on them. Each attempt waits for the
limiter that everything else with the same key at the same address waits for, embeddings too. ``timeout`` bounds an
attempt until its answer is there, or until the first event of its stream, and then the wait for each further event. A
stream that has begun is not tried again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anyio  # comes with the SDK
import openai

from nanogpt_core._runtime import clock
from nanogpt_core.chat.session import REQUEST_ERRORS, ChatSession
from nanogpt_core.chat.stream import AsyncChatStream, ChatStream, mark_stream
from nanogpt_core.chat.truncation import wants_structured_output
from nanogpt_core.errors import NanoGPTError, ReplyError
from nanogpt_core.http.client import AsyncClient, Client, make_async_client, make_client
from nanogpt_core.http.deadline import bounds
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.redaction import redacted

__all__ = ["AsyncChatClient", "ChatClient", "make_async_chat_client", "make_chat_client", "map_sdk_errors"]

# Neither is meant to be reached: they keep a broken or hostile server from filling the memory.
_MOST_BYTES = 64 << 20
_MOST_STREAMED_BYTES = 256 << 20


class ChatClient(Client):
    """The SDK's client with our pacing, retries, bounds and errors.

    Attributes:
        session: What it shares with its async twin.
    """

    session: ChatSession

    @staticmethod
    def key_for_sdk(endpoint: Endpoint) -> str:  # noqa: ARG004
        """Return a stand-in: the key goes from the endpoint, which hides it, into each request's header."""
        return "none"

    def _auth_headers(self, security: Any) -> dict[str, str]:  # noqa: ARG002
        return self.session.authorization()

    def request(
        self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None
    ) -> Any:  # the SDK's overloads say the same for each kind of stream
        """Send a request, as often as it takes.

        Raises:
            NanoGPTError: It cannot be answered.
        """
        options, stream_cls = _prepared(options, stream_cls, ChatStream)
        with redacted(self.session.endpoint):
            steps, result, failure = self.session.steps(), None, None
            while True:
                try:
                    step = steps.send(failure)
                except StopIteration:
                    return result
                if step is None:
                    result, failure = self._attempt(cast_to, options, stream, stream_cls)
                else:
                    failure = None
                    clock.sleep(step.seconds)

    def _attempt(self, cast_to: Any, options: Any, stream: bool, stream_cls: Any) -> tuple[Any, NanoGPTError | None]:
        seconds = self.session.seconds(options.timeout)
        try:
            with bounds(seconds, _most_bytes(stream)):
                result = super().request(cast_to, options, stream=stream, stream_cls=stream_cls)
                if isinstance(result, ChatStream):
                    result.begin()
                return result, None
        except REQUEST_ERRORS as error:
            return None, self.session.failure(error, seconds)

    def _process_response(self, *, response: Any, options: Any, stream: bool, **more: Any) -> Any:
        if _is_chat(options):
            if stream:
                mark_stream(response, form=wants_structured_output(options))
            if stream and _is_whole(response):
                response.read()
            _raise(_fault(self.session, response, options, stream))
        return super()._process_response(response=response, options=options, stream=stream, **more)


class AsyncChatClient(AsyncClient):
    """The SDK's async client with our pacing, retries, bounds and errors.

    Attributes:
        session: What it shares with its sync twin.
    """

    session: ChatSession

    @staticmethod
    def key_for_sdk(endpoint: Endpoint) -> str:  # noqa: ARG004
        """Return a stand-in; see :class:`ChatClient`."""
        return "none"

    def _auth_headers(self, security: Any) -> dict[str, str]:  # noqa: ARG002
        return self.session.authorization()

    async def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Send a request, as often as it takes.

        Raises:
            NanoGPTError: It cannot be answered.
        """
        options, stream_cls = _prepared(options, stream_cls, AsyncChatStream)
        with redacted(self.session.endpoint):
            steps, result, failure = self.session.steps(), None, None
            while True:
                try:
                    step = steps.send(failure)
                except StopIteration:
                    return result
                if step is None:
                    result, failure = await self._attempt(cast_to, options, stream, stream_cls)
                else:
                    failure = None
                    await clock.async_sleep(step.seconds)

    async def _attempt(
        self, cast_to: Any, options: Any, stream: bool, stream_cls: Any
    ) -> tuple[Any, NanoGPTError | None]:
        seconds = self.session.seconds(options.timeout)
        try:
            with bounds(seconds, _most_bytes(stream)), anyio.fail_after(_with_grace(seconds)):
                result = await super().request(cast_to, options, stream=stream, stream_cls=stream_cls)
                if isinstance(result, AsyncChatStream):
                    await result.begin()
                return result, None
        except REQUEST_ERRORS as error:
            return None, self.session.failure(error, seconds)

    async def _process_response(self, *, response: Any, options: Any, stream: bool, **more: Any) -> Any:
        if _is_chat(options):
            if stream:
                mark_stream(response, form=wants_structured_output(options))
            if stream and _is_whole(response):
                await response.aread()
            _raise(_fault(self.session, response, options, stream))
        return await super()._process_response(response=response, options=options, stream=stream, **more)


def make_chat_client(session: ChatSession, http_client: Any = None) -> ChatClient:
    """Return a sync client for chat. It may be used in any thread, and after a fork.

    Args:
        session: Key, address, retries and rate.
        http_client: The caller's own ``httpx`` client, or None.
    """
    client = make_client(session.endpoint, http_client, ChatClient)
    client.session = session
    return client


def make_async_chat_client(session: ChatSession, http_client: Any = None) -> AsyncChatClient:
    """Return an async client for chat; see :func:`make_chat_client`. Any event loop may use it."""
    client = make_async_client(session.endpoint, http_client, AsyncChatClient)
    client.session = session
    return client


@contextlib.contextmanager
def map_sdk_errors(session: ChatSession) -> Iterator[None]:
    """Let what the SDK raises in the block, beside its requests, out as one of our errors."""
    try:
        yield
    except openai.OpenAIError as error:
        failure = session.failure(error, session.endpoint.timeout)
    else:
        return
    with redacted(session.endpoint):
        raise failure


def _most_bytes(stream: bool) -> int:
    return _MOST_STREAMED_BYTES if stream else _MOST_BYTES


def _with_grace(seconds: float) -> float:
    # The HTTP client's own limits and the guard come first, since they say more; this one catches what they do not.
    return seconds * 1.1 + 0.5


def _prepared(options: Any, stream_cls: Any, ours: Any) -> tuple[Any, Any]:
    # A redirect would carry messages and key to another host.
    options = options.model_copy(update={"follow_redirects": False})
    if stream_cls is None or not _is_chat(options):
        return options, stream_cls
    (chunk,) = stream_cls.__args__
    return options, ours[chunk]


def _is_chat(options: Any) -> bool:
    return str(options.url).endswith("/completions")


def _is_whole(response: Any) -> bool:
    kind = response.headers.get("content-type", "").lower()
    return "json" in kind or "html" in kind


def _fault(session: ChatSession, response: Any, options: Any, stream: bool) -> NanoGPTError | None:
    if stream and not _is_whole(response):
        return None
    return session.check(response, form=wants_structured_output(options)) or (_no_stream(response) if stream else None)


def _no_stream(response: Any) -> NanoGPTError:
    return ReplyError(
        "A stream was asked for, and the service sent its answer whole.",
        remedy="Ask without streaming.",
        request_id=response.headers.get("x-request-id"),
    )


def _raise(error: NanoGPTError | None) -> None:
    if error is not None:
        raise error

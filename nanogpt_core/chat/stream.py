"""The SDK's streams, watched: each event is checked and bounded in time, and what goes wrong is one of our errors."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import anyio  # comes with the SDK
import openai

from nanogpt_core.chat.response import ErrorBody, StreamReader
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.errors import NanoGPTError, bare
from nanogpt_core.http.deadline import Bounds, current_bounds, renewed
from nanogpt_core.http.pool import SharedTransport
from nanogpt_core.http.redaction import redacted

__all__ = ["AsyncChatStream", "ChatStream", "mark_stream"]

T = TypeVar("T")
# A body that is read to its end gives its endpoint back. After the last event that is a few bytes, or a server that
# holds the endpoint open, which is not waited for.
_SECONDS_TO_END = 0.2
_MARK = "nanogpt_bounds"
_FORM = "nanogpt_form"


def mark_stream(response: Any, *, form: bool) -> None:
    """Note in a response what its stream, which is read later, must know.

    That is under which bounds it began, since it is read outside of their block, and whether a form was asked for.
    """
    response.extensions.update({_MARK: current_bounds(), _FORM: form})


class _Watch:
    """What is known of one stream while it is read."""

    def __init__(self, response: Any, client: Any, options: Any) -> None:
        self.session: ChatSession = client.session
        self.seconds = self.session.seconds(getattr(options, "timeout", None))
        self.limits: Bounds = response.extensions[_MARK]
        self.response = response
        self._reader = StreamReader(response.headers.get("x-request-id"), form=response.extensions[_FORM])

    def read(self, event: Any) -> dict[str, Any] | NanoGPTError | None:
        """Return the chunk of an event (None: there is no further one), or what is wrong, or None at the end."""
        try:
            if event is None:
                self._reader.end()
                return None
            found = self._reader.read(event.data)
        except NanoGPTError as error:
            return bare(error)
        return self.session.refusal(found, self.response) if isinstance(found, ErrorBody) else found

    def lost(self, error: Exception) -> NanoGPTError | None:
        """Return our error for what reading the next event failed with; None where the answer is whole without it."""
        if self._reader.complete:
            return None
        return self.session.lost(error, self.seconds, self.response.request)


class ChatStream(openai.Stream[T]):
    """A sync stream of chunks."""

    def __init__(self, *, response: Any, client: Any, options: Any = None, **more: Any) -> None:
        self._watch = _Watch(response, client, options)
        super().__init__(response=response, client=client, options=options, **more)

    def begin(self) -> None:
        """Wait for the first chunk, so that a failure until then is one of the attempt."""
        first = next(self._iterator, None)
        if first is not None:
            self._iterator = itertools.chain([first], self._iterator)

    def __stream__(self) -> Iterator[T]:
        """Return the chunks."""
        # A client of the caller's own knows no deadline for the end.
        ends_in_time = isinstance(self._client._client._transport, SharedTransport)
        events = self._decoder.iter_bytes(self.response.iter_bytes())
        return _chunks(events, self._watch, _parser(self), ends_in_time)


class AsyncChatStream(openai.AsyncStream[T]):
    """An async stream of chunks."""

    def __init__(self, *, response: Any, client: Any, options: Any = None, **more: Any) -> None:
        self._watch = _Watch(response, client, options)
        super().__init__(response=response, client=client, options=options, **more)

    async def begin(self) -> None:
        """Wait for the first chunk, so that a failure until then is one of the attempt."""
        rest = self._iterator
        first = await anext(rest, None)
        if first is not None:
            self._iterator = _resumed(first, rest)

    def __stream__(self) -> AsyncIterator[T]:
        """Return the chunks."""
        return _achunks(self._decoder.aiter_bytes(self.response.aiter_bytes()), self._watch, _parser(self))


def _parser(stream: Any) -> Callable[..., Any]:
    parse = stream._client._process_response_data
    return functools.partial(parse, cast_to=stream._cast_to, response=stream.response)


# No generator here knows the stream that it belongs to: the two would hold each other, and a stream that is left in its
# middle would keep its endpoint until the garbage collector comes. And none closes another: an event loop closes all
# that were left, at once, and complains where one is being closed already.


def _chunks(events: Iterator[Any], watch: _Watch, parse: Callable[..., T], ends_in_time: bool) -> Iterator[T]:
    try:
        while (chunk := _next(events, watch)) is not None:
            yield parse(data=chunk)
        if ends_in_time:
            with contextlib.suppress(Exception), renewed(watch.limits, _SECONDS_TO_END):
                collections.deque(events, maxlen=0)
    finally:
        watch.response.close()


async def _achunks(events: AsyncIterator[Any], watch: _Watch, parse: Callable[..., T]) -> AsyncIterator[T]:
    try:
        while (chunk := await _anext(events, watch)) is not None:
            yield parse(data=chunk)
        with contextlib.suppress(Exception), anyio.move_on_after(_SECONDS_TO_END):
            async for _ in events:
                pass
    finally:
        await watch.response.aclose()


async def _resumed(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    yield first
    async for item in rest:
        yield item


def _next(events: Iterator[Any], watch: _Watch) -> dict[str, Any] | None:
    with redacted(watch.session.endpoint):
        try:
            with renewed(watch.limits, watch.seconds):
                event = next(events, None)
        except Exception as error:  # noqa: BLE001 - raised again, as one of ours
            outcome: dict[str, Any] | NanoGPTError | None = watch.lost(error)
        else:
            outcome = watch.read(event)
            del event  # it may repeat the key, and a traceback may show it
        if isinstance(outcome, NanoGPTError):
            watch.session.heed(outcome)
            raise outcome
        return outcome


async def _anext(events: AsyncIterator[Any], watch: _Watch) -> dict[str, Any] | None:
    with redacted(watch.session.endpoint):
        try:
            with renewed(watch.limits, watch.seconds), anyio.fail_after(watch.seconds):
                event = await anext(events, None)
        except Exception as error:  # noqa: BLE001 - raised again, as one of ours
            outcome: dict[str, Any] | NanoGPTError | None = watch.lost(error)
        else:
            outcome = watch.read(event)
            del event  # see above
        if isinstance(outcome, NanoGPTError):
            watch.session.heed(outcome)
            raise outcome
        return outcome

"""The SDK's streams, watched: each event is checked and bounded in time, and what goes wrong is one of our errors."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, TypeVar

import anyio  # comes with the SDK
import openai

from nanogpt_core.chat_calls import Caller
from nanogpt_core.chat_reply import Complaint, StreamReader
from nanogpt_core.errors import NanoGPTError, bare
from nanogpt_core.guard import Bounds, current_bounds, renewed
from nanogpt_core.pools import SharedTransport
from nanogpt_core.redaction import redacted

__all__ = ["AsyncChatStream", "ChatStream", "mark_stream"]

T = TypeVar("T")
# A body that is read to its end gives its connection back. After the last event that is a few bytes, or a server that
# holds the connection open, which is not waited for.
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
        self.caller: Caller = client.caller
        self.seconds = self.caller.seconds(getattr(options, "timeout", None))
        self.limits: Bounds = response.extensions[_MARK]
        self._response = response
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
        return self.caller.refusal(found, self._response) if isinstance(found, Complaint) else found

    def lost(self, error: Exception) -> NanoGPTError | None:
        """Return our error for what reading the next event failed with; None where the answer is whole without it."""
        if self._reader.complete:
            return None
        return self.caller.lost(error, self.seconds, self._response.request)


class ChatStream(openai.Stream[T]):
    """A sync stream of chunks."""

    def __init__(self, *, response: Any, client: Any, options: Any = None, **more: Any) -> None:
        super().__init__(response=response, client=client, options=options, **more)
        self._watch = _Watch(response, client, options)

    def begin(self) -> None:
        """Wait for the first chunk, so that a failure until then is one of the attempt."""
        first = next(self._iterator, None)
        if first is not None:
            self._iterator = itertools.chain([first], self._iterator)

    def __stream__(self) -> Iterator[T]:
        """Yield the chunks."""
        events = self._iter_events()
        try:
            while (chunk := self._next(events)) is not None:
                yield self._client._process_response_data(data=chunk, cast_to=self._cast_to, response=self.response)
            self._read_to_its_end(events)
        finally:
            self.response.close()

    def _read_to_its_end(self, events: Iterator[Any]) -> None:
        # A client of the caller's own knows no such deadline.
        if isinstance(self._client._client._transport, SharedTransport):
            with contextlib.suppress(Exception), renewed(self._watch.limits, _SECONDS_TO_END):
                collections.deque(events, maxlen=0)

    def _next(self, events: Iterator[Any]) -> dict[str, Any] | None:
        watch = self._watch
        with redacted(watch.caller.connection):
            try:
                with renewed(watch.limits, watch.seconds):
                    event = next(events, None)
            except Exception as error:  # noqa: BLE001 - raised again, as one of ours
                outcome: dict[str, Any] | NanoGPTError | None = watch.lost(error)
            else:
                outcome = watch.read(event)
                del event  # it may repeat the key, and a traceback may show it
            if isinstance(outcome, NanoGPTError):
                watch.caller.heed(outcome)
                raise outcome
            return outcome


class AsyncChatStream(openai.AsyncStream[T]):
    """An async stream of chunks."""

    def __init__(self, *, response: Any, client: Any, options: Any = None, **more: Any) -> None:
        super().__init__(response=response, client=client, options=options, **more)
        self._watch = _Watch(response, client, options)

    async def begin(self) -> None:
        """Wait for the first chunk, so that a failure until then is one of the attempt."""
        rest = self._iterator
        first = await anext(rest, None)
        if first is not None:
            self._iterator = _resumed(first, rest)

    async def __stream__(self) -> AsyncIterator[T]:
        """Yield the chunks."""
        events = self._iter_events()
        try:
            while (chunk := await self._next(events)) is not None:
                yield self._client._process_response_data(data=chunk, cast_to=self._cast_to, response=self.response)
            with contextlib.suppress(Exception), anyio.move_on_after(_SECONDS_TO_END):
                async for _ in events:
                    pass
        finally:
            await self.response.aclose()

    async def _next(self, events: AsyncIterator[Any]) -> dict[str, Any] | None:
        watch = self._watch
        with redacted(watch.caller.connection):
            try:
                with renewed(watch.limits, watch.seconds), anyio.fail_after(watch.seconds):
                    event = await anext(events, None)
            except Exception as error:  # noqa: BLE001 - raised again, as one of ours
                outcome: dict[str, Any] | NanoGPTError | None = watch.lost(error)
            else:
                outcome = watch.read(event)
                del event  # see above
            if isinstance(outcome, NanoGPTError):
                watch.caller.heed(outcome)
                raise outcome
            return outcome


async def _resumed(first: T, rest: Any) -> AsyncGenerator[T, None]:
    try:
        yield first
        async for item in rest:
            yield item
    finally:
        await rest.aclose()

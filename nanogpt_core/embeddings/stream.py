"""Streams: an iterable of any length is embedded in batches, a bounded number at a time, and returned in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from nanogpt_core._runtime.workers import GRACE_SECONDS, park_if_exiting, start_thread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EmbeddedBatch", "achunked", "amap_ordered", "chunked", "map_ordered"]

T = TypeVar("T")
R = TypeVar("R")
Chunk = tuple[int, list[T]]
"""The position of the first item in the stream, and the items."""


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """A batch of a stream.

    Attributes:
        start: Position of the first text in the stream, counted from 0.
        texts: The texts.
        vectors: ``(len(texts), d)`` float32.
    """

    start: int
    texts: list[str]
    vectors: NDArray[np.float32]


def chunked(items: Iterator[T], size: int) -> Iterator[Chunk[T]]:
    """Yield the items in chunks of ``size``."""
    start = 0
    while chunk := list(islice(items, size)):
        yield start, chunk
        start += len(chunk)


async def achunked(items: AsyncIterable[T] | Iterator[T], size: int) -> AsyncIterator[Chunk[T]]:
    """Yield the items in chunks of ``size``; the items may be asynchronous."""
    if not isinstance(items, AsyncIterable):
        for chunk in chunked(items, size):
            yield chunk
        return
    start, collected = 0, []
    async for item in items:
        collected.append(item)
        if len(collected) == size:
            yield start, collected
            start, collected = start + size, []
    if collected:
        yield start, collected


def map_ordered(items: Iterator[T], function: Callable[[T], R], window: int, stop: threading.Event) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, with at most ``window`` calls in progress.

    ``items`` is read no further than the window. When the consumer stops or a call fails, ``stop`` is set, and the
    calls in progress get :data:`GRACE_SECONDS` to end.
    """
    if window == 1:
        yield from map(function, items)
        return
    in_progress: deque[Future[R]] = deque()
    try:
        for item in items:
            in_progress.append(_start(function, item, stop))
            if len(in_progress) == window:
                yield in_progress.popleft().result()
        while in_progress:
            yield in_progress.popleft().result()
    finally:
        stop.set()
        wait(in_progress, timeout=GRACE_SECONDS)
        park_if_exiting()


def _start(function: Callable[[T], R], item: T, stop: threading.Event) -> Future[R]:
    # A thread for each item ends with it. The threads of an executor would stay if the consumer never came back.
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function(item))
        except BaseException as error:  # noqa: BLE001 - raised in the consumer's thread
            future.set_exception(error)

    try:
        start_thread(run, "nanogpt-stream", stop)
    except RuntimeError:  # the process may not start another thread
        run()
    return future


async def amap_ordered(
    items: AsyncIterator[T], function: Callable[[T], Awaitable[R]], window: int
) -> AsyncGenerator[R, None]:
    """Do the same as :func:`map_ordered` with tasks; those in progress are cancelled when the consumer stops."""
    in_progress: deque[asyncio.Future[R]] = deque()
    try:
        async for item in items:
            in_progress.append(asyncio.ensure_future(function(item)))
            if len(in_progress) == window:
                yield await in_progress.popleft()
        while in_progress:
            yield await in_progress.popleft()
    finally:
        for task in in_progress:
            task.cancel()
        await asyncio.gather(*in_progress, return_exceptions=True)

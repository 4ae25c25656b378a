"""Blocks of an endless row worked on at once, with a bounded number under way, and answered in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from nanogpt_core._runtime.workers import GRACE, park_if_exiting, start_thread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["EmbeddedBatch", "achunked", "amap_ordered", "chunked", "map_ordered"]

T = TypeVar("T")
R = TypeVar("R")
Block = tuple[int, list[T]]
"""The position of the first item, and the items."""


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """A batch out of a stream.

    Attributes:
        start: Position of the first text in the stream, counted from 0.
        texts: The texts.
        vectors: ``(len(texts), d)`` float32.
    """

    start: int
    texts: list[str]
    vectors: NDArray[np.float32]


def chunked(items: Iterator[T], size: int) -> Iterator[Block[T]]:
    """Cut a row into chunked of ``size`` items."""
    start = 0
    while block := list(islice(items, size)):
        yield start, block
        start += len(block)


async def achunked(items: AsyncIterable[T] | Iterator[T], size: int) -> AsyncIterator[Block[T]]:
    """Cut a row into chunked of ``size`` items; the row may be asynchronous."""
    if not isinstance(items, AsyncIterable):
        for block in chunked(items, size):
            yield block
        return
    start, gathered = 0, []
    async for item in items:
        gathered.append(item)
        if len(gathered) == size:
            yield start, gathered
            start, gathered = start + size, []
    if gathered:
        yield start, gathered


def map_ordered(row: Iterator[T], work: Callable[[T], R], window: int, stop: threading.Event) -> Iterator[R]:
    """Yield ``work(block)`` for each block, in order, with at most ``window`` under way; the row is read no further.

    When the consumer stops, or something fails, ``stop`` is set and what is under way is waited for, but not for long.
    """
    if window == 1:
        yield from map(work, row)
        return
    under_way: deque[Future[R]] = deque()
    try:
        for block in row:
            under_way.append(_begun(work, block, stop))
            if len(under_way) == window:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        stop.set()
        wait(under_way, timeout=GRACE)
        park_if_exiting()


def _begun(work: Callable[[T], R], block: T, stop: threading.Event) -> Future[R]:
    # A thread for each block ends with it; an executor's threads would wait for more, if the consumer never came back.
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(work(block))
        except BaseException as error:  # noqa: BLE001 - raised in the consumer's thread
            future.set_exception(error)

    start_thread(run, "nanogpt-stream", stop)
    return future


async def amap_ordered(
    row: AsyncIterator[T], work: Callable[[T], Awaitable[R]], window: int
) -> AsyncGenerator[R, None]:
    """Do what :func:`map_ordered` does with tasks; what is under way when the consumer stops is cancelled."""
    under_way: deque[asyncio.Future[R]] = deque()
    try:
        async for block in row:
            under_way.append(asyncio.ensure_future(work(block)))
            if len(under_way) == window:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

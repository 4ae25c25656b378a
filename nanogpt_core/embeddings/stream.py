"""Streams: an iterable of any length is embedded in batches, a bounded number at a time, and returned in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from nanogpt_core._runtime.fork import check_process
from nanogpt_core._runtime.threads import GRACE_SECONDS, NoThreadError, call_into, park_if_exiting, start_thread
from nanogpt_core.embeddings.inputs import check_texts
from nanogpt_core.embeddings.results import track_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanogpt_core.embeddings.pipeline import Pipeline

# Until it is known how long a call takes: at most so long before the second item is read.
_MAX_SECONDS_FOR_THE_FIRST = 0.5
# Time for the requests in flight between two items whose reading blocks the event loop: replies are read in it.
_MAX_LOOP_SECONDS = 0.05

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


async def achunked(items: AsyncIterable[T], size: int) -> AsyncIterator[Chunk[T]]:
    """Yield asynchronous items in chunks of ``size``."""
    start, collected = 0, []
    async for item in items:
        collected.append(item)
        if len(collected) == size:
            yield start, collected
            start, collected = start + size, []
    if collected:
        yield start, collected


def stream_chunks(pipeline: Pipeline, chunks: Iterator[Chunk[str]], total: int | None) -> Iterator[EmbeddedBatch]:
    """Embed the chunks of a stream, and yield them in order; ``total`` texts are expected, or None."""

    def embed(chunk: Chunk[str], stop: threading.Event) -> EmbeddedBatch:
        first, unchecked = chunk
        texts = check_texts(unchecked, first)
        vectors = pipeline.embed(
            texts,
            batch_size=len(texts),
            first=first,
            show_progress=False,
            stop=stop,
            stream_observer=observer,
        )
        return EmbeddedBatch(first, texts, vectors)

    with (
        pipeline.observe() as observer,
        track_progress(pipeline.config.progress, total) as advance,
        contextlib.closing(map_ordered(chunks, embed, pipeline.config.max_concurrency)) as batches,
    ):
        for batch in batches:
            if advance:
                advance(len(batch.texts))
            yield batch


async def astream_chunks(
    pipeline: Pipeline, chunks: AsyncIterator[Chunk[str]] | Iterator[Chunk[str]], total: int | None
) -> AsyncGenerator[EmbeddedBatch, None]:
    """Do the same as :func:`stream_chunks` on the running event loop."""

    async def embed(chunk: Chunk[str]) -> EmbeddedBatch:
        first, unchecked = chunk
        texts = check_texts(unchecked, first)
        vectors = await pipeline.aembed(
            texts, batch_size=len(texts), first=first, show_progress=False, stream_observer=observer
        )
        return EmbeddedBatch(first, texts, vectors)

    with pipeline.observe() as observer, track_progress(pipeline.config.progress, total) as advance:
        async with contextlib.aclosing(amap_ordered(chunks, embed, pipeline.config.max_concurrency)) as batches:
            async for batch in batches:
                if advance:
                    advance(len(batch.texts))
                yield batch


class _Call(Future[R]):
    """A call in a thread of its own.

    Attributes:
        stop: Ends its waits early. It is for this call only: a call that fails sets it for its own requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stop = threading.Event()


def map_ordered(
    items: Iterator[T], function: Callable[[T, threading.Event], R], window: int
) -> Generator[R, None, None]:
    """Yield ``function(item, stop)`` for each item, in order, with at most ``window`` calls in progress.

    ``items`` is read in the consumer's thread, since a database cursor may belong to it, and no further than the
    window. After each result the next call begins: a consumer that takes its time with many finished results would
    else leave the service without requests. If reading takes longer than a call, results are waited for before it goes
    on. When the consumer stops, or gets the error of a call, ``stop`` is set for all calls in progress, and they have
    :data:`GRACE_SECONDS` to end. If reading fails, its error is raised after the results of all items that were read.
    """
    if window == 1:
        yield from (function(item, threading.Event()) for item in items)
        return
    in_progress: deque[_Call[R]] = deque()
    process, pace = os.getpid(), _Pace()
    failures: list[Exception] = []

    def timed(item: T, stop: threading.Event) -> R:
        with pace.timing_call():
            return function(item, stop)

    try:
        for item in _until_failure(pace.timed(items), failures):
            in_progress.append(_start(partial(timed, item)))
            while in_progress:
                if len(in_progress) < window and not in_progress[0].done():
                    wait([in_progress[0]], timeout=pace.seconds_to_wait)
                    if not in_progress[0].done():
                        break
                wait([in_progress[0]])  # it stays in progress meanwhile: Ctrl-C stops it too
                yield in_progress.popleft().result()
                check_process(process)
                if not pace.seconds_to_wait:
                    break
        while in_progress:
            wait([in_progress[0]])
            yield in_progress.popleft().result()
            check_process(process)
        if failures:
            raise failures[0]
    finally:
        if os.getpid() == process:
            for call in in_progress:
                call.stop.set()
            wait(in_progress, timeout=GRACE_SECONDS)
        park_if_exiting()


def _until_failure(items: Iterator[T], failures: list[Exception]) -> Iterator[T]:
    """Yield the items; an error ends them, and is appended to ``failures``."""
    try:
        yield from items
    except Exception as error:  # noqa: BLE001 - raised later
        failures.append(error)


class _Pace:
    """Compares the time that reading an item takes with the time of a call."""

    def __init__(self) -> None:
        self._read_seconds = 0.0
        self._call_seconds: float | None = None

    def timed(self, items: Iterator[T]) -> Iterator[T]:
        """Yield the items, and note how long each took."""
        start = time.monotonic()
        for item in items:
            self._read_seconds = time.monotonic() - start
            yield item
            start = time.monotonic()

    @contextlib.contextmanager
    def timing_call(self) -> Iterator[None]:
        """Note how long the call in this block takes."""
        start = time.monotonic()
        yield
        self._call_seconds = time.monotonic() - start

    @property
    def seconds_to_wait(self) -> float:
        """Seconds to wait for the next result before the next item is read; 0 if reading is faster than a call.

        For the first result, a moment: the source may take long with its second item.
        """
        if self._call_seconds is None:
            return max(self._read_seconds, _MAX_SECONDS_FOR_THE_FIRST)
        return self._read_seconds if self._read_seconds >= self._call_seconds else 0.0

    @property
    def seconds_for_loop(self) -> float:
        """The same if reading has blocked an event loop, which then gets a short time in any case."""
        return self.seconds_to_wait or min(self._read_seconds, _MAX_LOOP_SECONDS)


def _start(function: Callable[[threading.Event], R]) -> _Call[R]:
    # A thread for each item ends with it. The threads of an executor would stay if the consumer never came back.
    call = _Call[R]()
    run = partial(call_into, call, partial(function, call.stop))
    try:
        start_thread(run, "nanogpt-stream", call.stop)
    except NoThreadError:
        run()
    return call


async def amap_ordered(
    items: AsyncIterator[T] | Iterator[T], function: Callable[[T], Awaitable[R]], window: int
) -> AsyncGenerator[R, None]:
    """Do the same as :func:`map_ordered` with tasks; those in progress are cancelled when the consumer stops.

    Results are handed out while the next item is awaited. Reading an item that is not asynchronous blocks the event
    loop, which gets time for the calls in progress afterwards.
    """
    in_progress: deque[asyncio.Future[R]] = deque()
    pace = _Pace()

    async def timed(item: T) -> R:
        with pace.timing_call():
            return await function(item)

    async def paced(items: Iterator[T]) -> AsyncIterator[T]:
        for item in pace.timed(items):
            yield item
            if in_progress and not in_progress[0].done():
                await asyncio.wait([in_progress[0]], timeout=pace.seconds_for_loop)

    source = items if isinstance(items, AsyncIterator) else paced(items)
    reading: asyncio.Future[T | None] | None = None
    exhausted = False
    failure: Exception | None = None
    try:
        while True:
            if reading is None and not exhausted and len(in_progress) < window:
                reading = asyncio.ensure_future(anext(source, None))
            pending: list[asyncio.Future[Any]] = [*([] if reading is None else [reading]), *islice(in_progress, 1)]
            if not pending:
                if failure is not None:
                    raise failure
                return
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            finished = bool(in_progress) and in_progress[0].done()
            # The next call begins before a result is handed out: the consumer may take its time with it.
            if reading is not None and reading.done():
                try:
                    item = reading.result()
                except Exception as error:  # noqa: BLE001 - raised after the results of the items before
                    item, failure = None, error
                reading = None
                if item is None:
                    exhausted = True
                else:
                    in_progress.append(asyncio.ensure_future(timed(item)))
            elif finished:
                yield in_progress.popleft().result()
    finally:
        tasks: list[asyncio.Future[Any]] = [*in_progress, *([] if reading is None else [reading])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

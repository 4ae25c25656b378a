"""The carrier: a thread or a task that sends gathered batches."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from nanogpt_core._runtime.clock import Cancellation
from nanogpt_core._runtime.threads import NoThreadError, start_thread
from nanogpt_core.embeddings.dispatch import Dispatcher, Steps
from nanogpt_core.embeddings.gathering.gatherer import Gatherer
from nanogpt_core.embeddings.gathering.shared_batch import SharedBatch
from nanogpt_core.embeddings.gathering.waiting import Item, Lane, running_loop
from nanogpt_core.http.client import HttpClient
from nanogpt_core.http.limits import GATHERED
from nanogpt_core.http.retry import wait_for_start
from nanogpt_core.http.runner import run_async, run_sync


class BatchCarrier:
    """Sends gathered batches one after another, as long as texts wait.

    It is no caller's own thread or task: a caller that is cancelled, interrupted or late takes no other call with it.
    """

    def __init__(self, gatherer: Gatherer, dispatcher: Dispatcher, client: HttpClient, lane: Lane) -> None:
        self.lane = lane
        self.items: list[Item] = []
        self.has_started = self.is_cancelled = False
        self._gatherer, self._dispatcher, self._client = gatherer, dispatcher, client
        self._stop = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._failed = True  # until it has ended by itself

    def start(self) -> None:
        """Start the thread or task. If that is impossible, the calls go by themselves."""
        lane, self.has_started = self.lane, True
        try:
            if lane is None:
                start_thread(self._run, "nanogpt-gathered", self._stop)
            elif lane is running_loop():
                self._start_task()
            else:
                lane.call_soon_threadsafe(self._start_task)
        except BaseException as error:  # no more threads, the loop is closed, or a signal handler raised
            self._end()
            if not isinstance(error, RuntimeError) or (lane is None and not isinstance(error, NoThreadError)):
                raise

    def cancel(self) -> None:
        """Stop: no call waits for the batch any more."""
        self.is_cancelled = True
        self._stop.set()
        if self._task is not None and self.lane is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.lane.call_soon_threadsafe(self._task.cancel)

    def _start_task(self) -> None:
        assert self.lane is not None  # noqa: S101 - see start()
        self._task = self.lane.create_task(self._run_async())
        # Not in the task itself: one that is cancelled before its first step never runs.
        self._task.add_done_callback(self._end)

    def _run(self) -> None:
        try:
            run_sync(self._carry(), self._client.send, self._stop)
        except Exception:  # noqa: BLE001, S110 - the calls send again by themselves, and get the error
            pass
        finally:
            self._end()

    async def _run_async(self) -> None:
        with contextlib.suppress(Exception):  # as in _run()
            await run_async(self._carry(), self._client.asend)

    def _end(self, _task: object = None) -> None:
        self._gatherer.remove_carrier(self, failed=self._failed)

    def _carry(self) -> Steps[None]:
        gatherer, limits, cancellation = self._gatherer, self._dispatcher.limits, Cancellation(stop=self._stop)
        # Shared limits reserve the cost of the texts with the start time. Otherwise each call reserves its own cost,
        # and texts that come before the start go along.
        takes_texts_first = self._dispatcher.config.limits is not None
        while True:
            admission = None if takes_texts_first else (yield from wait_for_start(limits, cancellation, GATHERED))
            items = gatherer.take_batch(self)
            if items:
                batch = SharedBatch(self, gatherer, self._dispatcher, self._stop)
                yield from batch.send(items, admission)
            elif admission is not None:
                limits.release(admission)
            if not (items and gatherer.finish_batch(self)):
                break
        self._failed = False

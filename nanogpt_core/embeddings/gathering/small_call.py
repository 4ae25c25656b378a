"""Sends the batch of a small call: by itself, or gathered with the texts of other calls that have to wait too.

Known as dynamic batching. :meth:`GatheringDispatcher.dispatch` is the part of a call, and a generator as
:meth:`Dispatcher.dispatch <nanogpt_core.embeddings.dispatch.Dispatcher.dispatch>` is. It sends the batch by itself if a
slot is free, or waits for a carrier. Reasons and figures: docs/adr/0060-gathered-batches.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nanogpt_core._runtime.fork import Registry
from nanogpt_core.embeddings.dispatch import Call, Dispatcher, Steps
from nanogpt_core.embeddings.gathering.carrier import BatchCarrier
from nanogpt_core.embeddings.gathering.gatherer import SLOT_SECONDS, Gatherer
from nanogpt_core.embeddings.gathering.shared_account import make_batch
from nanogpt_core.embeddings.gathering.waiting import Item, Lane, WaitingCall
from nanogpt_core.embeddings.planning import Batch, HostCapabilities
from nanogpt_core.embeddings.response import EmbeddingResponse
from nanogpt_core.errors import LimitsUnavailableError, NanoGPTError
from nanogpt_core.http.client import HttpClient
from nanogpt_core.http.limits import Admission
from nanogpt_core.http.rate_limiter import ProcessLimits
from nanogpt_core.http.retry import wait_for_start
from nanogpt_core.http.runner import Join, Yield

_SLOTS = 8
"""Most requests of small calls in flight, in threads and on each event loop: docs/adr/0060-gathered-batches.md."""


class GatheringDispatcher:
    """Sends the small calls of one embedder, together with those of others that have the same options.

    ``process_limits`` have the budget of this embedder, and let its calls start if ``limits`` is not set.
    """

    def __init__(self, dispatcher: Dispatcher, process_limits: ProcessLimits, client: HttpClient) -> None:
        self._dispatcher = dispatcher
        self._config = dispatcher.config
        self._process_limits = process_limits
        self._client = client
        self._gatherer: Gatherer | None = None

    def dispatch(self, batch: Batch, call: Call, lane: Lane) -> Steps[None]:
        """Send ``batch`` until the call's results have all its vectors, by itself or with the texts of other calls."""
        gatherer = self.gatherer()
        waiting_call = WaitingCall(
            batch,
            call.cancellation,
            observer=call.observer,
            budget=self._process_limits.budget,
            lane=lane,
            make_carrier=self.make_carrier,
        )
        admission: Admission | None = None
        error: NanoGPTError | None = None
        try:
            admission = yield from self._start_or_queue(gatherer, waiting_call)
            if admission is not None:
                sharing = replace(call, on_response=partial(gatherer.share, waiting_call))
                yield from self._dispatcher.dispatch(batch, sharing, admission)
            while admission is None and not waiting_call.done:
                yield Join(waiting_call, call.cancellation.remaining(SLOT_SECONDS))
                if not waiting_call.done:
                    gatherer.check_slots()
        except NanoGPTError as failure:
            error = failure
        finally:
            try:
                gatherer.unregister(waiting_call, error)
            except BaseException:  # of a signal handler: once more, or later calls would wait for this one
                gatherer.unregister(waiting_call, error)
                raise
        if admission is None or error is not None:
            yield from self._take_delivered(waiting_call, call, error or waiting_call.error)

    def _start_or_queue(self, gatherer: Gatherer, waiting_call: WaitingCall) -> Steps[Admission | None]:
        """Register a call. Return the confirmed admission of its request; None if it has to wait, and is queued."""
        if not gatherer.register(waiting_call):
            return None
        if waiting_call.lane is not None:
            # Calls that other tasks make in the same turn of the event loop join this one.
            yield Yield()
        admission: Admission | None = None
        if not gatherer.queued_texts:
            cost, shared = self._dispatcher.cost(waiting_call.batch), self._config.limits
            if shared is None:
                admission = self._process_limits.admit_now(cost)
            else:
                with contextlib.suppress(LimitsUnavailableError):  # a carrier tries again, as often as retries allow
                    admission = yield from wait_for_start(
                        shared, waiting_call.cancellation, replace(cost, gathers=True)
                    )
        if admission is None:
            gatherer.join_queue(waiting_call)
        else:
            gatherer.start_request(waiting_call)
        return admission

    def _take_delivered(self, waiting_call: WaitingCall, call: Call, error: BaseException | None) -> Steps[None]:
        """Collect the vectors that carriers have brought; raise the call's error, or send the rest by itself."""
        import numpy as np

        batch, vectors = waiting_call.batch, waiting_call.vectors
        found = sorted(vectors)
        if found:
            response = EmbeddingResponse(np.array([vectors[index] for index in found]), None, waiting_call.model)
            yield from self._dispatcher.check_dimensions(response, call.cancellation, call.observer)
            yield from call.results.accept(batch.select(found), response)
        if error is not None:
            raise error
        missing = [index for index in range(len(batch.texts)) if index not in vectors]
        if missing:
            yield from self._dispatcher.dispatch(batch.select(missing), call)

    def gatherer(self) -> Gatherer:
        """Return the gatherer that all embedders with the same options share."""
        if self._gatherer is None:
            from urllib.request import getproxies_environment  # the SDK imports it too

            config, model, endpoint = self._config, self._config.model_row, self._config.endpoint
            key = (
                (endpoint.base_url, endpoint.key.reveal_or_empty() if endpoint.key else "", endpoint.timeout),
                (sorted(endpoint.headers.items()), sorted(self._dispatcher.parameters.items()), model),
                (config.on_overflow, config.batch_size, config.max_concurrency, config.max_retries),
                (id(config.http_client), id(config.http_async_client), id(config.limits)),
                sorted(getproxies_environment().items()),
            )
            make = partial(
                Gatherer,
                max_items=config.batch_size or model.batch_size,
                max_tokens=model.max_request_tokens,
                slots=min(_SLOTS, config.max_concurrency),
                mixes_lanes=config.http_client is None and config.http_async_client is None,
                fits=partial(_fit, self._dispatcher.host_capabilities),
            )
            # The salt keeps the API key from being guessed from the digest.
            self._gatherer = _registry.get(hashlib.blake2b(repr(key).encode(), key=_salt).digest(), make)
        return self._gatherer

    def make_carrier(self, lane: Lane) -> BatchCarrier:
        """Return a carrier that has not started, for an event loop, or for threads if ``lane`` is None."""
        return BatchCarrier(self.gatherer(), self._dispatcher, self._client, lane)


def _fit(host_capabilities: HostCapabilities, items: Sequence[Item]) -> bool:
    return host_capabilities.fits(make_batch(items))


_registry = Registry[Gatherer]()
_salt = secrets.token_bytes(16)

"""One process's session with the Redis server of ``RedisLimits``: requests, outages, and records of ended requests."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import re
import secrets
import socket
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import parent_process, util
from typing import Any, TypeVar

import orjson

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.log import logger
from nanogpt_core._runtime.signals import raised_by_signal_handler
from nanogpt_core._runtime.threads import NoThreadError, call_after_workers, start_thread
from nanogpt_core.errors import ConfigurationError, LimitsUnavailableError, NanoGPTError
from nanogpt_core.scale.redis_address import RedisAddress
from nanogpt_core.scale.redis_errors import drop_frames, server_error, server_words
from nanogpt_core.scale.redis_scripts import ADMIT, MICROSECONDS, READY, Reply
from nanogpt_core.scale.request_log import RequestLog

T = TypeVar("T")

_PROBE_SECONDS = 1.0  # between attempts to reach a server that is away
_MAX_RECORDS = 1000  # of one round trip: the server works for 6 ms. After an outage of hours, all would take seconds
_FLUSH_SECONDS = 0.05  # records of ended requests wait so long, and at most twice, for a request that takes them along


@dataclass(eq=False, slots=True)
class _Request:
    """A request of one thread.

    Attributes:
        fields: Arguments for the script, as :meth:`RedisSession.admit` takes them.
        outcome: None until its round trip has ended, and if that was interrupted.
    """

    fields: tuple[Any, ...]
    outcome: Reply | NanoGPTError | None = None


@dataclass(slots=True)
class _Trip:
    """The requests of one round trip. The thread of the first one sends them all.

    Attributes:
        is_closed: True if the trip takes no further requests.
        ended: A lock that is free once the trip has ended. Its release cannot be interrupted, unlike an ``Event``.
    """

    requests: list[_Request] = field(default_factory=list)
    is_closed: bool = False
    ended: threading.Lock = field(init=False)

    def __post_init__(self) -> None:
        self.ended = threading.Lock()
        self.ended.acquire()


class RedisSession(ForkSafe):
    """The session of this process; a forked process begins one of its own. Thread-safe.

    Args:
        address: Address of the server.
        keys: Names of the keys, as :data:`~nanogpt_core.scale.redis_scripts.KEYS`.
        requests_per_second: The rate that was set, or None.
        log: Its lines are written when records are sent in the background.
    """

    def __init__(
        self, address: RedisAddress, keys: list[str], requests_per_second: float | None, log: RequestLog | None
    ) -> None:
        self._address = address
        self._keys = keys
        self._requests_per_second = requests_per_second
        self._log = log
        self._in_child()
        super().__init__()
        _sessions.add(self)

    def _in_child(self) -> None:
        host = re.sub(r"[^\w.-]", "-", socket.gethostname())
        self.worker = f"{host}:{os.getpid()}:{secrets.token_hex(4)}"
        self.last_reply: Reply | None = None
        self._logged_peak = 0.0
        self._client: Any = None
        self._numbers = itertools.count()
        self._next_probe: float | None = None  # of a server that is away: time of the next attempt to reach it
        self._reason = ""  # why it is away
        self._records: list[list[Any]] = []
        self._trip = _Trip()  # of the threads that wait
        self._round_trip = threading.Lock()
        self._round_trips = 0
        self._flushing = False
        self._urgent = threading.Event()

    def new_name(self) -> str:
        """Return a name that no other request of any worker has."""
        return f"{self.worker}-{next(self._numbers)}"

    def admit(
        self,
        action: str,
        name: str = "",
        *,
        nano: int = -1,
        budget: int = -1,
        patience: float = 0.0,
        texts: int = 0,
        gathers: bool = False,
    ) -> Reply:
        """Send the records of ended requests, and reserve or confirm a start time: one round trip.

        One round trip at a time carries the requests of all threads that wait: under load, fewer trips than requests.
        A thread waits for its own trip only, and not for the lock that the next trip holds.

        Args:
            action: ``"reserve"`` or ``"confirm"``; ``""`` as in :meth:`send_records`.
            name: Name of the request.
            nano: Amount to reserve in billionths of a US dollar, or -1.
            budget: Budget in billionths of a US dollar, or -1.
            patience: Seconds from the start time until the request counts as abandoned.
            texts: Texts of the request.
            gathers: Whether texts gather while it waits.

        Raises:
            LimitsUnavailableError: The server is not reachable. The records are kept.
            ConfigurationError: The server refuses.
        """
        self._check_reachable()
        try:
            reply = None
            while reply is None:
                reply = self._carry(_Request((action, name, nano, budget, patience, texts, gathers)))
            return reply
        except ConfigurationError:
            raise
        except BaseException:
            if action == "reserve":  # the server may have done it, and only the reply is missing
                self.give_back(name, nano)
            raise

    def send_records(self) -> Reply:
        """Send the records of ended requests, at most 1,000, and return the state; errors as those of :meth:`admit`."""
        return self.admit("")

    def give_back(self, name: str, nano: int) -> None:
        """Queue a record that gives back start time and cost, if they were reserved, of a request that is not sent."""
        self.record(["settle", name, "unsent", max(nano, 0), 0, 0, 0, 0])

    def _carry(self, request: _Request) -> Reply | None:
        """Return the reply to a request, or None if the thread that has sent it was interrupted.

        The first of those that wait sends them all, after the round trip before.
        """
        trip = self._trip
        try:
            with self._lock:
                if self._trip.is_closed:
                    self._trip = _Trip()
                trip = self._trip
                trip.requests.append(request)
            if trip.requests[0] is request:
                with self._round_trip:
                    self._send(trip)
            else:
                with trip.ended:
                    pass
        finally:  # KeyboardInterrupt, for example, may come at any point
            if trip.requests[:1] == [request]:
                trip.is_closed = True
                trip.ended.release()
            elif request.outcome is None:
                with self._lock:
                    if request in trip.requests:
                        trip.requests.remove(request)
        if isinstance(request.outcome, NanoGPTError):
            raise copy.copy(request.outcome)  # raising an error adds to its traceback: each thread gets one of its own
        return request.outcome

    def _send(self, trip: _Trip) -> None:
        """Send requests and the records that wait, and keep the outcome of each request."""
        self._round_trips += 1
        # At once: a record may take back a request that was interrupted, and must not be sent before it.
        with self._lock:
            trip.is_closed, requests = True, list(trip.requests)
            records = self._records[:_MAX_RECORDS]  # kept until the reply: to apply one again changes nothing
            last, was_away = self.last_reply, not self.is_reachable
        known = (last.generation, last.committed, last.peak, last.now) if last else ("", 0, 0, 0)
        rate, wanted = self._requests_per_second or 0, [request.fields for request in requests]
        arguments = [self.worker, rate, *known, was_away, _with_pause_lengths(records), wanted]
        try:
            state, *answers = self._run(lambda client: ADMIT.run(client, self._keys, orjson.dumps(arguments)))
        except NanoGPTError as error:
            for request in requests:
                request.outcome = error.with_traceback(None)  # a cycle of error and frame would keep the client
            return
        replies = [Reply.parse(state, answer) for answer in answers]
        for request, reply in zip(requests, replies, strict=True):
            request.outcome = reply
        with self._lock:
            del self._records[: len(records)]
            self.last_reply = replies[-1]

    def run(self, function: Callable[[Any], T]) -> T:
        """Return the result of ``function`` of a client of redis-py, when no other thread uses it.

        Raises:
            LimitsUnavailableError: The server is not reachable, or was not a second ago.
            ConfigurationError: The server refuses.
        """
        with self._round_trip:
            return self._run(function)

    def _run(self, function: Callable[[Any], T]) -> T:
        self._check_reachable()
        if not self.is_reachable:
            self._next_probe = clock.now() + _PROBE_SECONDS  # one thread tries, and others do not wait for it
        failure: NanoGPTError
        try:
            with drop_frames():
                result = self._run_connected(function)
        except BaseException as error:
            # A signal handler may raise before a reply is read: no later command may read it.
            self._disconnect()
            from redis.exceptions import RedisClusterException, RedisError

            if raised_by_signal_handler(error) or not isinstance(error, (RedisError, RedisClusterException, OSError)):
                raise
            self._reason = f"{type(error).__name__}: {self._address.hide_password(server_words(error))}"
            failure = server_error(error, self._address) or self._unavailable()
            if isinstance(failure, LimitsUnavailableError):
                self._next_probe = clock.now() + _PROBE_SECONDS
        else:
            self._next_probe = None
            return result
        try:
            raise failure  # without the cause: its text or its frames may hold the password
        finally:
            del failure  # a cycle of error and frame would keep the client and its connections

    def _run_connected(self, function: Callable[[Any], T]) -> T:
        from redis.exceptions import ConnectionError  # noqa: A004

        if self._client is None:
            self._client = self._address.connect(keeps_connection=True)
        else:
            # The server may have closed the connection meanwhile. A script that has run before changes nothing.
            with contextlib.suppress(ConnectionError), drop_frames():
                return function(self._client)
        return function(self._client)

    def log_rate(self, reply: Reply) -> None:
        """Log a rate that the workers have learned: once, when requests start again after the refusals."""
        if reply.status == READY and reply.peak not in {0.0, self._logged_peak}:
            with self._lock:
                is_new, self._logged_peak = reply.peak != self._logged_peak, reply.peak
            if is_new:
                logger.info(
                    "Learned: %.3g requests/s of all workers are accepted; rate: %.3g/s", reply.peak, reply.rate
                )

    @property
    def is_reachable(self) -> bool:
        """True if the last request reached the server."""
        return self._next_probe is None

    def probe_now(self) -> None:
        """Let the next request try to reach the server, even if it was away a moment ago."""
        if not self.is_reachable:
            self._next_probe = clock.now()

    def record(self, record: list[Any], *, urgent: bool = False) -> None:
        """Queue a record, its name and its fields, for the next request or a moment later; does not block.

        If ``urgent``, it is sent at once, in the background.
        """
        with self._lock:
            self._records.append(record)
            start, self._flushing = not self._flushing, True
        if urgent:
            self._urgent.set()
        if start:
            try:
                start_thread(self._flush, "nanogpt-limits", stop=None)
            except NoThreadError:  # the next request takes the record along, or close() at exit
                with self._lock:
                    self._flushing = False

    def flush(self) -> None:
        """Send all records.

        Raises:
            LimitsUnavailableError: The server is not reachable.
        """
        self._write_log()
        self.probe_now()
        self.send_records()  # after the round trip of another thread that carries some
        while self._records:
            self.send_records()

    def _write_log(self) -> None:
        if self._log is not None:
            self._log.flush()

    def close(self) -> None:
        """Send all records if the server is reachable, and close the connection; the next request makes a new one."""
        self._write_log()
        if self._records:
            with contextlib.suppress(LimitsUnavailableError):
                self.flush()
        with self._round_trip:
            self._disconnect()

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _flush(self) -> None:
        """Send records that no request takes along, until none comes. Without the server, try again.

        A server that refuses is asked again only with the next request or record: a password does not become right.
        """
        delay, trips = _FLUSH_SECONDS, self._round_trips
        goes_on = True
        while goes_on:
            is_urgent = self._urgent.wait(delay)
            self._urgent.clear()
            trips_before, trips = trips, self._round_trips
            # A request has just taken records along, and the next one will take more.
            is_busy = trips > trips_before and not is_urgent
            delay, is_refused = _FLUSH_SECONDS, False
            try:
                if self._records and not is_busy:
                    self.send_records()
            except LimitsUnavailableError:
                delay = _PROBE_SECONDS
            except ConfigurationError:
                is_refused = True
            with self._lock:
                goes_on = self._flushing = is_busy or (bool(self._records) and not is_refused)
            with contextlib.suppress(RuntimeWarning):  # of a log that cannot be written, under ``python -W error``
                self._write_log()

    def _check_reachable(self) -> None:
        if self._next_probe is not None and clock.now() < self._next_probe:
            raise self._unavailable()

    def _unavailable(self) -> LimitsUnavailableError:
        return LimitsUnavailableError(
            f"The shared limits are not available: Redis at {self._address.place}: {self._reason}.",
            remedy="Nothing was sent. Check that Redis runs, has memory left and accepts writes, and its URL.",
        )


def _with_pause_lengths(records: list[list[Any]]) -> list[list[Any]]:
    """Return records with the microseconds until a pause ends, in place of its end by the clock of this process."""
    now = clock.now()
    return [
        [*record[:3], max(0.0, (record[3] - now) * MICROSECONDS)] if record[0] == "pause" else record
        for record in records
    ]


_sessions: weakref.WeakSet[RedisSession] = weakref.WeakSet()


def _close_sessions() -> None:
    """Send the records of all sessions at the end of this process, and close their connections."""
    for session in list(_sessions):
        with contextlib.suppress(NanoGPTError, RuntimeWarning):
            session.close()


call_after_workers(_close_sessions)


def _close_sessions_at_end(_: object = None) -> None:
    util.Finalize(None, _close_sessions, exitpriority=0)


# A process of ``multiprocessing`` ends without functions of ``atexit``, and forgets the finalizers that were registered
# before it began.
util.register_after_fork(_sessions, _close_sessions_at_end)
if parent_process() is not None:
    _close_sessions_at_end()

"""``RedisLimits``: rate, pauses, learned grant and budget over all processes that use one Redis server."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
from dataclasses import replace
from typing import Any, NamedTuple

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.log import describe, logger, warn
from nanogpt_core._runtime.validation import (
    MIN_REQUESTS_PER_SECOND,
    check_attribute,
    check_positive,
    fixed_option_error,
)
from nanogpt_core.errors import (
    ConfigurationError,
    InvalidTypeError,
    LimitsUnavailableError,
    NanoGPTError,
    RateLimitError,
    StatusError,
)
from nanogpt_core.http.limits import Admission, Cost, Outcome, Saving, budget_exceeded
from nanogpt_core.scale.ledger import NANO, Ledger, read_ledger
from nanogpt_core.scale.redis_address import RedisAddress
from nanogpt_core.scale.redis_errors import OTHER_KEYS_REMEDY
from nanogpt_core.scale.redis_scripts import BUDGET_REFUSED, KEYS, READY, RELEASE, RESET, Reply
from nanogpt_core.scale.redis_session import RedisSession
from nanogpt_core.scale.request_log import RequestLog

_NAME = re.compile(r"[\w.:@/+-]+")
_USED_SHARE = 0.98  # of the rate, as in the rate limiter
# A request that is not settled so long after its time limit was abandoned: its worker is dead.
_PATIENCE_SECONDS = 120.0
_MAX_REQUESTS_PER_SECOND = 1_000_000
_MAX_BUDGET_USD = 9_000_000  # the scripts count exactly up to this sum
_FIXED = ("name", "requests_per_second", "budget_usd")  # connections, pickles and other processes have them too
_LOCAL = "-local"  # at the end of the names of requests that were admitted without Redis


class _Settings(NamedTuple):
    address: RedisAddress
    name: str
    requests_per_second: float | None
    budget_usd: float | None
    prefix: str
    request_log: str | os.PathLike[str] | None


class _LocalShare(ForkSafe):
    """Even start times at this worker's share of the rate, while Redis is unreachable."""

    def __init__(self) -> None:
        self._in_child()
        super().__init__()

    def _in_child(self) -> None:
        self._next = self._paused_until = -math.inf

    def pause(self, until: float) -> None:
        with self._lock:
            self._paused_until = max(self._paused_until, until)

    def reserve(self, requests_per_second: float) -> float:
        """Return a start time."""
        with self._lock:
            start = max(clock.now(), self._next, self._paused_until)
            self._next = start + 1 / (_USED_SHARE * requests_per_second)
            return start

    def is_paused(self) -> bool:
        with self._lock:
            return clock.now() < self._paused_until


class RedisLimits:
    """Limits shared by all processes and machines that pass the same server and name.

    Pass it as ``limits`` to :class:`nanogpt_core.Embedder` and to the classes of both plugins. Use one name for each
    API key, since the service counts by key. Every process must pass the same rate and budget.

    Each request takes one round trip to the server, and another one if it has to wait for its start time; threads that
    wait share one. The ends of requests are reported with the next request, or a moment later in the background. Start
    times are given out by the server's clock; those of the workers do not matter. A ``Retry-After`` that one worker
    sees pauses all. If no rate is set, the rate begins at 25 requests per second and follows the service's refusals,
    for all workers together.

    **Redis is unreachable**: with a budget, requests fail with :class:`nanogpt_core.LimitsUnavailableError`, and are
    retried as after other temporary failures. Without one, each worker warns once and continues at its share: the last
    known rate, divided by the last known number of workers. When Redis is back, work goes on without a restart, after a
    second in which all workers return. If it has lost its data, the highest amount that a worker knows counts as
    committed. Set ``maxmemory-policy noeviction``: a server that evicts keys would lose the budget.

    The budget counts embeddings, over all runs that use the name, until :meth:`reset`. A reservation that a killed
    worker left open stays in the budget until :meth:`release_abandoned`. The API key is never sent to Redis. A pickle
    leaves the password of Redis out, and reading it back takes it from ``NANOGPT_REDIS_PASSWORD``; the pipes of
    ``multiprocessing`` carry it.

    Args:
        url: ``redis://host:6379``, ``rediss://`` with TLS, or ``unix://``; redis-py's options work in the URL, such as
            ``?ssl_ca_certs=ca.pem``. Redis 5 or later, or Valkey. Default: ``NANOGPT_REDIS_URL``.
        name: Name of the limits: letters, digits and ``_.:@/+-``. Default: ``"default"``.
        requests_per_second: Maximum number of attempts to start in a second, over all workers. Default: begins at 25,
            and follows the service, up to 100.
        budget_usd: US dollars that all workers together may spend on embeddings. Default: no limit.
        prefix: Prefix of all keys in Redis. Default: ``"nanogpt"``.
        cluster: Whether ``url`` is a node of a Redis Cluster. All keys of a name are in one slot. Default: False.
        request_log: A file to which each process appends one JSON line for each finished embedding request. Default:
            none.

    Attributes:
        may_block: True: methods wait for the server, so async code calls them in a thread.
        budget_usd: The budget, or None.

    Raises:
        ConfigurationError: An invalid value. It is a ``ValueError``.
        InvalidTypeError: A value of the wrong type. It is a ``TypeError``.
        ImportError: redis-py is not installed; the extra ``redis`` brings it.

    Example:
        >>> limits = RedisLimits("redis://10.0.0.5:6379", "wikipedia", budget_usd=50)
        >>> embedder = Embedder(limits=limits)
        >>> limits.ledger().spent_usd
        0.0
    """

    may_block = True

    def __init__(
        self,
        url: str | None = None,
        name: str = "default",
        requests_per_second: float | None = None,
        budget_usd: float | None = None,
        *,
        prefix: str = "nanogpt",
        cluster: bool = False,
        request_log: str | os.PathLike[str] | None = None,
    ) -> None:
        for option, value in (("name", name), ("prefix", prefix)):
            if not isinstance(value, str):
                raise InvalidTypeError(f"{option} must be a str, not {type(value).__name__}.")
            if not _NAME.fullmatch(value):
                raise ConfigurationError(f"{option} may hold letters, digits and _.:@/+- only, not {value!r}.")
        check_positive("requests_per_second", requests_per_second, at_least=MIN_REQUESTS_PER_SECOND)
        check_positive("budget_usd", budget_usd)
        for option, number, most in (
            ("requests_per_second", requests_per_second, _MAX_REQUESTS_PER_SECOND),
            ("budget_usd", budget_usd, _MAX_BUDGET_USD),
        ):
            if number is not None and number > most:
                raise ConfigurationError(f"{option} must be at most {most:,}, not {number:g}.", remedy="Leave it out.")
        address = RedisAddress(url, cluster=cluster)
        if request_log is not None:
            log = RequestLog(request_log)
            log.check()
            request_log = log.path
        self.__setstate__(_Settings(address, name, requests_per_second, budget_usd, prefix, request_log))

    def __setstate__(self, settings: _Settings) -> None:
        self._settings = settings
        self.name = settings.name
        self.requests_per_second = settings.requests_per_second
        self.budget_usd = settings.budget_usd
        self._keys = [f"{settings.prefix}:{{{settings.name}}}:{key}" for key in KEYS]
        self._log = None if settings.request_log is None else RequestLog(settings.request_log)
        self._session = RedisSession(settings.address, self._keys, settings.requests_per_second, self._log)
        self._local = _LocalShare()
        self._warned = False

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FIXED and name in self.__dict__:
            raise fixed_option_error(name)
        if type(self) is RedisLimits:  # a subclass may have attributes of its own
            check_attribute(RedisLimits, name, _FIXED, {})
        super().__setattr__(name, value)

    # --- The protocol

    def check(self, cost: Cost) -> None:
        """See :meth:`nanogpt_core.SharedLimits.check`."""
        if self.budget_usd is None:
            return
        with contextlib.suppress(LimitsUnavailableError):  # reserve() tries again
            committed = self._session.send_records().committed
            if committed + _nano(cost.usd) > _nano(self.budget_usd):
                raise budget_exceeded(cost, self.budget_usd, committed / NANO)

    def reserve(self, cost: Cost) -> Admission:
        """See :meth:`nanogpt_core.SharedLimits.reserve`."""
        name, last = self._session.new_name(), self._session.last_reply
        try:
            reply = self._session.admit(
                "reserve",
                name,
                nano=-1 if cost.usd is None else _nano(cost.usd),
                budget=-1 if self.budget_usd is None else _nano(self.budget_usd),
                patience=cost.timeout + _PATIENCE_SECONDS,
                texts=cost.texts,
                gathers=cost.gathers,
            )
        except LimitsUnavailableError as error:
            # A budget fails closed; and before the first reply no share is known.
            if (self.budget_usd is not None and cost.usd is not None) or last is None:
                raise
            return self._reserve_locally(name + _LOCAL, cost, last, error)
        self._warned = False
        if reply.status == BUDGET_REFUSED:
            raise budget_exceeded(cost, self.budget_usd or 0.0, reply.committed / NANO)
        return self._admission(name, reply, cost)

    def confirm(self, admission: Admission) -> Admission:
        """See :meth:`nanogpt_core.SharedLimits.confirm`."""
        if not _is_local(admission):
            with contextlib.suppress(LimitsUnavailableError):  # the start time and the cost were reserved
                reply = self._session.admit("confirm", admission.id, gathers=admission.cost.gathers)
                return self._admission(admission.id, reply, admission.cost)
        elif self._session.is_reachable:
            return self.reserve(admission.cost)  # the shares of all workers together would go on beside the rate
        last = self._session.last_reply
        if last is None or not self._local.is_paused():
            return replace(admission, delay=0.0, ready=True)
        start = self._local.reserve(last.share)
        return replace(admission, start=start, delay=max(0.0, start - clock.now()))

    def _admission(self, name: str, reply: Reply, cost: Cost) -> Admission:
        self._session.log_rate(reply)
        return Admission(name, clock.now() + reply.delay, reply.delay, ready=reply.status == READY, cost=cost)

    def _reserve_locally(self, name: str, cost: Cost, last: Reply, error: NanoGPTError) -> Admission:
        if not self._warned:
            self._warned = True
            rate = f"{last.share:.3g} requests/s"
            warn(f"{error.message} Continuing at this worker's share of the last known rate: {rate}.")
        start = self._local.reserve(last.share)
        return Admission(name, start, max(0.0, start - clock.now()), ready=False, cost=cost)

    def release(self, admission: Admission) -> None:
        """See :meth:`nanogpt_core.SharedLimits.release`."""
        self._session.give_back(admission.id, _nano(admission.cost.usd))

    def settle(self, admission: Admission, outcome: Outcome) -> None:
        """See :meth:`nanogpt_core.SharedLimits.settle`."""
        cost = admission.cost
        if cost.usd is None:
            return
        # An answer without a price counts as its reserved cost.
        kind = "answered" if outcome.answered else "uncertain" if outcome.usd is None else "refused"
        amount = _nano(cost.usd if outcome.usd is None else outcome.usd)
        numbers = [_nano(cost.usd), amount, outcome.tokens or 0, cost.texts, int(_is_local(admission))]
        if self._log is not None:
            self._log.write(admission.id, self._session.worker, cost, outcome)
        self._session.record(["settle", admission.id, kind, *numbers])

    def on_error(self, error: NanoGPTError, delay: float, admission: Admission | None = None) -> None:
        """See :meth:`nanogpt_core.SharedLimits.on_error`."""
        retry_after = error.retry_after if isinstance(error, StatusError) else None
        is_refusal = isinstance(error, RateLimitError)
        if is_refusal or retry_after is not None:
            pause = delay if retry_after is None else retry_after
            until = clock.now() + pause
            if not self._local.is_paused():
                logger.info("Pausing the requests of all workers for %.1f s after %s", pause, describe(error))
            self._local.pause(until)
            name = "" if admission is None else admission.id
            self._session.record(["pause", name, int(is_refusal), until], urgent=True)

    def add_saving(self, saving: Saving) -> None:
        """See :meth:`nanogpt_core.SharedLimits.add_saving`."""
        numbers = [saving.cached, saving.repeated, _nano(saving.usd)]
        self._session.record(["saving", self._session.new_name(), *numbers])

    # --- For users

    def ledger(self) -> Ledger:
        """Return the sums over all workers.

        Raises:
            LimitsUnavailableError: Redis is not reachable.
            ConfigurationError: Redis refuses, for example because of a wrong password.
        """
        self._session.probe_now()
        reply = self._session.send_records()
        state_key, open_key = self._keys[:2]

        def read(client: Any) -> list[Any]:
            # redis-py 5 has no transactions in a cluster.
            with client.pipeline(transaction=not self._settings.address.cluster) as pipeline:
                pipeline.hgetall(state_key)
                pipeline.hgetall(open_key)
                return list(pipeline.execute())

        state, opened = self._session.run(read)
        try:
            return read_ledger(state, opened, reply)
        except ValueError as error:
            raise ConfigurationError(
                f"The keys of {self!r} hold other values than those of limits: {error}.", remedy=OTHER_KEYS_REMEDY
            ) from error

    def release_abandoned(self) -> float:
        """Take reservations that dead workers left open out of the budget, and return their sum in US dollars.

        They may have been billed: compare ``ledger().spent_usd`` with the service's own account first. Should one of
        the workers be alive after all, its request is still counted when it ends.

        Raises:
            LimitsUnavailableError: Redis is not reachable.
        """
        self._session.probe_now()
        return int(self._session.run(lambda client: RELEASE.run(client, self._keys))) / NANO

    def reset(self) -> None:
        """Begin again at 0: ledger, budget and learned rate, for all workers.

        Raises:
            LimitsUnavailableError: Redis is not reachable.
        """
        self._session.probe_now()
        self._session.run(lambda client: RESET.run(client, self._keys, secrets.token_hex(8)))

    def flush(self) -> None:
        """Report the ends of all requests of this process to Redis, and write the request log: now, not a moment later.

        Raises:
            LimitsUnavailableError: Redis is not reachable.
        """
        self._session.flush()

    def close(self) -> None:
        """Do as :meth:`flush` if Redis is reachable, and close the connection of this process.

        A later request makes a new one. Without ``close()``, the connection ends with the object.
        """
        self._session.close()

    def __repr__(self) -> str:
        budget = "" if self.budget_usd is None else f", budget_usd={self.budget_usd:g}"
        return f"RedisLimits({self._settings.address.url!r}, {self.name!r}{budget})"

    def __getstate__(self) -> _Settings:
        return self._settings

    def __copy__(self) -> RedisLimits:
        return self

    def __deepcopy__(self, memo: object) -> RedisLimits:
        return self


def _is_local(admission: Admission) -> bool:
    return admission.id.endswith(_LOCAL)


def _nano(usd: float | None) -> int:
    return round((usd or 0.0) * NANO)

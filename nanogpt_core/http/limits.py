"""Limits that requests share: rate, pauses, the grant that the service was found to give, and a budget.

:class:`SharedLimits` is the interface. The default, ``ProcessLimits`` of :mod:`~nanogpt_core.http.rate_limiter`, holds
within one process; :class:`nanogpt_core.RedisLimits` holds over all processes and machines that use one Redis server.
The order is always the same: the budget, then a start time, then the request. A request that was never sent costs
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.words import counted
from nanogpt_core.errors import BudgetExceededError, ConfigurationError, InvalidTypeError, NanoGPTError

_ROUNDING = 1 + 1e-9  # costs that make up a budget can be a little more when they are added one by one


@dataclass(frozen=True, slots=True)
class Cost:
    """Expected cost of a request.

    Attributes:
        model: Name of the model.
        texts: Number of texts.
        tokens: Their tokens: exact with a budget, otherwise an upper estimate.
        usd: US dollars; None if only the rate applies: to a chat request, whose price is not known before, and to a
            request of several calls, each of which reserves for its own texts.
        timeout: Seconds that the attempt may take.
        gathers: True if texts gather while the request waits, for it or for the next one. Its wait then does not raise
            the rate, and it leaves starts for later requests: :meth:`RateLimiter.reserve`.
    """

    model: str = ""
    texts: int = 0
    tokens: int = 0
    usd: float | None = None
    timeout: float = 0.0
    gathers: bool = False


FREE = Cost()
"""Cost of a request to which only the rate applies, such as a chat request."""

GATHERED = Cost(gathers=True)
"""Cost of a request whose texts are not known yet, and are paid for by their calls."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A reserved start time, and a reserved part of the budget, of one attempt.

    Attributes:
        id: Unique name of the attempt, empty if the limits need none.
        start: Start time in seconds, by the clock of the limits.
        delay: Seconds to wait before :meth:`SharedLimits.confirm`.
        ready: True if the request may be sent now.
        cost: The expected cost.
    """

    id: str
    start: float
    delay: float
    ready: bool
    cost: Cost


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt.

    Attributes:
        usd: US dollars that were billed, 0 if the request was refused; None if it may have been billed.
        tokens: Tokens that were billed; None if unknown.
        answered: True if the service answered with vectors.
        error: Class of the error; empty if there was none.
    """

    usd: float | None
    tokens: int | None = 0
    answered: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Saving:
    """Texts of one call that were not sent.

    Attributes:
        cached: Texts whose vectors came from the cache.
        repeated: Texts that repeat another one of the call.
        tokens: Tokens of both, an upper estimate.
        usd: Their price in US dollars; None if it is unknown.
    """

    cached: int
    repeated: int
    tokens: int
    usd: float | None


@runtime_checkable
class SharedLimits(Protocol):
    """The interface of limits: rate, pauses, learned grant and budget. Its methods are called from several threads.

    For each attempt, an embedder calls ``reserve``, waits the ``delay`` of the :class:`Admission`, calls ``confirm``
    until it is ``ready``, sends, and calls ``settle``; or ``release`` if it sends nothing. ``Cost``, ``Admission``,
    ``Outcome`` and ``Saving`` are in ``nanogpt_core.http.limits``.

    ``check``, ``reserve`` and ``confirm`` may wait for a network if ``may_block`` is True: async code then calls them
    in a thread. The other methods must return at once.

    Attributes:
        may_block: Whether methods may wait for a network.
        budget_usd: The budget in US dollars, or None.
    """

    may_block: bool
    budget_usd: float | None

    def check(self, cost: Cost) -> None:
        """Check that the budget covers ``cost``, the sum over all requests of a call; reserve nothing.

        Raises:
            BudgetExceededError: It does not.
        """

    def reserve(self, cost: Cost) -> Admission:
        """Reserve ``cost`` in the budget, and then a start time.

        Raises:
            BudgetExceededError: ``cost`` would exceed the budget. Nothing is reserved.
            NanoGPTError: The limits cannot be read, and there is a budget.
        """

    def confirm(self, admission: Admission) -> Admission:
        """Return the admission after its delay: ``ready``, or with a later start time if a pause has begun."""

    def release(self, admission: Admission) -> None:
        """Give back the start time and the cost of a request that is not sent."""

    def settle(self, admission: Admission, outcome: Outcome) -> None:
        """Replace the reserved cost of a request that was sent by the amount that was billed."""

    def on_error(self, error: NanoGPTError, delay: float, admission: Admission | None = None) -> None:
        """Lower the rate after a refusal (429), and pause all requests after that or a ``Retry-After``.

        Args:
            error: The error of an attempt.
            delay: Seconds until its next attempt: the length of the pause if the service does not give one.
            admission: The admission of the attempt. None if it is not known; the rate then stays.
        """

    def add_saving(self, saving: Saving) -> None:
        """Record texts that were not sent, for a ledger."""


class Budget(ForkSafe):
    """Keeps the money that is spent, or may have been, within a limit. Thread-safe. Copies and pickles start at 0."""

    def __init__(self, limit_usd: float) -> None:
        self.limit_usd = limit_usd
        self._committed = 0.0
        super().__init__()

    def check(self, cost: Cost) -> None:
        """Raise a BudgetExceededError if ``cost`` would exceed the limit."""
        with self._lock:
            if self._committed + (cost.usd or 0.0) > self.limit_usd * _ROUNDING:
                raise budget_exceeded(cost, self.limit_usd, self._committed)

    def reserve(self, cost: Cost) -> None:
        """Reserve ``cost``; raise a BudgetExceededError if it would exceed the limit."""
        with self._lock:
            self.check(cost)
            self._committed += cost.usd or 0.0

    def settle(self, cost: Cost, usd: float | None) -> None:
        """Replace a reservation by the amount that was billed, in US dollars; if it is None, the reservation stays."""
        if usd is not None:
            with self._lock:
                self._committed += usd - (cost.usd or 0.0)

    def __reduce__(self) -> tuple[type[Budget], tuple[float]]:
        return Budget, (self.limit_usd,)


def budget_exceeded(cost: Cost, limit_usd: float, committed_usd: float) -> BudgetExceededError:
    """Return the error for a request whose cost would exceed the budget."""
    spent = f"${committed_usd:.3g}" if committed_usd else "nothing"
    return BudgetExceededError(
        f"Sending about {counted(cost.tokens, 'token')} (${cost.usd or 0.0:.3g}) would exceed "
        f"budget_usd={limit_usd:g}; {spent} of it is spent or may have been billed for failed attempts.",
        remedy="Send less, or raise budget_usd.",
    )


def check_limits(limits: Any, *, requests_per_second: float | None, budget_usd: float | None = None) -> None:
    """Check the option ``limits``, and that no other option limits the same."""
    if limits is None:
        return
    if isinstance(limits, type) or not isinstance(limits, SharedLimits):
        raise InvalidTypeError(
            f"limits must be an object such as RedisLimits, not {type(limits).__name__}.",
            remedy="See nanogpt_core.SharedLimits.",
        )
    for name, value in (("requests_per_second", requests_per_second), ("budget_usd", budget_usd)):
        if value is not None:
            raise ConfigurationError(
                f"{name} and limits cannot be combined.", remedy=f"Pass {name} to the object in limits."
            )

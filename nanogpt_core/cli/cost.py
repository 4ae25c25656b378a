"""Consent to costs, and their amounts for people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from nanogpt_core.cli.console import answered_yes
from nanogpt_core.cli.exit_codes import CommandError, ExitCode


def _check_budget(_type: object, budget: float | None) -> None:
    if budget is not None and not 0 < budget < math.inf:
        raise ValueError("It must be above 0 and finite.")


def _check_ask_above(_type: object, usd: float) -> None:
    if not usd >= 0:  # nan too
        raise ValueError("It must be at least 0.")


@Parameter(name="*", group=Group.create_ordered("Cost"))
@dataclass(frozen=True)
class CostOptions:
    """Consent to the cost.

    Attributes:
        budget: Most US dollars to spend, in all runs of `embed`. If more is expected, nothing is sent. Never asks.
        yes: Accept any cost, if there is no budget.
        ask_above: Without a budget, ask if the expected cost is above so many US dollars.
    """

    budget: Annotated[float | None, Parameter(validator=_check_budget)] = None
    yes: Annotated[bool, Parameter(alias="-y")] = False
    ask_above: Annotated[float, Parameter(validator=_check_ask_above)] = 1.0

    def allows(self, usd: float | None) -> bool:
        """Return True if a cost needs no question; ``usd`` is None if it is unknown."""
        if self.budget is not None:
            return usd is not None and usd <= self.budget
        return self.yes or (usd is not None and usd <= self.ask_above)

    def confirm(self, cost: str, usd: float | None) -> None:
        """Compare an expected cost with the budget, or ask if there is none and the cost is too high.

        ``cost`` is a sentence without its full stop; ``usd`` is None if a price is unknown.

        Raises:
            CommandError: The cost is above the budget, or was not accepted.
        """
        if self.allows(usd):
            return
        if self.budget is None:
            if answered_yes(f"{cost}. Go on?"):
                return
            remedy = "Pass --yes." if usd is None else "Pass --yes, or a --budget."
        elif usd is None:
            remedy = "No budget can be kept: leave --budget out, and pass --yes."
        else:
            cost, remedy = f"{cost}, more than --budget allows", "Pass a higher --budget."
        raise CommandError(f"{cost}. Nothing was sent.", remedy=remedy, code=ExitCode.NOT_CONFIRMED)


def format_usd(usd: float | None) -> str:
    """Return an amount for people: two digits above a dollar, and else the first two that count."""
    if usd is None:
        return "unknown"
    if usd >= 1 or usd == 0:
        return f"${usd:,.2f}"
    digits = max(2, 1 - int(f"{usd:.1e}".partition("e")[2]))
    return f"${usd:.{digits}f}"

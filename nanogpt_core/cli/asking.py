"""Questions to the user in a terminal, before money is spent or something is deleted."""

from __future__ import annotations

import math
import sys

from nanogpt_core.cli.exit_codes import CommandError, ExitCode

__all__ = ["answered_yes", "confirm_cost"]


def answered_yes(question: str) -> bool:
    """Ask on standard error, and return True for "y" or "yes". Without a terminal the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def confirm_cost(cost: str, usd: float | None, *, budget: float | None, ask_above: float, yes: bool) -> None:
    """Compare an expected cost with the budget, or ask if it is above ``ask_above``.

    Args:
        cost: The cost in words, a sentence without its full stop.
        usd: US dollars; None if a price is unknown.
        budget: US dollars that may be spent without a question, or None.
        ask_above: US dollars above which there is a question without a budget.
        yes: True if any cost is accepted, without a budget.

    Raises:
        CommandError: The cost is above the budget, or was not accepted.
    """
    if budget is not None and not 0 < budget < math.inf:
        raise CommandError(f"--budget must be above 0 and finite, not {budget:g}.")
    limit = ask_above if budget is None else budget
    if (usd is not None and usd <= limit) or (yes and budget is None):
        return
    if budget is not None:
        remedy = "Pass a higher --budget."
        raise CommandError(
            f"{cost}, more than --budget allows. Nothing was sent.", remedy=remedy, code=ExitCode.NOT_CONFIRMED
        )
    if not answered_yes(f"{cost}. Go on?"):
        remedy = "Pass --yes, or a --budget."
        raise CommandError(f"{cost}. Nothing was sent.", remedy=remedy, code=ExitCode.NOT_CONFIRMED)

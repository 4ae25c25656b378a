"""``nanogpt usage``: requests, tokens and cost of a key, by day or by model."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from cyclopts import App, Parameter

from nanogpt_core.cli.console import make_console, make_table, print_json
from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.options import JsonFlag

_WIDE_COLUMNS = 60  # of a terminal; a narrower one gets shorter headings
_EXAMPLES = """\
Examples:
  nanogpt usage                                      the last 30 days, by model
  nanogpt usage --by day --from 2026-05-01 --to 2026-05-31
  nanogpt usage --json | jq .totals.netCostUsd

Asking is free. Days are those of UTC. The service counts the key that asks, not the account's
other keys, and may be a minute late.
"""

command = App(name="usage", help_epilogue=_EXAMPLES)


@command.default
def usage(
    *,
    by: Literal["model", "day"] = "model",
    first: Annotated[str | None, Parameter(name="--from")] = None,
    last: Annotated[str | None, Parameter(name="--to")] = None,
    base_url: str | None = None,
    json: JsonFlag = False,
) -> None:
    """Print requests, tokens and cost of the key, as the service counted them.

    Args:
        by: A row for each model, or for each day.
        first: The first day, as YYYY-MM-DD. Default: 29 days before the last one.
        last: The last day, as YYYY-MM-DD. Default: today.
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
        json: Print the service's reply as it is, with both groupings.
    """
    from nanogpt_core import fetch_usage

    days = _days(first, last)
    found = fetch_usage(base_url=base_url, first=days[0], last=days[1])
    if json:
        print_json(found.reply)
        return
    rows = found.by_model if by == "model" else found.by_day
    console = make_console()
    narrow = console.width < _WIDE_COLUMNS
    columns = ("req.", "in", "out", "USD") if narrow else ("requests", "tokens in", "tokens out", "US dollars")
    table = make_table(by, *columns, right=columns, narrow=narrow)
    for name, row in [*((row.model if by == "model" else row.date, row) for row in rows), ("total", found.total)]:
        counts = (row.requests, row.input_tokens, row.output_tokens)
        cells = ["?" if count is None else f"{count:,}" for count in counts]
        table.add_row(name or "?", *cells, "?" if row.usd is None else f"{row.usd:,.6f}")
    console.print(table)
    console.print(f"\n{found.first} to {found.last}, UTC.")


def _days(first: str | None, last: str | None) -> tuple[datetime.date | None, datetime.date | None]:
    if first is None and last is None:
        return None, None
    end = _day("--to", last) if last else datetime.datetime.now(datetime.timezone.utc).date()
    try:
        return _day("--from", first) if first else end - datetime.timedelta(days=29), end
    except OverflowError:
        raise CommandError(f"There are no 29 days before {end}.", remedy="Pass --from.") from None


def _day(option: str, text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} must be a day such as 2026-05-31, not {text!r}.") from None

"""``nanogpt balance``: the balance of the account."""

from __future__ import annotations

from cyclopts import App

from nanogpt_core.cli.console import make_console, print_json
from nanogpt_core.cli.options import JsonFlag

_EXAMPLES = """\
Examples:
  nanogpt balance                           prints $12.34
  nanogpt balance --json | jq .usd_balance  for a script

Asking is free.
"""

command = App(name="balance", help_epilogue=_EXAMPLES)


@command.default
def balance(*, base_url: str | None = None, json: JsonFlag = False) -> None:
    """Print the balance of the account that the key belongs to.

    Args:
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
        json: Print the service's reply as it is.
    """
    from nanogpt_core import fetch_balance

    found = fetch_balance(base_url=base_url)
    if json:
        print_json(found.reply)
        return
    console = make_console()
    console.print("?" if found.usd is None else f"${found.usd:,.2f}")
    if found.nano:
        console.print(f"{found.nano:,.6f} XNO")

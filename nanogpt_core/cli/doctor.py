"""``nanogpt doctor``: checks of the installation, the environment, the service and a cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cyclopts import App
from rich.table import Column, Table
from rich.text import Text

from nanogpt_core.cli.checks import Finding, check_all
from nanogpt_core.cli.console import make_console, print_json, printable
from nanogpt_core.cli.exit_codes import ExitCode
from nanogpt_core.cli.options import JsonFlag

_EXAMPLES = """\
Examples:
  nanogpt doctor                         sends two requests, which are free
  nanogpt doctor --offline               sends nothing
  nanogpt doctor --cache vectors.sqlite  also checks each vector of a cache

Each line begins with "ok", "note" (works, but look at it) or "FAIL". Exit code
0: nothing failed; 1: something did. The output has no secret: it can be pasted
into a report.
"""
_STYLES = {"ok": "green", "note": "yellow", "FAIL": "bold red"}

command = App(name="doctor", help_epilogue=_EXAMPLES)


@command.default
def doctor(
    *,
    cache: Path | None = None,
    offline: bool = False,
    base_url: str | None = None,
    json: JsonFlag = False,
) -> int:
    """Check versions, key, address, proxy, certificates, token counts, the service and a cache.

    Args:
        cache: A cache file to verify.
        offline: Send nothing.
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
        json: Print one JSON document: a list of objects with `status`, `check`, `message` and `remedy`.
    """
    console = make_console()
    found: list[Finding] = []
    for finding in check_all(base_url, cache, offline=offline):
        found.append(finding)
        if not json:
            console.print(_row(finding))
    failed = sum(finding.status == "FAIL" for finding in found)
    if json:
        print_json([dataclasses.asdict(finding) for finding in found])
    else:
        console.print(f"\nFailed checks: {failed}." if failed else "\nNothing failed.")
    return ExitCode.FOUND_PROBLEM if failed else ExitCode.OK


def _row(finding: Finding) -> Table:
    row = Table.grid(Column(width=4), Column(width=12), Column(overflow="fold"), padding=(0, 1, 0, 0))
    message = " ".join(printable(f"{finding.message} {finding.remedy}").split())
    row.add_row(Text(finding.status, style=_STYLES[finding.status]), finding.check, Text(message))
    return row

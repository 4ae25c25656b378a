"""Embeds through OpenAI-compatible servers that others wrote, and checks every vector and every error.

``python compat/check.py [SERVER ...]`` installs the servers (see servers.py), runs one after the other on loopback, and
ends. docs/compatibility.md has the results. The peculiarities of each server are asserted too, and so a new version
that differs is noticed.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback

import aimock_checks
import infinity_checks
import llmock_checks
from case import Case
from common_checks import BEFORE_OTHERS, server_gone
from servers import SERVERS, install, running

# Model, tolerance and checks of each server. infinity-emb pads a text depending on the other texts of the batch, which
# changes the last bits.
CASES = {
    "infinity-emb": ("random-bert", 2e-6, infinity_checks.CHECKS),
    "aimock": ("any-model", 0.0, aimock_checks.CHECKS),
    "llmock": ("any-model", 0.0, llmock_checks.CHECKS),
}


def main(names: list[str]) -> int:
    """Check the servers named; return how many checks failed."""
    failed = 0
    for name in names:
        if name == "aimock" and not shutil.which("npm"):
            print("aimock: left out, since there is no npm")
            continue
        install(name)
        failed += check(name)
    print(f"{failed} failed" if failed else "all right")
    return failed


def check(name: str) -> int:
    """Check one server; return how many checks failed."""
    model, tolerance, checks = CASES[name]
    failed = 0
    print(f"{name} ({', '.join(SERVERS[name].packages)})", flush=True)
    with running(name) as server:
        case = Case(server, model, tolerance)
        case.learn()
        for one in [*BEFORE_OTHERS, *checks, server_gone]:
            begun = time.monotonic()
            try:
                one(case)
                result = "right"
            except Exception:  # noqa: BLE001 - the other checks are worth running
                # Shortened, since a server may repeat all texts in its message.
                print(traceback.format_exc()[-1500:])
                failed += 1
                result = "FAILED"
            print(f"  {one.__name__}: {result} ({time.monotonic() - begun:.1f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:] or list(CASES)), 1))

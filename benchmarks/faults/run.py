"""Runs all measurements and writes the table; see the package's docstring."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from benchmarks.faults import environment

if TYPE_CHECKING:
    from benchmarks.faults.fault import Fault
    from benchmarks.faults.judge import Result

TARGET = environment.ROOT / "benchmarks" / "FAULTS.md"
_AT_ONCE = 3
_SLOW_AT_ONCE = 8


def main() -> int:
    """Measure; return 0 if this project's columns keep every promise."""
    if not environment.inside():
        python = environment.set_up()
        command = [python, "-m", "benchmarks.faults.run", *sys.argv[1:]]
        return subprocess.run(command, check=False, cwd=environment.ROOT).returncode
    parser = argparse.ArgumentParser(description="Measures the results of the clients for each fault.")
    parser.add_argument("--only", metavar="PART", help="the faults whose group or name holds this; writes no file")
    return _measure(parser.parse_args().only)


def _measure(only: str | None) -> int:
    from benchmarks.faults import measuring, replies, report
    from benchmarks.faults.catalogue import FAULTS
    from benchmarks.faults.clients import CLIENTS, OWN_COLUMNS
    from benchmarks.faults.promises import broken

    start = time.perf_counter()
    faults = [fault for fault in FAULTS if only is None or only in f"{fault.group}: {fault.name}"]
    measuring.prepare()
    replies.bomb()
    rows: list[report.Row] = []
    found: list[str] = []
    with (
        measuring.folder_for_certificates() as folder,
        ThreadPoolExecutor(_AT_ONCE) as pool,
        ThreadPoolExecutor(_SLOW_AT_ONCE) as slow_pool,
    ):
        certificates = measuring.certificates_in(folder)

        def start_all(fault: Fault) -> dict[str, Future[Result | None]]:
            chosen = slow_pool if fault.slow else pool
            return {client: chosen.submit(measuring.run, fault, client, certificates) for client in CLIENTS}

        for fault, futures in [(fault, start_all(fault)) for fault in faults]:
            row = report.Row(fault, {client: future.result() for client, future in futures.items()})
            rows.append(row)
            print(report.line(row), flush=True)
            for client in OWN_COLUMNS:
                result = row.results[client]
                found += [
                    f"{fault.name}, {client}: {what}" for what in (broken(fault, client, result) if result else [])
                ]
    if only is None:
        TARGET.write_text(report.document(rows, found))
    for part in report.split(rows):
        print(f"\n{report.totals(part)}")
    print(f"\n{len(rows)} faults in {time.perf_counter() - start:.0f} s")
    print("\n".join(["Broken promises:", *found]) if found else "No promise broken.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

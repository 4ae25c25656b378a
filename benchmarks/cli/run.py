"""Measures ``nanogpt embed`` beside ``Embedder.stream``: ``make cli-bench``.

100,000 distinct passages go to the server of ``benchmarks/speed`` in turn through both, each in a process of its own:
by default, and with a second for each request, as a service takes it; then without the rate limit, when the processor
is the limit. It fails if memory, the first line of progress, or the throughput by default is outside its limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

from benchmarks.cli.corpus import ROOT, write_corpus

PASSAGES = int(os.environ.get("CLI_BENCH_PASSAGES", "100000"))
ROUNDS = int(os.environ.get("CLI_BENCH_ROUNDS", "3"))
NO_LIMIT = "1000000"
MAX_MEMORY_MIB = 400
MAX_SECONDS_TO_FIRST_BYTE = 1.0
MIN_SHARE_OF_STREAM = 0.8
# Milliseconds before each reply, and the option for requests per second, or "" for the default.
SETTINGS = ((0, ""), (1000, ""), (0, NO_LIMIT))

STREAM = """
import json, sys, time
from pathlib import Path
from nanogpt_core import Embedder
folder, rate = sys.argv[1:]
lines = [line for path in sorted(Path(folder).glob("*.jsonl")) for line in path.open(encoding="utf-8")]
texts = [json.loads(line)["text"] for line in lines]
embedder = Embedder(requests_per_second=float(rate) if rate else None)
start = time.perf_counter()
count = sum(len(batch.texts) for batch in embedder.stream(texts))
assert count == len(texts)
print(time.perf_counter() - start)
"""


@dataclass
class Measured:
    """One run of ``nanogpt embed``.

    Attributes:
        seconds: Seconds of the whole command.
        embedding: Seconds from the first request to the finished output.
        first_byte: Seconds to the first byte on standard error.
        memory_mib: Highest memory, above that of ``nanogpt --version``.
        cpu: Seconds of CPU time.
    """

    seconds: float
    embedding: float
    first_byte: float
    memory_mib: float
    cpu: float


def main() -> int:
    """Measure, print a table, and return 1 if a limit is exceeded."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        passages = write_corpus(corpus, PASSAGES)
        print(f"{passages:,} passages, {sum(file.stat().st_size for file in corpus.iterdir()) / 1e6:.0f} MB")
        over = False
        for latency_ms, rate in SETTINGS:
            with Server(latency_ms) as server:
                environment = {**os.environ, "NANOGPT_API_KEY": "k", "NANOGPT_BASE_URL": server.url}
                # With bytecode, as users have it: without, a second of each run is the compilation of modules.
                environment.pop("PYTHONDONTWRITEBYTECODE", None)
                environment["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
                streams, runs = [], []
                for _ in range(ROUNDS):
                    streams.append(stream(corpus, rate, environment))
                    runs.append(embed(corpus, Path(folder) / "out.parquet", rate, environment))
            over |= report(latency_ms, rate, passages, streams, runs)
    return over


class Server:
    """The server of ``benchmarks/speed``, in a process.

    Args:
        latency_ms: Milliseconds before each reply.
    """

    def __init__(self, latency_ms: int) -> None:
        self._latency = str(latency_ms)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.speed.server", "--latency", self._latency]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{self._process.stdout.readline().strip()}/v1"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


def stream(corpus: Path, rate: str, environment: dict[str, str]) -> float:
    """Return the seconds that ``Embedder.stream`` takes."""
    command = [sys.executable, "-c", STREAM, str(corpus), rate]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def embed(corpus: Path, output: Path, rate: str, environment: dict[str, str]) -> Measured:
    """Run the command once."""
    words = ["embed", str(corpus), "-o", str(output), "--overwrite", "--yes"]
    words += ["--requests-per-second", rate] if rate else []
    command = [sys.executable, "-m", "nanogpt_core.cli", *words]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    first = process.stderr.read(1)
    first_byte = time.perf_counter() - start
    began = 0.0
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(b"Embedding") and not began:
            began = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    end = time.perf_counter()
    assert first, b"".join(lines)
    assert status == 0, b"".join(lines)
    manifest = json.loads(Path(f"{output}.manifest.json").read_text(encoding="utf-8"))
    assert manifest["rows"] == manifest["distinct_texts"]
    output.unlink()
    memory = usage.ru_maxrss / 1024 - start_memory(environment)
    return Measured(end - start, end - began, first_byte, memory, usage.ru_utime + usage.ru_stime)


def start_memory(environment: dict[str, str]) -> float:
    """Return the memory of ``nanogpt --version``, in MiB."""
    command = [sys.executable, "-m", "nanogpt_core.cli", "--version"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    return os.wait4(process.pid, 0)[2].ru_maxrss / 1024


def report(latency_ms: int, rate: str, passages: int, streams: list[float], runs: list[Measured]) -> bool:
    """Print the results of one setting; return True if one is outside its limit."""
    fastest, best = min(streams), min(runs, key=lambda run: run.seconds)
    sending = min(run.embedding for run in runs)
    memory, first = max(run.memory_mib for run in runs), min(run.first_byte for run in runs)
    print(f"{latency_ms} ms for each request, {'no rate limit' if rate else 'default options'}:")
    print(f"  Embedder.stream         {fastest:6.1f} s, {passages / fastest:7,.0f} texts/s")
    print(f"  nanogpt embed, sending  {sending:6.1f} s, {passages / sending:7,.0f} texts/s: {fastest / sending:.2f}")
    print(f"  nanogpt embed, whole    {best.seconds:6.1f} s, {best.cpu:.1f} s CPU: {fastest / best.seconds:.2f}")
    print(f"  first byte {first:.2f} s, memory above the start {memory:.0f} MiB", flush=True)
    slow = not rate and fastest / sending < MIN_SHARE_OF_STREAM
    return slow or memory > MAX_MEMORY_MIB or first > MAX_SECONDS_TO_FIRST_BYTE


if __name__ == "__main__":
    sys.exit(main())

"""The cases on Redis: several processes, one service, one server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from bisect import bisect_left
from dataclasses import dataclass, field

from benchmarks.scale.service import Request, Service

PRICE = 0.02 / 1e6  # US dollars for a token of text-embedding-3-small


@dataclass
class Run:
    """The end of a run: requests that the service saw, and the counts of the workers that lived."""

    started: float
    requests: list[Request]
    counts: list[dict] = field(default_factory=list)

    def answered(self) -> list[Request]:
        return [request for request in self.requests if request.status == 200]

    def rate(self, after: float, until: float) -> float:
        """Return the answers per second between two times after the start."""
        times = [request.time - self.started for request in self.answered()]
        return sum(after <= one < until for one in times) / (until - after)

    def peak(self, after: float) -> int:
        """Return the most requests, answered and refused, that came in any second after a time."""
        times = sorted(request.time for request in self.requests if request.time - self.started >= after)
        return max((n + 1 - bisect_left(times, one - 1.0) for n, one in enumerate(times)), default=0)

    def refusals(self, after: float) -> float:
        """Return the share of refused requests (429) among those after a time."""
        late = [request for request in self.requests if request.time - self.started >= max(after, 0)]
        return sum(request.status == 429 for request in late) / max(1, len(late))

    def failed(self) -> int:
        """Return the calls of the workers that failed in a way that no case expects."""
        return sum(counts["failed"] for counts in self.counts)

    def billed_usd(self) -> float:
        return sum(request.tokens for request in self.answered()) * PRICE


class Workers:
    """Starts workers, and lets them begin together; a context manager."""

    def __init__(self, service: Service, count: int, each: dict | None = None, **options):
        options = {"threads": 8, "texts": 64, "batch_size": 1, "name": uuid.uuid4().hex, **options}
        options |= {"base_url": service.base_url, "api_key": service.api_key}
        self.name = options["name"]
        self._service = service
        self.processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.scale.worker",
                    json.dumps(options | {"number": n} | (each or {}).get(n, {})),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(count)
        ]
        for process in self.processes:
            process.stdout.readline()

    def begin(self) -> Workers:
        self.started = time.time()
        for process in self.processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return self

    def round(self) -> dict:
        """Let the first worker embed once more, and return its counts."""
        self.processes[0].stdin.write("\n")
        self.processes[0].stdin.flush()
        return json.loads(self.processes[0].stdout.readline())

    def kill(self, number: int) -> None:
        self.processes[number].send_signal(signal.SIGKILL)

    def finish(self) -> Run:
        outputs = [process.communicate()[0].splitlines() for process in self.processes]
        counts = [json.loads(lines[-1]) for lines in outputs if lines]
        return Run(self.started, self._service.requests(), counts)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()

"""A sandbox in a process of its own, which counts what it was asked and what it answered.

Run as ``python -m benchmarks.scale.service OPTIONS``, with the sandbox's options as JSON. Each of the first requests is
answered with the status in ``statuses``, with ``Retry-After`` if that is a pair. It prints its base URL, and
for each line on its standard input a JSON list of all requests: time, status, texts and tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from nanogpt_core.sandbox import Fault, Sandbox
from nanogpt_core.sandbox.tokens import count_tokens


@dataclass(frozen=True)
class Request:
    """A request, as the service saw it."""

    time: float
    status: int
    texts: tuple[str, ...]
    tokens: int


class Service:
    """Starts the service; a context manager."""

    def __init__(self, **options):
        command = [sys.executable, "-m", "benchmarks.scale.service", json.dumps(options)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.base_url, self.api_key = json.loads(self._process.stdout.readline())

    def requests(self) -> list[Request]:
        """Return all requests for embeddings so far."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [
            Request(time, status, tuple(texts), tokens)
            for time, status, texts, tokens in json.loads(self._process.stdout.readline())
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _fault(status: int | list[int]) -> Fault:
    if isinstance(status, int):
        return Fault(status)
    return Fault(status[0], {"Retry-After": str(status[1])})


def main(options: str) -> None:
    given = json.loads(options)
    faults = [None if one is None else _fault(one) for one in given.pop("statuses", [])]
    with Sandbox(keep_requests=10**6, keep_bytes=1 << 30, faults=faults, **given) as sandbox:
        print(json.dumps([sandbox.base_url, sandbox.api_key]), flush=True)
        for _ in sys.stdin:
            rows = [
                (request.time, request.status, request.inputs, sum(map(count_tokens, request.inputs)))
                for request in sandbox.requests
                if request.path.endswith("/embeddings")
            ]
            print(json.dumps(rows), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

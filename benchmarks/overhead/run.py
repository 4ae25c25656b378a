"""CPU time of a query before and after a change, pair by pair in one run.

``python -m benchmarks.overhead.run REVISION`` compares the working tree with a revision of git. Two processes, one for
each, embed queries against one server on loopback, in turns; a pair is a round of each, in changing order. A process is
the interpreter of this one with another folder of the packages in front of its path.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 1536
WARM_UP_QUERIES = 200

CHILD = """
import sys, time
from nanogpt_core import Embedder
embedder = Embedder("text-embedding-3-small", api_key="k", base_url=sys.argv[1], requests_per_second=100_000)
for line in sys.stdin:
    count = int(line)
    start = time.process_time()
    for number in range(count):
        embedder.embed_query("a query of a few words")
    print((time.process_time() - start) / count * 1e6, flush=True)
"""


class Handler(socketserver.StreamRequestHandler):
    """Answers each request on a connection with one vector."""

    vector = base64.b64encode(b"\0\0\x80\x3f" * WIDTH).decode()
    body = json.dumps({"data": [{"index": 0, "embedding": vector}], "usage": {"prompt_tokens": 5}})
    reply = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    def handle(self) -> None:
        while True:
            length = 0
            while (line := self.rfile.readline().strip().lower()) or not length:
                if not line and not length:
                    return
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            self.rfile.read(length)
            self.wfile.write(self.reply)


class Child:
    """A process that embeds queries with the packages of one folder."""

    def __init__(self, folder: Path, url: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", CHILD, url]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )

    def round(self, queries: int) -> float:
        """Embed some queries; return the CPU time of one, in microseconds."""
        self._process.stdin.write(f"{queries}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def measure(old: Path, pairs: int, queries: int) -> None:
    """Print the CPU time of a query in both folders, and the median ratio of all pairs."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/api/v1"
        before, after = Child(old, url), Child(ROOT, url)
        for child in (before, after):
            child.round(WARM_UP_QUERIES)
        times: list[tuple[float, float]] = []
        for number in range(pairs):
            first, second = (before, after) if number % 2 else (after, before)
            one, other = first.round(queries), second.round(queries)
            times.append((one, other) if first is before else (other, one))
        for child in (before, after):
            child.end()
        server.shutdown()
    ratios = sorted(new / old_time for old_time, new in times)
    print(f"before {statistics.median(one for one, _ in times):.1f} µs, ", end="")
    print(f"after {statistics.median(other for _, other in times):.1f} µs of CPU time a query")
    print(f"ratio: median {statistics.median(ratios):.4f}, ", end="")
    print(f"quartiles {ratios[len(ratios) // 4]:.4f} and {ratios[3 * len(ratios) // 4]:.4f}, {len(ratios)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--queries", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", old, arguments.revision], cwd=ROOT, check=True)
        try:
            measure(old, arguments.pairs, arguments.queries)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()

"""Runs a command, and ends it when standard input closes (its parent is gone) or a time limit is reached."""

from __future__ import annotations

import subprocess
import sys
import threading


def main(seconds: float, command: list[str]) -> int:
    """Run ``command`` and return its exit code."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        threading.Thread(target=lambda: (sys.stdin.read(), process.terminate()), daemon=True).start()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            return process.wait(10)
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

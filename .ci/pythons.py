"""Runs lint, types and tests with each Python from 3.10 on that is installed here, each in its own environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINORS = range(10, 15)


def main() -> int:
    """Run all; return 0 if each run is green."""
    results = {}
    for version, python in interpreters():
        print(f"--- Python {version}: {python}", flush=True)
        command = ["make", "--no-print-directory", "test", f"PYTHON={python}", f"VENV=.venv.{version}"]
        results[version] = subprocess.run(command, check=False, cwd=ROOT).returncode
    for version, code in results.items():
        print(f"Python {version}: {'green' if code == 0 else f'failed ({code})'}")
    return max(results.values())


def interpreters() -> Iterator[tuple[str, str]]:
    """Yield version and path of the first interpreter of each version that runs."""
    for minor in MINORS:
        version = f"3.{minor}"
        found = next((path for path in candidates(version) if runs(path, minor)), None)
        if found is not None:
            yield version, found


def candidates(version: str) -> Iterator[str]:
    """Yield the paths at which an interpreter may be: on PATH, then installed by pyenv, which may not select it."""
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True))


def runs(python: str, minor: int) -> bool:
    """Return True if ``python`` runs and is CPython 3.``minor``; a pyenv shim that is not selected does not run."""
    code = f"import sys; sys.exit(sys.version_info[:2] != (3, {minor}) or sys.implementation.name != 'cpython')"
    return subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main())

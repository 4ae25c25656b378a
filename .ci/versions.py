"""Runs the tests with the lowest and the highest versions that pyproject.toml admits, each in its own environment.

The highest run is two: LlamaIndex's OpenAI LLM package pins openai below 3, so that openai 3 is tested without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
os.environ["UV_LINK_MODE"] = "copy"  # NLTK refuses files that are linked to uv's cache

# Types of old versions of numpy and redis differ from those of current ones.
WITHOUT_MYPY = [
    "--deselect",
    "tests/docs/test_types.py::test_mypy_accepts_packages_and_snippets_and_marks_exactly_the_wrong_options",
]

RUNS = {
    "lowest": [".[all,dev]", "--resolution", "lowest-direct"],
    "highest": [".[all,dev]", "--upgrade"],
    "openai-3": [".[langchain,sandbox,dev]", "--upgrade", "llama-index-core", "openai>=3"],
}


def main() -> int:
    """Run all; return 0 if each run is green."""
    results = {name: run(name, requirements) for name, requirements in RUNS.items()}
    for name, code in results.items():
        print(f"{name}: {'green' if code == 0 else f'failed ({code})'}")
    return max(results.values())


def run(name: str, requirements: list[str]) -> int:
    """Make the environment and run the tests in it; return the tests' exit code."""
    python = ROOT / f".venv.{name}" / "bin" / "python"
    if not python.exists():
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, python.parent.parent], check=True)
    install = [UV, "pip", "install", "--quiet", "--python", python, "--editable", *requirements]
    subprocess.run(install, check=True, cwd=ROOT)
    print(f"--- {name}", flush=True)
    subprocess.run([UV, "pip", "list", "--quiet", "--python", python], check=True, cwd=ROOT)
    options = ["-q", "-n", "logical", "--dist", "loadgroup", *(WITHOUT_MYPY if name == "lowest" else [])]
    return subprocess.run([python, "-m", "pytest", *options], check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())

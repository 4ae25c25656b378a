"""The measurement's own environment: the project with both plugins, and the other projects' clients."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv.faults"
PACKAGES = [".[all]", "langchain-openai", "llama-index-embeddings-openai", "llama-index-llms-openai", "trustme"]
_SHOWN = (
    "openai",
    "langchain-openai",
    "langchain-core",
    "llama-index-embeddings-openai",
    "llama-index-llms-openai",
    "llama-index-core",
    "httpx",
    "httpx2",
    "numpy",
)


def inside() -> bool:
    """Return True if this interpreter is the environment's own."""
    return Path(sys.prefix).resolve() == FOLDER.resolve()


def set_up() -> Path:
    """Make the environment if it is missing, and return its interpreter. Needs uv beside this interpreter."""
    uv = Path(sys.executable).parent / "uv"
    python = FOLDER / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, FOLDER], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "--editable", *PACKAGES]
    subprocess.run(install, check=True, cwd=ROOT)
    return python


def versions() -> str:
    """Return the versions of the measured packages."""
    installed = {name: _version(name) for name in _SHOWN}
    found = [f"{name} {version}" for name, version in installed.items() if version]
    return ", ".join([f"nanogpt-rag {metadata.version('nanogpt-rag')}", *found])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def machine() -> str:
    """Return a description of the machine."""
    import os

    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"

"""The benchmark's own environment: the project with both plugins, the other clients, and the benchmark's own needs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv.bench"
PEERS = ["langchain-openai", "langchain-classic", "llama-index-embeddings-openai", "baseten-performance-client"]
PACKAGES = [".[all,stores]", *PEERS, "openai[aiohttp]", "matplotlib", "msgspec", "trustme"]
_SHOWN = (
    "nanogpt-rag",
    "openai",
    "httpx",
    "langchain-core",
    "llama-index-core",
    "langchain-openai",
    "langchain-classic",
    "llama-index-embeddings-openai",
    "baseten-performance-client",
    "numpy",
    "orjson",
    "jiter",
    "msgspec",
    "pybase64",
    "tiktoken",
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


def variables() -> dict[str, str]:
    """Return the environment of a child: the tokenizer's file from LlamaIndex's package, and no keys or proxies."""
    import importlib.util

    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    found = importlib.util.find_spec("llama_index.core")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "_static" / "tiktoken_cache"
    return {**kept, "TIKTOKEN_CACHE_DIR": str(folder), "LANGSMITH_TRACING": "false"}


def cores() -> tuple[int | None, int | None]:
    """Return the server's core and the clients'; None if this machine does not allow to choose, or has only one."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def versions() -> str:
    """Return the versions of the measured packages."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)


def machine() -> str:
    """Return a description of the machine."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    where = f"{platform.system()} {platform.release()}, {platform.machine()}"
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores ({model or 'unknown'}), {pages:.0f} GiB, {where}, {python}"


def load() -> float:
    """Return how many processes were running in the last minute, on average."""
    return os.getloadavg()[0]

"""Installs third-party servers, each in its own folder of ``.venv.compat``, and runs them on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HOME = HERE.parent / ".venv.compat"
UV = Path(sys.executable).parent / "uv"

KEY = "sk-compat"
LONGEST_RUN = 600
LONGEST_START = 180

INFINITY = ["torch==2.13.0", "infinity-emb[server,torch]==0.0.78", "transformers==4.57.6"]
LLMOCK = ["llmock==0.2.2"]
AIMOCK = ["@copilotkit/aimock@1.43.0"]


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        name: Its name.
        root: Its address.
        base_url: Base URL of its OpenAI-compatible API.
        process: Its process.
    """

    name: str
    root: str
    base_url: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait(30)


@dataclass(frozen=True)
class Recipe:
    """Steps that install and start a server.

    Attributes:
        install: Installs into the folder given.
        packages: Packages to install, with versions.
        command: The command, from the folder and a port.
        path: Path of its API.
        environment: Additional environment variables.
    """

    install: Callable[[Path, list[str]], None]
    packages: list[str]
    command: Callable[[Path, int], list[str | Path]]
    path: str
    environment: dict[str, str]


def _with_pip(folder: Path, packages: list[str]) -> None:
    # pip, not uv: pip's own settings name the index that has PyTorch without CUDA.
    subprocess.run([UV, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True, cwd=HOME
    )


def _infinity(folder: Path, packages: list[str]) -> None:
    _with_pip(folder, packages)
    subprocess.run([folder / "bin" / "python", HERE / "random_bert.py", folder / "random-bert"], check=True, cwd=HOME)


def _with_npm(folder: Path, packages: list[str]) -> None:
    (folder / "fixtures").mkdir(parents=True, exist_ok=True)
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    subprocess.run(["npm", "install", *quiet, "--prefix", folder, *packages], check=True, cwd=HOME)


SERVERS = {
    "infinity-emb": Recipe(
        _infinity,
        INFINITY,
        lambda folder, port: [
            folder / "bin" / "infinity_emb",
            *("v2", "--model-id", folder / "random-bert", "--served-model-name", "random-bert"),
            *("--device", "cpu", "--engine", "torch", "--no-bettertransformer", "--no-compile", "--no-model-warmup"),
            *("--api-key", KEY, "--host", "127.0.0.1", "--port", str(port)),
        ],
        "",
        {
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            # Less than the defaults of 2048 and 32000: a small check reaches both limits.
            "INFINITY_MAX_CLIENT_BATCH_SIZE": "64",
            "INFINITY_QUEUE_SIZE": "100",
        },
    ),
    "aimock": Recipe(
        _with_npm,
        AIMOCK,
        lambda folder, port: [
            folder / "node_modules" / ".bin" / "llmock",
            *("--port", str(port), "--fixtures", folder / "fixtures", "--log-level", "silent"),
        ],
        "/v1",
        {"AIMOCK_API_KEYS": KEY},
    ),
    "llmock": Recipe(
        _with_pip,
        LLMOCK,
        lambda folder, port: [
            folder / "bin" / "llmock",
            *("serve", "--port", str(port), "--log-level", "warning", "--rpm", "300", "--context-window", "2000"),
        ],
        "/v1",
        {},
    ),
}


def install(name: str) -> None:
    """Install the server, unless just these versions are there."""
    recipe, folder = SERVERS[name], HOME / name
    stamp = folder / "installed.json"
    wanted = json.dumps(recipe.packages)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    print(f"Installing {', '.join(recipe.packages)} ...", flush=True)
    HOME.mkdir(exist_ok=True)
    recipe.install(folder, recipe.packages)
    stamp.write_text(wanted, encoding="utf-8")


@contextlib.contextmanager
def running(name: str) -> Iterator[Server]:
    """Run the server as long as the block does, and never for more than ten minutes."""
    recipe, folder, port = SERVERS[name], HOME / name, _free_port()
    command = [str(part) for part in recipe.command(folder, port)]
    root = f"http://127.0.0.1:{port}"
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, HERE / "leash.py", str(LONGEST_RUN), *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **recipe.environment},
        )
        server = Server(name, root, root + recipe.path, process)
        try:
            _wait_for(server, folder / "log.txt")
            yield server
        finally:
            server.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_for(server: Server, log: Path) -> None:
    end = time.monotonic() + LONGEST_START
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(OSError):
            if ask(f"{server.root}/health")[0] == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{server.name} did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


# Independent of the packages under test and their dependencies.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, body: Any = None, *, key: str = KEY, method: str | None = None) -> tuple[int, Any]:
    """Send ``body`` as JSON (GET if it is None); return status and document."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with _opener.open(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")

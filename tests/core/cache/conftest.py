"""Fixtures of the cache tests: entries and child processes."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

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
def child():
    """Start ``child.py`` in a process of its own; processes that still run at the test's end are killed."""
    script = Path(__file__).with_name("child.py")
    with contextlib.ExitStack() as stack:

        def start(work, *, before=(), start_new_session=False, **arguments):
            process = subprocess.Popen(
                [*before, sys.executable, "-W", "error", str(script), work, json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=start_new_session,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def finish():
    """Wait for a process, and return its status and output; one that hangs fails the test."""

    def finish(process, more=None):
        try:
            out, err = process.communicate(more, timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"the process hangs; it printed {process.communicate(timeout=60)}")
        return SimpleNamespace(status=process.returncode, out=out, err=err)

    return finish

"""Fixtures for pytest. They are registered by an entry point, and do nothing unless a test asks for one.

Guide: docs/guides/testing.md.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nanogpt_core.testing import FakeClock, Sandbox


@pytest.fixture
def nanogpt_sandbox_options() -> dict[str, Any]:
    """Options of the fixture ``nanogpt_sandbox``. Override this fixture to return others."""
    return {}


@pytest.fixture
def nanogpt_sandbox(nanogpt_sandbox_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A local NanoGPT API of this test. ``NANOGPT_API_KEY`` and ``NANOGPT_BASE_URL`` point to it."""
    from nanogpt_core.testing import Sandbox

    # Rate limits and pauses belong to a key: no test inherits those of another one.
    options = {"api_key": f"sk-nano-{uuid.uuid4().hex}", **nanogpt_sandbox_options}
    with Sandbox(**options) as sandbox:
        monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
        monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
        yield sandbox


@pytest.fixture
def nanogpt_clock() -> Iterator[FakeClock]:
    """A clock that skips the waits of this package between retries and for the rate limit."""
    from nanogpt_core.testing import fake_clock

    with fake_clock() as clock:
        yield clock

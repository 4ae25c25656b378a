"""Helpers for the tests of programs that use this package: a local NanoGPT API, and a clock that skips waits.

With pytest, the fixtures ``nanogpt_sandbox`` and ``nanogpt_clock`` are there without an import; see
:mod:`nanogpt_core.pytest_plugin` and the guide "How to test your app".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanogpt_core._runtime.clock import FakeClock, fake_clock

if TYPE_CHECKING:
    from nanogpt_core.sandbox import SERVICE_ERRORS, Fault, RecordedRequest, Reply, Sandbox, ToolCall

__all__ = [
    "SERVICE_ERRORS",
    "FakeClock",
    "Fault",
    "RecordedRequest",
    "Reply",
    "Sandbox",
    "ToolCall",
    "fake_clock",
]


def __getattr__(name: str) -> object:
    # The clock works without the packages that the sandbox needs.
    if name in __all__:
        from nanogpt_core import sandbox

        return getattr(sandbox, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""HTTP libraries of the OpenAI SDK: ``httpx`` and ``httpcore`` in 2.x, ``httpx2`` and ``httpcore2`` in 3.x."""

from __future__ import annotations

import importlib
from typing import Any

import openai

# The SDK re-exports names under its own; the class that its default client extends still tells the library.
httpx: Any = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
"""``httpx`` or ``httpx2``, as the installed SDK uses by default."""

httpcore: Any = importlib.import_module(httpx.__name__.replace("httpx", "httpcore"))
"""``httpcore`` or ``httpcore2``, which :data:`httpx` stands on."""

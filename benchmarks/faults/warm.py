"""Slow imports, done once in the process that all measurements are forked from."""

from __future__ import annotations

import importlib
import os

from benchmarks.faults import child
from benchmarks.faults.clients import CLIENTS, make

__all__ = ["child"]

_MODULES = (
    "jiter",
    "nanogpt_core.http.sdk",
    "nanogpt_core.cache.sqlite",
    "nanogpt_core.http.error_mapping",
    "numpy",
    "openai.resources.embeddings",
    "orjson",
    "pybase64",
)

for _module in _MODULES:
    importlib.import_module(_module)
# Making a client imports its modules; nothing is sent, and it is gone before the first fork.
os.environ.pop("OPENAI_API_KEY", None)
for _client in CLIENTS:
    make(_client, "http://127.0.0.1:9/v1")

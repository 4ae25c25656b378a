"""Slow imports, done once in the process that all measurements are forked from."""

from __future__ import annotations

import importlib
import os

from benchmarks.faults.chat_clients import CHAT_CLIENTS, make_chat
from benchmarks.faults.clients import CLIENTS, make

_MODULES = (
    "benchmarks.faults.child",
    "jiter",
    "langchain_core.output_parsers",
    "llama_index.core.program",
    "nanogpt_core.http.transport",
    "nanogpt_core.cache.sqlite",
    "nanogpt_core.http.error_mapping",
    "numpy",
    "openai.resources.chat.completions",
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
for _client in CHAT_CLIENTS:
    make_chat(_client, "http://127.0.0.1:9/v1").copied()

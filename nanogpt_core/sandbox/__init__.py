"""A local NanoGPT API for demos and tests.

It serves HTTP on this machine: embeddings that find texts by their words, and a chat that quotes numbered passages and
says that it is not a language model. ``python -m nanogpt_core.sandbox`` runs it in the foreground;
:class:`Sandbox` runs it in a thread::

    with Sandbox() as sandbox:
        client = OpenAI(base_url=sandbox.base_url, api_key=sandbox.api_key)

Tests can script the chat's replies: ``Sandbox(script=[Reply(tool_calls=[ToolCall("search", {"query": "tea"})])])``.
The service's documented errors are faults: ``Sandbox(faults=[SERVICE_ERRORS["insufficient_quota"]])``.
"""

from __future__ import annotations

from nanogpt_core._runtime.extras import missing_extra

try:
    from nanogpt_core.sandbox.server import Sandbox
except ImportError as error:
    raise missing_extra("The sandbox", "sandbox", error) from error

from nanogpt_core.sandbox.config import DEFAULT_API_KEY, SandboxConfig
from nanogpt_core.sandbox.request_log import RecordedRequest
from nanogpt_core.sandbox.script import Fault, Reply, ToolCall
from nanogpt_core.sandbox.service_errors import SERVICE_ERRORS

__all__ = [
    "DEFAULT_API_KEY",
    "SERVICE_ERRORS",
    "Fault",
    "RecordedRequest",
    "Reply",
    "Sandbox",
    "SandboxConfig",
    "ToolCall",
]

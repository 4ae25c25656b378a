"""Errors of LlamaIndex's LLM that LlamaIndex expects to be a ``ValueError``."""

from __future__ import annotations

from nanogpt_core.errors import RefusalError, ReplyError


class StructuredOutputError(ReplyError, ValueError):
    """The model's answer does not follow the schema that was asked for."""


class StructuredOutputRefusedError(RefusalError, ValueError):
    """The model refused to follow the schema, or to call the tool, that was asked for."""


class ToolArgumentsError(ReplyError, ValueError):
    """The arguments of a tool call are not a JSON object, so no tool was called."""

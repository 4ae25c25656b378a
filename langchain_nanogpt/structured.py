"""Structured output in LangChain: the schema of a request, and errors of answers that do not follow it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import openai
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

from nanogpt_core.chat.json_text import is_incomplete
from nanogpt_core.errors import NanoGPTError, ReplyError
from nanogpt_core.http.error_body import excerpt

__all__ = [
    "acheck_complete",
    "acheck_not_empty",
    "as_json_schema",
    "check_complete",
    "check_not_empty",
    "map_schema_errors",
]


def as_json_schema(schema: type[BaseModel], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of ``method="json_schema"`` for ``method="json_mode"``, which differs only in its parser."""
    function = openai.pydantic_function_tool(schema)["function"]
    strict = options.get("strict")
    response_format = {"name": function["name"], "schema": function["parameters"], "strict": strict is not False}
    ours = {
        "method": "json_mode",
        "strict": None,
        "response_format": {"type": "json_schema", "json_schema": response_format},
        "ls_structured_output_format": {
            "kwargs": {"method": "json_schema", "strict": strict},
            "schema": convert_to_openai_tool(schema),
        },
    }
    return {**options, **ours}


def check_complete(messages: Iterator[Any]) -> Iterator[Any]:
    """Yield a message, or its chunks, and check that its arguments and its JSON are complete.

    LangChain's parsers complete truncated JSON in streams, so the last part of the output would pass for the whole.

    Raises:
        OutputParserException: They are not.
    """
    whole = None
    for message in messages:
        whole = message if whole is None else whole + message
        yield message
    _check_whole(whole)


async def acheck_complete(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield a message, or its chunks; see :func:`check_complete`."""
    whole = None
    async for message in messages:
        whole = message if whole is None else whole + message
        yield message
    _check_whole(whole)


def _check_whole(message: Any) -> None:
    if not isinstance(message, AIMessage) or message.tool_calls:
        return
    text: Any = message.invalid_tool_calls[0]["args"] if message.invalid_tool_calls else message.content
    if message.invalid_tool_calls or (isinstance(text, str) and is_incomplete(text)):
        raise OutputParserException(f"The model's answer is not complete JSON: {excerpt(text)}.", llm_output=text)


def check_not_empty(parts: Iterator[Any]) -> Iterator[Any]:
    """Yield the parts of structured output. LangChain's parsers of streams pass over everything that they cannot read.

    Raises:
        OutputParserException: There is no part.
    """
    last = None
    for last in parts:
        yield last
    if last is None:
        raise _no_output()


async def acheck_not_empty(parts: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield the parts of structured output; see :func:`check_not_empty`."""
    last = None
    async for last in parts:
        yield last
    if last is None:
        raise _no_output()


def _no_output() -> OutputParserException:
    return OutputParserException("The model's answer does not follow the schema asked for.")


@contextlib.contextmanager
def map_schema_errors(options: Mapping[str, Any]) -> Iterator[None]:
    """Raise the SDK's raw parser errors as a ReplyError; it parses only if ``response_format`` is a class."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, NanoGPTError) or not isinstance(options.get("response_format"), type):
            raise
        raise ReplyError(
            f"The answer does not follow the schema asked for: {excerpt(str(error))}.",
            remedy="Ask again, or another model.",
        ) from error

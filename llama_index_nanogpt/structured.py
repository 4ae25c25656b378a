"""Tool calls and structured output in LlamaIndex: checks that LlamaIndex makes of whole replies only, or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai.base import force_single_tool_call

from nanogpt_core.chat.json_text import invalidating_suffix
from nanogpt_core.chat.response import check_truncated
from nanogpt_core.chat.tool_calls import parse_arguments
from nanogpt_core.errors import NanoGPTError, RefusalError, ReplyError
from nanogpt_core.http.error_body import as_sentence, excerpt

__all__ = [
    "StructuredOutputError",
    "StructuredOutputRefusedError",
    "StructuredRequest",
    "ToolArgumentsError",
    "ToolsOfOneCall",
    "afirst_tool_call",
    "aparse_stream",
    "avalidate_last",
    "check_refusal",
    "check_selections",
    "finish_reason",
    "first_tool_call",
    "invalidate_broken_arguments",
    "map_schema_errors",
    "parallel_tool_calls_allowed",
    "parse_stream",
    "validate_last",
    "without_unreadable_arguments",
]


class StructuredOutputError(ReplyError, ValueError):
    """The model's answer does not follow the schema that was asked for."""


class StructuredOutputRefusedError(RefusalError, ValueError):
    """The model refused to follow the schema, or to call the tool, that was asked for."""


class ToolArgumentsError(ReplyError, ValueError):
    """The arguments of a tool call are not a JSON object, so no tool was called."""


def parallel_tool_calls_allowed(
    tools: Any = (),  # noqa: ARG001
    user_msg: Any = None,  # noqa: ARG001
    chat_history: Any = None,  # noqa: ARG001
    verbose: bool = False,  # noqa: ARG001
    allow_parallel_tool_calls: bool = False,
    **_: Any,
) -> bool:
    """Return whether the arguments of ``stream_chat_with_tools`` allow parallel tool calls."""
    return allow_parallel_tool_calls


def first_tool_call(stream: Iterator[ChatResponse]) -> Iterator[ChatResponse]:
    """Yield the responses, each with its first tool call only."""
    for response in stream:
        yield _with_one_call(response)


async def afirst_tool_call(stream: AsyncIterator[ChatResponse]) -> AsyncIterator[ChatResponse]:
    """Yield the responses, each with its first tool call only."""
    async for response in stream:
        yield _with_one_call(response)


@dataclass(frozen=True)
class StructuredRequest:
    """A request for structured output.

    Attributes:
        arguments: The arguments of the chat.
        parse: Makes the output of the text of the answer.
    """

    arguments: dict[str, Any]
    parse: Callable[[str], Any]

    def parse_response(self, response: ChatResponse | None, reason: str | None = None) -> Any:
        """Return the output of a whole response without tool calls.

        Args:
            response: The response; None if a stream had none.
            reason: Its ``finish_reason`` if another response of the stream had it.

        Raises:
            ReplyError: The answer was cut off; a RefusalError if a content filter stopped it, or the model refused.
            ValueError: The answer does not follow the schema.
        """
        message = ChatMessage() if response is None else response.message
        _raise_refusal(message.additional_kwargs.get("refusal"))
        check_truncated(reason or finish_reason(response), has_calls=False, structured=True)
        return self.parse(message.content or "")


def parse_stream(
    llm: Any, stream: Iterator[ChatResponse], request: StructuredRequest, output_cls: type[BaseModel]
) -> Iterator[Any]:
    """Yield structured output as far as it has come, and at last as an ``output_cls``.

    Args:
        llm: The LLM that gave the responses.
        stream: The responses.
        request: The request.
        output_cls: The class of the output.

    Raises:
        ToolArgumentsError: The arguments of the tool call are not a JSON object.
        StructuredOutputError: The answer does not follow the schema.
    """
    parts = _Parts(llm, request, output_cls)
    for response in stream:
        yield from parts.add(response)
    yield from parts.finish()


async def aparse_stream(
    llm: Any, stream: AsyncIterator[ChatResponse], request: StructuredRequest, output_cls: type[BaseModel]
) -> AsyncIterator[Any]:
    """Yield structured output as far as it has come; see :func:`parse_stream`."""
    parts = _Parts(llm, request, output_cls)
    async for response in stream:
        for part in parts.add(response):
            yield part
    for part in parts.finish():
        yield part


class _Parts:
    """Structured output of a stream: parts from incomplete JSON, and the whole only from complete JSON."""

    def __init__(self, llm: Any, request: StructuredRequest, output_cls: type[BaseModel]) -> None:
        self._llm, self._request, self._output_cls = llm, request, output_cls
        self._response: ChatResponse | None = None
        self._last: Any = None
        self._reason: str | None = None

    def add(self, response: ChatResponse) -> list[Any]:
        """Return the output as far as it has come, unless it is nested too deeply for LlamaIndex."""
        self._response = _with_one_call(response)
        self._reason = finish_reason(response) or self._reason
        known = None if self._last is None else [self._last]
        try:
            self._last = process_streaming_objects(response, self._output_cls, known, llm=self._llm)
        except RecursionError:
            return []
        return [self._last]

    def finish(self) -> list[Any]:
        """Return the whole output, unless it was the last part."""
        with map_schema_errors(self._output_cls):
            whole = self._parse()
        return [] if type(self._last) is self._output_cls and whole == self._last else [whole]

    def _parse(self) -> Any:
        message = ChatMessage() if self._response is None else self._response.message
        if not any(isinstance(block, ToolCallBlock) for block in message.blocks):
            return self._request.parse_response(self._response, self._reason)
        (selection,) = self._llm.get_tool_calls_from_response(self._response)
        if selection.tool_name != get_function_tool(self._output_cls).metadata.name:
            raise _broken_schema(self._output_cls, f"it is a call of {selection.tool_name!r}")
        return self._output_cls.model_validate(selection.tool_kwargs)


def finish_reason(response: ChatResponse | None) -> str | None:
    """Return the ``finish_reason`` of a response, or of a part of a stream; None if it has none."""
    choices = getattr(getattr(response, "raw", None), "choices", None)
    return getattr(choices[0], "finish_reason", None) if choices else None


@contextlib.contextmanager
def map_schema_errors(output_cls: type[BaseModel]) -> Iterator[None]:
    """Raise pydantic's errors, and those of LlamaIndex's programs, as a StructuredOutputError."""
    try:
        yield
    except ValueError as error:  # pydantic's ValidationError is one
        if isinstance(error, NanoGPTError):
            raise
        raise _broken_schema(output_cls, str(error)) from error


def validate_last(parts: Iterator[Any], output_cls: type) -> Iterator[Any]:
    """Yield the parts, and check that the last one is an ``output_cls``.

    Raises:
        StructuredOutputError: It is not.
    """
    last = None
    for last in parts:
        yield last
    _check_class(last, output_cls)


async def avalidate_last(parts: AsyncIterator[Any], output_cls: type) -> AsyncIterator[Any]:
    """Yield the parts, and check that the last one is an ``output_cls``; see :func:`validate_last`."""
    last = None
    async for last in parts:
        yield last
    _check_class(last, output_cls)


def _check_class(last: Any, output_cls: type) -> None:
    if not isinstance(last, output_cls):
        raise _broken_schema(output_cls, "it has no such object")


def _broken_schema(output_cls: type, reason: str) -> StructuredOutputError:
    return StructuredOutputError(
        f"The model's answer does not follow the schema of {output_cls.__name__}: {excerpt(reason)}.",
        remedy="Ask again, or another model; or try should_use_structured_outputs.",
    )


class ToolsOfOneCall(list[Any]):
    """The tools of one ``predict_and_call``, and tools that fail for names that the model made up.

    LlamaIndex looks up a tool by its name without a check. Its agents answer such a call with the same message.
    """

    def add_unknown(self, selections: list[ToolSelection]) -> None:
        """Add a tool that fails for each selection without a tool."""
        names = {tool.metadata.name for tool in self}
        self.extend(_failing_tool(one.tool_name) for one in selections if one.tool_name not in names)


def _failing_tool(name: str) -> FunctionTool:
    def fail(**_: Any) -> None:
        raise ValueError(f"Tool {name} not found. Please select a tool that is available.")

    return FunctionTool.from_defaults(fail, name=name)


def check_refusal(response: ChatResponse, options: Mapping[str, Any]) -> ChatResponse:
    """Put a refusal, which LlamaIndex leaves out, into the message.

    Args:
        response: The response, or a part of a stream.
        options: The options of the request.

    Raises:
        StructuredOutputRefusedError: Structured output or a tool call was asked for.
    """
    choices = getattr(response.raw, "choices", None)
    message = getattr(choices[0], "message", None) or getattr(choices[0], "delta", None) if choices else None
    text = getattr(message, "refusal", None)
    if not text:
        return response
    if options.get("response_format") or options.get("tool_choice") not in (None, "auto", "none"):
        _raise_refusal(text)
    response.message.additional_kwargs["refusal"] = text
    if not response.message.content:
        blocks = [block for block in response.message.blocks if not isinstance(block, TextBlock)]
        response.message.blocks = [*blocks, TextBlock(text=text)]
    return response


def _raise_refusal(text: str | None) -> None:
    if text:
        raise StructuredOutputRefusedError(
            as_sentence(f"The model refused: {text}"), remedy="Ask in other words, or another model."
        )


def invalidate_broken_arguments(response: ChatResponse) -> ChatResponse:
    """Make truncated arguments in a whole response unreadable; LlamaIndex would complete them and call the tool.

    In a stream that is done before, since there its beginning is completed on purpose.
    """
    for block in response.message.blocks:
        if isinstance(block, ToolCallBlock) and parse_arguments(block.tool_kwargs) is None:
            text = str(block.tool_kwargs)
            block.tool_kwargs = text + invalidating_suffix(text)
    return response


def without_unreadable_arguments(response: ChatResponse) -> ChatResponse:
    """Return a copy of a response without arguments that LlamaIndex cannot read, as far as they have come.

    JSON that is nested too deeply for Python's parser is not handled there.
    """
    blocks = [
        block.model_copy(update={"tool_kwargs": ""})
        if isinstance(block, ToolCallBlock) and not _is_beginning(block.tool_kwargs)
        else block
        for block in response.message.blocks
    ]
    return response.model_copy(update={"message": response.message.model_copy(update={"blocks": blocks})})


def check_selections(
    response: ChatResponse, selections: list[ToolSelection], *, error_on_invalid: bool
) -> list[ToolSelection]:
    """Return the tool selections of a response with arguments that the model wrote.

    Args:
        response: The response, whole or as far as it has come in a stream.
        selections: LlamaIndex's selections; arguments that it cannot read are empty there.
        error_on_invalid: Whether arguments that are not a JSON object are an error. If not, the call gets the name of
            no tool: an agent then tells the model, in LlamaIndex's way, and calls nothing.

    Raises:
        ToolArgumentsError: Arguments are not a JSON object.
    """
    for selection, arguments in zip(selections, _arguments(response), strict=False):
        text = parse_arguments(arguments)
        if text is not None:
            selection.tool_kwargs = json.loads(text, strict=False)
        elif not _is_beginning(arguments):
            if error_on_invalid:
                raise ToolArgumentsError(
                    f"The model called {selection.tool_name!r} with arguments that are not a JSON object: "
                    f"{excerpt(str(arguments))}.",
                    remedy="Ask again, or another model.",
                )
            selection.tool_name = f"{selection.tool_name} with arguments that are not a JSON object"
            selection.tool_kwargs = {}
    return selections


def _arguments(response: ChatResponse) -> list[Any]:
    blocks = [block.tool_kwargs for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    return blocks or [call.function.arguments for call in response.message.additional_kwargs.get("tool_calls") or ()]


def _is_beginning(arguments: Any) -> bool:
    try:
        return isinstance(parse_partial_json(arguments), dict)
    except (TypeError, ValueError, RecursionError):
        return False


def _with_one_call(response: ChatResponse) -> ChatResponse:
    force_single_tool_call(response)
    more = response.message.additional_kwargs
    if more.get("tool_calls"):
        # A new list: the one there grows with the stream.
        more["tool_calls"] = more["tool_calls"][:1]
    return response

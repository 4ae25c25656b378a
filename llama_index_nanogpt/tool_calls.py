"""Tool calls of LlamaIndex's LLM: checks that LlamaIndex makes of whole replies only, or not at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatResponse, ToolCallBlock
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai.base import force_single_tool_call
from llama_index.llms.openai_like import OpenAILike

from llama_index_nanogpt.errors import ToolArgumentsError
from nanogpt_core.chat.json_text import invalidating_suffix
from nanogpt_core.chat.tool_calls import parse_arguments
from nanogpt_core.http.error_body import excerpt

__all__ = ["ToolCalls", "invalidate_broken_arguments", "with_one_call"]


class ToolCalls(OpenAILike):  # type: ignore[misc] # the package ships no types
    """LlamaIndex's LLM with checks of tool calls; a base class of ``NanoGPT``."""

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls of a response.

        Raises:
            ToolArgumentsError: Arguments are not a JSON object. With ``error_on_no_tool_call=False``, as agents ask for
                it, the model is told instead, and no tool is called.
        """
        try:
            selections = super().get_tool_calls_from_response(response, error_on_no_tool_call, **kwargs)
        except RecursionError:
            readable = _without_unreadable_arguments(response)
            selections = super().get_tool_calls_from_response(readable, error_on_no_tool_call, **kwargs)
        return _check_selections(response, selections, error_on_invalid=error_on_no_tool_call)

    def predict_and_call(self, tools: Sequence[Any], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """Ask the model for tool calls, and run the tools; a call of an unknown tool is a tool output with an error."""
        answer: AgentChatResponse = super().predict_and_call(_ToolsOfOneCall(tools), *args, **kwargs)
        return answer

    async def apredict_and_call(self, tools: Sequence[Any], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """Ask the model for tool calls, and run the tools; see :meth:`predict_and_call`."""
        answer: AgentChatResponse = await super().apredict_and_call(_ToolsOfOneCall(tools), *args, **kwargs)
        return answer

    def _validate_chat_with_tools_response(self, response: ChatResponse, tools: Any, **kwargs: Any) -> ChatResponse:
        checked: ChatResponse = super()._validate_chat_with_tools_response(response, tools, **kwargs)
        if isinstance(tools, _ToolsOfOneCall):
            tools.add_unknown(self.get_tool_calls_from_response(checked, error_on_no_tool_call=False))
        return checked

    def stream_chat_with_tools(self, *args: Any, **kwargs: Any) -> Iterator[ChatResponse]:
        """Stream a chat with tools; with one tool call if ``allow_parallel_tool_calls`` is False, as unstreamed."""
        stream: Iterator[ChatResponse] = super().stream_chat_with_tools(*args, **kwargs)
        return stream if _parallel_tool_calls_allowed(*args, **kwargs) else _first_tool_call(stream)

    async def astream_chat_with_tools(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatResponse]:
        """Stream a chat with tools; see :meth:`stream_chat_with_tools`."""
        stream: AsyncIterator[ChatResponse] = await super().astream_chat_with_tools(*args, **kwargs)
        return stream if _parallel_tool_calls_allowed(*args, **kwargs) else _afirst_tool_call(stream)


def _parallel_tool_calls_allowed(
    tools: Any = (),  # noqa: ARG001
    user_msg: Any = None,  # noqa: ARG001
    chat_history: Any = None,  # noqa: ARG001
    verbose: bool = False,  # noqa: ARG001
    allow_parallel_tool_calls: bool = False,
    **_: Any,
) -> bool:
    """Return whether the arguments of ``stream_chat_with_tools`` allow parallel tool calls."""
    return allow_parallel_tool_calls


def _first_tool_call(stream: Iterator[ChatResponse]) -> Iterator[ChatResponse]:
    """Yield the responses, each with its first tool call only."""
    for response in stream:
        yield with_one_call(response)


async def _afirst_tool_call(stream: AsyncIterator[ChatResponse]) -> AsyncIterator[ChatResponse]:
    """Yield the responses, each with its first tool call only."""
    async for response in stream:
        yield with_one_call(response)


def with_one_call(response: ChatResponse) -> ChatResponse:
    """Leave only the first tool call in a response, and return it."""
    force_single_tool_call(response)
    more = response.message.additional_kwargs
    if more.get("tool_calls"):
        # A new list: the one there grows with the stream.
        more["tool_calls"] = more["tool_calls"][:1]
    return response


class _ToolsOfOneCall(list[Any]):
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


def invalidate_broken_arguments(response: ChatResponse) -> ChatResponse:
    """Make truncated arguments in a whole response unreadable; LlamaIndex would complete them and call the tool.

    In a stream that is done before, since there its beginning is completed on purpose.
    """
    for block in response.message.blocks:
        if isinstance(block, ToolCallBlock) and parse_arguments(block.tool_kwargs) is None:
            text = str(block.tool_kwargs)
            block.tool_kwargs = text + invalidating_suffix(text)
    return response


def _without_unreadable_arguments(response: ChatResponse) -> ChatResponse:
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


def _check_selections(
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

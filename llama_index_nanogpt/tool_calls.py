"""Tool calls of LlamaIndex's LLM: checks that LlamaIndex makes of whole replies only, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
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
        calls = _calls(response)
        if not calls:
            none: list[ToolSelection] = super().get_tool_calls_from_response(response, error_on_no_tool_call, **kwargs)
            return none
        return [_selection(*call, error_on_invalid=error_on_no_tool_call) for call in calls]

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

    def stream_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> Iterator[ChatResponse]:
        """Stream a chat with tools; with one tool call if ``allow_parallel_tool_calls`` is False, as unstreamed."""
        stream: Iterator[ChatResponse] = super().stream_chat_with_tools(
            tools, user_msg, chat_history, verbose, allow_parallel_tool_calls, **kwargs
        )
        return stream if allow_parallel_tool_calls else (with_one_call(response) for response in stream)

    async def astream_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[ChatResponse]:
        """Stream a chat with tools; see :meth:`stream_chat_with_tools`."""
        stream: AsyncIterator[ChatResponse] = await super().astream_chat_with_tools(
            tools, user_msg, chat_history, verbose, allow_parallel_tool_calls, **kwargs
        )
        return stream if allow_parallel_tool_calls else (with_one_call(response) async for response in stream)


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


def _calls(response: ChatResponse) -> list[tuple[str, str, Any]]:
    """Return the id, the name and the arguments of each tool call of a response."""
    blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    older = response.message.additional_kwargs.get("tool_calls") or ()  # messages that LlamaIndex did not make itself
    return [(block.tool_call_id or "", block.tool_name, block.tool_kwargs) for block in blocks] or [
        (call.id, call.function.name, call.function.arguments) for call in older
    ]


def _selection(identifier: str, name: str, arguments: Any, *, error_on_invalid: bool) -> ToolSelection:
    """Return a tool selection with the arguments that the model wrote, as far as they have come in a stream.

    Args:
        identifier: The id of the call.
        name: The name of the tool.
        arguments: The arguments, usually text.
        error_on_invalid: Whether arguments that are not a JSON object are an error. If not, the call gets the name of
            no tool: an agent then tells the model, in LlamaIndex's way, and calls nothing.

    Raises:
        ToolArgumentsError: The arguments are not a JSON object.
    """
    values = parse_arguments(arguments)
    if values is None:
        values = _parse_beginning(arguments)
    if values is None and error_on_invalid:
        raise ToolArgumentsError(
            f"The model called {name!r} with arguments that are not a JSON object: {excerpt(str(arguments))}.",
            remedy="Ask again, or another model.",
        )
    if values is None:
        name, values = f"{name} with arguments that are not a JSON object", {}
    return ToolSelection(tool_id=identifier, tool_name=name, tool_kwargs=values)


def _parse_beginning(arguments: Any) -> dict[str, Any] | None:
    """Return the values in the beginning of a JSON object; None if it is not one."""
    try:
        values = parse_partial_json(arguments)
    except (TypeError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None

"""Tool calls and structured output of LlamaIndex's LLM: every answer is checked, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.output_parsers.pydantic import PydanticOutputParser
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.types import PydanticProgramMode
from llama_index.llms.openai_like import OpenAILike

from llama_index_nanogpt.structured import (
    StructuredRequest,
    ToolsOfOneCall,
    afirst_tool_call,
    aparse_stream,
    avalidate_last,
    check_selections,
    first_tool_call,
    map_schema_errors,
    parallel_tool_calls_allowed,
    parse_stream,
    validate_last,
    without_unreadable_arguments,
)
from nanogpt_core.chat.json_text import strip_code_fence

__all__ = ["CheckedCalls"]

# Arguments of LlamaIndex's programs for structured output, which decide on these themselves.
_SET_BY_PROGRAMS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")


class CheckedCalls(OpenAILike):  # type: ignore[misc] # the package ships no types
    """LlamaIndex's LLM with checks of tool calls and of structured output; a base class of ``NanoGPT``."""

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
            readable = without_unreadable_arguments(response)
            selections = super().get_tool_calls_from_response(readable, error_on_no_tool_call, **kwargs)
        return check_selections(response, selections, error_on_invalid=error_on_no_tool_call)

    def predict_and_call(self, tools: Sequence[Any], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """Ask the model for tool calls, and run the tools; a call of an unknown tool is a tool output with an error."""
        answer: AgentChatResponse = super().predict_and_call(ToolsOfOneCall(tools), *args, **kwargs)
        return answer

    async def apredict_and_call(self, tools: Sequence[Any], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """Ask the model for tool calls, and run the tools; see :meth:`predict_and_call`."""
        answer: AgentChatResponse = await super().apredict_and_call(ToolsOfOneCall(tools), *args, **kwargs)
        return answer

    def _validate_chat_with_tools_response(self, response: ChatResponse, tools: Any, **kwargs: Any) -> ChatResponse:
        checked: ChatResponse = super()._validate_chat_with_tools_response(response, tools, **kwargs)
        if isinstance(tools, ToolsOfOneCall):
            tools.add_unknown(self.get_tool_calls_from_response(checked, error_on_no_tool_call=False))
        return checked

    def stream_chat_with_tools(self, *args: Any, **kwargs: Any) -> Iterator[ChatResponse]:
        """Stream a chat with tools; with one tool call if ``allow_parallel_tool_calls`` is False, as unstreamed."""
        stream: Iterator[ChatResponse] = super().stream_chat_with_tools(*args, **kwargs)
        return stream if parallel_tool_calls_allowed(*args, **kwargs) else first_tool_call(stream)

    async def astream_chat_with_tools(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatResponse]:
        """Stream a chat with tools; see :meth:`stream_chat_with_tools`."""
        stream: AsyncIterator[ChatResponse] = await super().astream_chat_with_tools(*args, **kwargs)
        return stream if parallel_tool_calls_allowed(*args, **kwargs) else afirst_tool_call(stream)

    def structured_predict(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> BaseModel:
        """Return the model's answer as an ``output_cls``.

        Raises:
            StructuredOutputError: The answer does not follow the schema.
        """
        request = self._request_in_prompt(output_cls, prompt, llm_kwargs, prompt_args)
        with map_schema_errors(output_cls):
            if request is not None:
                answer: BaseModel = request.parse_response(self.chat(**request.arguments))
            else:
                answer = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        return answer

    async def astructured_predict(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> BaseModel:
        """Return the model's answer as an ``output_cls``; see :meth:`structured_predict`."""
        request = self._request_in_prompt(output_cls, prompt, llm_kwargs, prompt_args)
        with map_schema_errors(output_cls):
            if request is not None:
                answer: BaseModel = request.parse_response(await self.achat(**request.arguments))
            else:
                answer = await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
        return answer

    def _structured_stream_call(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Iterator[Any]:
        request = self._structured_request(output_cls, prompt, llm_kwargs, prompt_args)
        if request is None:
            parts = super()._structured_stream_call(output_cls, prompt, llm_kwargs or {}, **prompt_args)
            return validate_last(parts, output_cls)
        return parse_stream(self, self.stream_chat(**request.arguments), request, output_cls)

    async def _structured_astream_call(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncIterator[Any]:
        request = self._structured_request(output_cls, prompt, llm_kwargs, prompt_args)
        if request is None:
            parts = await super()._structured_astream_call(output_cls, prompt, llm_kwargs or {}, **prompt_args)
            return avalidate_last(parts, output_cls)
        return aparse_stream(self, await self.astream_chat(**request.arguments), request, output_cls)

    def _structured_request(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None, prompt_args: dict[str, Any]
    ) -> StructuredRequest | None:
        """Return a chat that asks for an ``output_cls``; None if a program of LlamaIndex asks for it.

        LlamaIndex's own programs take the beginning of a streamed answer for the whole, and the one for tool calls
        forgets in streams that the call is required.
        """
        in_prompt = self._request_in_prompt(output_cls, prompt, llm_kwargs, prompt_args)
        if in_prompt is not None:
            return in_prompt
        options = {name: value for name, value in (llm_kwargs or {}).items() if name not in _SET_BY_PROGRAMS}
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        if self._should_use_structure_outputs():
            arguments = {"messages": messages, **self._prepare_schema(options, output_cls)}
        elif self.pydantic_program_mode in (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION):
            arguments = self._prepare_chat_with_tools(
                [get_function_tool(output_cls)], chat_history=messages, tool_choice="required", **options
            )
        else:
            return None
        return StructuredRequest(arguments, lambda text: output_cls.model_validate_json(strip_code_fence(text)))

    def _request_in_prompt(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None, prompt_args: dict[str, Any]
    ) -> StructuredRequest | None:
        """Return a chat with the schema in its prompt, for models without tools; None for others.

        LlamaIndex's own program sends ``tool_choice`` without tools, which hosts refuse.
        """
        mode = self.pydantic_program_mode
        has_tools = self.is_function_calling_model or self._should_use_structure_outputs()
        if mode != PydanticProgramMode.LLM and (mode != PydanticProgramMode.DEFAULT or has_tools):
            return None
        options = {name: value for name, value in (llm_kwargs or {}).items() if name not in _SET_BY_PROGRAMS}
        parser: PydanticOutputParser[Any] = PydanticOutputParser(output_cls=output_cls)
        prompt = prompt.model_copy(update={"output_parser": parser})
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        return StructuredRequest({"messages": messages, **options}, parser.parse)

"""Structured output of LlamaIndex's LLM: every answer is checked against the schema, whole or streamed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.llm import dispatcher
from llama_index.core.output_parsers.pydantic import PydanticOutputParser
from llama_index.core.output_parsers.utils import extract_json_str
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.program.utils import process_streaming_objects
from llama_index.core.types import PydanticProgramMode
from llama_index.llms.openai_like import OpenAILike

from llama_index_nanogpt.errors import StructuredOutputError
from llama_index_nanogpt.messages import finish_reason, raise_refusal
from llama_index_nanogpt.tool_calls import with_one_call
from nanogpt_core.chat.response import check_truncated
from nanogpt_core.errors import ConfigurationError, InvalidTypeError, NanoGPTError
from nanogpt_core.http.error_body import excerpt

# Arguments of LlamaIndex's programs for structured output, which decide on these themselves.
_SET_BY_PROGRAMS = ("tool_required", "tool_choice", "allow_parallel_tool_calls")
_TOOL_CALL_MODES = (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION, PydanticProgramMode.OPENAI)


class StructuredOutput(OpenAILike):  # type: ignore[misc] # the package ships no types
    """LlamaIndex's LLM with checks of structured output; a base class of ``NanoGPT``."""

    def structured_predict(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> BaseModel:
        """Return the model's answer as an ``output_cls``.

        Raises:
            StructuredOutputError: The answer does not follow the schema.
        """
        request = self._structured_request(output_cls, prompt, llm_kwargs, prompt_args)
        with _map_schema_errors(output_cls):
            dispatcher.event(_start_event(output_cls, prompt, prompt_args))
            answer: BaseModel = _Output(self, output_cls).parse(self.chat(**request))
            dispatcher.event(LLMStructuredPredictEndEvent(output=answer))
            return answer

    async def astructured_predict(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> BaseModel:
        """Return the model's answer as an ``output_cls``; see :meth:`structured_predict`."""
        request = self._structured_request(output_cls, prompt, llm_kwargs, prompt_args)
        with _map_schema_errors(output_cls):
            dispatcher.event(_start_event(output_cls, prompt, prompt_args))
            answer: BaseModel = _Output(self, output_cls).parse(await self.achat(**request))
            dispatcher.event(LLMStructuredPredictEndEvent(output=answer))
            return answer

    def _structured_stream_call(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> Iterator[Any]:
        request = self._structured_request(output_cls, prompt, llm_kwargs, prompt_args)
        return _parse_stream(self.stream_chat(**request), _Output(self, output_cls))

    async def _structured_astream_call(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None = None, **prompt_args: Any
    ) -> AsyncIterator[Any]:
        request = self._structured_request(output_cls, prompt, llm_kwargs, prompt_args)
        return _aparse_stream(await self.astream_chat(**request), _Output(self, output_cls))

    def _structured_request(
        self, output_cls: type[BaseModel], prompt: Any, llm_kwargs: dict[str, Any] | None, prompt_args: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of a chat that asks for an ``output_cls``.

        LlamaIndex's own programs take the beginning of a streamed answer for the whole; the one for tool calls forgets
        in streams that the call is required, and sends ``tool_choice`` for models without tools.

        Raises:
            ConfigurationError: The mode is one for models that run in the same process.
            InvalidTypeError: ``output_cls`` is no class of pydantic.
        """
        if not (isinstance(output_cls, type) and issubclass(output_cls, BaseModel)):
            raise InvalidTypeError(f"output_cls must be a class of pydantic, not {excerpt(repr(output_cls))}.")
        options = {name: value for name, value in (llm_kwargs or {}).items() if name not in _SET_BY_PROGRAMS}
        mode, has_schemas = self.pydantic_program_mode, self._should_use_structure_outputs()
        has_tools = self.is_function_calling_model or has_schemas
        in_prompt = mode == PydanticProgramMode.LLM or (mode == PydanticProgramMode.DEFAULT and not has_tools)
        if in_prompt:
            parser: PydanticOutputParser[Any] = PydanticOutputParser(output_cls=output_cls)
            prompt = prompt.model_copy(update={"output_parser": parser})
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        if in_prompt:
            return {"messages": messages, **options}
        if has_schemas:
            return {"messages": messages, **self._prepare_schema(options, output_cls)}
        if mode not in _TOOL_CALL_MODES:
            raise ConfigurationError(
                f"pydantic_program_mode {mode.value!r} is for models that run in this process.", remedy="Leave it out."
            )
        tool_choice = (llm_kwargs or {}).get("tool_choice") or "required"
        arguments: dict[str, Any] = self._prepare_chat_with_tools(
            [get_function_tool(output_cls)], chat_history=messages, tool_choice=tool_choice, **options
        )
        return arguments


def _parse_stream(stream: Iterator[ChatResponse], output: _Output) -> Iterator[Any]:
    """Yield structured output as far as it has come, and at last the whole."""
    for response in stream:
        yield from output.add(response)
    yield from output.finish()


async def _aparse_stream(stream: AsyncIterator[ChatResponse], output: _Output) -> AsyncIterator[Any]:
    """Yield structured output as far as it has come; see :func:`_parse_stream`."""
    async for response in stream:
        for part in output.add(response):
            yield part
    for part in output.finish():
        yield part


class _Output:
    """Structured output of an answer: parts of a stream from incomplete JSON, and the whole only from complete JSON."""

    def __init__(self, llm: Any, output_cls: type[BaseModel]) -> None:
        self._llm, self._output_cls = llm, output_cls
        self._response: ChatResponse | None = None
        self._last: Any = None
        self._reason: str | None = None

    def add(self, response: ChatResponse) -> list[Any]:
        """Return the output as far as it has come, unless it is nested too deeply for LlamaIndex."""
        self._response = with_one_call(response)
        self._reason = finish_reason(response) or self._reason
        known = None if self._last is None else [self._last]
        try:
            self._last = process_streaming_objects(response, self._output_cls, known, llm=self._llm)
        except RecursionError:
            return []
        return [self._last]

    def finish(self) -> list[Any]:
        """Return the whole output, unless it was the last part."""
        with _map_schema_errors(self._output_cls):
            whole = self._parse()
        return [] if type(self._last) is self._output_cls and whole == self._last else [whole]

    def parse(self, response: ChatResponse) -> Any:
        """Return the output of a whole response."""
        self._response = with_one_call(response)
        return self._parse()

    def _parse(self) -> Any:
        message = ChatMessage() if self._response is None else self._response.message
        if not any(isinstance(block, ToolCallBlock) for block in message.blocks):
            raise_refusal(message.additional_kwargs.get("refusal"))
            check_truncated(self._reason or finish_reason(self._response), has_calls=False, structured=True)
            return _parse_text(self._output_cls, message.content or "")
        (selection,) = self._llm.get_tool_calls_from_response(self._response)
        if selection.tool_name != get_function_tool(self._output_cls).metadata.name:
            raise _broken_schema(self._output_cls, f"it is a call of {selection.tool_name!r}")
        return self._output_cls.model_validate(selection.tool_kwargs)


def _parse_text(output_cls: type[BaseModel], text: str) -> BaseModel:
    """Return the JSON object in a text, which may have words or a fence around it, as an ``output_cls``."""
    found = extract_json_str(text)
    with contextlib.suppress(ValueError):  # control characters in strings
        found = json.dumps(json.loads(found, strict=False))
    return output_cls.model_validate_json(found)


def _start_event(output_cls: type[BaseModel], prompt: Any, prompt_args: dict[str, Any]) -> Any:
    return LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)


@contextlib.contextmanager
def _map_schema_errors(output_cls: type[BaseModel]) -> Iterator[None]:
    """Raise pydantic's errors, and those of LlamaIndex's programs, as a StructuredOutputError."""
    try:
        yield
    except ValueError as error:  # pydantic's ValidationError is one
        if isinstance(error, NanoGPTError):
            raise
        raise _broken_schema(output_cls, str(error)) from error


def _broken_schema(output_cls: type, reason: str) -> StructuredOutputError:
    return StructuredOutputError(
        f"The model's answer does not follow the schema of {output_cls.__name__}: {excerpt(reason)}.",
        remedy="Ask again, or another model; or try should_use_structured_outputs.",
    )

"""Structured output in LangChain: the schema of a request, and errors of answers that do not follow it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import operator
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import GenericAlias
from typing import Any, get_args

import openai
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langchain_core.messages.tool import tool_call
from langchain_core.output_parsers import PydanticOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableParallel, RunnableSequence
from langchain_core.utils.aiter import atee
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict

from nanogpt_core.chat.json_schema import schema_violation
from nanogpt_core.chat.json_text import is_incomplete, strip_code_fence
from nanogpt_core.chat.tool_calls import parse_arguments
from nanogpt_core.errors import ConfigurationError, InvalidInputError, NanoGPTError, ReplyError
from nanogpt_core.http.error_body import as_sentence, excerpt


def checked_structured_output(make: Callable[..., Any], schema: Any, options: dict[str, Any]) -> Runnable[Any, Any]:
    """Return a runnable whose output follows ``schema``, with checks of the answer; ``make`` is LangChain's method."""
    method = options.get("method", "function_calling")
    include_raw = options.pop("include_raw", False)
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    function = _as_function(schema, method)
    runnable: RunnableSequence[Any, Any] = make(schema, **options)
    model, refusal_check, parser = runnable.steps
    if method == "json_schema" and "response_format" not in getattr(model, "kwargs", {}):
        method = "function_calling"  # LangChain's own choice for old models and classes of pydantic 1, with a warning
    if options.get("tools") and method != "json_schema":
        raise ConfigurationError("tools beside a schema need method='json_schema'.")
    is_json = method != "function_calling" and schema is not None
    if is_json and is_class and method == "json_schema":
        # The SDK would parse the answer, and LangChain take only its result.
        model = model.bind(response_format=_response_format(schema, options.get("strict")))
        parser = PydanticOutputParser(pydantic_object=schema)
    checked: Runnable[Any, Any] = _CheckedParser(
        parser,
        wants_object=is_json and not is_class,
        has_tools=bool(options.get("tools")),
        function=function if method == "function_calling" else None,
        schema=None if function is None or is_class else _corrected(function.get("parameters"), schema),
    )
    checked.name = parser.get_name()  # in graphs and schemas
    if is_json and is_class:
        checked = checked.with_types(output_type=schema)
    output = refusal_check | checked
    return RunnableParallel(raw=model) | _keep_parsing_error(output) if include_raw else model | output


def _as_function(schema: Any, method: str) -> Any:
    """Return the function that LangChain makes of a schema and sends; None in JSON mode, in which it only traces it.

    Raises:
        InvalidInputError: LangChain cannot make it. Its own errors are raw, in JSON mode those of each call.
    """
    try:
        if isinstance(schema, GenericAlias):
            raise TypeError("it is no class")  # Python 3.10 takes list[str] for one, and LangChain too
        function = convert_to_openai_tool(schema)["function"]
    except Exception as error:  # noqa: BLE001 - pydantic's is a RuntimeError
        if schema is None or (method == "json_mode" and isinstance(error, ValueError)):
            return None
        reason = "it contains itself" if isinstance(error, RecursionError) else excerpt(str(error))
        raise InvalidInputError(
            as_sentence(f"LangChain cannot make a JSON schema of {excerpt(repr(schema))}: {reason}"),
            remedy="Pass a class of pydantic, a function, or a JSON schema with a title.",
        ) from None
    return None if method == "json_mode" else function


def _corrected(json_schema: Any, kind: Any) -> Any:
    """Return LangChain's JSON schema of the type ``kind`` with its optional fields, and with null for None in types.

    LangChain lists all fields of a ``TypedDict`` as required, also with ``total=False``, and leaves out None.
    """
    if not isinstance(json_schema, dict):
        return json_schema
    if is_typeddict(kind):
        try:
            types = get_type_hints(kind)
        except NameError:  # a type that only a function knows: its fields are not checked
            return {}
        properties = {name: _corrected(part, types.get(name)) for name, part in json_schema["properties"].items()}
        required = [name for name in json_schema.get("required", ()) if name in kind.__required_keys__]
        return {**json_schema, "properties": properties, "required": required}
    args = get_args(kind)  # of a Union, a Literal or a list
    others = [one for one in args if one not in (type(None), None)]
    if len(others) < len(args):
        return {**_corrected(json_schema, others[0] if len(others) == 1 else None), "nullable": True}
    if "items" in json_schema and args:
        return {**json_schema, "items": _corrected(json_schema["items"], args[0])}
    return json_schema


def _response_format(schema: type[BaseModel], strict: bool | None) -> dict[str, Any]:
    """Return the ``response_format`` that the SDK makes of a class."""
    function = openai.pydantic_function_tool(schema)["function"]
    json_schema = {"name": function["name"], "schema": function["parameters"], "strict": strict is not False}
    return {"type": "json_schema", "json_schema": json_schema}


class _CheckedParser(Runnable[Any, Any]):
    """Parses a message, or its chunks, into structured output, and checks the whole at the end of a stream.

    LangChain's parsers complete truncated JSON in streams and pass over everything that they cannot read, so the last
    part of the output would pass for the whole, or there would be none.

    Args:
        parser: LangChain's parser.
        wants_object: Whether JSON that is no object is an error; LangChain's parser accepts all JSON.
        has_tools: Whether the request has tools beside the schema.
        function: The tool that the model was asked to call, if it was.
        schema: The JSON schema of output that is a dictionary; LangChain does not look into these.
    """

    def __init__(
        self,
        parser: Any,
        *,
        wants_object: bool = False,
        has_tools: bool = False,
        function: Mapping[str, Any] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        self._parser = parser
        self._wants_object = wants_object
        self._has_tools = has_tools
        self._function = function
        self._schema = schema

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's name
        """The type of the output."""
        return self._parser.OutputType

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002, ARG002
        """Return the structured output of a message.

        Raises:
            OutputParserException: Its arguments, or its JSON, are not complete, or do not follow the schema.
        """
        readable = self._as_readable(input)
        return None if readable is None else self._checked(self._parser.invoke(readable, config), input)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002, ARG002
        """Return the structured output of a message; see :meth:`invoke`."""
        readable = self._as_readable(input)
        return None if readable is None else self._checked(await self._parser.ainvoke(readable, config), input)

    def _as_readable(self, message: Any) -> Any:
        """Return a message for LangChain's parser; None if it calls a tool beside the schema, and so has no output."""
        if self._has_tools and getattr(message, "tool_calls", None):
            return None
        _check_complete(message)
        return _as_call(message, self._function)

    def _parse_whole(self, chunks: list[Any]) -> Any:
        """Return the output of all chunks of a stream, without another run of the parser in callbacks and traces."""
        message = functools.reduce(operator.add, chunks)
        readable = self._as_readable(message)
        if readable is None:
            return None
        return self._checked(self._parser.parse_result([ChatGeneration(message=readable)]), message)

    def _checked(self, found: Any, message: Any) -> Any:
        if self._wants_object and not isinstance(found, dict):
            text = str(message.content)
            raise OutputParserException(f"The model's answer is no JSON object: {excerpt(text)}.", llm_output=text)
        violation = schema_violation(found, self._schema) if isinstance(found, dict) else None
        if violation is not None:
            raise OutputParserException(
                f"The model's answer does not follow the schema: {violation}.", llm_output=json.dumps(found)
            )
        return found

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:  # noqa: A002, ARG002
        """Yield the structured output as far as it has come, and at last the whole; see :meth:`invoke`."""
        parsed, kept = itertools.tee(input)
        last = None
        for last in self._parser.transform(parsed, config):
            yield last
        if chunks := list(kept):
            whole = self._parse_whole(chunks)
            if whole is not None and whole != last:
                yield whole

    async def atransform(
        self,
        input: AsyncIterator[Any],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> AsyncIterator[Any]:
        """Yield the structured output as far as it has come; see :meth:`transform`."""
        parsed, kept = atee(input)
        last = None
        async for last in self._parser.atransform(parsed, config):
            yield last
        if chunks := [chunk async for chunk in kept]:
            whole = self._parse_whole(chunks)
            if whole is not None and whole != last:
                yield whole


def _check_complete(message: Any) -> None:
    if not isinstance(message, AIMessage) or message.tool_calls or message.additional_kwargs.get("refusal"):
        return  # LangChain's parsers raise a refusal
    text: Any = message.invalid_tool_calls[0]["args"] if message.invalid_tool_calls else message.content
    if message.invalid_tool_calls or (isinstance(text, str) and is_incomplete(text)):
        raise OutputParserException(f"The model's answer is not complete JSON: {excerpt(text)}.", llm_output=text)


def _as_call(message: Any, function: Mapping[str, Any] | None) -> Any:
    """Return a message with a call of ``function`` if its text is the arguments: some models answer so."""
    if function is None or not isinstance(message, AIMessage) or message.tool_calls or message.invalid_tool_calls:
        return message
    text = strip_code_fence(str(message.text))
    found = (parse_arguments(text) if text.lstrip().startswith("{") else None) or {}
    parameters = function.get("parameters") or {}
    if not found.keys() & parameters.get("properties", {}) or not found.keys() >= set(parameters.get("required", ())):
        return message
    return message.model_copy(update={"tool_calls": [tool_call(name=function["name"], args=found, id=None)]})


def _keep_parsing_error(parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Return the step of ``include_raw=True`` after the model: it adds ``parsed`` and ``parsing_error``.

    LangChain's own parses the parts of a stream, and passes over everything that it cannot read.
    """

    def parse(answer: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        try:
            return {**answer, "parsed": parser.invoke(answer["raw"], config), "parsing_error": None}
        except Exception as error:  # noqa: BLE001 - LangChain keeps every error
            return {**answer, "parsed": None, "parsing_error": error}

    async def aparse(answer: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        try:
            return {**answer, "parsed": await parser.ainvoke(answer["raw"], config), "parsing_error": None}
        except Exception as error:  # noqa: BLE001
            return {**answer, "parsed": None, "parsing_error": error}

    return RunnableLambda(parse, aparse)


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

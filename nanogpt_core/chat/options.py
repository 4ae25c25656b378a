"""Checks of chat options: an unknown one is refused with the name that was probably meant."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterable, Mapping, ValuesView
from typing import Any

import openai
from openai.resources.chat.completions import Completions
from pydantic import BaseModel

from nanogpt_core._runtime.validation import check_model_name, check_number, closest_name, number_type_error
from nanogpt_core.errors import ConfigurationError, InvalidInputError, InvalidTypeError
from nanogpt_core.http.endpoint import check_headers, check_timeout
from nanogpt_core.http.error_body import excerpt

EXAMPLE_MODEL = "openai/gpt-4o-mini"
"""A model's name, for messages about invalid ones."""

_EMBEDDING_OPTIONS = (
    *("batch_size", "budget_usd", "cache", "chunk_size", "coalesce", "deadline", "dimensions", "embed_batch_size"),
    *("max_concurrency", "model_info", "on_overflow", "progress", "query_instruction"),
)
_NO_BUDGET = (
    "A budget counts embeddings only, since the price of an answer is not known before. Limit answers with max_tokens, "
    "and read their cost with nanogpt_core.track_usage()."
)

_CHOICES = ("auto", "none", "required")

# Smallest and largest values by the service's page on chat completions; OpenAI's for n and top_logprobs, of which some
# hosts allow more than OpenAI.
_RANGES: dict[str, tuple[float, float | None]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (1, None),
    "max_completion_tokens": (1, None),
    "n": (1, None),
    "top_logprobs": (0, None),
}
_WHOLE_NUMBERS = ("max_tokens", "max_completion_tokens", "n", "top_logprobs")

# Options of a request that are no numbers, with their types in words.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("audio", "extra_body", "extra_headers", "extra_query", "stream_options"), ((Mapping,), "a mapping")
    ),
    "response_format": ((Mapping, type), "a mapping or a class"),
    "tools": ((list, tuple, ValuesView), "a list"),  # not an iterator, which one request uses up
}
# Options for which the SDK takes fewer of its two markers of an option that was not given.
_MARKERS: dict[str, tuple[type, ...]] = {"extra_body": (), "extra_query": (), "timeout": (openai.NotGiven,)}


@functools.cache
def request_options() -> frozenset[str]:
    """Return the options of one request that the SDK knows."""
    return frozenset(inspect.signature(Completions.create).parameters) - {"self"}


def check_request_options(given: Mapping[str, Any], known: Iterable[str] = (), *, extra_body_hint: str) -> None:
    """Check that each name is an option of a request, or one of the ``known``, and check some of the values.

    ``extra_body_hint`` is the argument for fields that the SDK does not know, with ``{}`` for them.
    """
    options = request_options().union(known)
    for name in given:
        if not isinstance(name, str):
            raise InvalidTypeError(f"The name of an option must be a str, not {type(name).__name__}.")
        if name not in options:
            raise unknown_option_error(name, options, extra_body_hint=extra_body_hint)
    check_ranges(given)
    _check_types({name: value for name, value in given.items() if not _is_left_out(name, value)})


def _is_left_out(name: str, value: Any) -> bool:
    """Return whether the SDK takes ``value`` for an option that was not given."""
    return value is None or isinstance(value, _MARKERS.get(name, (openai.NotGiven, openai.Omit)))


def _check_types(options: Mapping[str, Any]) -> None:
    """Check options for which the SDK's errors are raw, or would be taken for errors of the network."""
    for name, (types, words) in _TYPES.items():
        if name in options and not isinstance(options[name], types):
            raise InvalidTypeError(f"{name} must be {words}, not {type(options[name]).__name__}.")
    form = options.get("response_format")
    if isinstance(form, type) and not (issubclass(form, BaseModel) or hasattr(form, "__pydantic_config__")):
        raise InvalidTypeError(
            f"response_format must be a mapping or a class of pydantic, not the class {form.__name__}.",
            remedy="Make it a pydantic.BaseModel, or pass the class to the framework's structured output.",
        )
    _check_tools(options.get("tools", ()))
    headers = options.get("extra_headers", {}).items()
    # With Omit, the SDK leaves out a header of its own.
    check_headers({name: value for name, value in headers if not isinstance(value, openai.Omit)}, "extra_headers")
    timeout = options.get("timeout")
    seconds = timeout.read if isinstance(timeout, openai.Timeout) else timeout
    if seconds is not None:
        check_timeout(seconds)


def _check_tools(tools: Iterable[Any]) -> None:
    for position, tool in enumerate(tools):
        # The SDK writes objects of pydantic, such as its own ChatCompletionFunctionTool, as dictionaries.
        fields = tool.model_dump() if isinstance(tool, BaseModel) and hasattr(tool, "function") else tool
        function = fields.get("function", {"name": ""}) if isinstance(fields, Mapping) else None
        if not (isinstance(function, Mapping) and isinstance(function.get("name"), str)):
            raise InvalidTypeError(
                f"The tool at position {position} (counted from 0) is not one that can be sent: {excerpt(repr(tool))}.",
                remedy='Pass dictionaries such as {"type": "function", "function": {"name": ...}}.',
                positions=[position],
            )


def check_ranges(options: Mapping[str, Any]) -> None:
    """Check that no number is one that the service refuses for every model, or a bool."""
    if isinstance(options.get("seed"), bool):
        check_number("seed", options["seed"], 0)
    for name, (least, most) in _RANGES.items():
        value = options.get(name)
        if isinstance(value, bool):  # pydantic would take True for 1
            if name in _WHOLE_NUMBERS:
                check_number(name, value, int(least))
            raise number_type_error(name, value)
        if isinstance(value, (int, float)) and not least <= value <= (math.inf if most is None else most):
            span = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigurationError(f"{name} must be {span}, not {value!r}.")


def unknown_option_error(name: str, known: Iterable[str], *, extra_body_hint: str) -> InvalidTypeError:
    """Return the error for an unknown option; see :func:`check_request_options`."""
    if name in _EMBEDDING_OPTIONS:
        remedy = _NO_BUDGET if name == "budget_usd" else "Leave it out, or pass it to an embedding class."
        return InvalidTypeError(f"{name!r} is an option of embeddings, not of chat.", remedy=remedy)
    names = set(known)
    near = closest_name(name, names.union(_EMBEDDING_OPTIONS))
    meant = f"Did you mean {near!r}? " if near else ""
    if near is not None and near not in names:
        meant = f"{near!r} is an option of embeddings, not of chat. "
    place = extra_body_hint.replace("{}", f"{{{name!r}: ...}}")
    return InvalidTypeError(
        f"Unknown option {name!r}.", remedy=f"{meant}Options that only the service knows go into {place}."
    )


def check_tool_choice(choice: Any, tools: Any) -> None:
    """Check that ``choice`` is a word for any tool or none, or names one of the ``tools``; both as they are sent.

    Raises:
        InvalidInputError: It names a tool that is not there.
    """
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else choice
    names = [tool["function"]["name"] for tool in tools or () if "function" in tool]
    known = names if isinstance(choice, dict) else _CHOICES
    if isinstance(name, str) and name not in known:
        if name in names:
            tool = {"type": "function", "function": {"name": name}}
            raise InvalidInputError(f"tool_choice {name!r} is no request for that tool.", remedy=f"Pass {tool}.")
        raise InvalidInputError(
            f"tool_choice {name!r} is none of the tools.",
            remedy=f"There are: {', '.join(names) or 'none'}; or say {', '.join(map(repr, _CHOICES))}.",
        )


def complete_options(options: dict[str, Any], call: Mapping[str, Any], *, stream_usage: bool) -> None:
    """Check the model, numbers and choices of a request, and make options agree that hosts refuse together; in place.

    - A limit of tokens is sent once. The options of the ``call`` go before those of the object.
    - ``top_logprobs`` asks for log probabilities, unless ``logprobs=False`` turns both off.
    - ``stream_options`` are for streams only. They ask for token counts if ``stream_usage`` is True, unless they say so
      themselves.

    Raises:
        ConfigurationError: The model is empty, or a stream has several choices: both frameworks would join their texts.
        InvalidTypeError: The model is not a str, or a number is none.
    """
    options["model"] = check_model_name(options["model"], EXAMPLE_MODEL)
    for name, (least, _) in _RANGES.items():
        value = options.get(name)
        if _is_left_out(name, value):
            continue
        if name in _WHOLE_NUMBERS:
            # 5.0 becomes 5, as in a constructor: many services refuse a decimal point here.
            value = int(value) if isinstance(value, float) and value.is_integer() else value
            options[name] = check_number(name, value, int(least))
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise number_type_error(name, value)
    if options.get("max_tokens") is not None and options.get("max_completion_tokens") is not None:
        is_for_call = "max_tokens" in call and "max_completion_tokens" not in call
        del options["max_completion_tokens" if is_for_call else "max_tokens"]
    if options.get("top_logprobs") and options.setdefault("logprobs", True) is False:
        del options["top_logprobs"]
    if "stream" in options:
        options["stream"] = bool(options["stream"])
    asked = {"include_usage": stream_usage, **(options.pop("stream_options", None) or {})}
    if options.get("stream"):
        if isinstance(options.get("n"), int) and options["n"] > 1:
            raise ConfigurationError("n must be 1 in a stream.", remedy="Ask without streaming, or several times.")
        if asked["include_usage"] or len(asked) > 1:
            options["stream_options"] = asked

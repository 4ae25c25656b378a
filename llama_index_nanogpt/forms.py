"""What LlamaIndex checks of whole answers and not of streams: one tool call where one was asked for, and the form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.llms.openai.base import force_single_tool_call

from nanogpt_core.errors import ReplyError

__all__ = ["FormError", "achecked", "asingle", "checked", "side_by_side", "single"]


class FormError(ReplyError, ValueError):
    """The model's answer does not have the form asked for."""


def side_by_side(
    tools: Any = (),  # noqa: ARG001
    user_msg: Any = None,  # noqa: ARG001
    chat_history: Any = None,  # noqa: ARG001
    verbose: bool = False,  # noqa: ARG001
    allow_parallel_tool_calls: bool = False,
    **_: Any,
) -> bool:
    """Return what the arguments of ``stream_chat_with_tools`` say of tool calls side by side."""
    return allow_parallel_tool_calls


def single(stream: Iterator[ChatResponse]) -> Iterator[ChatResponse]:
    """Yield the responses, each with its first tool call alone."""
    for response in stream:
        yield _with_one_call(response)


async def asingle(stream: AsyncIterator[ChatResponse]) -> AsyncIterator[ChatResponse]:
    """Yield the responses, each with its first tool call alone."""
    async for response in stream:
        yield _with_one_call(response)


def checked(parts: Iterator[Any], form: type) -> Iterator[Any]:
    """Yield the parts, and check that the last has the form.

    Raises:
        FormError: It has not.
    """
    last = None
    for last in parts:
        yield last
    _check(last, form)


async def achecked(parts: AsyncIterator[Any], form: type) -> AsyncIterator[Any]:
    """Yield the parts, and check that the last has the form.

    Raises:
        FormError: It has not.
    """
    last = None
    async for last in parts:
        yield last
    _check(last, form)


def _with_one_call(response: ChatResponse) -> ChatResponse:
    force_single_tool_call(response)
    more = response.message.additional_kwargs
    if more.get("tool_calls"):
        # A new list: the one there grows with the stream.
        more["tool_calls"] = more["tool_calls"][:1]
    return response


def _check(last: Any, form: type) -> None:
    if not isinstance(last, form):
        raise FormError(
            f"The model's answer does not have the form of {form.__name__}.",
            remedy="Ask again, or another model; or try should_use_structured_outputs.",
        )

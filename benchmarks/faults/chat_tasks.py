"""Tasks of a chat client. Each function makes the client, uses it, and returns whether the result was right."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

from benchmarks.faults.chat_clients import CHAT_MODEL, Answer, Chat

Make = Callable[..., Chat]
TEXT = "Bees make honey."
USAGE = (10, 3)
ANSWER = {"text": "honey", "number": 7}
REFUSAL = "I can't help with that."
OTHER_MODEL = "gpt-4o"
_SAFE = ("clean", {"path": "x"})
_SECOND = ("clean", {"path": "y"})


def ask(make: Make, _: str) -> bool:
    """Ask, and compare the text."""
    return make().ask(streamed=False)[0] == TEXT


def stream(make: Make, _: str) -> bool:
    """Ask for a stream, and compare the text."""
    return make().ask(streamed=True)[0] == TEXT


def instrumented_stream(make: Make, _: str) -> bool:
    """Ask for a stream while every stream of the SDK is of another class, as instrumentation has it."""
    import openai

    request = openai.OpenAI.request

    def traced(self: Any, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        kind = types.new_class("InstrumentedStream", (stream_cls,)) if stream_cls else None
        return request(self, cast_to, options, stream=stream, stream_cls=kind)

    openai.OpenAI.request = traced
    return stream(make, "")


def misspelt(make: Make, _: str) -> bool:
    """Make the client with an option that there is not; an error is right."""
    make()
    return False


def clear_repr(make: Make, _: str) -> bool:
    """Ask, and look at the error as debuggers show it: advice that is for embeddings is wrong."""
    try:
        return ask(make, "")
    except Exception as error:
        if "batch_size" in f"{error!r} {error.args}":
            return False
        raise


def usage(make: Make, _: str) -> bool:
    """Ask for a stream, and compare text and token counts."""
    return make().ask(streamed=True) == (TEXT, USAGE)


def refusal(make: Make, _: str) -> bool:
    """Ask, and compare the words of the refusal."""
    return make().refusal(streamed=False) == REFUSAL


def refusal_stream(make: Make, _: str) -> bool:
    """Ask for a stream, and compare the words of the refusal."""
    return make().refusal(streamed=True) == REFUSAL


def structured(make: Make, _: str) -> bool:
    """Ask for structured output, in the client's default way."""
    return make().structured(streamed=False, by_schema=False) == Answer(**ANSWER)


def structured_stream(make: Make, _: str) -> bool:
    """Ask for a stream of structured output, in the client's default way."""
    return make().structured(streamed=True, by_schema=False) == Answer(**ANSWER)


def schema(make: Make, _: str) -> bool:
    """Ask for structured output by a JSON schema."""
    return make().structured(streamed=False, by_schema=True) == Answer(**ANSWER)


def no_call(make: Make, _: str) -> bool:
    """Offer a tool; no call may be made."""
    return make().calls(streamed=False) == []


def no_call_stream(make: Make, _: str) -> bool:
    """Offer a tool in a stream; no call may be made."""
    return make().calls(streamed=True) == []


def one_call(make: Make, _: str) -> bool:
    """Offer a tool; one call, with the arguments that the model wrote, or none may be made."""
    return make().calls(streamed=False) in ([_SAFE], [])


def two_calls_stream(make: Make, _: str) -> bool:
    """Offer a tool in a stream; two calls are right."""
    return make().calls(streamed=True) == [_SAFE, _SECOND]


def one_call_stream(make: Make, _: str) -> bool:
    """Offer a tool in a stream; one call is right."""
    return make().calls(streamed=True) == [_SAFE]


def turns(make: Make, _: str) -> bool:
    """Ask again after a tool call."""
    return make().two_turns(streamed=False) == TEXT


def turns_stream(make: Make, _: str) -> bool:
    """Ask again after a tool call, in streams."""
    return make().two_turns(streamed=True) == TEXT


def other_model(make: Make, _: str) -> bool:
    """Copy the object with another model."""
    return make().copied(model=OTHER_MODEL).ask(streamed=False)[0] == f"I am {OTHER_MODEL}, not {CHAT_MODEL}."


def no_retries(make: Make, _: str) -> bool:
    """Copy the object with no retries."""
    return make().copied(max_retries=0).ask(streamed=False)[0] == TEXT


def deep_copy(make: Make, _: str) -> bool:
    """Use the object, copy it deeply, and use the copy."""
    client = make()
    return client.ask(streamed=False)[0] == copy.deepcopy(client).ask(streamed=False)[0] == TEXT

"""Chat clients of four classes, with one set of methods for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pydantic import BaseModel

from benchmarks.faults.vectors import KEY

CHAT_OURS = ("LangChain", "LlamaIndex")
CHAT_PEERS = ("langchain-openai", "LlamaIndex OpenAI")
CHAT_CLIENTS = (*CHAT_OURS, *CHAT_PEERS)
CHAT_MODEL = "gpt-4o-mini"

_TIMEOUT = 10.0
_DEFAULT_PATH = "/"
_QUESTION = "Please clean up."


class Answer(BaseModel):
    """An answer."""

    text: str
    number: int


Call = tuple[str, dict[str, Any]]


class Chat(Protocol):
    """A chat client. Each method sends a request, whole or as a stream."""

    def ask(self, streamed: bool) -> tuple[str, tuple[int, int] | None]:
        """Return the text, and the tokens in and out if they are known."""
        ...

    def refusal(self, streamed: bool) -> str:
        """Return the words of a refusal, from the message's field for them or from its text."""
        ...

    def structured(self, streamed: bool, by_schema: bool) -> Any:
        """Return structured output."""
        ...

    def calls(self, streamed: bool) -> list[Call]:
        """Execute the tool calls of a reply as an agent does, and return the calls of tools that there were."""
        ...

    def two_turns(self, streamed: bool) -> str:
        """Return the text after a tool call and its result."""
        ...

    def copied(self, **changes: Any) -> Chat:
        """Return a client with a copy of the object, made with other options."""
        ...


class LangChainChat:
    """A chat model of LangChain."""

    def __init__(self, chat: Any) -> None:
        self.chat = chat

    def _send(self, runnable: Any, given: Any, streamed: bool) -> Any:
        if not streamed:
            return runnable.invoke(given)
        whole = None
        for chunk in runnable.stream(given):
            whole = chunk if whole is None else whole + chunk
        return whole

    def ask(self, streamed: bool) -> tuple[str, tuple[int, int] | None]:
        message = self._send(self.chat, _QUESTION, streamed)
        usage = message.usage_metadata
        return message.text, (usage["input_tokens"], usage["output_tokens"]) if usage else None

    def refusal(self, streamed: bool) -> str:
        message = self._send(self.chat, _QUESTION, streamed)
        return message.additional_kwargs.get("refusal") or message.text

    def structured(self, streamed: bool, by_schema: bool) -> Any:
        runnable = self.chat.with_structured_output(Answer, **({"method": "json_schema"} if by_schema else {}))
        return list(runnable.stream(_QUESTION))[-1] if streamed else runnable.invoke(_QUESTION)

    def _tool(self, made: list[Call]) -> Any:
        from langchain_core.tools import tool

        @tool
        def clean(path: str = _DEFAULT_PATH) -> str:
            """Remove everything below a path."""
            made.append(("clean", {"path": path}))
            return "gone"

        return clean

    def calls(self, streamed: bool) -> list[Call]:
        made: list[Call] = []
        clean = self._tool(made)
        for call in self._send(self.chat.bind_tools([clean]), _QUESTION, streamed).tool_calls:
            if call["name"] == clean.name:
                clean.invoke(call)
        return made

    def two_turns(self, streamed: bool) -> str:
        from langchain_core.messages import HumanMessage

        clean = self._tool([])
        bound = self.chat.bind_tools([clean])
        messages: list[Any] = [HumanMessage(_QUESTION)]
        message = self._send(bound, messages, streamed)
        messages += [message, *(clean.invoke(call) for call in message.tool_calls)]
        return self._send(bound, messages, streamed).text

    def copied(self, **changes: Any) -> LangChainChat:
        update = {"model_name" if name == "model" else name: value for name, value in changes.items()}
        return type(self)(self.chat.model_copy(update=update))


class LlamaIndexChat:
    """An LLM of LlamaIndex."""

    def __init__(self, llm: Any, by_schema: Callable[[], Any]) -> None:
        self.llm = llm
        self._by_schema = by_schema

    def _answer(self, streamed: bool) -> Any:
        from llama_index.core.llms import ChatMessage

        messages = [ChatMessage(role="user", content=_QUESTION)]
        return list(self.llm.stream_chat(messages))[-1] if streamed else self.llm.chat(messages)

    def refusal(self, streamed: bool) -> str:
        message = self._answer(streamed).message
        return message.additional_kwargs.get("refusal") or message.content or ""

    def ask(self, streamed: bool) -> tuple[str, tuple[int, int] | None]:
        response = self._answer(streamed)
        usage = getattr(response.raw, "usage", None)
        return response.message.content or "", (usage.prompt_tokens, usage.completion_tokens) if usage else None

    def structured(self, streamed: bool, by_schema: bool) -> Any:
        from llama_index.core.prompts import PromptTemplate

        llm = self._by_schema() if by_schema else self.llm
        prompt = PromptTemplate(_QUESTION)
        return (
            list(llm.stream_structured_predict(Answer, prompt))[-1]
            if streamed
            else llm.structured_predict(Answer, prompt)
        )

    def _tool(self, made: list[Call]) -> Any:
        from llama_index.core.tools import FunctionTool

        def clean(path: str = _DEFAULT_PATH) -> str:
            """Remove everything below a path."""
            made.append(("clean", {"path": path}))
            return "gone"

        return FunctionTool.from_defaults(clean)

    def _with_tools(self, tool: Any, messages: list[Any], streamed: bool) -> Any:
        options = {"chat_history": messages, "allow_parallel_tool_calls": True}
        if streamed:
            return list(self.llm.stream_chat_with_tools([tool], **options))[-1]
        return self.llm.chat_with_tools([tool], **options)

    def calls(self, streamed: bool) -> list[Call]:
        from llama_index.core.llms import ChatMessage

        made: list[Call] = []
        tool = self._tool(made)
        response = self._with_tools(tool, [ChatMessage(role="user", content=_QUESTION)], streamed)
        for call in self.llm.get_tool_calls_from_response(response, error_on_no_tool_call=False):
            # Its agents tell the model if there is no such tool.
            if call.tool_name == "clean":
                tool.call(**call.tool_kwargs)
        return made

    def two_turns(self, streamed: bool) -> str:
        from llama_index.core.llms import ChatMessage

        tool = self._tool([])
        messages = [ChatMessage(role="user", content=_QUESTION)]
        response = self._with_tools(tool, messages, streamed)
        calls = self.llm.get_tool_calls_from_response(response)
        results = [
            ChatMessage(role="tool", content="gone", additional_kwargs={"tool_call_id": call.tool_id}) for call in calls
        ]
        return self._with_tools(tool, [*messages, response.message, *results], streamed).message.content or ""

    def copied(self, **changes: Any) -> LlamaIndexChat:
        return type(self)(self.llm.model_copy(update=changes), self._by_schema)


def make_chat(name: str, url: str, model: str = CHAT_MODEL, **settings: Any) -> Chat:
    """Make a chat client of one of :data:`CHAT_CLIENTS`; ``settings`` are its options, beside address and key."""
    options = {"api_key": KEY, "timeout": _TIMEOUT, **settings}
    if "LlamaIndex" in name:
        options.pop("limited", None)
    return _MAKERS[name](url, model, {option: value for option, value in options.items() if value is not None})


def _limited(options: dict[str, Any]) -> dict[str, Any]:
    """Replace the option ``limited`` by a rate limiter, which holds a lock."""
    from langchain_core.rate_limiters import InMemoryRateLimiter

    limiter = InMemoryRateLimiter(requests_per_second=1000) if options.pop("limited", False) else None
    return {**options, "rate_limiter": limiter}


def _langchain(url: str, model: str, options: dict[str, Any]) -> Chat:
    from langchain_nanogpt import ChatNanoGPT

    return LangChainChat(ChatNanoGPT(model=model, base_url=url, **_limited(options)))


def _langchain_openai(url: str, model: str, options: dict[str, Any]) -> Chat:
    from langchain_openai import ChatOpenAI

    # By default it asks for no token counts of a stream at another address.
    return LangChainChat(ChatOpenAI(model=model, base_url=url, stream_usage=True, **_limited(options)))


def _llama_index(url: str, model: str, options: dict[str, Any]) -> Chat:
    from llama_index_nanogpt import NanoGPT

    def make(**more: Any) -> Any:
        return NanoGPT(model, api_base=url, **options, **more)

    return LlamaIndexChat(make(), lambda: make(should_use_structured_outputs=True))


def _llama_index_openai(url: str, model: str, options: dict[str, Any]) -> Chat:
    from llama_index.llms.openai import OpenAI

    usage = {"stream_options": {"include_usage": True}}
    llm = OpenAI(model, api_base=url, additional_kwargs=usage, **options)
    return LlamaIndexChat(llm, lambda: llm)


_MAKERS: dict[str, Callable[[str, str, dict[str, Any]], Chat]] = {
    "LangChain": _langchain,
    "LlamaIndex": _llama_index,
    "langchain-openai": _langchain_openai,
    "LlamaIndex OpenAI": _llama_index_openai,
}

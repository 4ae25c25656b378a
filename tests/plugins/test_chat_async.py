"""Async methods of both chat classes: no blocking call on the event loop."""

import asyncio

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from blockbuster import blockbuster_ctx
from langchain.agents import create_agent
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.utils import get_tokenizer
from pydantic import BaseModel

from langchain_nanogpt import ChatNanoGPT
from llama_index_nanogpt import NanoGPT
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.sandbox import Fault, Reply, ToolCall

ITS_OWN_WARNING = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


@pytest.fixture
def no_blocking():
    """Let each blocking call on an event loop raise an error, as LangGraph's development server does."""
    get_tokenizer()  # LlamaIndex's own memory of an agent reads its files on the event loop
    with blockbuster_ctx():
        yield


class Joke(BaseModel):
    """A joke."""

    setup: str


def look(q: str = "") -> str:
    """Look something up."""
    return q


async def parts_of(stream):
    return [part async for part in stream]


async def _streamed(call):
    return await parts_of(await call)


async def _agent(llm):
    return await FunctionAgent(tools=TOOLS, llm=llm).run("Hello")


HELLO = [ChatMessage(role="user", content="Hello")]
PROMPT = PromptTemplate("Tell a joke about {animal}.")
TOOLS = [FunctionTool.from_defaults(look)]
AS_TOOL = Reply(tool_calls=[ToolCall("Joke", {"setup": "Why?"})])
AS_JSON = Reply(json={"setup": "Why?"})
CALLED = Reply(reasoning="hm", tool_calls=[ToolCall("look", {"q": "x"})])
LANGCHAIN = {
    "ainvoke": (lambda chat: chat.ainvoke("Hello"), [Reply("Here.")]),
    "astream": (lambda chat: parts_of(chat.astream("Hello")), [Reply("Here I am.", reasoning="hm")]),
    "abatch": (lambda chat: chat.abatch(["Hello", "you"]), [Reply("Here."), Reply("Here.")]),
    "retry": (lambda chat: chat.ainvoke("Hello"), [Fault(503), Reply("Here.")]),
    "agent": (
        lambda chat: create_agent(chat, [look]).ainvoke({"messages": [("user", "Hello")]}),
        [CALLED, Reply("Here.")],
    ),
    "tool call": (lambda chat: chat.with_structured_output(Joke).ainvoke("A joke!"), [AS_TOOL]),
    "schema": (
        lambda chat: parts_of(chat.with_structured_output(Joke, method="json_schema").astream("A joke!")),
        [AS_JSON],
    ),
}
LLAMA_INDEX = {
    "achat": (lambda llm: llm.achat(HELLO), [Reply("Here.")]),
    "acomplete": (lambda llm: llm.acomplete("Hello"), [Reply("Here.")]),
    "astream_chat": (lambda llm: _streamed(llm.astream_chat(HELLO)), [Reply("Here I am.", reasoning="hm")]),
    "astream_complete": (lambda llm: _streamed(llm.astream_complete("Hello")), [Reply("Here I am.")]),
    "retry": (lambda llm: llm.achat(HELLO), [Fault(503), Reply("Here.")]),
    "agent": (_agent, [CALLED, Reply("Here.")]),
    "apredict_and_call": (lambda llm: llm.apredict_and_call(TOOLS, user_msg="Hello"), [CALLED]),
    "tool call": (lambda llm: llm.astructured_predict(Joke, PROMPT, animal="cats"), [AS_TOOL]),
    "streamed tool call": (
        lambda llm: _streamed(llm.astream_structured_predict(Joke, PROMPT, animal="cats")),
        [AS_TOOL],
    ),
}


@ITS_OWN_WARNING
@pytest.mark.usefixtures("no_blocking")
@pytest.mark.parametrize(
    ("make", "run", "replies"),
    [
        *(pytest.param(ChatNanoGPT, *row, id=f"langchain-{name}") for name, row in LANGCHAIN.items()),
        *(pytest.param(NanoGPT, *row, id=f"llama_index-{name}") for name, row in LLAMA_INDEX.items()),
    ],
)
def test_async_chat_does_not_block_the_event_loop(fresh_sandbox, make, run, replies):
    fresh_sandbox.add_replies(*replies)
    chat = make(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)
    with fake_clock():
        assert asyncio.run(run(chat))
    assert fresh_sandbox.replies_left == 0

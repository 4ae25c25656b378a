import asyncio

from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.workflow import Context
from llama_index.llms.openai import OpenAI


def multiply(a: int, b: int) -> int:
    """Multiply two integers and returns the result integer"""
    return a * b


def add(a: int, b: int) -> int:
    """Add two integers and returns the result integer"""
    return a + b


async def main():
    for streaming in (True, False):
        agent = ReActAgent(tools=[multiply, add], llm=OpenAI(model="gpt-4o-mini"), streaming=streaming)
        response = await agent.run("What is 20+(2*4)?", ctx=Context(agent))
        assert str(response) == "28"
        assert [(call.tool_name, call.tool_output.raw_output) for call in response.tool_calls] == [
            ("multiply", 8),
            ("add", 28),
        ]


asyncio.run(main())

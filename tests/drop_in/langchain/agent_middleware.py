import asyncio

from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, SummarizationMiddleware, ToolRetryMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain.messages import HumanMessage
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Answer(BaseModel):
    """The answer."""

    number: int


attempts = []


@tool
def divide(a: int, b: int) -> float:
    """Divide a by b."""
    attempts.append((a, b))
    return a / b


llm = ChatOpenAI(model="gpt-4o-mini")
agent = create_agent(
    llm,
    tools=[divide],
    middleware=[
        SummarizationMiddleware(model=llm, trigger=("messages", 6), keep=("messages", 2)),
        ModelFallbackMiddleware(ChatOpenAI(model="gpt-4o")),
        ToolRetryMiddleware(max_retries=0),
    ],
)
history = [HumanMessage(f"Note number {number}.") for number in range(5)]
result = asyncio.run(agent.ainvoke({"messages": [*history, HumanMessage("What is 1 / 0?")]}))
assert attempts == [(1, 0)]
# The summary is in place of the first notes; the tool's error has gone to the model.
assert "Five notes." in result["messages"][0].text
assert [message.type for message in result["messages"][-3:]] == ["ai", "tool", "ai"]
assert result["messages"][-2].status == "error"
assert result["messages"][-1].text == "It is undefined."

structured = create_agent(llm, tools=[], response_format=ToolStrategy(Answer))
result = structured.invoke({"messages": [HumanMessage("How many notes were there?")]})
assert result["structured_response"] == Answer(number=5)

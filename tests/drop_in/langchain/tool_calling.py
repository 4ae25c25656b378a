from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import PydanticToolsParser
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


@tool
def add(a: int, b: int) -> int:
    """Add a and b."""
    return a + b


@tool
def multiply(a: int, b: int) -> int:
    """Multiply a and b."""
    return a * b


class Subtract(BaseModel):
    """Subtract b from a."""

    a: int = Field(..., description="First integer")
    b: int = Field(..., description="Second integer")


tools = {"add": add, "multiply": multiply}
llm = ChatOpenAI(model="gpt-4o-mini", temperature=0)
llm_with_tools = llm.bind_tools([add, multiply])

messages = [HumanMessage("What is 3 * 12? Also, what is 11 + 49?")]
ai_msg = llm_with_tools.invoke(messages)
messages.append(ai_msg)
assert [call["name"] for call in ai_msg.tool_calls] == ["multiply", "add"]
for tool_call in ai_msg.tool_calls:
    messages.append(tools[tool_call["name"].lower()].invoke(tool_call))
assert [message.content for message in messages[2:]] == ["36", "60"]
assert llm_with_tools.invoke(messages).content == "3 * 12 is 36, and 11 + 49 is 60."

gathered = None
for chunk in llm_with_tools.stream("What is 3 * 12? Also, what is 11 + 49?"):
    gathered = chunk if gathered is None else gathered + chunk
assert [call["args"] for call in gathered.tool_calls] == [{"a": 3, "b": 12}, {"a": 11, "b": 49}]

forced = llm.bind_tools([Subtract], tool_choice="Subtract", strict=True, parallel_tool_calls=False)
chain = forced | PydanticToolsParser(tools=[Subtract], first_tool_only=True)
assert chain.invoke("7 - 4?") == Subtract(a=7, b=4)
assert llm.bind_tools([add], tool_choice="any").invoke("Call any.").tool_calls[0]["name"] == "add"

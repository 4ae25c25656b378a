from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel


class Forecast(BaseModel):
    """A forecast."""

    city: str
    sunny: bool


asked = []


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    asked.append(city)
    return f"It is always sunny in {city}!"


model = ChatOpenAI(model="gpt-5", temperature=0.1, max_tokens=1000, timeout=30)
agent = create_agent(
    model=model,
    tools=[get_weather],
    system_prompt="You are a helpful assistant.",
    checkpointer=InMemorySaver(),
)
config = {"configurable": {"thread_id": "1"}}
result = agent.invoke({"messages": [{"role": "user", "content": "weather in sf"}]}, config)
assert asked == ["sf"]
assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai"]
assert result["messages"][-1].text == "It is sunny in sf."
result = agent.invoke({"messages": [{"role": "user", "content": "thank you!"}]}, config)
assert len(result["messages"]) == 6
assert result["messages"][-1].text == "You are welcome."

steps = [
    (metadata["langgraph_node"], part.text)
    for part, metadata in create_agent(model, [get_weather]).stream(
        {"messages": [{"role": "user", "content": "weather in la"}]}, stream_mode="messages"
    )
]
assert asked == ["sf", "la"]
assert ("tools", "It is always sunny in la!") in steps
assert "".join(text for node, text in steps if node == "model") == "Sunny in la."

structured = create_agent(model, [get_weather], response_format=Forecast)
result = structured.invoke({"messages": [{"role": "user", "content": "weather in ny"}]})
assert asked[-1] == "ny"
assert result["structured_response"] == Forecast(city="ny", sunny=True)

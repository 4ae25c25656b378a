import asyncio

from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langgraph.store.memory import InMemoryStore

store = InMemoryStore(
    index={"embed": OpenAIEmbeddings(model="text-embedding-3-small"), "dims": 1536, "fields": ["text"]}
)
namespace = ("user_123", "memories")
store.put(namespace, "1", {"text": "I love pizza"})
store.put(namespace, "2", {"text": "I am a plumber"})
store.put(namespace, "3", {"text": "not searched"}, index=False)
found = store.search(namespace, query="Who loves pizza?", limit=1)
assert [item.key for item in found] == ["1"]
assert found[0].score > 0


async def main():
    await store.aput(namespace, "4", {"text": "My cat sleeps all day"})
    return await store.asearch(namespace, query="my cat", limit=1)


assert [item.key for item in asyncio.run(main())] == ["4"]


@tool
def recall(query: str, runtime: ToolRuntime) -> str:
    """Look up what the user said before."""
    return "; ".join(item.value["text"] for item in runtime.store.search(namespace, query=query, limit=1))


agent = create_agent(ChatOpenAI(model="gpt-4o-mini"), tools=[recall], store=store)
result = agent.invoke({"messages": [("user", "What is my job?")]})
assert result["messages"][-2].content == "I am a plumber"
assert result["messages"][-1].content == "You are a plumber."

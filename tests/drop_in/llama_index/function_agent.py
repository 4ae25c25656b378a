import asyncio

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Context
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI


def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b


async def search_documents(query: str) -> str:
    """Search the documents."""
    return f"found {query}"


llm = OpenAI(model="gpt-4o-mini")
agent = FunctionAgent(
    tools=[multiply, FunctionTool.from_defaults(async_fn=search_documents)],
    llm=llm,
    system_prompt="You are a helpful assistant that can multiply two numbers.",
)


async def main():
    ctx = Context(agent)
    handler = agent.run("What is 1234 * 4567? And search for tea.", ctx=ctx)
    results, text = [], ""
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            results.append((event.tool_name, event.tool_output.content))
        elif isinstance(event, AgentStream):
            text += event.delta
    response = await handler
    assert sorted(results) == [("multiply", "5635678"), ("search_documents", "found tea")]
    assert str(response) == text == "It is 5635678."
    assert str(await agent.run("What did I ask?", ctx=ctx)) == "A product."

    index = VectorStoreIndex.from_documents([Document(text="Bees make honey.")], embed_model=OpenAIEmbedding())
    engine = index.as_query_engine(llm=llm, similarity_top_k=1)
    tool = QueryEngineTool.from_defaults(engine, name="notes", description="Notes about bees.")
    rag = FunctionAgent(tools=[tool], llm=llm, streaming=False)
    response = await rag.run("What do bees make?")
    assert response.tool_calls[0].tool_output.content == "Honey, say the notes."
    assert str(response) == "Honey."

    writer = FunctionAgent(name="Writer", description="Writes.", llm=llm, tools=[], system_prompt="Write.")
    researcher = FunctionAgent(
        name="Researcher", description="Researches.", llm=llm, tools=[multiply], can_handoff_to=["Writer"]
    )
    team = AgentWorkflow(agents=[researcher, writer], root_agent="Researcher")
    response = await team.run(user_msg="Research, and hand over.")
    assert response.current_agent_name == "Writer"
    assert str(response) == "Written."


asyncio.run(main())

import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import (
    ChatSummaryMemoryBuffer,
    FactExtractionMemoryBlock,
    Memory,
    StaticMemoryBlock,
    VectorMemory,
    VectorMemoryBlock,
)
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

llm = OpenAI(model="gpt-4.1-mini")
embed_model = OpenAIEmbedding(model="text-embedding-3-small")


class TextStore(SimpleVectorStore):
    stores_text: bool = True


async def main():
    facts = FactExtractionMemoryBlock(name="facts", llm=llm, max_facts=50, priority=1)
    vectors = VectorMemoryBlock(
        name="vectors", vector_store=TextStore(), embed_model=embed_model, priority=2, similarity_top_k=1
    )
    memory = Memory.from_defaults(
        session_id="my_session",
        token_limit=200,
        chat_history_token_ratio=0.1,
        token_flush_size=20,
        memory_blocks=[StaticMemoryBlock(name="core", static_content="The user is Bob.", priority=0), facts, vectors],
    )
    agent = FunctionAgent(tools=[], llm=llm)
    assert str(await agent.run("My cat sleeps all day. " * 8, memory=memory)) == "Good for the cat."
    assert str(await agent.run("What do I have?", memory=memory)) == "A cat."
    assert facts.facts == ["Bob has a cat."]
    history = await memory.aget("And a cat?")
    assert "Bob has a cat." in str(history[0].content)


asyncio.run(main())

vector_memory = VectorMemory.from_defaults(embed_model=embed_model, retriever_kwargs={"similarity_top_k": 1})
vector_memory.put(ChatMessage.from_str("Jerry likes juice.", "user"))
vector_memory.put(ChatMessage.from_str("Bob likes burgers.", "user"))
assert vector_memory.get("What does Jerry like?")[0].content == "Jerry likes juice."

summary = ChatSummaryMemoryBuffer.from_defaults(
    chat_history=[ChatMessage(role="user", content="word " * 40), ChatMessage(role="assistant", content="Yes.")] * 2,
    llm=llm,
    token_limit=60,
)
assert summary.get()[0].content == "Words were said."

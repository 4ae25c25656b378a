import asyncio

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

llm = OpenAI(model="gpt-4o-mini")
index = VectorStoreIndex.from_documents(
    [Document(text="Bees make honey."), Document(text="Honey keeps for years.")],
    embed_model=OpenAIEmbedding(),
)

memory = ChatMemoryBuffer.from_defaults(token_limit=1500)
context = index.as_chat_engine(chat_mode="context", llm=llm, memory=memory, system_prompt="Answer about bees.")
first = context.chat("What do bees make?")
assert first.response == "They make honey."
assert len(first.source_nodes) == 2
assert context.chat("Does it keep?").response == "For years."
assert [message.role.value for message in memory.get_all()] == ["user", "assistant", "user", "assistant"]

condense = index.as_chat_engine(chat_mode="condense_question", llm=llm)
assert str(condense.chat("What do bees make?")) == "Honey."
assert str(condense.chat("How long does it keep?")) == "Years."

both = index.as_chat_engine(chat_mode="condense_plus_context", llm=llm, similarity_top_k=1)
streaming = both.stream_chat("What do bees make?")
assert "".join(streaming.response_gen) == "Honey, honey."
assert [message.content for message in both.chat_history] == ["What do bees make?", "Honey, honey."]
both.reset()
assert both.chat_history == []

simple = SimpleChatEngine.from_defaults(llm=llm, system_prompt="You are a poet.")


async def main():
    response = await simple.astream_chat("One line, please.")
    return "".join([token async for token in response.async_response_gen()])


assert asyncio.run(main()) == "A line."
best = index.as_chat_engine(llm=llm)
assert best.chat("What do bees make?").response == "Honey again."

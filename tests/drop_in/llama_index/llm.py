import asyncio

from llama_index.core import Document, PropertyGraphIndex, Settings
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.indices.property_graph import SimpleLLMPathExtractor
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

llm = OpenAI(model="gpt-4o", temperature=0.2, max_tokens=256, system_prompt="Be brief.", timeout=60, max_retries=2)
assert str(llm.complete("Paul Graham is ")) == "a writer."
assert "".join(part.delta for part in llm.stream_complete("Paul Graham is ")) == "a writer."
messages = [
    ChatMessage(role="system", content="You are a pirate."),
    ChatMessage(role="user", content=[TextBlock(text="Name?"), ImageBlock(image=b"x", image_mimetype="image/png")]),
]
response = llm.chat(messages, temperature=0.5, stop=["!"])
assert str(response) == "assistant: Captain."
assert response.raw.usage.total_tokens > 0
assert "".join(part.delta for part in llm.stream_chat(messages)) == "Captain."
assert llm.metadata.context_window == 128000
assert llm.metadata.model_name == "gpt-4o"
assert llm.metadata.is_function_calling_model
assert OpenAI(model="gpt-4o-mini", additional_kwargs={"user": "me", "seed": 1}).complete("x").text == "y"


def generate_song(name: str, artist: str) -> dict:
    """Generates a song with provided name and artist."""
    return {"name": name, "artist": artist}


tool = FunctionTool.from_defaults(fn=generate_song)
response = llm.predict_and_call([tool], "Pick a random song for me")
assert response.sources[0].raw_output == {"name": "Hum", "artist": "Bee"}
chat = llm.chat_with_tools([tool], user_msg="A song, please", tool_required=True)
(call,) = llm.get_tool_calls_from_response(chat)
assert (call.tool_name, call.tool_kwargs) == ("generate_song", {"name": "Hum", "artist": "Bee"})
*_, last = llm.stream_chat_with_tools([tool], user_msg="A song, please")
assert llm.get_tool_calls_from_response(last)[0].tool_kwargs == {"name": "Hum", "artist": "Bee"}


class Ideas(Event):
    text: str


class JokeFlow(Workflow):
    llm = OpenAI(model="gpt-4.1")

    @step
    async def generate(self, ctx: Context, ev: StartEvent) -> Ideas:
        return Ideas(text=str(await self.llm.acomplete(f"Write a joke about {ev.topic}.")))

    @step
    async def critique(self, ev: Ideas) -> StopEvent:
        stream = await self.llm.astream_chat([ChatMessage(role="user", content=f"Critique: {ev.text}")])
        return StopEvent(result="".join([part.delta async for part in stream]))


async def main():
    assert await JokeFlow(timeout=60).run(topic="pirates") == "Fine."
    parts = await llm.astream_complete("x")
    assert "".join([part.delta async for part in parts]) == "y"


asyncio.run(main())

counter = TokenCountingHandler()
Settings.callback_manager = CallbackManager([counter])
Settings.llm = counted = OpenAI(model="gpt-4o-mini")
Settings.embed_model = OpenAIEmbedding()
counted.complete("Count me.")
Settings.embed_model.get_text_embedding("Count me too.")
assert counter.total_llm_token_count > 0
assert counter.total_embedding_token_count > 0

index = PropertyGraphIndex.from_documents(
    [Document(text="Bees make honey.")],
    embed_model=OpenAIEmbedding(),
    kg_extractors=[SimpleLLMPathExtractor(llm=counted, num_workers=1)],
    llm=counted,
    show_progress=False,
)
nodes = index.as_retriever(include_text=False).retrieve("What do bees make?")
assert any("Make" in node.text for node in nodes)

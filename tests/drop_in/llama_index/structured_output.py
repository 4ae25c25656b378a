import asyncio

from llama_index.core import Document, SummaryIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.output_parsers import PydanticOutputParser
from llama_index.core.program import FunctionCallingProgram, LLMTextCompletionProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel, Field


class Song(BaseModel):
    """Data model for a song."""

    title: str
    length_seconds: int = Field(description="The length in seconds")


class Album(BaseModel):
    """Data model for an album."""

    name: str
    songs: list[Song]


album = Album(name="Hums", songs=[Song(title="Bees", length_seconds=60), Song(title="Wasps", length_seconds=90)])
llm = OpenAI(model="gpt-4o-mini", temperature=0)
prompt = PromptTemplate("Make an album about {topic}.")

assert llm.structured_predict(Album, prompt, topic="bees") == album
assert asyncio.run(llm.astructured_predict(Album, prompt, topic="bees")) == album
*_, last = llm.stream_structured_predict(Album, prompt, topic="bees")
assert last == album

sllm = llm.as_structured_llm(Album)
response = sllm.chat([ChatMessage(role="user", content="Make an album about bees.")])
assert response.raw == album
assert Album.model_validate_json(response.message.content) == album
assert sllm.complete("Make an album about bees.").raw == album
*_, last = sllm.stream_chat([ChatMessage(role="user", content="Make an album about bees.")])
assert last.raw == album

program = FunctionCallingProgram.from_defaults(
    output_cls=Song, llm=llm, prompt_template_str="Two songs about {topic}.", allow_parallel_tool_calls=True
)
assert program(topic="bees") == album.songs
program = LLMTextCompletionProgram.from_defaults(
    output_parser=PydanticOutputParser(output_cls=Album), prompt_template_str="An album on {topic}.", llm=llm
)
assert program(topic="bees") == album

index = SummaryIndex.from_documents([Document(text="Hums has two songs: Bees, Wasps.")])
engine = index.as_query_engine(output_cls=Album, response_mode="compact", llm=llm)
assert engine.query("Which songs?").response == album

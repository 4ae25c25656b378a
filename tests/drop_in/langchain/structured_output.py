import asyncio
from typing import Annotated, TypedDict

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Joke(BaseModel):
    """Joke to tell the user."""

    setup: str = Field(description="The setup of the joke")
    punchline: str = Field(description="The punchline of the joke")
    rating: int | None = Field(default=None, description="How funny the joke is, from 1 to 10")


class JokeDict(TypedDict):
    """Joke to tell the user."""

    setup: Annotated[str, ..., "The setup of the joke"]
    punchline: Annotated[str, ..., "The punchline of the joke"]


class Person(BaseModel):
    """Information about a person."""

    name: str | None = Field(default=None, description="The name of the person")
    height_in_meters: float | None = None


class Data(BaseModel):
    """Extracted data about people."""

    people: list[Person]


joke = {"setup": "Why do bees hum?", "punchline": "They forgot the words."}
llm = ChatOpenAI(model="gpt-4o-mini")

assert llm.with_structured_output(Joke).invoke("Tell me a joke about bees") == Joke(**joke)
assert llm.with_structured_output(JokeDict).invoke("Tell me a joke about bees") == joke
assert llm.with_structured_output(Joke.model_json_schema()).invoke("Tell me a joke about bees") == joke
assert llm.with_structured_output(Joke, method="function_calling", strict=True).invoke("A joke!") == Joke(**joke)
assert llm.with_structured_output(Joke, method="json_schema").invoke("Tell me a joke") == Joke(**joke)
assert llm.with_structured_output(None, method="json_mode").invoke("A joke in JSON, please.") == joke
raw = llm.with_structured_output(Joke, include_raw=True).invoke("Tell me a joke")
assert raw["parsed"] == Joke(**joke)
assert raw["parsing_error"] is None
assert raw["raw"].usage_metadata["total_tokens"] > 0
assert list(llm.with_structured_output(JokeDict).stream("Tell me a joke"))[-1] == joke

prompt = ChatPromptTemplate.from_messages(
    [("system", "Extract only what is in the text; use null for unknown attributes."), ("human", "{text}")]
)
extractor = prompt | llm.with_structured_output(schema=Data)
data = asyncio.run(extractor.ainvoke({"text": "Alan is 1.83 m tall. Anna is taller."}))
assert data.people == [Person(name="Alan", height_in_meters=1.83), Person(name="Anna")]

parser = PydanticOutputParser(pydantic_object=Joke)
written = PromptTemplate(
    template="{format_instructions}\n{query}\n",
    input_variables=["query"],
    partial_variables={"format_instructions": parser.get_format_instructions()},
)
assert (written | llm | parser).invoke({"query": "Tell me a joke."}) == Joke(**joke)
assert list((written | llm | JsonOutputParser()).stream({"query": "Tell me a joke."}))[-1] == joke
json_llm = llm.bind(response_format={"type": "json_object"})
assert (json_llm | JsonOutputParser()).invoke("Two keys in JSON.") == {"a": 1, "b": 2}

import asyncio

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="gpt-4o-mini", temperature=0).configurable_fields(
    temperature=ConfigurableField(id="llm_temperature", name="Temperature"),
    max_tokens=ConfigurableField(id="llm_max_tokens"),
)
joke = ChatPromptTemplate.from_template("Tell a joke about {topic}.\n\nContext:\n\nA joke on {topic}.") | model
poem = ChatPromptTemplate.from_template("Write a poem about {topic}.\n\nContext:\n\nA poem on {topic}.") | model

both = RunnableParallel(joke=joke | StrOutputParser(), poem=poem | StrOutputParser())
result = both.invoke({"topic": "bears"})
assert set(result) == {"joke", "poem"}
assert all("bears" in text for text in result.values())

topics = [{"topic": topic} for topic in ("bears", "cats", "bees", "ants")]
answers = (joke | StrOutputParser()).batch(topics, config={"max_concurrency": 2})
assert ["bears" in answers[0], "ants" in answers[3]] == [True, True]


async def main():
    gathered = {position: text async for position, text in (joke | StrOutputParser()).abatch_as_completed(topics)}
    assert [gathered[position] for position in range(4)] == answers
    streamed = [part async for part in both.astream({"topic": "bears"})]
    assert {"joke", "poem"} == {name for part in streamed for name in part}


asyncio.run(main())

cut = joke.with_config(configurable={"llm_max_tokens": 2}).invoke({"topic": "bears"})
assert cut.response_metadata["finish_reason"] == "length"
assert cut.usage_metadata["output_tokens"] == 2

broken = RunnableLambda(lambda _: 1 / 0)
assert broken.with_fallbacks([joke | StrOutputParser()]).invoke(topics[0]) == answers[0]
assert joke.with_retry(stop_after_attempt=2).invoke(topics[0]).content == answers[0]
either = ChatOpenAI(model="gpt-4o-mini").configurable_alternatives(
    ConfigurableField(id="llm"), default_key="small", large=ChatOpenAI(model="gpt-4o")
)
large = either.with_config(configurable={"llm": "large"}).invoke("Hello")
assert large.response_metadata["model_name"] == "gpt-4o"

import asyncio

from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

tokens = []


class Printer(BaseCallbackHandler):
    def on_llm_new_token(self, token, **kwargs):
        tokens.append(token)


streaming = ChatOpenAI(model="gpt-4o-mini", streaming=True, callbacks=[Printer()], seed=7, top_p=0.9)
answer = streaming.invoke([("system", "You are terse."), ("human", "Say three words.")])
assert answer.content == "One two three."
assert "".join(tokens) == "One two three."

model = ChatOpenAI(model="gpt-4o-mini", stream_usage=True, logprobs=False)
chain = ChatPromptTemplate.from_template("Tell me a joke about {topic}") | model | StrOutputParser()


async def events():
    return [event async for event in chain.astream_events({"topic": "parrots"}, version="v2")]


seen = asyncio.run(events())
text = "".join(event["data"]["chunk"].content for event in seen if event["event"] == "on_chat_model_stream")
assert text == "A parrot walks into a bar."
assert seen[-1]["event"] == "on_chain_end"
assert seen[-1]["data"]["output"] == text

with get_usage_metadata_callback() as callback:
    whole = None
    for chunk in model.stream("Count."):
        whole = chunk if whole is None else whole + chunk
    model.invoke("Count again.")
assert whole.content == "1, 2, 3"
assert whole.usage_metadata["total_tokens"] > 0
assert callback.usage_metadata["gpt-4o-mini"]["total_tokens"] > whole.usage_metadata["total_tokens"]
assert whole.response_metadata["finish_reason"] == "stop"
countries = list((model | JsonOutputParser()).stream("Countries with populations, as JSON"))
assert countries[-1] == {"countries": [{"name": "France", "population": 68}]}
assert len(countries) > 2

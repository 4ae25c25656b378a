"""The sandbox's chat understands the prompts of the frameworks' own engines and chains."""

import asyncio

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain.agents import create_agent
from langchain_core.exceptions import OutputParserException
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import BaseModel

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core.sandbox.fake_chat import PREFIX, answer
from nanogpt_core.sandbox.prompts import Message

TEXTS = [
    "Bees make honey from nectar. They live in hives.",
    "Honey keeps for three thousand years in a closed jar.",
    "Tea grows in Assam.",
]
QUESTION = "How long does honey keep?"
FACT = "Honey keeps for three thousand years in a closed jar."


@pytest.fixture
def _event_loop():
    # LlamaIndex's sync methods make an event loop if the thread has none, and leave it open.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def index(options, _event_loop):
    documents = [Document(text=text) for text in TEXTS]
    return VectorStoreIndex.from_documents(documents, embed_model=NanoGPTEmbedding(**options))


@pytest.mark.parametrize("mode", ["best", "condense_plus_context", "context", "condense_question"])
def test_chat_engines_of_llama_index_find_the_context_in_each_turn(index, options, mode):
    # The default memory leaves a database open.
    memory = ChatMemoryBuffer.from_defaults(chat_history=[])
    engine = index.as_chat_engine(chat_mode=mode, llm=NanoGPT(**options), memory=memory)
    assert FACT in str(engine.chat(QUESTION))
    assert FACT in str(engine.chat("And how long does honey keep in a closed jar?"))
    assert "Tea grows in Assam." in str(engine.chat("Where does tea grow?"))


@pytest.mark.parametrize("mode", ["refine", "compact", "tree_summarize", "simple_summarize", "accumulate"])
def test_query_engines_of_llama_index_find_the_context(index, options, mode):
    engine = index.as_query_engine(llm=NanoGPT(**options), response_mode=mode, similarity_top_k=3)
    assert FACT in str(engine.query(QUESTION))


@pytest.mark.parametrize("kind", ["stuff", "refine", "map_reduce"])
def test_chains_of_langchain_find_the_context(options, kind):
    chains = pytest.importorskip("langchain_classic.chains")
    store = InMemoryVectorStore.from_texts(TEXTS, NanoGPTEmbeddings(**options))
    chain = chains.RetrievalQA.from_chain_type(ChatNanoGPT(**options), retriever=store.as_retriever(), chain_type=kind)
    assert FACT in chain.invoke(QUESTION)["result"]


SYSTEM = """You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer
the question. Keep the answer short.

Bees make honey.

Honey keeps for years."""


def test_context_after_a_blank_line_of_a_system_message_is_quoted():
    assert answer([Message("system", SYSTEM), Message("user", "What do bees make?")]) == f'{PREFIX} "Bees make honey."'


def test_follow_up_is_returned_as_the_next_query():
    prompt = "Rephrase the follow up question to be a standalone question.\n\nChat History:\nuser: Hi\n"
    prompt += "Follow Up Input: And tea?\nStandalone question:"
    assert answer([Message("user", prompt)]) == "And tea?"


@pytest.mark.parametrize("context", ["Tea grows in Assam.", "Nothing of use."])
def test_refined_answer_is_repeated_if_the_new_context_does_not_help(context):
    existing = f'{PREFIX} "{FACT}"'
    prompt = f"Refine the original answer.\nNew Context: {context}\nQuery: {QUESTION}\nOriginal Answer: {existing}\n"
    assert answer([Message("user", f"{prompt}New Answer: ")]) == existing
    no_answer = f"{PREFIX} nothing in the given context answers this."
    prompt = f"Refine the original answer.\nNew Context: {FACT}\nQuery: {QUESTION}\nOriginal Answer: {no_answer}\n"
    assert answer([Message("user", f"{prompt}New Answer: ")]) == existing


class Years(BaseModel):
    """A number of years."""

    years: int


@tool
def look_up(query: str) -> str:
    """Look something up."""
    return query


@pytest.mark.parametrize(
    ("method", "words"),
    [("function_calling", "Reply(tool_calls="), ("json_schema", "Reply(json="), ("json_mode", "Reply(json=")],
)
async def test_request_with_a_schema_gets_advice_to_script_the_answer(call, options, method, words):
    runnable = ChatNanoGPT(**options).with_structured_output(Years, method=method)
    with pytest.raises(OutputParserException) as caught:
        await call(runnable, "invoke", f"Context: {FACT}\n\nQuestion: {QUESTION}")
    assert words in str(caught.value)


async def test_request_with_tools_gets_advice_unless_the_context_answers_it(call, options):
    agent = create_agent(ChatNanoGPT(**options), [look_up])
    replies = [
        (await call(agent, "invoke", {"messages": [("user", text)]}))["messages"][-1].text
        for text in (QUESTION, f"Context: {FACT}\n\nQuestion: {QUESTION}")
    ]
    assert replies[0].startswith(PREFIX)
    assert "Reply(tool_calls=" in replies[0]
    assert replies[1] == f'{PREFIX} "{FACT}"'

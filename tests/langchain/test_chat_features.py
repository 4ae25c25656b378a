"""Tools, structured output, reasoning, agents, errors and copies of the LangChain chat model."""

import asyncio
import copy
import json
import pickle
import threading

import openai
import pytest
import tiktoken
from langchain.agents import create_agent
from langchain_core._api import LangChainBetaWarning
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, trim_messages
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel

import fault_server
from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from langchain_nanogpt.errors import ChatReplyError
from nanogpt_core import errors
from nanogpt_core.models.tokens import load_encoding
from nanogpt_core.sandbox import Fault, Reply, ToolCall

# langchain-openai's base class dumps the SDK's event with the parsed object in it; pydantic had expected none.
ITS_OWN_WARNING = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
MAY_LACK_VOCABULARY = pytest.mark.filterwarnings("ignore:tiktoken's cl100k_base file:RuntimeWarning")
KEY = "sk-nano-0123abcd-very-secret"
BALANCE = {"error": "Insufficient balance", "requiredBalance": 0.0035, "status": 402}


@pytest.fixture
def scripted(fresh_sandbox):
    """Return ``scripted(*replies)``, which starts a scripted sandbox; its ``chat(**options)`` makes a chat model."""
    sandbox = fresh_sandbox

    def start(*replies):
        sandbox.add_replies(*replies)
        sandbox.chat = lambda **more: ChatNanoGPT(api_key=sandbox.api_key, base_url=sandbox.base_url, **more)
        return sandbox

    return start


@pytest.fixture(params=["plain", "streamed"])
def ask(request, call):
    """Return ``ask(runnable, input)``, which returns the whole answer: sync and async, plain and streamed."""

    async def run(runnable, given, **more):
        if request.param == "plain":
            return await call(runnable, "invoke", given, **more)
        if call.kind == "sync":
            chunks = list(runnable.stream(given, **more))
        else:
            chunks = [chunk async for chunk in runnable.astream(given, **more)]
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return whole

    run.form = request.param
    return run


@tool
def search(query: str, most: int = 3) -> str:
    """Search the handbook."""
    return f"{most} passages about {query}"


@tool
def weather(place: str) -> str:
    """Tell the weather."""
    return f"{place}: fine"


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


JOKE = Joke(setup="Why do cats purr?", punchline="They are idling.")


def of_a_schema(kind):
    return lambda body: (body.get("response_format") or {}).get("type") == kind


# --- tools ---


@pytest.mark.parametrize("name", ["callbacks", "tags", "metadata", "run_name", "run_id"])
async def test_setting_of_a_run_among_the_options_of_a_call_is_refused(scripted, call, ask, name):
    sandbox = scripted()
    for runnable, given in ((sandbox.chat(), {name: None}), (sandbox.chat().bind(**{name: None}), {})):
        with pytest.raises(errors.InvalidTypeError, match=rf"{name} is no option of a call\. Pass config={{'{name}'"):
            await ask(runnable, "Hello", **given)
    assert sandbox.requests == []
    config = {"metadata": {"team": "search"}, "tags": ["a"], "run_name": "hello"}
    answer = await call(sandbox.chat(), "invoke", "Hello", config, extra_body={"metadata": {"team": "search"}})
    assert answer.content
    assert sandbox.requests[0].body["metadata"] == {"team": "search"}


def test_async_answer_under_trio_is_refused_with_the_remedy(scripted):
    trio = pytest.importorskip("trio", reason="trio is not installed")
    with pytest.raises(errors.ConfigurationError, match="asyncio"):
        trio.run(scripted().chat().ainvoke, "Hello")


async def test_parallel_tool_calls_are_returned(scripted, ask):
    calls = [ToolCall("search", {"query": "größe", "most": 2}, id="call_x"), ToolCall("weather", {"place": "Graz"})]
    sandbox = scripted(Reply("Let me look.", tool_calls=calls))
    answer = await ask(sandbox.chat().bind_tools([search, weather], parallel_tool_calls=True), "Size? Weather?")
    assert answer.content == "Let me look."
    assert [(one["name"], one["args"], one["id"]) for one in answer.tool_calls] == [
        ("search", {"query": "größe", "most": 2}, "call_x"),
        ("weather", {"place": "Graz"}, "call_1"),
    ]
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    sent = sandbox.requests[0].body
    assert [one["function"]["name"] for one in sent["tools"]] == ["search", "weather"]
    assert sent["parallel_tool_calls"] is True


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("any", "required"),
        (True, "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("weather", {"type": "function", "function": {"name": "weather"}}),
    ],
)
async def test_tool_choice_is_sent(scripted, ask, choice, sent):
    sandbox = scripted(Reply("Well."))
    await ask(sandbox.chat().bind_tools([search, weather], tool_choice=choice), "Hello")
    assert sandbox.requests[0].body["tool_choice"] == sent


@pytest.mark.parametrize("choice", ["nosuch", {"type": "function", "function": {"name": "nosuch"}}])
def test_tool_choice_of_an_unknown_tool_is_refused(choice):
    chat = ChatNanoGPT(api_key=KEY)
    with pytest.raises(errors.InvalidInputError, match=r"'nosuch'.*There are: search, weather; or say 'auto'"):
        chat.bind_tools([search, weather], tool_choice=choice)


async def test_arguments_that_are_not_json_are_invalid_tool_calls(scripted, ask):
    sandbox = scripted(Reply(tool_calls=[ToolCall("search", '{"query": ')]))
    answer = await ask(sandbox.chat().bind_tools([search]), "Size?")
    assert answer.tool_calls == []
    # LangChain would complete truncated JSON in a stream, so there it ends with a bracket that does not match.
    assert [one["args"] for one in answer.invalid_tool_calls] == [
        '{"query": ' + ("]" if ask.form == "streamed" else "")
    ]


async def test_image_is_sent(scripted, ask):
    sandbox = scripted(Reply("A dot."))
    block = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}
    answer = await ask(sandbox.chat(), [HumanMessage([{"type": "text", "text": "What is it?"}, block])])
    assert answer.content == "A dot."
    sent = sandbox.requests[0].body["messages"][0]["content"][1]
    assert sent == {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}


# --- structured output ---

FORMS = {
    "function_calling": (Reply(tool_calls=[ToolCall("Joke", JOKE.model_dump())]), "tools"),
    "json_schema": (Reply(json=JOKE.model_dump(), when=of_a_schema("json_schema")), "response_format"),
    "json_mode": (Reply(json=JOKE.model_dump(), when=of_a_schema("json_object")), "response_format"),
}


@ITS_OWN_WARNING
@pytest.mark.parametrize("method", FORMS)
async def test_structured_output_is_parsed(scripted, call, method):
    reply, field = FORMS[method]
    sandbox = scripted(reply, reply, reply)
    assert await call(sandbox.chat().with_structured_output(Joke, method=method), "invoke", "A joke!") == JOKE
    both = sandbox.chat().with_structured_output(Joke, method=method, include_raw=True)
    found = await call(both, "invoke", "A joke!")
    assert (found["parsed"], found["parsing_error"]) == (JOKE, None)
    assert found["raw"].usage_metadata["total_tokens"] > 0
    runnable = sandbox.chat().with_structured_output(Joke, method=method)
    parts = list(runnable.stream("A joke!")) if call.kind == "sync" else [p async for p in runnable.astream("A joke!")]
    assert parts[-1] == JOKE
    assert all(field in request.body for request in sandbox.requests)


async def test_default_structured_output_method_is_a_tool_call(scripted, call):
    sandbox = scripted(FORMS["function_calling"][0])
    assert await call(sandbox.chat().with_structured_output(Joke), "invoke", "A joke!") == JOKE
    assert sandbox.requests[0].body["tool_choice"] == {"type": "function", "function": {"name": "Joke"}}


HALF_A_JOKE = '{"setup": "Why do cats purr?", "punchline": "They are'
CUT_BEFORE = Reply("Let me think.", finish_reason="length")
CUT_CALL = Reply(tool_calls=[ToolCall("Joke", HALF_A_JOKE)], finish_reason="length")
CUT_JSON = Reply(HALF_A_JOKE, finish_reason="length")
CUT_FORMS = [
    ("function_calling", CUT_CALL),
    ("function_calling", CUT_BEFORE),
    ("json_schema", CUT_JSON),
    ("json_mode", CUT_JSON),
]


@ITS_OWN_WARNING
@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize(("method", "reply"), CUT_FORMS)
async def test_truncated_structured_output_is_an_error(scripted, ask, schema, method, reply):
    sandbox = scripted(reply, reply)
    for options in ({}, {"streaming": True}):
        with pytest.raises(ChatReplyError, match=r"cut off .*Raise max_tokens"):
            await ask(sandbox.chat(**options).with_structured_output(schema, method=method), "A joke!")
    assert len(sandbox.requests) == 2


async def test_truncated_tool_call_is_an_error(scripted, ask):
    sandbox = scripted(Reply("I look.", tool_calls=[ToolCall("search", '{"query": "/ho')], finish_reason="length"))
    with pytest.raises(ChatReplyError, match=r"cut off .*Raise max_tokens"):
        await ask(sandbox.chat().bind_tools([search]), "Size?")


@pytest.mark.parametrize("streaming", [True, False])
async def test_agent_runs_no_truncated_tool_call(scripted, call, streaming):
    ran = []

    @tool
    def remove(path: str) -> str:
        """Remove a file."""
        ran.append(path)
        return "gone"

    sandbox = scripted(Reply(tool_calls=[ToolCall("remove", '{"path": "/home/user/old')], finish_reason="length"))
    agent = create_agent(sandbox.chat(streaming=streaming), [remove])
    with pytest.raises(ChatReplyError, match="cut off"):
        await call(agent, "invoke", {"messages": [HumanMessage("Remove the old file.")]})
    assert ran == []


async def test_truncated_text_is_returned(scripted, ask):
    sandbox = scripted(Reply("Once upon", finish_reason="length"))
    answer = await ask(sandbox.chat(max_tokens=2).bind_tools([search]), "A story!")
    assert (answer.content, answer.response_metadata["finish_reason"]) == ("Once upon", "length")


# --- reasoning ---


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_is_in_the_answer(scripted, ask, field):
    sandbox = scripted(Reply("It is 42.", reasoning="six times seven is 42", reasoning_field=field))
    answer = await ask(sandbox.chat(model="any/model:thinking"), "Six times seven?")
    assert answer.content == "It is 42."
    assert answer.additional_kwargs["reasoning_content"] == "six times seven is 42"
    assert answer.response_metadata["model_provider"] == "nanogpt"
    blocks = [(block["type"], block.get("reasoning") or block.get("text")) for block in answer.content_blocks]
    assert blocks == [("reasoning", "six times seven is 42"), ("text", "It is 42.")]
    assert answer.usage_metadata["output_token_details"]["reasoning"] > 0
    assert sandbox.requests[0].body["model"] == "any/model:thinking"


@ITS_OWN_WARNING
async def test_reasoning_beside_structured_output_is_returned_once(scripted, ask):
    sandbox = scripted(Reply(json=JOKE.model_dump(), reasoning="cats are funny"))
    answer = await ask(sandbox.chat().bind(response_format=Joke), "A joke!")
    assert answer.additional_kwargs["reasoning_content"] == "cats are funny"
    assert answer.additional_kwargs["parsed"] == JOKE


async def test_reasoning_options_are_sent_in_the_body(scripted, ask):
    sandbox = scripted(Reply("42"))
    chat = sandbox.chat(reasoning={"exclude": True}, reasoning_effort="high", extra_body={"memory": False})
    await ask(chat, "Six times seven?")
    body = sandbox.requests[0].body
    assert (body["reasoning"], body["reasoning_effort"], body["memory"]) == ({"exclude": True}, "high", False)
    assert sandbox.requests[0].path == "/api/v1/chat/completions"


# --- options ---


@pytest.mark.parametrize("model", ["gpt-5", "o1", "gpt-5-pro", "gpt-6-mini"])
async def test_temperature_is_sent_for_every_model(scripted, ask, model):
    sandbox = scripted()
    await ask(sandbox.chat(model=model, temperature=0.3, use_responses_api=None), "Hello")
    await ask(sandbox.chat(model=model).bind_tools([search]), "Hello")
    first, second = (request.body for request in sandbox.requests)
    assert first["temperature"] == 0.3
    assert "temperature" not in second
    assert {request.path for request in sandbox.requests} == {"/api/v1/chat/completions"}


@pytest.mark.parametrize(
    "bad",
    [{"use_responses_api": True}, {"include": ["x"]}, {"truncation": "auto"}, {"use_previous_response_id": True}],
)
def test_options_of_the_other_endpoint_are_refused(bad):
    with pytest.raises(errors.ConfigurationError, match=next(iter(bad))):
        ChatNanoGPT(api_key=KEY, **bad)


async def test_batch_returns_answers_in_order(scripted, call):
    sandbox = scripted(
        *[Reply(f"no. {n}", when=lambda b, n=n: b["messages"][0]["content"] == str(n)) for n in range(5)]
    )
    answers = await call(sandbox.chat(), "batch", [str(number) for number in range(5)])
    assert [answer.content for answer in answers] == [f"no. {number}" for number in range(5)]


async def test_traces_have_provider_model_name_and_type(scripted, ask):
    told = []

    class Tracer(BaseCallbackHandler):
        def on_chat_model_start(self, *_, metadata, invocation_params, **__):
            told.append((metadata["ls_provider"], metadata["ls_model_name"], invocation_params["_type"]))

    await ask(scripted().chat(model="any/model", callbacks=[Tracer()]), "Hello")
    assert told == [("nanogpt", "any/model", "nanogpt-chat")]


# --- errors ---


@pytest.mark.parametrize(
    ("fault", "theirs"),
    [
        (Fault(400, body={"error": {"message": "x", "code": "context_length_exceeded"}}), ContextOverflowError),
        (Fault(429, body={"code": "rate_limited", "message": "x"}), ModelRateLimitError),
        (Fault(503), ModelAPIError),
        (Fault(404, body={"error": {"message": "x", "code": "model_not_found"}}), ModelError),
    ],
)
async def test_errors_are_subclasses_of_langchains_errors(scripted, ask, fault, theirs):
    sandbox = scripted(fault)
    with pytest.raises(theirs) as caught:
        await ask(sandbox.chat(max_retries=0), "Hello")
    assert isinstance(caught.value, errors.NanoGPTError)
    assert isinstance(caught.value.__cause__, openai.OpenAIError)
    assert caught.value.is_retryable is caught.value.transient is (theirs in {ModelRateLimitError, ModelAPIError})
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (type(twin), str(twin), twin.status) == (type(caught.value), str(caught.value), fault.status)


async def test_fallback_is_used_if_the_context_is_too_long(scripted, call):
    too_long = Fault(400, body={"error": {"message": "too many tokens", "code": "context_length_exceeded"}})
    sandbox = scripted(too_long, Reply("Here."))
    chats = (sandbox.chat(model="small/model"), sandbox.chat(model="large/model"))
    chain = chats[0].with_fallbacks([chats[1]], exceptions_to_handle=(ContextOverflowError,))
    assert (await call(chain, "invoke", "Hello")).content == "Here."
    assert [request.model for request in sandbox.requests] == ["small/model", "large/model"]


# --- pacing ---


# --- counting tokens ---


@pytest.fixture(params=[True, False], ids=["tiktoken", "no download"])
def vocabulary(request, monkeypatch, tmp_path):
    if not request.param:
        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    elif load_encoding() is None:
        pytest.skip("tiktoken's file cannot be had")
    return request.param


@MAY_LACK_VOCABULARY
@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize("model", ["gpt-4", "openai/gpt-4o-mini", "any/model:thinking"])
def test_messages_are_trimmed_to_tokens_of_any_model(scripted, model):
    chat = scripted().chat(model=model)
    messages = [HumanMessage("honey " * 200), AIMessage("Honey keeps."), HumanMessage("How long?")]
    assert trim_messages(messages, max_tokens=60, token_counter=chat) == messages[1:]
    assert 200 < chat.get_num_tokens_from_messages(messages) < 400


@MAY_LACK_VOCABULARY
@pytest.mark.parametrize("model", ["gpt-4", "any/model:thinking"])
def test_get_num_tokens_counts_tokens_of_a_text(scripted, vocabulary, model):
    assert scripted().chat(model=model).get_num_tokens("nine" + " bees" * 4) == (5 if vocabulary else 6)


# --- copies ---


async def test_deep_copy_has_the_same_options(scripted, ask):
    sandbox = scripted(Reply("first"), Reply("second"))
    chat = sandbox.chat(max_retries=7)
    twin = copy.deepcopy(chat)
    assert (twin.max_retries, twin._session.endpoint) == (7, chat._session.endpoint)
    assert [(await ask(one, "Hello")).content for one in (chat, twin)] == ["first", "second"]


class LockedHandler(BaseCallbackHandler):
    """A callback handler that cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()


class LockedCache(InMemoryCache):
    """A cache that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_limiter", InMemoryRateLimiter(requests_per_second=100)),
        ("cache", LockedCache()),
        ("callbacks", CallbackManager([LockedHandler()])),
        ("callbacks", [LockedHandler()]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_deep_copy_shares_objects_that_hold_a_lock(name, value):
    chat = ChatNanoGPT(api_key=KEY, **{name: value})
    for twin in (copy.deepcopy(chat), chat.model_copy(deep=True), chat.model_copy(update={"n": 1}, deep=True)):
        found = getattr(twin, name)
        assert found[0] is value[0] if isinstance(value, list) else found is value


@pytest.mark.filterwarnings(f"ignore::{LangChainBetaWarning.__module__}.LangChainBetaWarning")
async def test_dump_names_the_key_variable_and_can_be_read_back(scripted, ask, monkeypatch):
    sandbox = scripted(Reply("Here."))
    chat = sandbox.chat(model="any/model", temperature=0.5, default_headers={"X-Token": "token-of-a-proxy"})
    dump = dumpd(chat)
    assert dump["id"] == ["langchain_nanogpt", "chat_models", "ChatNanoGPT"]
    assert dump["kwargs"]["openai_api_key"] == {"lc": 1, "type": "secret", "id": ["NANOGPT_API_KEY"]}
    assert sandbox.api_key not in json.dumps(dump)
    assert "token-of-a-proxy" not in f"{dump} {chat!r} {chat.model_dump()}"
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    twin = load(dump, allowed_objects=[ChatNanoGPT], valid_namespaces=["langchain_nanogpt"], secrets_from_env=True)
    assert type(twin) is ChatNanoGPT
    assert dumpd(twin) == dump
    assert (await ask(twin, "Hello")).content == "Here."


@pytest.mark.parametrize("read", [dumpd, pickle.dumps, dict])
def test_object_is_read_while_another_thread_writes_a_cached_property(read):
    class Name(str):
        """A name of a cached property; a look at it is the moment at which the other thread writes."""

        __slots__ = ()

        def startswith(self, *arguments):
            add_property()
            return super().startswith(*arguments)

        def __eq__(self, other):
            add_property()
            return super().__eq__(other)

        __hash__ = str.__hash__

        def __reduce__(self):
            return str, (str(self),)

    def add_property():
        chat.__dict__[f"_cached_{len(chat.__dict__)}"] = 1

    chat = ChatNanoGPT(api_key="k")
    chat.__dict__[Name("_serialized_before")] = 1
    assert read(chat)


# --- an agent ---


@pytest.fixture
def handbook(scripted):
    """A sandbox and a tool that searches texts by their vectors."""
    sandbox = scripted()
    store = InMemoryVectorStore(NanoGPTEmbeddings(api_key=sandbox.api_key, base_url=sandbox.base_url))
    store.add_texts(["The X200's battery lasts twelve hours.", "Shoes come in blue.", "The office opens at nine."])

    @tool
    def look_up(query: str) -> str:
        """Look up passages of the handbook, numbered for citation."""
        found = store.similarity_search(query, k=2)
        return "\n\n".join(f"[{number}] {one.page_content}" for number, one in enumerate(found, 1))

    return sandbox, look_up


async def test_agent_calls_the_tool_and_cites(handbook, call):
    sandbox, look_up = handbook
    question = "How long does the battery of the X200 last?"
    sandbox.add_replies(
        Reply(reasoning="I must look it up.", tool_calls=[ToolCall("look_up", {"query": question}, id="call_7")]),
        Reply("Twelve hours [1].", when=lambda body: "battery lasts twelve" in str(body["messages"][-1]["content"])),
    )
    agent = create_agent(sandbox.chat(), [look_up], system_prompt="Cite passages by their numbers.")
    state = await call(agent, "invoke", {"messages": [HumanMessage(question)]})
    kinds = [type(message) for message in state["messages"]]
    assert kinds == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert state["messages"][2].content.startswith("[1] The X200's battery lasts twelve hours.")
    assert state["messages"][-1].content == "Twelve hours [1]."
    last = [request for request in sandbox.requests if request.path.endswith("/completions")][-1]
    assert [message["role"] for message in last.body["messages"]] == ["system", "user", "assistant", "tool"]
    assert last.body["messages"][-1]["tool_call_id"] == "call_7"


async def test_agent_streams_its_answer(handbook, call):
    sandbox, look_up = handbook
    sandbox.add_replies(
        Reply(tool_calls=[ToolCall("look_up", {"query": "opening hours of the office"})]),
        Reply("At nine, says the handbook [1]."),
    )
    agent = create_agent(sandbox.chat(streaming=True), [look_up])
    given = {"messages": [HumanMessage("When does the office open?")]}
    if call.kind == "sync":
        events = list(agent.stream(given, stream_mode="messages"))
    else:
        events = [event async for event in agent.astream(given, stream_mode="messages")]
    text = "".join(chunk.content for chunk, meta in events if meta["langgraph_node"] == "model")
    assert text == "At nine, says the handbook [1]."
    assert all(request.body["stream"] for request in sandbox.requests if request.path.endswith("/completions"))


async def test_agent_raises_the_error_of_its_model(handbook, call):
    sandbox, look_up = handbook
    sandbox.add_replies(Reply(tool_calls=[ToolCall("look_up", {"query": "battery"})]), Fault(402, body=BALANCE))
    agent = create_agent(sandbox.chat(), [look_up])
    with pytest.raises(errors.InsufficientBalanceError, match=r"\$0\.0035"):
        await call(agent, "invoke", {"messages": [HumanMessage("Battery?")]})


def test_streams_work_in_several_event_loops(scripted):
    sandbox = scripted(*[Reply("Here I am.")] * 3)
    chat = sandbox.chat()

    async def streamed():
        return "".join([chunk.content async for chunk in chat.astream("Hello")])

    assert [asyncio.run(streamed()) for _ in range(3)] == ["Here I am."] * 3


async def test_stream_chunk_timeout_is_an_error_of_this_project():
    goes_on = threading.Event()

    def answer(_seen):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        yield b'data: {"choices": [{"index": 0, "delta": {"content": "Bees"}}]}\n\n'
        goes_on.wait(60)

    with fault_server.FaultServer(answer) as server:
        chat = ChatNanoGPT(api_key=server.api_key, base_url=server.base_url, stream_chunk_timeout=0.05)
        with pytest.raises(
            errors.RequestTimeoutError, match=r"within 0\.05 s\. Try again, or raise stream_chunk"
        ) as caught:
            async for _ in chat.astream("Hello"):
                pass
        goes_on.set()
    assert isinstance(caught.value, ModelTimeoutError)

"""Tools, structured output, reasoning, agents, errors and copies of the LlamaIndex LLM."""

import asyncio
import copy
import json
import pickle
import traceback

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import AudioBlock, ImageBlock, TextBlock, ThinkingBlock, ToolCallBlock, VideoBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import errors
from nanogpt_core._runtime.clock import fake_clock, now
from nanogpt_core.sandbox import Fault, Reply, Sandbox, ToolCall

# LlamaIndex's own classes use deprecated members of pydantic's models.
ITS_OWN_WARNING = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
KEY = "sk-nano-0123abcd-very-secret"
BALANCE = {"error": "Insufficient balance", "requiredBalance": 0.0035, "status": 402}
HELLO = [ChatMessage(role="user", content="Hello")]


@pytest.fixture
def scripted(fresh_sandbox):
    """Return ``scripted(*replies)``, which starts a scripted sandbox; its ``llm(**options)`` makes an LLM."""
    sandbox = fresh_sandbox

    def start(*replies):
        sandbox.add_replies(*replies)
        sandbox.llm = lambda **more: NanoGPT(api_key=sandbox.api_key, base_url=sandbox.base_url, **more)
        return sandbox

    return start


@pytest.fixture(params=["plain", "streamed"])
def ask(request, call):
    """Return ``ask(llm, messages)``, which returns the last response: sync and async, plain and streamed."""

    async def run(llm, messages, **more):
        if request.param == "plain":
            return await call(llm, "chat", messages, **more)
        stream = await call(llm, "stream_chat", messages, **more)
        return (list(stream) if call.kind == "sync" else [chunk async for chunk in stream])[-1]

    run.form = request.param
    return run


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([VideoBlock(video=b"moving")], "Unsupported content block type: VideoBlock"),
        ([ImageBlock()], "No valid source provided"),
    ],
    ids=["video", "nothing"],
)
async def test_message_that_cannot_be_sent_is_named_by_its_position(scripted, ask, blocks, words):
    sandbox = scripted()
    with pytest.raises(errors.InvalidInputError, match=words) as caught:
        await ask(sandbox.llm(), [*HELLO, ChatMessage(role="user", blocks=blocks)])
    assert "message at position 1 (counted from 0)" in str(caught.value)
    assert caught.value.positions == (1,)
    assert sandbox.requests == []


@pytest.mark.parametrize("role", ["tool", "assistant", "system"])
async def test_image_in_a_message_of_any_role_is_sent(scripted, ask, role):
    """LlamaIndex leaves it out, also an image that a tool returns to an agent."""
    sandbox = scripted()
    call_ = [ToolCallBlock(tool_name="look", tool_call_id="call_1")] if role == "assistant" else []
    image = ImageBlock(image=b"hi", image_mimetype="image/png")
    more = {"tool_call_id": "call_1"} if role == "tool" else {}
    blocks = [ThinkingBlock(content="hm"), TextBlock(text="Here."), image, *call_]
    await ask(sandbox.llm(), [ChatMessage(role=role, blocks=blocks, additional_kwargs=more), *HELLO])
    message = sandbox.requests[0].body["messages"][0]
    assert message["content"] == [
        {"type": "text", "text": "Here."},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]
    assert message.get("tool_call_id") == more.get("tool_call_id")
    assert [one["id"] for one in message.get("tool_calls", ())] == [one.tool_call_id for one in call_]


async def test_audio_of_an_answer_is_sent_by_its_id_only(scripted, ask):
    sandbox = scripted()
    blocks = [AudioBlock(audio=b"hi", format="wav")]
    answer = ChatMessage(role="assistant", blocks=blocks, additional_kwargs={"reference_audio_id": "audio_1"})
    await ask(sandbox.llm(), [*HELLO, answer, *HELLO])
    assert sandbox.requests[0].body["messages"][1] == {"role": "assistant", "audio": {"id": "audio_1"}}


async def test_arguments_of_an_earlier_call_that_cannot_be_sent_are_an_error(scripted, ask):
    """LlamaIndex leaves the call out."""
    sandbox = scripted()
    block = ToolCallBlock(tool_name="search", tool_kwargs={"query": object()}, tool_call_id="call_1")
    words = r"^The message at position 1 .* cannot be sent: Object of type object is not JSON serializable\. Correct"
    with pytest.raises(errors.InvalidInputError, match=words) as caught:
        await ask(sandbox.llm(), [*HELLO, ChatMessage(role="assistant", blocks=[block])])
    assert caught.value.positions == (1,)
    assert sandbox.requests == []


@pytest.mark.parametrize("bad", [3, "manager", object()], ids=["number", "text", "object"])
def test_callback_manager_without_its_methods_is_refused(scripted, bad):
    make = scripted().llm
    for use in (
        lambda: make(callback_manager=bad),
        lambda: setattr(make(), "callback_manager", bad),
        lambda: make().model_copy(update={"callback_manager": bad}),
    ):
        with pytest.raises(errors.InvalidTypeError, match="callback_manager must have event"):
            use()


async def test_no_callback_manager_is_one_without_handlers(scripted, ask):
    sandbox = scripted()
    llm = sandbox.llm()
    llm.callback_manager = None
    for one in (llm, sandbox.llm(callback_manager=None), llm.model_copy(update={"callback_manager": None})):
        assert (await ask(one, HELLO)).message.content


def search(query: str, most: int = 3) -> str:
    """Search the handbook."""
    return f"{most} passages about {query}"


def weather(place: str) -> str:
    """Tell the weather."""
    return f"{place}: fine"


TOOLS = [FunctionTool.from_defaults(search), FunctionTool.from_defaults(weather)]


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


JOKE = Joke(setup="Why do cats purr?", punchline="They are idling.")
PROMPT = PromptTemplate("Tell a joke about {animal}.")
AS_TOOL = Reply(tool_calls=[ToolCall("Joke", JOKE.model_dump())])
AS_JSON = Reply(json=JOKE.model_dump(), when=lambda body: body["response_format"]["type"] == "json_schema")


# --- tools ---


async def all_of(call, stream):
    return list(stream) if call.kind == "sync" else [part async for part in stream]


@pytest.mark.parametrize("form", ["plain", "streamed"])
async def test_one_tool_call_is_returned_if_parallel_calls_are_off(scripted, call, form):
    calls = [ToolCall("search", {"query": "größe"}), ToolCall("weather", {"place": "Graz"})]
    llm = scripted(Reply(tool_calls=calls)).llm()
    if form == "plain":
        answer = await call(llm, "chat_with_tools", TOOLS, user_msg="Hello", allow_parallel_tool_calls=False)
    else:
        answer = (await all_of(call, await call(llm, "stream_chat_with_tools", TOOLS, "Hello")))[-1]
        assert len(answer.message.additional_kwargs["tool_calls"]) == 1
    assert [one.tool_name for one in llm.get_tool_calls_from_response(answer)] == ["search"]


@pytest.mark.parametrize("form", ["plain", "streamed"])
async def test_parallel_tool_calls_are_returned(scripted, call, form):
    calls = [ToolCall("search", {"query": "größe", "most": 2}, id="call_x"), ToolCall("weather", {"place": "Graz"})]
    sandbox = scripted(Reply("Let me look.", tool_calls=calls))
    llm = sandbox.llm()
    options = {"user_msg": "Size? Weather?", "allow_parallel_tool_calls": True, "tool_choice": "auto"}
    if form == "plain":
        answer = await call(llm, "chat_with_tools", TOOLS, **options)
    else:
        stream = await call(llm, "stream_chat_with_tools", TOOLS, **options)
        answer = (list(stream) if call.kind == "sync" else [chunk async for chunk in stream])[-1]
    assert answer.message.content == "Let me look."
    found = llm.get_tool_calls_from_response(answer)
    assert [(one.tool_name, one.tool_kwargs, one.tool_id) for one in found] == [
        ("search", {"query": "größe", "most": 2}, "call_x"),
        ("weather", {"place": "Graz"}, "call_1"),
    ]
    sent = sandbox.requests[0].body
    assert [one["function"]["name"] for one in sent["tools"]] == ["search", "weather"]
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("auto", True)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"tool_required": True}, "required"),
        ({}, "auto"),
        ({"tool_choice": "none"}, "none"),
        ({"tool_choice": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
async def test_tool_choice_is_sent(scripted, call, options, sent):
    sandbox = scripted(Reply("Well."))
    await call(sandbox.llm(), "chat_with_tools", TOOLS, user_msg="Hello", **options)
    assert sandbox.requests[0].body["tool_choice"] == sent


async def test_name_of_a_tool_as_tool_choice_of_a_plain_chat_is_refused_with_the_right_form(scripted, call):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    form = r"\{'type': 'function', 'function': \{'name': 'weather'\}\}"
    with pytest.raises(errors.InvalidInputError, match=f"'weather' is no request for that tool. Pass {form}"):
        await call(scripted().llm(), "chat", [ChatMessage("Hello")], tools=tools, tool_choice="weather")


@pytest.mark.parametrize("form", ["plain", "streamed"])
async def test_tool_choice_of_an_unknown_tool_is_refused(scripted, call, form):
    sandbox = scripted()

    async def run():
        if form == "plain":
            await call(sandbox.llm(), "chat_with_tools", TOOLS, user_msg="Hello", tool_choice="nosuch")
        else:
            options = {"user_msg": "Hello", "tool_choice": "nosuch"}
            await all_of(call, await call(sandbox.llm(), "stream_chat_with_tools", TOOLS, **options))

    with pytest.raises(errors.InvalidInputError, match=r"'nosuch'.*There are: search, weather; or say 'auto'"):
        await run()
    assert not sandbox.requests


async def test_predict_and_call_runs_the_tool(scripted, call):
    sandbox = scripted(Reply(tool_calls=[ToolCall("weather", {"place": "Graz"})]))
    answer = await call(sandbox.llm(), "predict_and_call", TOOLS, user_msg="Weather?")
    assert str(answer) == "Graz: fine"


# --- structured output ---


@pytest.mark.parametrize(("reply", "options"), [(AS_TOOL, {}), (AS_JSON, {"should_use_structured_outputs": True})])
async def test_structured_output_is_parsed(scripted, call, reply, options):
    sandbox = scripted(*[reply] * 3)
    llm = sandbox.llm(**options)
    assert await call(llm, "structured_predict", Joke, PROMPT, animal="cats") == JOKE
    assert (await call(llm.as_structured_llm(Joke), "complete", "A joke!")).raw == JOKE
    stream = await call(llm, "stream_structured_predict", Joke, PROMPT, animal="cats")
    parts = list(stream) if call.kind == "sync" else [part async for part in stream]
    assert parts[-1] == JOKE
    assert sandbox.requests[0].body["messages"][0]["content"] == "Tell a joke about cats."
    if not options:
        assert [request.body["tool_choice"] for request in sandbox.requests] == ["required"] * 3


@pytest.mark.parametrize("options", [{}, {"should_use_structured_outputs": True}], ids=["tool", "schema"])
@pytest.mark.parametrize("reply", [Reply("I know no joke."), Reply('{"setup": "Why?"}')], ids=["text", "half"])
async def test_streamed_output_that_breaks_the_schema_is_an_error(scripted, call, reply, options):
    llm = scripted(reply).llm(**options)

    async def run():
        await all_of(call, await call(llm, "stream_structured_predict", Joke, PROMPT, animal="cats"))

    with pytest.raises(errors.ReplyError, match="schema of Joke") as caught:
        await run()
    assert isinstance(caught.value, ValueError)


HALF_A_JOKE = '{"setup": "Why do cats purr?", "punchline": "They are'
CUT_FORMS = [
    (Reply(tool_calls=[ToolCall("Joke", HALF_A_JOKE)], finish_reason="length"), {}),
    (Reply(HALF_A_JOKE, finish_reason="length"), {"should_use_structured_outputs": True}),
]


@ITS_OWN_WARNING
@pytest.mark.parametrize(("reply", "options"), CUT_FORMS, ids=["tool", "schema"])
async def test_truncated_structured_output_is_an_error(scripted, call, reply, options):
    sandbox = scripted(*[reply] * 4)
    llm = sandbox.llm(**options)

    async def plain():
        await call(llm, "structured_predict", Joke, PROMPT, animal="cats")

    async def streamed():
        await all_of(call, await call(llm, "stream_structured_predict", Joke, PROMPT, animal="cats"))

    async def in_the_form():
        await call(llm.as_structured_llm(Joke), "chat", HELLO)

    async def streamed_in_the_form():
        await all_of(call, await call(llm.as_structured_llm(Joke), "stream_chat", HELLO))

    for run in (plain, streamed, in_the_form, streamed_in_the_form):
        with pytest.raises(errors.ReplyError, match=r"cut off .*Raise max_tokens"):
            await run()
    assert len(sandbox.requests) == 4


@pytest.fixture
def remover():
    """Return a tool, and the list of its arguments."""
    ran = []

    def remove(path: str | None = None) -> str:
        """Remove a file."""
        ran.append(path)
        return "gone"

    return FunctionTool.from_defaults(remove), ran


CUT_CALL = Reply(tool_calls=[ToolCall("remove", '{"path": "/home/user/old')], finish_reason="length")


async def test_truncated_tool_call_is_not_run(scripted, call, remover):
    tool, ran = remover
    sandbox = scripted(CUT_CALL)
    with pytest.raises(errors.ReplyError, match=r"cut off .*Raise max_tokens"):
        await call(sandbox.llm(), "predict_and_call", [tool], user_msg="Remove the old file.")
    assert ran == []


@ITS_OWN_WARNING
@pytest.mark.parametrize("streaming", [True, False])
def test_agent_runs_no_truncated_tool_call(scripted, remover, streaming):
    tool, ran = remover
    agent = FunctionAgent(tools=[tool], llm=scripted(CUT_CALL).llm(), streaming=streaming)

    async def run():
        return await agent.run("Remove the old file.")

    with pytest.raises(errors.ReplyError, match="cut off"):
        asyncio.run(run())
    assert ran == []


# --- reasoning ---


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_is_in_the_response(scripted, ask, field):
    sandbox = scripted(Reply("It is 42.", reasoning="six times seven is 42", reasoning_field=field))
    answer = await ask(sandbox.llm(model="any/model:thinking"), HELLO)
    assert answer.message.content == "It is 42."
    thoughts = [block.content for block in answer.message.blocks if isinstance(block, ThinkingBlock)]
    assert thoughts == ["six times seven is 42"]
    assert sandbox.requests[0].body["model"] == "any/model:thinking"


def first_piece(field):
    # A first chunk whose content is null: LlamaIndex's async stream would pass over it.
    return [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None, field: "six "}}]},
        {"choices": [{"index": 0, "delta": {field: "sevens"}}]},
        {"choices": [{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}]},
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_first_chunk_of_reasoning_is_not_lost(scripted, call, field):
    import json

    events = "".join(f"data: {json.dumps(event)}\n\n" for event in first_piece(field)) + "data: [DONE]\n\n"
    sandbox = scripted(Fault(200, body=events))
    stream = await call(sandbox.llm(), "stream_chat", HELLO)
    last = (list(stream) if call.kind == "sync" else [chunk async for chunk in stream])[-1]
    assert [block.content for block in last.message.blocks if isinstance(block, ThinkingBlock)] == ["six sevens"]


# --- options ---


async def test_reasoning_effort_is_sent_for_every_model(scripted, ask):
    sandbox = scripted(Reply("42"))
    await ask(sandbox.llm(model="any/model", reasoning_effort="high"), HELLO)
    assert sandbox.requests[0].body["reasoning_effort"] == "high"


async def test_options_of_a_call_override_those_of_the_llm(scripted, ask):
    sandbox = scripted()
    llm = sandbox.llm(max_tokens=500, temperature=0.2, additional_kwargs={"seed": 1})
    await ask(llm, HELLO, max_tokens=5, temperature=0.9, seed=2)
    await ask(llm, HELLO)
    sent = [tuple(request.body[name] for name in ("max_tokens", "temperature", "seed")) for request in sandbox.requests]
    assert sent == [(5, 0.9, 2), (500, 0.2, 1)]
    assert all(("stream_options" in request.body) == bool(request.body.get("stream")) for request in sandbox.requests)


async def test_reuse_client_false_works(scripted, call):
    sandbox = scripted(Reply("One."), Reply("Two."))
    llm = sandbox.llm(reuse_client=False)
    assert [(await call(llm, "chat", HELLO)).message.content for _ in range(2)] == ["One.", "Two."]


def test_plain_http_to_another_machine_must_be_allowed():
    with pytest.raises(errors.ConfigurationError, match="allow_insecure_http"):
        NanoGPT(api_key=KEY, api_base="http://lab.example/api/v1")
    llm = NanoGPT(api_key=KEY, api_base="http://lab.example/api/v1", allow_insecure_http=True)
    assert llm.api_base == "http://lab.example/api/v1"
    assert NanoGPT.from_dict(llm.to_dict(), api_key=KEY).allow_insecure_http is True


@pytest.mark.parametrize("bad", [{"openai_client": object()}])
def test_invalid_options_are_refused(bad):
    with pytest.raises(errors.NanoGPTError, match=next(iter(bad))) as caught:
        NanoGPT(api_key=KEY, **bad)
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("model", "window"), [("lab/small", 8000), ("lab/small:online:memory", 8000), ("lab/small:thinking", 4000)]
)
def test_context_window_is_read_from_the_live_list(model, window):
    with Sandbox(context_lengths={"lab/small": 8000, "lab/small:thinking": 4000}) as sandbox:
        llm = NanoGPT(model, api_key=sandbox.api_key, base_url=sandbox.base_url, context_window="live")
        assert llm.metadata.context_window == window
        assert [request.path for request in sandbox.requests] == ["/api/v1/models"]
        assert NanoGPT.from_dict(llm.to_dict(), api_key=KEY).context_window == window
        with pytest.raises(errors.ConfigurationError, match=r"lab/other.*as a number"):
            NanoGPT("lab/other", api_key=sandbox.api_key, base_url=sandbox.base_url, context_window="live")


@pytest.mark.parametrize("more", [{}, {"model": "openai/gpt-4o-mini:online"}])
def test_live_context_window_of_the_default_model_is_used(scripted, more):
    assert scripted().llm(context_window="live", **more).metadata.context_window == 128_000


# --- errors ---


# --- pacing ---


async def test_llm_and_embeddings_share_a_rate(scripted, ask):
    sandbox = scripted()
    llm = sandbox.llm(requests_per_second=2.0)
    embedding = NanoGPTEmbedding(api_key=sandbox.api_key, base_url=sandbox.base_url)
    with fake_clock():
        begun = now()
        for number in range(2):
            embedding.get_query_embedding(f"Hello {number}")
        for _ in range(4):
            await ask(llm, HELLO)
        assert len(sandbox.requests) == 6
        # The sixth start at two a second is two seconds after the first at least, by the clock that the waits move on.
        assert now() - begun >= 2


# --- copies ---


async def test_copies_and_pickles_keep_options(scripted, ask, monkeypatch):
    sandbox = scripted(*[Reply("Here.")] * 3)
    llm = sandbox.llm(model="any/model", requests_per_second=7.0, max_retries=5)
    assert (await ask(llm, HELLO)).message.content == "Here."
    written = pickle.dumps(llm)
    assert sandbox.api_key.encode() not in written
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    for twin in (copy.deepcopy(llm), pickle.loads(written)):
        assert (twin.model, twin.requests_per_second, twin.max_retries) == ("any/model", 7.0, 5)
        assert (await ask(twin, HELLO)).message.content == "Here."


# --- an index and an agent ---


@pytest.fixture
def index(scripted):
    sandbox = scripted()
    embedding = NanoGPTEmbedding(api_key=sandbox.api_key, base_url=sandbox.base_url)
    texts = ["The X200's battery lasts twelve hours.", "Shoes come in blue.", "The office opens at nine."]
    yield sandbox, VectorStoreIndex.from_documents([Document(text=text) for text in texts], embed_model=embedding)
    # Elsewhere nothing is set.
    Settings._llm = None


@pytest.mark.may_block  # LlamaIndex counts the prompt's tokens in a thread, and waits for it
async def test_llm_of_settings_answers_a_query(index, call):
    sandbox, made = index
    Settings.llm = sandbox.llm()
    answer = await call(made.as_query_engine(similarity_top_k=1), "query", "How long does the X200's battery last?")
    assert "lasts twelve hours" in str(answer)


def look_up_in(made):
    def look_up(query: str) -> str:
        """Look up passages of the handbook, numbered for citation."""
        found = made.as_retriever(similarity_top_k=2).retrieve(query)
        return "\n\n".join(f"[{number}] {one.text}" for number, one in enumerate(found, 1))

    return look_up


@ITS_OWN_WARNING
@pytest.mark.parametrize("streaming", [True, False])
def test_function_agent_calls_the_tool_and_cites(index, streaming):
    sandbox, made = index
    question = "How long does the battery of the X200 last?"
    sandbox.add_replies(
        Reply(reasoning="I must look it up.", tool_calls=[ToolCall("look_up", {"query": question}, id="call_7")]),
        Reply("Twelve hours [1].", when=lambda body: "battery lasts twelve" in str(body["messages"][-1]["content"])),
    )
    agent = FunctionAgent(tools=[look_up_in(made)], llm=sandbox.llm(), streaming=streaming)

    async def run():
        handler = agent.run(question)
        events = [event async for event in handler.stream_events()]
        return events, await handler

    events, answer = asyncio.run(run())
    assert str(answer) == "Twelve hours [1]."
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert str(result.tool_output).startswith("[1] The X200's battery lasts twelve hours.")
    pieces = [event.delta for event in events if isinstance(event, AgentStream)]
    assert "".join(pieces) == ("Twelve hours [1]." if streaming else "")
    last = [request for request in sandbox.requests if request.path.endswith("/completions")][-1]
    assert [message["role"] for message in last.body["messages"]] == ["user", "assistant", "tool"]
    assert last.body["messages"][-1]["tool_call_id"] == "call_7"


@ITS_OWN_WARNING
def test_agent_raises_the_error_of_its_model(index):
    sandbox, made = index
    sandbox.add_replies(Reply(tool_calls=[ToolCall("look_up", {"query": "battery"})]), Fault(402, body=BALANCE))
    agent = FunctionAgent(tools=[look_up_in(made)], llm=sandbox.llm())

    async def run():
        return await agent.run("Battery?")

    with pytest.raises(errors.InsufficientBalanceError, match=r"\$0\.0035"):
        asyncio.run(run())


# --- audio ---

AUDIO = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
WAYS_TO_ASK_FOR_AUDIO = {
    "option": ({"modalities": AUDIO["modalities"], "audio_config": AUDIO["audio"]}, {}),
    "additional_kwargs": ({"additional_kwargs": AUDIO}, {}),
    "call": ({}, AUDIO),
}


@pytest.mark.parametrize("way", WAYS_TO_ASK_FOR_AUDIO)
async def test_audio_of_a_whole_answer_has_the_format_that_was_asked_for(call, fresh_sandbox, way):
    message = {"audio": {"id": "audio_1", "data": "QUJD", "transcript": "Hi.", "expires_at": 9}}
    fresh_sandbox.add_replies(Fault(200, body={"choices": [{"message": message, "finish_reason": "stop"}]}))
    options, more = WAYS_TO_ASK_FOR_AUDIO[way]
    llm = NanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **options)
    answer = (await call(llm, "chat", HELLO, **more)).message
    assert [(one.audio, one.format) for one in answer.blocks] == [(b"QUJD", "wav")]
    assert answer.additional_kwargs["reference_audio_id"] == "audio_1"
    assert {name: fresh_sandbox.requests[0].body[name] for name in AUDIO} == AUDIO


@pytest.mark.parametrize("method", ["complete", "stream_complete"])
@pytest.mark.parametrize("way", WAYS_TO_ASK_FOR_AUDIO)
async def test_completion_with_audio_is_refused_before_it_costs(call, fresh_sandbox, way, method):
    options, more = WAYS_TO_ASK_FOR_AUDIO[way]
    llm = NanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **options)
    with pytest.raises(errors.ConfigurationError, match=r"a completion is text only\. Call chat\(\)"):
        await call(llm, method, "Hello", **more)
    assert not fresh_sandbox.requests


async def test_stream_with_audio_as_an_option_is_refused_with_the_remedy(call, fresh_sandbox):
    options, _ = WAYS_TO_ASK_FOR_AUDIO["option"]
    llm = NanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **options)
    with pytest.raises(errors.ConfigurationError, match=r"Pass modalities and audio in the call"):
        await call(llm, "stream_chat", HELLO)
    assert not fresh_sandbox.requests


@pytest.mark.parametrize("usage", [[], [{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}]])
async def test_audio_of_a_stream_without_a_finish_reason_is_in_the_last_message(call, fresh_sandbox, usage):
    parts = [{"choices": [{"index": 0, "delta": {"audio": {"data": data}}}]} for data in ("QUJD", "REVG")]
    parts += [{"choices": [], "usage": one} for one in usage]
    body = "".join(f"data: {json.dumps(part)}\n\n" for part in parts)
    fresh_sandbox.add_replies(Fault(200, body=f"{body}data: [DONE]\n\n"))
    llm = NanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)
    stream = await call(llm, "stream_chat", HELLO, **AUDIO)
    *_, last = list(stream) if call.kind == "sync" else [part async for part in stream]
    assert [one.audio for one in last.message.blocks if isinstance(one, AudioBlock)] == [b"QUJDREVG"]

"""Replies as real hosts send them, in LlamaIndex: tool calls, usage, refusals; whole and streamed, sync and async."""

import asyncio
import json

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms import ChatMessage, ImageBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_index_nanogpt import NanoGPT
from llama_index_nanogpt.errors import ToolArgumentsError
from nanogpt_core.errors import InvalidTypeError, RefusalError, ReplyError
from nanogpt_core.sandbox import Fault, Reply

# LlamaIndex's own classes use deprecated members of pydantic's models.
ITS_OWN_WARNING = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
HELLO = [ChatMessage(role="user", content="Hello")]


def whole(message, reason="stop", **more):
    return Fault(200, body={"choices": [{"index": 0, "message": message, "finish_reason": reason}], **more})


def streamed(*deltas, reason="stop", **more):
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **more})
    return Fault(200, body="".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n")


def tool_call(arguments, *, name="clean", identifier="call_a", **more):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


@pytest.fixture(params=["plain", "streamed"])
def form(request):
    return request.param


@pytest.fixture
def replying(form, fresh_sandbox):
    """``replying(message)`` starts a sandbox that replies so, whole or as a stream; its ``llm`` makes an LLM."""
    sandbox = fresh_sandbox

    def start(message, *, reason="stop", usage=None, after=()):
        more = {"usage": usage} if usage else {}
        if form == "plain":
            reply = whole({"role": "assistant", "content": None, **message}, reason, **more)
        else:
            calls = [{"index": 0, **one} for one in message.get("tool_calls", ())]
            rest = {name: value for name, value in message.items() if name != "tool_calls"}
            reply = streamed(
                {"role": "assistant", **rest}, *[{"tool_calls": [c]} for c in calls], reason=reason, **more
            )
        sandbox.add_replies(reply, *after)
        sandbox.llm = lambda **options: NanoGPT(api_key=sandbox.api_key, base_url=sandbox.base_url, **options)
        return sandbox

    return start


@pytest.fixture
def ask(call, form):
    """``ask(llm, messages)`` returns the last response."""

    async def run(llm, messages, method="chat", **more):
        if form == "plain":
            return await call(llm, method, messages, **more)
        stream = await call(llm, f"stream_{method}", messages, **more)
        return (list(stream) if call.kind == "sync" else [part async for part in stream])[-1]

    return run


@pytest.fixture
def cleaner():
    """Return a tool with a dangerous default, and the list of paths of its calls."""
    paths = []

    def clean(path: str = "/") -> str:
        """Remove everything below a path."""
        paths.append(path)
        return "gone"

    return FunctionTool.from_defaults(clean), paths


DEEP = pytest.param('{"path": ' * 1100, id="deep")
UNREADABLE = ['{"path": "/home/us', "{'path': 'x'}", "path=x", "[1]", "false", '{"path": "x"}{"path": "y"}', DEEP]


@pytest.mark.parametrize("arguments", UNREADABLE)
async def test_unreadable_tool_arguments_are_an_error(replying, ask, cleaner, arguments):
    sandbox = replying({"tool_calls": [tool_call(arguments)]}, reason="tool_calls")
    llm = sandbox.llm()
    answer = await ask(llm, [cleaner[0]], "chat_with_tools", user_msg="Clean x.")
    with pytest.raises(ToolArgumentsError, match="'clean' with arguments that are not a JSON object"):
        llm.get_tool_calls_from_response(answer)


@pytest.mark.parametrize("arguments", UNREADABLE)
@pytest.mark.parametrize("form", ["plain"])
async def test_predict_and_call_runs_no_tool_with_unreadable_arguments(replying, call, cleaner, arguments):
    tool, paths = cleaner
    sandbox = replying({"tool_calls": [tool_call(arguments)]}, reason="tool_calls")
    with pytest.raises(ToolArgumentsError):
        await call(sandbox.llm(), "predict_and_call", [tool], user_msg="Clean x.")
    assert paths == []


@ITS_OWN_WARNING
@pytest.mark.parametrize("arguments", UNREADABLE)
def test_agent_reports_unreadable_arguments_to_the_model(replying, form, cleaner, arguments):
    tool, paths = cleaner
    sandbox = replying({"tool_calls": [tool_call(arguments)]}, reason="stop", after=[Reply("I give up.")])
    agent = FunctionAgent(tools=[tool], llm=sandbox.llm(), streaming=form == "streamed")

    async def run():
        handler = agent.run("Clean x.")
        events = [event async for event in handler.stream_events()]
        return events, await handler

    events, answer = asyncio.run(run())
    assert paths == []
    assert str(answer) == "I give up."
    (result,) = [event for event in events if isinstance(event, ToolCallResult)]
    assert result.tool_output.is_error
    (told,) = [message for message in sandbox.requests[-1].body["messages"] if message["role"] == "tool"]
    assert "clean with arguments that are not a JSON object" in told["content"]
    assert told["tool_call_id"] == "call_a"


# --- images ---


async def test_image_of_an_answer_is_in_its_message_and_is_sent_back(replying, ask):
    links = ["data:image/png;base64,aGk=", "https://example.com/b.png"]
    images = [{"type": "image_url", "image_url": {"url": link}} for link in (links[0], "no link", None, links[1])]
    sandbox = replying({"content": "Here.", "images": [*images, {"type": "image_url"}, 5]}, after=[Reply("Yes.")])
    answer = await ask(sandbox.llm(), HELLO)
    assert answer.message.content == "Here."
    assert [str(one.url) for one in answer.message.blocks if isinstance(one, ImageBlock)] == links
    await ask(sandbox.llm(), [*HELLO, answer.message])
    assert sandbox.requests[1].body["messages"][1]["content"] == [
        {"type": "text", "text": "Here."},
        *({"type": "image_url", "image_url": {"url": link}} for link in links),
    ]


# --- refusals ---


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


JOKE = Joke(setup="Why?", punchline="Because.")
PROMPT = PromptTemplate("Tell a joke about {animal}.")
REFUSAL = "I can't help with that"
WAYS = {"tool": {}, "schema": {"should_use_structured_outputs": True}}


async def drained(call, answer):
    if call.kind == "sync":
        return list(answer) if hasattr(answer, "__next__") else answer
    return [part async for part in answer] if hasattr(answer, "__aiter__") else answer


@pytest.fixture
def predict(call, form):
    async def run(llm):
        method = "structured_predict" if form == "plain" else "stream_structured_predict"
        return await drained(call, await call(llm, method, Joke, PROMPT, animal="cats"))

    return run


@ITS_OWN_WARNING
@pytest.mark.parametrize("way", WAYS)
async def test_refusal_of_structured_output_is_a_refusal_error(replying, predict, way):
    sandbox = replying({"refusal": REFUSAL})
    with pytest.raises(RefusalError, match=REFUSAL) as caught:
        await predict(sandbox.llm(**WAYS[way]))
    assert isinstance(caught.value, ValueError)
    assert f"The model refused: {REFUSAL}. Ask" in str(caught.value)


@pytest.mark.parametrize(
    "output_cls", [dict, None, Joke(setup="Why?", punchline="So.")], ids=["dict", "None", "object"]
)
@pytest.mark.parametrize("method", ["structured_predict", "stream_structured_predict"])
async def test_schema_that_is_no_class_of_pydantic_is_refused(call, method, output_cls):
    with pytest.raises(InvalidTypeError, match=r"^output_cls must be a class of pydantic, not "):
        await drained(call, await call(NanoGPT(api_key="k"), method, output_cls, PROMPT, animal="cats"))


@ITS_OWN_WARNING
@pytest.mark.parametrize("way", WAYS)
async def test_content_filter_is_a_refusal_error(replying, predict, way):
    sandbox = replying({"content": '{"setup": "Why'}, reason="content_filter")
    with pytest.raises(RefusalError, match="content filter"):
        await predict(sandbox.llm(**WAYS[way]))


@pytest.mark.parametrize("more", [{}, {"reasoning": "Hm."}, {"tool_calls": [tool_call("{}")]}], ids=str)
@pytest.mark.parametrize("usage", [None, USAGE], ids=["no usage", "usage"])
async def test_refusal_of_a_plain_question_is_the_answer(replying, ask, more, usage):
    answer = await ask(replying({"refusal": REFUSAL, **more}, usage=usage).llm(), HELLO)
    assert answer.message.content == answer.message.additional_kwargs["refusal"] == REFUSAL
    assert len(answer.message.blocks) == len(more) + 1


@pytest.mark.parametrize("form", ["streamed"])
async def test_deltas_of_a_stream_give_the_refusal_once(replying, call):
    parts = await call(replying({"refusal": REFUSAL}, usage=USAGE).llm(), "stream_chat", HELLO)
    parts = list(parts) if call.kind == "sync" else [part async for part in parts]
    assert "".join(part.delta for part in parts) == REFUSAL


JSON = JOKE.model_dump_json()
ANSWERS = {
    "JSON": {"content": JSON},
    "fenced JSON": {"content": f"```json\n{JSON}\n```"},
    "JSON between words": {"content": f"Here:\n```json\n{JSON}\n```\nEnjoy!"},
    "JSON with a line break in a text": {"content": JSON.replace("Because.", "Be\ncause.")},
    "tool call": {"tool_calls": [tool_call(JSON, name="Joke")]},
}


@ITS_OWN_WARNING
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("way", WAYS)
async def test_structured_output_in_either_form_is_parsed(replying, predict, form, way, answer):
    found = await predict(replying(ANSWERS[answer]).llm(**WAYS[way]))
    found = found if form == "plain" else found[-1]
    assert found.model_copy(update={"punchline": found.punchline.replace("\n", "")}) == JOKE


@ITS_OWN_WARNING
async def test_tool_choice_of_structured_output_is_sent(replying, call, form):
    sandbox = replying({"content": JSON})
    method = "structured_predict" if form == "plain" else "stream_structured_predict"
    options = {"llm_kwargs": {"tool_choice": "auto"}, "animal": "cats"}
    await drained(call, await call(sandbox.llm(), method, Joke, PROMPT, **options))
    assert sandbox.requests[0].body["tool_choice"] == "auto"


class Recorder(BaseEventHandler):
    events: list

    def handle(self, event, **_kwargs):
        if type(event).__name__.startswith("LLMStructuredPredict"):
            self.events.append(event)


@ITS_OWN_WARNING
async def test_structured_output_has_one_start_and_one_end_event(replying, predict):
    recorder, root = Recorder(events=[]), get_dispatcher("root")
    root.add_event_handler(recorder)
    try:
        await predict(replying({"tool_calls": [tool_call(JSON, name="Joke")]}).llm())
    finally:
        root.event_handlers.remove(recorder)
    first, *others, last = recorder.events
    assert (type(first), type(last)) == (LLMStructuredPredictStartEvent, LLMStructuredPredictEndEvent)
    assert (first.output_cls, last.output) == (Joke, JOKE)
    assert {type(one) for one in others} <= {LLMStructuredPredictInProgressEvent}


IN_PROMPT = [{"is_function_calling_model": False}, {"pydantic_program_mode": "llm"}]


@ITS_OWN_WARNING
@pytest.mark.parametrize("options", IN_PROMPT, ids=str)
@pytest.mark.parametrize("text", ["{}", "Here:\n```json\n{}\n```\nEnjoy!", "Sure! {}"])
async def test_schema_in_the_prompt_is_followed_by_json_in_any_text(replying, predict, form, options, text):
    sandbox = replying({"content": text.replace("{}", JOKE.model_dump_json())})
    found = await predict(sandbox.llm(**options))
    assert (found if form == "plain" else found[-1]) == JOKE
    (request,) = sandbox.requests
    assert not {"tools", "tool_choice", "response_format"} & request.body.keys()
    assert '"punchline"' in request.body["messages"][0]["content"]


@ITS_OWN_WARNING
@pytest.mark.parametrize(
    ("message", "reason", "kind"),
    [
        ({"content": '{"setup": "Why?", "punchline": "Be'}, "stop", ValueError),
        ({"content": '{"setup": "Why?", "punchline": "Be'}, "length", ReplyError),
        ({"content": JOKE.model_dump_json()}, "content_filter", RefusalError),
        ({"refusal": REFUSAL}, "stop", RefusalError),
    ],
    ids=str,
)
async def test_beginning_of_json_with_the_schema_in_the_prompt_is_an_error(replying, predict, message, reason, kind):
    with pytest.raises(kind) as caught:
        await predict(replying(message, reason=reason).llm(**IN_PROMPT[0]))
    assert isinstance(caught.value, ReplyError)


# --- reasoning of earlier turns ---

SIGNATURE = {"google": {"thought_signature": "abc"}}


@ITS_OWN_WARNING
def test_agent_sends_reasoning_and_provider_fields_back(replying, form, cleaner):
    called = tool_call('{"path": "x"}', extra_content=SIGNATURE)
    message = {"reasoning": "I must clean.", "tool_calls": [called]}
    sandbox = replying(message, reason="tool_calls", after=[Reply("Done.")])
    llm = sandbox.llm(additional_kwargs={"extra_body": {"top_k": 4}})
    agent = FunctionAgent(tools=[cleaner[0]], llm=llm, streaming=form == "streamed")

    async def run():
        return str(await agent.run("Clean x."))

    assert asyncio.run(run()) == "Done."
    (sent,) = [one for one in sandbox.requests[-1].body["messages"] if one["role"] == "assistant"]
    assert (sent["reasoning"], "reasoning_content" in sent) == ("I must clean.", False)
    assert [one["extra_content"] for one in sent["tool_calls"]] == [SIGNATURE]
    assert [request.body["top_k"] for request in sandbox.requests] == [4, 4]

"""Replies as real hosts send them, in LangChain: tool calls, usage and refusals; whole and streamed, sync and async."""

import functools
import json
import operator
import re
import sys
from collections.abc import Callable
from typing import Annotated, Literal, Optional

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage, merge_message_runs
from langchain_core.tools import tool
from langchain_openai.chat_models.base import OpenAIRefusalError
from pydantic import BaseModel, ValidationError
from typing_extensions import NotRequired, TypedDict

from langchain_nanogpt import ChatNanoGPT
from nanogpt_core.chat.provider_fields import PROVIDER_FIELDS
from nanogpt_core.errors import ConfigurationError, InvalidInputError, ReplyError
from nanogpt_core.sandbox import Fault, Reply

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


def whole(message, reason="stop", **more):
    return Fault(200, body={"choices": [{"index": 0, "message": message, "finish_reason": reason}], **more})


def streamed(*deltas, reason="stop", **more):
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **more})
    return Fault(200, body="".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n")


def call(arguments, *, name="clean", identifier="call_a", **more):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


@pytest.fixture(params=["plain", "streamed"])
def form(request):
    return request.param


@pytest.fixture
def replying(form, fresh_sandbox):
    """``replying(message)`` starts a sandbox that replies so, whole or as a stream; its ``chat`` makes a chat model."""
    sandbox = fresh_sandbox

    def start(message, *, reason="stop", after=(), **more):
        if form == "plain":
            reply = whole({"role": "assistant", "content": None, **message}, reason, **more)
        else:
            calls = [{"index": 0, **one} for one in message.get("tool_calls", ())]
            refusal = [{"refusal": word} for word in re.findall(r"\S+\s*", message.get("refusal", ""))]
            rest = {name: value for name, value in message.items() if name not in {"tool_calls", "refusal"}}
            deltas = [{"role": "assistant", **rest}, *refusal, *[{"tool_calls": [one]} for one in calls]]
            reply = streamed(*deltas, reason=reason, **more)
        sandbox.add_replies(reply, *after)
        sandbox.chat = lambda **options: ChatNanoGPT(
            api_key=sandbox.api_key, base_url=sandbox.base_url, disable_streaming=form == "plain", **options
        )
        return sandbox

    return start


@pytest.fixture
def ask(call_, form):
    async def run(runnable, given):
        if form == "plain":
            return await call_(runnable, "invoke", given)
        if call_.kind == "sync":
            parts = list(runnable.stream(given))
        else:
            parts = [part async for part in runnable.astream(given)]
        answer = parts[0]
        for part in parts[1:]:
            answer += part
        return answer

    return run


@pytest.fixture
def call_(call):  # the name is taken by the helper above
    return call


@pytest.fixture
def cleaner():
    """Return a tool with a dangerous default, and the list of paths of its calls."""
    paths = []

    @tool
    def clean(path: str = "/") -> str:
        """Remove everything below a path."""
        paths.append(path)
        return "gone"

    return clean, paths


UNREADABLE = ['{"path": "/home/us', "{'path': 'x'}", "path=x", "[1]", "false", '{"path": "x"}{"path": "y"}']


@pytest.mark.parametrize("arguments", UNREADABLE)
async def test_agent_reports_unreadable_arguments_to_the_model(replying, call_, form, cleaner, arguments):
    clean, paths = cleaner
    sandbox = replying({"tool_calls": [call(arguments)]}, reason="stop", after=[Reply("I give up.")])
    agent = create_agent(sandbox.chat(streaming=form == "streamed"), [clean])
    state = await call_(agent, "invoke", {"messages": [HumanMessage("Clean x.")]})
    assert paths == []
    (first, *_) = (message for message in state["messages"] if message.type == "ai")
    assert first.tool_calls == []
    assert [one["name"] for one in first.invalid_tool_calls] == ["clean"]
    told = [message for message in sandbox.requests[-1].body["messages"] if message["role"] == "tool"]
    assert all(message["tool_call_id"] == "call_a" for message in told)
    assert not [
        message for message in state["messages"] if isinstance(message, ToolMessage) and message.content == "gone"
    ]


@pytest.mark.parametrize("form", ["plain"])
async def test_costs_of_several_prompts_are_added_up(replying, call_):
    more = {"usage": {**USAGE, "queue_time": 0.5, "tier": "x"}, "x_nanogpt_pricing": {"cost": 0.25}}
    second = whole({"content": "two"}, **more)
    sandbox = replying({"content": "one"}, **more, after=[second])
    found = await call_(sandbox.chat(), "generate", [[HumanMessage("Hello")], [HumanMessage("you")]])
    assert found.llm_output["cost_usd"] == 0.5
    assert {name: found.llm_output["token_usage"][name] for name in USAGE} == {name: 2 * USAGE[name] for name in USAGE}


async def test_answers_with_reasoning_of_two_forms_can_be_merged(replying, ask):
    details = {"reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}]}
    sandbox = replying({"content": "one", **details})
    first = await ask(sandbox.chat(), "Hello")
    replying({"content": "two", "reasoning_content": "hm", **details})
    second = await ask(sandbox.chat(), "Hello")
    (merged,) = merge_message_runs([first, second])
    assert merged.content == "one\ntwo"
    assert merged.additional_kwargs["reasoning_content"] == "hmhm"


async def test_answer_from_the_cache_costs_nothing(replying, call_, form):
    sandbox = replying({"content": "one"}, usage=USAGE, x_nanogpt_pricing={"cost": 0.25})
    chat = sandbox.chat(cache=InMemoryCache(), streaming=form == "streamed")
    answers = [await call_(chat, "invoke", "Hello") for _ in range(3)]
    assert [answer.response_metadata["cost_usd"] for answer in answers] == [0.25, 0, 0]
    assert len(sandbox.requests) == 1


SIGNED = {
    name: {
        "reasoning_content": f"{name} thought",
        "thinking_signature": f"{name} signature",
        "extra_content": {"google": {"thought_signature": name}},
        "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": name, "signature": f"{name} signed"}],
        "tool_calls": [
            {
                "id": name,
                "type": "function",
                "function": {"name": "clean", "arguments": "{}"},
                "extra_content": {"google": {"thought_signature": f"{name} call"}},
            }
        ],
    }
    for name in ("one", "two")
}


async def test_signatures_of_merged_answers_are_not_joined(replying, ask, form):
    answers = []
    for message in SIGNED.values():
        chat = replying(message, reason="tool_calls").chat()
        answers.append(await ask(chat, "Hello"))
    one, two = SIGNED.values()
    for merged in (*merge_message_runs(answers), *([operator.add(*answers)] if form == "streamed" else ())):
        results = [ToolMessage("done", tool_call_id=identifier) for identifier in SIGNED]
        sandbox = replying({"content": "Done."})
        await ask(chat, [merged, *results])
        sent = sandbox.requests[-1].body["messages"][0]
        assert (sent["thinking_signature"], sent["extra_content"]) == ("two signature", two["extra_content"])
        assert sent["reasoning_details"] == [*one["reasoning_details"], *two["reasoning_details"]]
        assert sent["tool_calls"] == [*one["tool_calls"], *two["tool_calls"]]


# --- refusals ---


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


METHODS = ["function_calling", "json_schema", "json_mode"]
REFUSAL = "I can't help with that."


async def all_of(call_, form, runnable, given="A joke!"):
    if form == "plain":
        return await call_(runnable, "invoke", given)
    if call_.kind == "sync":
        return list(runnable.stream(given))
    return [part async for part in runnable.astream(given)]


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("method", METHODS)
async def test_refusal_of_structured_output_is_langchains_refusal_error(replying, call_, form, schema, method):
    sandbox = replying({"refusal": REFUSAL})
    runnable = sandbox.chat().with_structured_output(schema, method=method)
    assert set(runnable.get_output_schema().model_json_schema().get("properties", {})) in (
        {"setup", "punchline"},
        set(),
    )
    with pytest.raises(OpenAIRefusalError, match=f"^{REFUSAL}"):
        await all_of(call_, form, runnable)


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output_has_the_schema_of_its_class(replying, method):
    runnable = replying({}).chat().with_structured_output(Joke, method=method)
    assert set(runnable.get_output_jsonschema()["properties"]) == {"setup", "punchline"}


@pytest.mark.parametrize(
    ("method", "name"), [("function_calling", "PydanticToolsParser"), ("json_mode", "PydanticOutputParser")]
)
def test_structured_output_has_the_name_of_langchains_parser_in_graphs(method, name):
    runnable = ChatNanoGPT(api_key="k").with_structured_output(Joke, method=method)
    assert name in [node.name for node in runnable.get_graph().nodes.values()]


@pytest.mark.parametrize("method", METHODS)
async def test_refusal_with_include_raw_is_a_parsing_error(replying, call_, form, method):
    chat = replying({"refusal": REFUSAL}).chat(streaming=form == "streamed")
    found = await call_(chat.with_structured_output(Joke, method=method, include_raw=True), "invoke", "A joke!")
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OpenAIRefusalError)
    assert found["raw"].additional_kwargs["refusal"] == REFUSAL


@pytest.mark.parametrize("method", METHODS)
async def test_content_filter_is_langchains_refusal_error(replying, call_, form, method):
    sandbox = replying({"content": '{"setup": "Why'}, reason="content_filter")
    runnable = sandbox.chat().with_structured_output(Joke, method=method)
    with pytest.raises(OpenAIRefusalError) as caught:
        await all_of(call_, form, runnable)
    assert isinstance(caught.value, ReplyError)


async def test_refusal_of_a_plain_question_is_in_the_message(replying, ask):
    sandbox = replying({"refusal": REFUSAL})
    answer = await ask(sandbox.chat(), "Hello")
    assert answer.additional_kwargs["refusal"] == REFUSAL
    assert [block["type"] for block in answer.content_blocks] == ["refusal"]


# --- structured output ---

JOKE = Joke(setup="Why?", punchline="Because.")
FENCED = f"```json\n{JOKE.model_dump_json()}\n```"


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_fenced_json_is_parsed(replying, call_, form, schema, method):
    runnable = replying({"content": FENCED}).chat().with_structured_output(schema, method=method)
    found = await all_of(call_, form, runnable)
    assert (found if form == "plain" else found[-1]) in (JOKE, JOKE.model_dump())


@pytest.mark.parametrize("arguments", ['{"path": "x', "the folder x", "[1]"])
async def test_unreadable_arguments_of_strict_tools_beside_a_schema_are_an_invalid_call(
    replying, call_, form, arguments
):
    """Agents with ``ProviderStrategy`` ask like this, and the SDK would parse the arguments."""
    schema = {"type": "json_schema", "json_schema": {"name": "Joke", "schema": Joke.model_json_schema()}}
    called = {"id": "a", "type": "function", "function": {"name": "clean", "arguments": arguments}}
    sandbox = replying({"content": "[I clean]", "tool_calls": [called]}, reason="tool_calls")
    tool = {"name": "clean", "description": "Clean.", "parameters": {"type": "object", "properties": {}}}
    chat = sandbox.chat().bind_tools([tool], strict=True, response_format=schema)
    found = await all_of(call_, form, chat)
    answer = found if form == "plain" else functools.reduce(operator.add, found)
    assert (answer.content, answer.tool_calls) == ("[I clean]", [])
    assert [one["name"] for one in answer.invalid_tool_calls] == ["clean"]
    assert sandbox.requests[0].body["response_format"]["json_schema"]["name"] == "Joke"


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("text", [JOKE.model_dump_json(), FENCED], ids=["bare", "fenced"])
async def test_json_in_place_of_the_tool_call_that_was_asked_for_is_parsed(replying, call_, form, schema, text):
    runnable = replying({"content": text}).chat().with_structured_output(schema)
    found = await all_of(call_, form, runnable)
    assert (found if form == "plain" else found[-1]) in (JOKE, JOKE.model_dump())
    chat = replying({"content": text}).chat()
    both = await call_(chat.with_structured_output(schema, include_raw=True), "invoke", "A joke!")
    assert (both["raw"].content, both["parsed"] in (JOKE, JOKE.model_dump())) == (text, True)


@pytest.mark.parametrize("text", ["Why? Because.", '{"setup": "Why?"}', "{}", "null", f"[{JOKE.model_dump_json()}]"])
async def test_other_text_in_place_of_a_tool_call_is_no_output_as_in_langchain(replying, call_, form, text):
    found = await all_of(call_, form, replying({"content": text}).chat().with_structured_output(Joke))
    assert found == (None if form == "plain" else [])


@pytest.mark.parametrize("text", ["Why? Because.", '{"setup": "Why?"}', '{"setup": "Why?", "punchl', ""])
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_output_that_breaks_the_schema_is_langchains_parser_error(replying, call_, form, method, text):
    runnable = replying({"content": text}).chat().with_structured_output(Joke, method=method)
    with pytest.raises(OutputParserException):
        await all_of(call_, form, runnable)


@pytest.mark.parametrize("text", ["Why? Because.", '{"setup": "Why?"}'])
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_include_raw_keeps_the_message_with_a_parser_error(replying, call_, form, method, text):
    chat = replying({"content": text}).chat(streaming=form == "streamed")
    found = await call_(chat.with_structured_output(Joke, method=method, include_raw=True), "invoke", "A joke!")
    assert (found["raw"].content, found["parsed"]) == (text, None)
    assert isinstance(found["parsing_error"], OutputParserException)


@pytest.mark.parametrize("method", METHODS)
async def test_refusal_after_the_beginning_of_json_is_langchains_refusal_error(replying, call_, form, method):
    sandbox = replying({"content": '{"setup": "Wh', "refusal": REFUSAL})
    with pytest.raises(OpenAIRefusalError, match=f"^{REFUSAL}"):
        await all_of(call_, form, sandbox.chat().with_structured_output(Joke, method=method))


@pytest.mark.parametrize("text", ["null", "[1]", '"{\\"setup\\": 1}"', "5"])
@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_json_that_is_no_object_is_a_parser_error(replying, call_, form, method, text):
    runnable = replying({"content": text}).chat().with_structured_output(Joke.model_json_schema(), method=method)
    with pytest.raises(OutputParserException, match="no JSON object"):
        await all_of(call_, form, runnable)


class Rated(TypedDict):
    """A joke with a rating."""

    joke: str
    stars: int
    tags: Annotated[list[str] | None, None, "Words about it."]


RATED = {
    "title": "Rated",
    "type": "object",
    "properties": {
        "joke": {"type": "string"},
        "stars": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["joke", "stars"],
}


LINKS = {
    "data:image/png;base64,aGk=": {"base64": "aGk=", "mime_type": "image/png"},
    "https://example.com/b.png": {"url": "https://example.com/b.png"},
}


@pytest.mark.parametrize("version", [None, "v1"])
@pytest.mark.parametrize("link", LINKS)
async def test_image_of_an_answer_is_langchains_block_and_is_sent_back(replying, ask, link, version):
    image = {"type": "image_url", "image_url": {"url": link}}
    sandbox = replying({"content": "Here.", "images": [image]}, after=[Reply("Yes.")])
    chat = sandbox.chat(**({"output_version": version} if version else {}))
    answer = await ask(chat, "Draw!")
    (block,) = [one for one in answer.content_blocks if one["type"] == "image"]
    assert {name: block.get(name) for name in LINKS[link]} == LINKS[link]
    await ask(chat, [HumanMessage("Draw!"), answer, HumanMessage("Another.")])
    sent = sandbox.requests[1].body["messages"][1]["content"]
    assert [(one["type"], one.get("text"), one.get("image_url")) for one in sent] == [
        ("text", "Here.", None),
        ("image_url", None, {"url": link}),
    ]


@pytest.mark.parametrize("form", ["streamed"])
@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_blocks_of_a_stream_are_sent_back_as_they_came(fresh_sandbox, ask, version):
    """LangChain joins them with bare texts and indices, and wraps blocks that it does not know."""
    images = [{"type": "image_url", "image_url": {"url": link}, "index": at} for at, link in enumerate(LINKS)]
    map_ = {"type": "map", "value": "Rome"}
    fresh_sandbox.add_replies(
        streamed({"content": "Here."}, *({"images": [one]} for one in images), {"content": [map_]}), Reply("Yes.")
    )
    chat = ChatNanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, output_version=version)
    answer = await ask(chat, "Draw!")
    await ask(chat, [HumanMessage("Draw!"), answer, HumanMessage("Another.")])
    assert fresh_sandbox.requests[1].body["messages"][1]["content"] == [
        {"type": "text", "text": "Here."},
        *({"type": "image_url", "image_url": {"url": link}} for link in LINKS),
        map_,
    ]


@pytest.mark.parametrize("value", ["a text", None, 5])
async def test_wrapped_block_of_a_host_may_hold_any_value(replying, ask, value):
    block = {"type": "non_standard", "value": value}
    answer = await ask(replying({"content": [{"type": "text", "text": "Here."}, block]}).chat(), "Draw!")
    assert [{name: one.get(name) for name in block} for one in answer.content_blocks[1:]] == [block]


@pytest.mark.parametrize("version", [None, "v1"])
async def test_unreadable_tool_call_is_sent_back_once(replying, ask, version):
    sandbox = replying({"tool_calls": [call('{"path": "/ho')]}, reason="tool_calls", after=[Reply("Sorry.")])
    chat = sandbox.chat(**({"output_version": version} if version else {}))
    answer = await ask(chat, "Clean!")
    assert [one["id"] for one in answer.invalid_tool_calls] == ["call_a"]
    await ask(chat, [HumanMessage("Clean!"), answer, ToolMessage("Wrong arguments.", tool_call_id="call_a")])
    sent = sandbox.requests[1].body["messages"][1]
    assert (sent["content"], [one["id"] for one in sent["tool_calls"]]) == (None, ["call_a"])


@pytest.mark.parametrize("schema", [Rated, RATED], ids=["TypedDict", "dict"])
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"joke": "Why?"}, "stars is missing"),
        ({"joke": 5, "stars": 5}, "joke is 5, and not of type string"),
        ({"joke": "Why?", "stars": "five"}, 'stars is "five", and not of type integer'),
        ({"joke": "Why?", "stars": 5, "tags": ["dry", 1]}, r"tags\[1\] is 1, and not of type string"),
        ({"joke": None, "stars": 5}, "joke is null, and not of type string"),
        ({}, "joke is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_dictionary_that_breaks_its_schema_is_langchains_parser_error(
    replying, call_, form, schema, method, answer, words
):
    text = json.dumps(answer)
    message = {"tool_calls": [call(text, name="Rated")]} if method == "function_calling" else {"content": text}
    runnable = replying(message).chat().with_structured_output(schema, method=method)
    with pytest.raises(OutputParserException, match=f"does not follow the schema: {words}"):
        await all_of(call_, form, runnable)
    chat = replying(message).chat()
    both = await call_(chat.with_structured_output(schema, method=method, include_raw=True), "invoke", "A joke!")
    assert both["parsed"] is None
    assert isinstance(both["parsing_error"], OutputParserException)


@pytest.mark.parametrize("schema", [Rated, RATED], ids=["TypedDict", "dict"])
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("more", [{}, {"tags": []}, {"tags": None}, {"tags": ["dry"]}, {"more": 1}], ids=str)
async def test_dictionary_that_follows_its_schema_is_returned(replying, call_, form, schema, method, more):
    answer = {"joke": "Why?", "stars": 5.0, **more}
    message = {"tool_calls": [call(json.dumps(answer), name="Rated")]}
    message = message if method == "function_calling" else {"content": json.dumps(answer)}
    found = await all_of(call_, form, replying(message).chat().with_structured_output(schema, method=method))
    assert (found if form == "plain" else found[-1]) == answer


class Source(TypedDict, total=False):
    """The source of a joke."""

    page: int


class Told(TypedDict):
    """A joke with fields whose values, or parts of them, may be missing."""

    joke: str
    stars: Optional[int]  # noqa: UP045 - the older form is another class
    teller: str | None
    mood: Literal["dry", None]  # noqa: PYI061 - LangChain reads it in another way
    words: list[str | None]
    sources: list[Source] | None


TOLD = {"joke": "Why?", "stars": None, "teller": None, "mood": None, "words": ["a", None], "sources": [{}, {"page": 5}]}


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("more", [{}, {"sources": None}, {"stars": 5, "teller": "Ann"}], ids=str)
async def test_parts_that_a_typed_dict_lets_be_missing_may_be_missing(replying, call_, form, method, more):
    answer = {**TOLD, **more}
    text = json.dumps(answer)
    message = {"tool_calls": [call(text, name="Told")]} if method == "function_calling" else {"content": text}
    found = await all_of(call_, form, replying(message).chat().with_structured_output(Told, method=method))
    assert (found if form == "plain" else found[-1]) == answer


@pytest.mark.filterwarnings("ignore:fields may not start with an underscore")  # LangChain's, of the private field
async def test_typed_dict_with_a_type_that_only_a_function_knows_is_not_checked(replying, call_, form):
    class Mood(TypedDict):
        dry: bool

    class Rating(TypedDict):
        """A rating."""

        stars: int
        _mood: "Mood"

    found = await all_of(
        call_, form, replying({"tool_calls": [call("{}", name="Rating")]}).chat().with_structured_output(Rating)
    )
    assert (found if form == "plain" else found[-1]) == {}


class Comment(TypedDict):
    """A comment, which LangChain cannot write as a schema: it contains itself."""

    text: str
    replies: "list[Comment]"


class Noted(TypedDict):
    """A joke with a field that LangChain cannot write as a schema."""

    joke: str
    note: NotRequired[str]


class Hooked(BaseModel):
    """A class of pydantic of which there is no JSON schema."""

    hook: Callable[[], None]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (Comment, "it contains itself"),
        (Hooked, "Cannot generate a JsonSchema"),
        (Noted, "NotRequired"),
        (list[Rated], "list"),
        (5, "Unsupported function"),
    ],
    ids=["recursive", "class", "NotRequired", "list", "number"],
)
@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_type_of_which_langchain_makes_no_schema_is_refused(replying, schema, method, words):
    chat = replying({"content": "{}"}).chat()
    with pytest.raises(InvalidInputError, match=rf"^LangChain cannot make a JSON schema of .*{words}.* Pass a class"):
        chat.with_structured_output(schema, method=method)


@pytest.mark.parametrize("schema", [Comment, Noted, Hooked], ids=["recursive", "NotRequired", "class"])
def test_type_of_which_langchain_makes_no_schema_is_refused_in_json_mode(replying, schema):
    """LangChain makes one for traces, in each call."""
    with pytest.raises(InvalidInputError, match=r"^LangChain cannot make a JSON schema of "):
        replying({"content": "{}"}).chat().with_structured_output(schema, method="json_mode")


@pytest.mark.filterwarnings("ignore:Cannot use method='json_schema' with model gpt-4")
@pytest.mark.parametrize(("method", "model"), [("function_calling", "m"), ("json_mode", "m"), ("json_schema", "gpt-4")])
def test_tools_beside_a_schema_are_refused_if_langchain_would_not_send_them(replying, method, model):
    with pytest.raises(ConfigurationError, match="tools beside a schema need method='json_schema'"):
        replying({"content": "{}"}).chat(model=model).with_structured_output(Rated, method=method, tools=[Told])


@pytest.mark.parametrize("strict", [None, True])
@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("text", [JOKE.model_dump_json(), FENCED], ids=["bare", "fenced"])
async def test_output_beside_tools_is_parsed_strict_or_not(replying, call_, form, schema, strict, text):
    """The SDK parses a class, and refuses tools beside it that are not strict, after the answer is paid."""
    sandbox = replying({"content": text})
    options = {"method": "json_schema", "tools": [Options], "strict": strict}
    found = await all_of(call_, form, sandbox.chat().with_structured_output(schema, **options))
    assert (found if form == "plain" else found[-1]) in (JOKE, JOKE.model_dump())
    assert sandbox.requests[0].body["tools"][0]["function"]["name"] == "Options"
    assert sandbox.requests[0].body["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
async def test_call_of_a_tool_beside_a_schema_is_no_output_and_no_error(replying, call_, form, schema):
    message = {"content": "I look.", "tool_calls": [call('{"path": "/home"}', name="Options")]}
    options = {"method": "json_schema", "tools": [Options]}
    found = await all_of(call_, form, replying(message).chat().with_structured_output(schema, **options))
    assert found is None if form == "plain" else found == []
    runnable = replying(message).chat().with_structured_output(schema, include_raw=True, **options)
    found = await whole_of(call_, form, runnable)
    assert (found["parsed"], found["parsing_error"]) == (None, None)
    assert [one["args"] for one in found["raw"].tool_calls] == [{"path": "/home"}]


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize(
    "message", [{"content": "No."}, {"tool_calls": [call('{"path": "/ho', name="Options")]}], ids=["text", "call"]
)
async def test_unreadable_answer_beside_tools_is_a_parser_error(replying, call_, form, schema, message):
    options = {"method": "json_schema", "tools": [Options], "strict": True}
    with pytest.raises(OutputParserException):
        await all_of(call_, form, replying(message).chat().with_structured_output(schema, **options))
    runnable = replying(message).chat().with_structured_output(schema, include_raw=True, **options)
    found = await whole_of(call_, form, runnable)
    assert isinstance(found["parsing_error"], OutputParserException)


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
async def test_json_schema_for_old_models_is_a_tool_call(replying, call_, form, schema):
    """LangChain makes it one, for the names of models that took no schemas."""
    for message, expected in (
        ({"tool_calls": [call(JOKE.model_dump_json(), name="Joke")]}, (JOKE, JOKE.model_dump())),
        ({"content": JOKE.model_dump_json()}, (JOKE, JOKE.model_dump())),
        ({"content": "No."}, (None, [])),
    ):
        sandbox = replying(message)
        with pytest.warns(UserWarning, match="Overriding to method='function_calling'"):
            runnable = sandbox.chat(model="gpt-4-turbo").with_structured_output(schema, method="json_schema")
        found = await all_of(call_, form, runnable)
        assert (found if form == "plain" or not found else found[-1]) in expected
        assert sandbox.requests[0].body["tool_choice"]["function"]["name"] == "Joke"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="pydantic.v1 does not work there")
@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema")
@pytest.mark.parametrize("method", METHODS)
async def test_class_of_pydantic_1_is_filled(replying, call_, form, method):
    from pydantic import v1  # warns on Python 3.14

    class OldJoke(v1.BaseModel):
        """A joke."""

        setup: str
        punchline: str

    text = JOKE.model_dump_json()
    message = {"content": text} if method == "json_mode" else {"tool_calls": [call(text, name="OldJoke")]}
    found = await all_of(call_, form, replying(message).chat().with_structured_output(OldJoke, method=method))
    assert (found if form == "plain" else found[-1]) == OldJoke(**JOKE.model_dump())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"joke": None}, "joke is null, and not of type string"),
        ({"stars": "five"}, 'stars is "five", and not of type integer'),
        ({"words": ["a", 5]}, r"words\[1\] is 5, and not of type string"),
        ({"sources": [{"page": "five"}]}, r'sources\[0\].page is "five", and not of type integer'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_other_parts_of_a_typed_dict_may_not(replying, call_, form, more, words):
    runnable = replying({"content": json.dumps({**TOLD, **more})}).chat()
    with pytest.raises(OutputParserException, match=f"does not follow the schema: {words}"):
        await all_of(call_, form, runnable.with_structured_output(Told, method="json_schema"))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (AIMessage([{"type": "text"}]), "'text' is missing"),
        (HumanMessage([{"type": "video", "url": "https://example.com/1"}]), "Block of type video is not supported"),
        (RemoveMessage(id="1"), "Got unknown type"),
        (AIMessage("", additional_kwargs={"tool_calls": [1]}), "no attribute"),
        ({"role": "tool", "content": "5"}, "'tool_call_id' is missing"),
        (
            AIMessage("", tool_calls=[{"name": "look", "args": {"at": object()}, "id": "1"}]),
            r"Object of type object is not JSON serializable\. Correct its content",
        ),
    ],
    ids=["field", "video", "kind", "call", "dictionary", "arguments"],
)
async def test_message_that_cannot_be_sent_is_named_by_its_position(replying, call_, form, message, words):
    sandbox = replying({"content": "Hi"})
    with pytest.raises(InvalidInputError, match=rf"^The message at position 1 \(counted from 0\) .*{words}") as caught:
        await all_of(call_, form, sandbox.chat(), [HumanMessage("Hello"), message])
    assert caught.value.positions == (1,)
    assert sandbox.requests == []


class Options(BaseModel):
    """Options that all have defaults."""

    path: str = "/"


@pytest.mark.parametrize("schema", [Options, Options.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("text", ['{"path": "/ho', "{", '```json\n{"path": "/ho'])
@pytest.mark.parametrize("method", METHODS)
async def test_beginning_of_structured_output_is_not_taken_for_the_whole(replying, call_, form, method, text, schema):
    message = {"tool_calls": [call(text, name="Options")]} if method == "function_calling" else {"content": text}
    runnable = replying(message).chat().with_structured_output(schema, method=method)
    with pytest.raises(OutputParserException, match="not complete JSON"):
        await all_of(call_, form, runnable)


async def whole_of(call_, form, runnable):
    """Return the output of ``include_raw=True``; a stream gives it in parts."""
    if form == "plain":
        return await call_(runnable, "invoke", "A joke!")
    return {name: value for part in await all_of(call_, form, runnable) for name, value in part.items()}


@pytest.mark.parametrize("schema", [Options, Options.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("text", ['{"path": "/ho', '{"path": "/ho"', "```json\n{"])
async def test_include_raw_tells_that_output_is_incomplete(replying, call_, form, method, schema, text):
    message = {"tool_calls": [call(text, name="Options")]} if method == "function_calling" else {"content": text}
    runnable = replying(message).chat().with_structured_output(schema, method=method, include_raw=True)
    found = await whole_of(call_, form, runnable)
    assert found["parsed"] is None
    assert isinstance(found["parsing_error"], OutputParserException)
    assert found["raw"].invalid_tool_calls or found["raw"].content


@pytest.mark.parametrize("method", METHODS)
async def test_include_raw_gives_the_message_with_the_output(replying, call_, form, method):
    text, more = JOKE.model_dump_json(), {"reasoning": "hm", "reasoning_details": [{"text": "hm", "signature": "s"}]}
    message = {"tool_calls": [call(text, name="Joke")]} if method == "function_calling" else {"content": text}
    runnable = replying({**message, **more}).chat().with_structured_output(Joke, method=method, include_raw=True)
    found = await whole_of(call_, form, runnable)
    assert (found["parsed"], found["parsing_error"]) == (JOKE, None)
    kept = found["raw"].additional_kwargs
    assert kept["reasoning_content"] == "hm"
    assert kept[PROVIDER_FIELDS][0]["message"] == {"reasoning_details": more["reasoning_details"]}


class Counted(BaseModel):
    """Fields with defaults: a part of an answer fits as well."""

    path: str = "/"
    count: int = 0


@pytest.mark.parametrize("method", METHODS)
async def test_last_part_that_breaks_the_schema_is_an_error(replying, call_, form, method):
    text = '{"path": "/home", "count": "many"}'
    message = {"tool_calls": [call(text, name="Counted")]} if method == "function_calling" else {"content": text}
    runnable = replying(message).chat().with_structured_output(Counted, method=method)
    with pytest.raises((OutputParserException, ValidationError), match="count"):
        await all_of(call_, form, runnable)


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
async def test_text_in_place_of_a_dictionary_is_a_parser_error(replying, call_, form, method):
    runnable = replying({"content": "No."}).chat().with_structured_output(Joke.model_json_schema(), method=method)
    with pytest.raises(OutputParserException):
        await all_of(call_, form, runnable)


@pytest.mark.parametrize("form", ["streamed"])
@pytest.mark.parametrize("method", METHODS)
async def test_structured_output_is_streamed_in_parts(replying, call_, form, method):
    pieces = ['{"path": "/ho', 'me", "count"', ": 3}"]
    deltas = [{"content": piece} for piece in pieces]
    if method == "function_calling":
        names = [{"name": "Counted"}, {}, {}]
        functions = [{**name, "arguments": piece} for name, piece in zip(names, pieces, strict=True)]
        deltas = [{"tool_calls": [{"index": 0, "id": "a", "function": function}]} for function in functions]
    sandbox = replying({}, after=[streamed(*deltas)])
    list(sandbox.chat().stream("The first reply."))
    parts = await all_of(call_, form, sandbox.chat().with_structured_output(Counted, method=method))
    assert parts[-1] == Counted(path="/home", count=3)
    assert len(parts) == len({part.model_dump_json() for part in parts}) > 1


class ChainRuns(BaseCallbackHandler):
    """Keeps the names of all runs that are no model's."""

    def __init__(self):
        self.names = []

    def on_chain_start(self, *_given, name, **_more):
        self.names.append(name)


@pytest.mark.parametrize("method", METHODS)
async def test_structured_output_is_one_run_of_one_parser_in_callbacks(replying, call_, form, method):
    arguments = '{"path": "/home", "count": 3}'
    message = {"tool_calls": [call(arguments, name="Counted")]} if method == "function_calling" else {}
    runs = ChainRuns()
    runnable = replying(message or {"content": arguments}).chat().with_structured_output(Counted, method=method)
    found = await all_of(call_, form, runnable.with_config(callbacks=[runs]))
    assert (found if form == "plain" else found[-1]) == Counted(path="/home", count=3)
    parser = "PydanticToolsParser" if method == "function_calling" else "PydanticOutputParser"
    assert sorted(set(runs.names) - {"_check_refusal"}) == [parser, "RunnableSequence"]
    assert len(runs.names) == len(set(runs.names))


async def test_parser_error_of_the_sdk_is_a_reply_error(replying, call_, form):
    runnable = replying({"content": "Why? Because."}).chat().bind(response_format=Joke)
    with pytest.raises(ReplyError, match="does not follow the schema"):
        await all_of(call_, form, runnable)


# --- content blocks ---


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_blocks_of_reasoning_text_and_calls_stay_separate(replying, ask, version):
    calls = [call('{"path": "x"}', identifier="a"), call('{"path": "y"}', identifier="b")]
    sandbox = replying({"reasoning": "Hm.", "content": "Here.", "tool_calls": calls}, reason="tool_calls")
    blocks = (await ask(sandbox.chat(output_version=version), "Clean.")).content_blocks
    assert [block["type"] for block in blocks] == ["reasoning", "text", "tool_call", "tool_call"]
    assert [block["args"] for block in blocks[2:]] == [{"path": "x"}, {"path": "y"}]
    assert not {"name", "args"} & {name for block in blocks[:2] for name in block}


@pytest.mark.parametrize("form", ["streamed"])
async def test_text_before_an_image_is_a_content_block(fresh_sandbox, ask):
    image = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
    fresh_sandbox.add_replies(streamed({"content": "Here."}, {"images": [image]}))
    chat = ChatNanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)
    text, other = (await ask(chat, "Draw.")).content_blocks
    assert (text, other) == ({"type": "text", "text": "Here."}, {"type": "image", "url": "https://a.example/b.png"})


@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_citations_are_annotations_of_the_text_block(replying, ask, version):
    page = {"url": "https://a.example", "title": "A", "start_index": 0, "end_index": 5}
    annotations = [
        {"type": "url_citation", "url_citation": {**page, "content": "Bees."}},
        {"type": "url_citation", **page, "title": None},
        {"type": "file", "file": {"hash": "b"}},
    ]
    sandbox = replying({"content": "Bees [1].", "annotations": annotations}, after=[Reply("Done.")])
    chat = sandbox.chat(output_version=version)
    answer = await ask(chat, "Search.")
    (block,) = answer.content_blocks
    assert (block["text"], answer.text) == ("Bees [1].", "Bees [1].")
    assert block["annotations"] == [
        {"type": "citation", **page, "extras": {"content": "Bees."}},
        {"type": "citation", **{name: value for name, value in page.items() if name != "title"}},
        {"type": "non_standard_annotation", "value": annotations[2]},
    ]
    await ask(chat, [answer, HumanMessage("And ants?")])
    assert "annotations" not in json.dumps(sandbox.requests[-1].body)


@pytest.mark.parametrize("text", ["", "I search."])
@pytest.mark.parametrize("version", ["v0", "v1"])
async def test_citations_of_a_tool_call_send_no_empty_text_back(replying, ask, version, text):
    annotations = [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]
    message = {"content": text, "tool_calls": [call("{}")], "annotations": annotations}
    sandbox = replying(message, after=[Reply("Done.")])
    chat = sandbox.chat(output_version=version)
    answer = await ask(chat, "Search.")
    assert any("annotations" in block for block in answer.content_blocks)
    await ask(chat, [answer, ToolMessage("Bees.", tool_call_id="call_a")])
    sent = sandbox.requests[-1].body["messages"][0]["content"]
    assert sent in ((text, [{"type": "text", "text": text}]) if text else (None, ""))


# --- reasoning of earlier turns ---

SIGNATURE = {"google": {"thought_signature": "abc"}}


async def test_agent_sends_reasoning_and_provider_fields_back(replying, call_, form, cleaner):
    called = call('{"path": "x"}', extra_content=SIGNATURE)
    message = {"reasoning": "I must clean.", "tool_calls": [called]}
    sandbox = replying(message, reason="tool_calls", after=[Reply("Done.")])
    agent = create_agent(sandbox.chat(streaming=form == "streamed"), [cleaner[0]])
    await call_(agent, "invoke", {"messages": [HumanMessage("Clean x.")]})
    (sent,) = [one for one in sandbox.requests[-1].body["messages"] if one["role"] == "assistant"]
    assert (sent["reasoning"], "reasoning_content" in sent) == ("I must clean.", False)
    assert [one["extra_content"] for one in sent["tool_calls"]] == [SIGNATURE]


async def test_audio_beside_an_answer_in_json_is_kept_once(replying, ask):
    audio = {"id": "audio_1", "data": "QUI=", "transcript": "Hi.", "expires_at": 9}
    sandbox = replying({"content": "{}", "audio": audio})
    answer = await ask(sandbox.chat(model_kwargs={"response_format": {"type": "json_object"}}), "Answer in JSON.")
    assert answer.content == "{}"
    assert answer.additional_kwargs["audio"] == audio


async def test_audio_without_an_id_is_not_sent_back(replying, ask):
    sandbox = replying({"content": "Hi.", "audio": {"data": "QUJD"}}, after=[Reply("Bye.")])
    chat = sandbox.chat()
    answer = await ask(chat, "Hello")
    assert answer.additional_kwargs["audio"]["data"] == "QUJD"
    await ask(chat, [HumanMessage("Hello"), answer, HumanMessage("Bye")])
    assert sandbox.requests[-1].body["messages"][1] == {"role": "assistant", "content": "Hi."}

"""Options of both chat classes that are changed later take effect or are refused."""

import copy
import json
import pickle
import sys
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest
from openai.types.chat import ChatCompletionFunctionTool

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

import numpy as np
import openai
from langchain_core.caches import InMemoryCache
from langchain_core.runnables import ConfigurableField
from pydantic import Field, create_model

from langchain_nanogpt import ChatNanoGPT
from llama_index_nanogpt import NanoGPT
from nanogpt_core.errors import ConfigurationError, InvalidTypeError, NanoGPTError
from nanogpt_core.sandbox import Fault, Reply


@pytest.fixture
def plugin(chat_plugin):
    """The names of one of the chat classes."""
    return chat_plugin


@pytest.fixture
def make(plugin, fresh_sandbox):
    return lambda **more: plugin.cls(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **more)


@pytest.fixture
def sent(plugin, call, fresh_sandbox):
    """``sent(chat)`` asks, and returns the request's body."""

    async def run(chat):
        await call(chat, plugin.method, "Hello")
        return fresh_sandbox.requests[-1].body

    return run


def set_attributes(chat, options):
    for name, value in options.items():
        setattr(chat, name, value)
    return chat


WAYS = {
    "attributes": set_attributes,
    "model_copy": lambda chat, options: chat.model_copy(update=options),
    "deep model_copy": lambda chat, options: chat.model_copy(update=options, deep=True),
    "copy": lambda chat, options: chat.copy(update=options),
    "attributes of a copy": lambda chat, options: set_attributes(copy.copy(chat), options),
    "attributes of a deep copy": lambda chat, options: set_attributes(copy.deepcopy(chat), options),
}
if sys.version_info >= (3, 13):
    WAYS["replace"] = lambda chat, options: copy.replace(chat, **options)


def more_options(plugin):
    """Return the name of the field for further options of requests."""
    return "model_kwargs" if plugin.cls is ChatNanoGPT else "additional_kwargs"


@pytest.fixture(params=WAYS)
def change(request):
    return WAYS[request.param]


async def test_changed_options_of_a_request_take_effect(plugin, make, sent, change):
    options = {plugin.model: "other/model", "temperature": 0.25, "max_tokens": 7}
    body = await sent(change(make(model="any/model", temperature=0.5), options))
    assert {name: body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "other/model",
        "temperature": 0.25,
        "max_tokens": 7,
    }


OPTIONS_THAT_ARE_COMPARED = {
    ChatNanoGPT: ("profile", "model_kwargs", "output_version", "stream_chunk_timeout", "include", "stop"),
    NanoGPT: ("context_window", "additional_kwargs", "modalities"),
}


def test_array_as_an_option_is_refused_by_name(plugin, make, change):
    for name in ("temperature", *OPTIONS_THAT_ARE_COMPARED[plugin.cls]):
        for use in (lambda options: make(**options), lambda options: change(make(), options)):
            with pytest.raises(InvalidTypeError, match=rf"{name} must not be an array \(here of class ndarray\)"):
                use({name: np.zeros(2)})


# Options of a request: those that both classes take, those of LangChain's only, and those that neither has as a field.
SENT = {
    "temperature": 0.25,
    "max_tokens": 7,
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning_effort": "low",
}
BY_LANGCHAIN = {
    "top_p": 0.5,
    "seed": 5,
    "stop": ["x"],
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "logit_bias": {"5": 1},
    "verbosity": "low",
    "service_tier": "auto",
    "store": True,
}
MORE = {"user": "me", "prompt_cache_key": "k", "modalities": ["text"]}
BODY = {"extra_body": {"top_k": 4}}


@pytest.mark.parametrize("way", ["constructor", "attributes", "call"])
async def test_every_option_of_a_request_is_sent(plugin, make, ask, fresh_sandbox, way):
    is_langchain = plugin.class_name == "ChatNanoGPT"
    known = {**SENT, **BY_LANGCHAIN, "reasoning": {"exclude": True}, **BODY} if is_langchain else SENT
    more = MORE if is_langchain else {**BY_LANGCHAIN, **MORE, **BODY}
    options = {**known, "model_kwargs" if is_langchain else "additional_kwargs": more}
    if way == "constructor":
        await ask(make(**options))
    elif way == "attributes":
        await ask(set_attributes(make(), options))
    else:
        await ask(make(), **known, **more)
    sent = fresh_sandbox.requests[0].body
    expected = {**known, **more, **BODY["extra_body"]}
    del expected["extra_body"]
    assert {name: sent.get(name) for name in expected} == expected


def test_changed_option_is_converted_as_at_construction(make, change):
    assert change(make(), {"temperature": "0.5"}).temperature == 0.5


async def test_model_is_changed_by_the_name_of_the_argument(make, sent, change):
    assert (await sent(change(make(), {"model": " other/model "})))["model"] == "other/model"


async def test_invalid_change_is_refused(make, sent, change):
    chat = make(temperature=0.5)
    for name, value, words in (
        ("temprature", 1, "Unknown option 'temprature'. Did you mean 'temperature'"),
        ("top_k", 4, "Unknown option 'top_k'"),
        ("temperature", "hot", "temperature: Input should be a valid number"),
        ("max_tokens", "many", "max_tokens: Input should be a valid integer"),
        ("temperature", 5, "temperature must be from 0 to 2, not 5"),
        ("max_tokens", -1, "max_tokens must be at least 1, not -1"),
        ("model", "", "model is empty"),
        ("model", 5, "model must be a str"),
    ):
        with pytest.raises(NanoGPTError, match=words):
            change(chat, {name: value})
    assert (await sent(chat))["temperature"] == 0.5


OUT_OF_RANGE = {
    "temperature": (-0.1, "from 0 to 2"),
    "top_p": (1.5, "from 0 to 1"),
    "presence_penalty": (3, "from -2 to 2"),
    "frequency_penalty": (float("nan"), "from -2 to 2"),
    "max_tokens": (0, "at least 1"),
    "max_completion_tokens": (-1, "at least 1"),
    "n": (0, "at least 1"),
    "top_logprobs": (-1, "at least 0"),
}


@pytest.mark.parametrize("way", ["constructor", "more", "call"])
async def test_number_that_every_model_refuses_is_not_sent(plugin, make, ask, fresh_sandbox, way):
    more = more_options(plugin)
    chat = make()
    for name, (value, span) in OUT_OF_RANGE.items():
        is_more = way == "more" or name not in plugin.cls.model_fields
        options = {more: {name: value}} if is_more else {name: value}
        with pytest.raises(ConfigurationError, match=f"{name} must be {span}, not {value}"):
            await ask(chat, **{name: value}) if way == "call" else make(**options)
    assert not fresh_sandbox.requests


@pytest.mark.parametrize("options", [{"temperature": 0, "max_tokens": 1}, {"temperature": 2.0, "top_logprobs": 0}])
async def test_numbers_at_the_ends_of_their_ranges_are_sent(make, sent, options):
    body = await sent(make(**options))
    assert body["temperature"] == options["temperature"]


class NotOfPydantic(TypedDict):
    """A class of which the SDK makes no JSON schema."""


@pytest.mark.parametrize("way", ["constructor", "attributes", "call"])
async def test_wrong_value_that_the_sdk_takes_is_not_sent(plugin, make, ask, fresh_sandbox, way):
    more = more_options(plugin)

    async def use(options):
        if way == "constructor":
            make(**{more: options})
        elif way == "attributes":
            setattr(make(), more, options)
        else:
            await ask(make(), **options)

    for name, value, words in (
        ("timeout", -1, r"^timeout must be above 0"),
        ("timeout", "5", r"^timeout must be a number"),
        ("timeout", openai.Timeout(-1), r"^timeout must be (above 0|a number)"),
        ("extra_headers", {"X-Team": "a\nb"}, r"^extra_headers: the entry 'X-Team' is not a legal"),
        ("extra_headers", {"Content-Length": "5"}, r"^extra_headers: 'Content-Length' describes the body"),
        ("extra_headers", 5, r"^extra_headers must be a mapping, not int"),
        ("extra_query", "a=b", r"^extra_query must be a mapping, not str"),
        ("audio", "alloy", r"^audio must be a mapping, not str"),
        ("seed", True, r"^seed must be a whole number \(int\), not bool"),
        ("extra_body", [1], r"^extra_body must be a mapping, not list"),
        ("stream_options", True, r"^stream_options must be a mapping, not bool"),
        ("response_format", "json", r"^response_format must be a mapping or a class, not str"),
        ("response_format", NotOfPydantic, r"^response_format must be .* of pydantic, not the class NotOfPydantic"),
        ("timeout", openai.Omit(), r"^timeout must be a number"),
        ("extra_query", openai.NOT_GIVEN, r"^extra_query must be a mapping, not NotGiven"),
        ("extra_body", openai.Omit(), r"^extra_body must be a mapping, not Omit"),
        ("tools", 5, r"^tools must be a list, not int"),
        ("tools", [{"type": "web_search"}, "look"], r"^The tool at position 1 \(counted from 0\) is not one"),
        ("tools", [{"type": "function", "function": {}}], r"^The tool at position 0 .* {'type': 'function'"),
        ("tools", [{"type": "function", "function": {"name": 5}}], r"^The tool at position 0 "),
    ):
        with pytest.raises(NanoGPTError, match=words):
            await use({name: value})
    assert not fresh_sandbox.requests


async def test_values_of_the_sdk_for_no_option_are_taken(make, ask, fresh_sandbox):
    for value in (openai.NOT_GIVEN, None):
        headers = value and {"X-Team": "search"}
        await ask(make(), timeout=value, stream_options=value, extra_headers=headers, extra_query=None)
    await ask(make(), timeout=openai.Timeout(5), extra_headers={"Accept": openai.Omit()}, response_format=None)
    assert len(fresh_sandbox.requests) == 3


@pytest.mark.parametrize("kind", [list, tuple, lambda tools: dict(enumerate(tools)).values()])
async def test_tools_of_one_call_may_be_any_collection(make, ask, fresh_sandbox, kind):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    await ask(make(), tools=kind([tool]))
    assert fresh_sandbox.requests[0].body["tools"] == [tool]


async def test_tool_may_be_an_object_of_the_sdk(make, ask, fresh_sandbox):
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    await ask(make(), tools=[ChatCompletionFunctionTool.model_validate(tool)])
    assert fresh_sandbox.requests[0].body["tools"] == [tool]


async def test_tools_that_one_request_would_use_up_are_refused(make, ask):
    with pytest.raises(InvalidTypeError, match="tools must be a list, not generator"):
        await ask(make(), tools=(tool for tool in [{}]))


@pytest.mark.parametrize("options", [{"stream": True}, {"messages": []}, {5: 5}])
def test_what_a_call_decides_is_refused_among_further_options(plugin, make, options):
    more = more_options(plugin)
    with pytest.raises(InvalidTypeError, match=r"(messages|stream) must not|name of an option must be a str"):
        make(**{more: options})


async def test_model_construct_makes_a_whole_object(plugin, sent, fresh_sandbox):
    options = {"api_key": fresh_sandbox.api_key, plugin.base_url: fresh_sandbox.base_url, "temperature": 0.25}
    assert (await sent(plugin.cls.model_construct(**options)))["temperature"] == 0.25
    with pytest.raises(ConfigurationError, match="max_retries"):
        plugin.cls.model_construct(**options, max_retries=-1)


CONNECTION = {
    "max_retries": 7,
    "requests_per_second": 3.5,
    "allow_insecure_http": True,
    "default_headers": {"X-A": "b"},
}


@pytest.mark.parametrize("name", CONNECTION)
def test_option_of_the_connection_is_changed_in_a_copy_only(make, name):
    chat = make()
    with pytest.raises(ConfigurationError, match=rf'^{name} cannot be changed .*update=\{{"{name}": '):
        setattr(chat, name, CONNECTION[name])
    twins = [chat.model_copy(update={name: CONNECTION[name]}), chat.copy(update={name: CONNECTION[name]})]
    assert [getattr(twin, name) for twin in twins] == [CONNECTION[name]] * 2
    assert getattr(chat, name) != CONNECTION[name]
    assert all(twin._session is not chat._session for twin in twins)


@pytest.mark.parametrize("name", ["api_key", "base_url", "timeout"])
def test_error_for_setting_an_option_names_it_as_the_caller_did(make, name):
    with pytest.raises(ConfigurationError) as caught:
        setattr(make(), name, "other")
    remedy = f'Use .model_copy(update={{"{name}": ...}}).'
    assert str(caught.value) == f"{name} cannot be changed after construction. {remedy}"


async def test_key_timeout_and_headers_of_a_copy_take_effect(plugin, make, sent, fresh_sandbox):
    chat = make()
    twin = chat.copy(update={plugin.timeout: 7, "default_headers": {"X-A": "b"}})
    await sent(twin)
    assert fresh_sandbox.requests[-1].headers["x-a"] == "b"
    assert twin._session.endpoint.timeout == 7
    fresh_sandbox.config.api_key = "sk-nano-other"
    await sent(chat.model_copy(update={plugin.key: "sk-nano-other"}))
    with pytest.raises(NanoGPTError, match="401"):
        await sent(chat)


# --- LangChain ---


@pytest.fixture
def chat(fresh_sandbox):
    return ChatNanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, default_headers={"X-A": "b"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_responses_api": True}, "Responses API"),
        ({"include": ["x"]}, "Responses API"),
        ({"organization": "x"}, "not supported"),
        ({"openai_proxy": "http://127.0.0.1:9"}, "not supported"),
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"model_kwargs": {"top_k": 4}}, "Unknown option 'top_k'"),
        ({"model_kwargs": {"metadata": {"a": "b"}}}, "would not be sent.*extra_body"),
        ({"model_kwargs": 5}, "model_kwargs must be a mapping, not int"),
        ({"output_version": "V1"}, '^output_version must be "v0" or "v1", not \'V1\''),
        ({"output_version": "responses/v1"}, "Responses API"),
        ({"stream_chunk_timeout": float("nan")}, "^stream_chunk_timeout must be positive and finite"),
        ({"stream_chunk_timeout": -1}, "^stream_chunk_timeout must be positive and finite"),
    ],
)
def test_langchain_refuses_changes_that_would_be_ignored(chat, change, options, words):
    with pytest.raises(NanoGPTError, match=words):
        change(chat, options)


async def test_langchain_passes_over_an_output_version_of_the_environment_for_another_endpoint(
    call, fresh_sandbox, monkeypatch
):
    monkeypatch.setenv("LC_OUTPUT_VERSION", "responses/v1")
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    chat = ChatNanoGPT(**options).configurable_fields(temperature=ConfigurableField(id="t"))
    answer = await call(chat.with_config(configurable={"t": 0.25}), "invoke", "Hello")
    assert isinstance(answer.content, str)
    monkeypatch.setenv("LC_OUTPUT_VERSION", "v1")
    assert isinstance((await call(ChatNanoGPT(**options), "invoke", "Hello")).content, list)


def test_langchains_reason_for_an_invalid_option_is_the_message(fresh_sandbox):
    with pytest.raises(ConfigurationError, match=r"^An option is invalid\. n must be 1 when streaming\.$"):
        ChatNanoGPT(api_key="k", base_url=fresh_sandbox.base_url, n=2, streaming=True)


async def test_langchain_takes_none_for_no_further_options(call, fresh_sandbox):
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    await call(ChatNanoGPT(**options, model_kwargs=None), "invoke", "Hello")
    assert len(fresh_sandbox.requests) == 1


async def test_langchain_model_kwargs_take_effect_as_fields_and_stay_the_callers(call, fresh_sandbox):
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    more = {"seed": 5, "timeout": 3}
    for _ in range(2):
        chat = ChatNanoGPT(**options, model_kwargs=more)
        await call(chat, "invoke", "Hello")
        assert fresh_sandbox.requests[-1].body["seed"] == 5
        assert chat.request_timeout == chat.root_client.timeout.read == 3
    assert more == {"seed": 5, "timeout": 3}
    with pytest.raises(ConfigurationError, match="seed is in model_kwargs too"):
        ChatNanoGPT(**options, model_kwargs=more, seed=5)
    with pytest.raises(ConfigurationError, match=r"stream_options is None\. Pass stream_usage=False"):
        ChatNanoGPT(**options, model_kwargs={"stream_options": None})


async def test_langchain_model_kwargs_of_a_subclass_take_effect(call, fresh_sandbox):
    class Quick(ChatNanoGPT):
        model_kwargs: dict[str, Any] = {"seed": 5, "timeout": 3, "user": "me"}  # noqa: RUF012 - pydantic copies it

    for _ in range(2):
        chat = Quick(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)
        await call(chat, "invoke", "Hello")
        assert {name: fresh_sandbox.requests[-1].body[name] for name in ("seed", "user")} == {"seed": 5, "user": "me"}
        assert chat.request_timeout == chat.root_client.timeout.read == 3


async def test_langchain_takes_none_for_options_of_a_call(chat, fresh_sandbox):
    options = {"reasoning": None, "response_format": None, "stream_options": None}
    chat.invoke("Hello", **options)
    assert list(chat.stream("Hello", **options))
    assert [part async for part in chat.astream("Hello", **options)]
    assert all({"reasoning", "response_format"}.isdisjoint(request.body) for request in fresh_sandbox.requests)


async def test_langchain_cache_has_an_answer_of_its_own_after_a_change(call, change, fresh_sandbox):
    chat = ChatNanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, cache=InMemoryCache())
    fresh_sandbox.add_replies(Reply("first"), Reply("second"))
    assert [(await call(chat, "invoke", "Hello")).content for _ in range(2)] == ["first"] * 2
    changed = change(chat, {"model": "other/model"})
    assert [(await call(changed, "invoke", "Hello")).content for _ in range(2)] == ["second"] * 2


async def test_langchain_with_config_changes_options(chat, call, fresh_sandbox):
    fields = {"temperature": ConfigurableField(id="t"), "model_name": ConfigurableField(id="m")}
    runnable = chat.configurable_fields(**fields, max_retries=ConfigurableField(id="r"))
    await call(runnable.with_config(configurable={"t": 0.25, "m": "other/model", "r": 5}), "invoke", "Hello")
    (request,) = fresh_sandbox.requests
    assert (request.body["temperature"], request.body["model"]) == (0.25, "other/model")
    assert request.headers["x-a"] == "b"
    with pytest.raises(ConfigurationError, match="temperature"):
        await call(runnable.with_config(configurable={"t": "hot"}), "invoke", "Hello")
    client = chat.configurable_fields(client=ConfigurableField("client"))
    with pytest.raises(ConfigurationError, match=r"^client is not supported\."):
        await call(client.with_config(configurable={"client": object()}), "invoke", "Hello")


@pytest.mark.parametrize(("options", "parts"), [({}, 2), ({"streaming": True}, 2), ({"streaming": False}, 1)])
async def test_langchain_configurable_fields_leave_streams_as_they_are(call, fresh_sandbox, options, parts):
    chat = ChatNanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **options).configurable_fields(
        temperature=ConfigurableField(id="t")
    )
    stream = getattr(chat, "stream" if call.kind == "sync" else "astream")("Hello", {"configurable": {"t": 0.25}})
    found = list(stream) if call.kind == "sync" else [part async for part in stream]
    assert len([part for part in found if part.content]) >= parts
    assert fresh_sandbox.requests[0].body["stream"] is (parts > 1)
    assert fresh_sandbox.requests[0].body["temperature"] == 0.25


async def test_langchain_bind_changes_options_of_a_request(chat, call, fresh_sandbox):
    await call(chat.bind(model="other/model", temperature=0.25, stop=["x"]), "invoke", "Hello")
    body = fresh_sandbox.requests[0].body
    assert [body[name] for name in ("model", "temperature", "stop")] == ["other/model", 0.25, ["x"]]
    with pytest.raises(InvalidTypeError, match="Unknown option 'max_retries'"):
        await call(chat.bind(max_retries=5), "invoke", "Hello")


# --- LlamaIndex ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"is_chat_model": False}, "is_chat_model=False is not supported"),
        ({"is_chat_model": 0}, "is_chat_model must be True or False, not int"),
        ({"rate_limiter": 5}, r"rate_limiter must have acquire\(\) and async_acquire\(\), not int"),
        ({"api_version": "1"}, "api_version"),
        ({"output_parser": 5}, r"output_parser must have parse\(\) and format\(\) and format_messages\(\), not int"),
        ({"output_parser": SimpleNamespace(parse=str, format=str)}, r"format_messages\(\), not SimpleNamespace"),
        ({"context_window": 0}, "context_window must be at least 1"),
        ({"reuse_client": "perhaps"}, "reuse_client"),
    ],
)
def test_llama_index_refuses_changes_that_would_be_ignored(change, options, words):
    with pytest.raises(NanoGPTError, match=words):
        change(NanoGPT(api_key="k"), options)


@pytest.mark.parametrize("method", ["chat", "complete", "stream_chat", "stream_complete"])
async def test_llama_index_refuses_stream_as_an_option_of_a_call(call, method):
    with pytest.raises(InvalidTypeError, match=r"stream is no option of a call\. Call stream_chat\(\)"):
        await call(NanoGPT(api_key="k"), method, [] if method.endswith("chat") else "Hello", stream=True)


async def test_llama_index_takes_none_for_the_usual_prompts(change, call, fresh_sandbox):
    llm = NanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, completion_to_prompt=str.upper)
    await call(change(llm, {"completion_to_prompt": None, "messages_to_prompt": None}), "complete", "Hello")
    assert fresh_sandbox.requests[0].body["messages"][0]["content"] == "Hello"


def test_llama_index_context_window_can_be_changed(change):
    assert change(NanoGPT(api_key="k"), {"context_window": 32_000}).metadata.context_window == 32_000


@pytest.mark.parametrize("way", ["object", "call"])
async def test_stream_options_are_sent_in_streams_only_and_keep_token_counts(plugin, make, ask, fresh_sandbox, way):
    more, given = more_options(plugin), {"stream_options": {"include_obfuscation": False}}
    await ask(make(**({more: given} if way == "object" else {})), **(given if way == "call" else {}))
    (body,) = [request.body for request in fresh_sandbox.requests]
    assert body.get("stream_options") == (
        {"include_usage": True, "include_obfuscation": False} if body["stream"] else None
    )


@pytest.mark.parametrize("way", ["object", "call"])
async def test_token_counts_of_a_stream_can_be_turned_off(plugin, make, call, fresh_sandbox, way):
    more, given = more_options(plugin), {"stream_options": {"include_usage": False}}
    chat = make(**({more: given} if way == "object" else {}))
    assert [part async for part in plugin.parts(call, chat, "Hello", **(given if way == "call" else {}))]
    assert "stream_options" not in fresh_sandbox.requests[0].body


async def test_langchain_stream_options_of_a_call_leave_token_counts_off(call, fresh_sandbox):
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    chat = ChatNanoGPT(**options, model_kwargs={"stream_options": {"include_usage": False}})
    await call(chat, "invoke", "Hello", stream=True, stream_options={"include_obfuscation": False})
    sent = {"include_usage": False, "include_obfuscation": False}
    assert fresh_sandbox.requests[0].body["stream_options"] == sent


@pytest.mark.parametrize(("model", "words"), [("", "model is empty"), (None, "model must be a str"), (5, "not int")])
async def test_model_of_a_call_is_checked_as_that_of_the_object(make, ask, fresh_sandbox, model, words):
    with pytest.raises(NanoGPTError, match=words):
        await ask(make(), model=model)
    await ask(make(), model=" other/model ")
    assert [request.body["model"] for request in fresh_sandbox.requests] == ["other/model"]


@pytest.mark.parametrize("value", ["0.5", True, [1]], ids=str)
@pytest.mark.parametrize("name", ["temperature", "max_tokens", "n", "top_logprobs"])
async def test_option_of_a_call_that_is_no_number_is_refused(make, ask, fresh_sandbox, name, value):
    kind = r"number \(int or float\)" if name == "temperature" else r"whole number \(int\)"
    with pytest.raises(InvalidTypeError, match=rf"^{name} must be a {kind}, not "):
        await ask(make(), **{name: value})
    assert not fresh_sandbox.requests


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "top_logprobs"])
async def test_number_of_a_call_that_must_be_whole_is_sent_without_a_decimal_point(make, ask, fresh_sandbox, name):
    """Many services refuse 1.0 here."""
    await ask(make(), **{name: 1.0})
    assert type(fresh_sandbox.requests[0].body[name]) is int
    for value, words in ((1.5, r"not float\.$"), (np.int64(1), rf"not int64\. Pass int\({name}\)\.$")):
        with pytest.raises(InvalidTypeError, match=words):
            await ask(make(), **{name: value})


@pytest.mark.parametrize(("logprobs", "sent"), [(None, 2), (True, 2), (False, None)])
async def test_top_logprobs_are_sent_unless_logprobs_are_off(plugin, make, call, fresh_sandbox, logprobs, sent):
    await call(make(top_logprobs=2, logprobs=logprobs), plugin.method, "Hello")
    body = fresh_sandbox.requests[0].body
    assert (body.get("top_logprobs"), bool(body.get("logprobs"))) == (sent, sent is not None)


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_limit_of_tokens_of_a_call_is_the_only_one(plugin, make, call, fresh_sandbox, limit):
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[limit]
    if other == "max_completion_tokens":
        more = more_options(plugin)
        chat = make(**{more: {other: 7}})
    else:
        chat = make(max_tokens=7)
    await call(chat, plugin.method, "Hello", **{limit: 3})
    body = fresh_sandbox.requests[0].body
    assert (body.get(limit), body.get(other)) == (3, None)


async def test_llama_index_checks_additional_options_at_construction_and_later(fresh_sandbox, call):
    llm = NanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url)
    llm.additional_kwargs = {"seed": 4}
    await call(llm, "complete", "Hello")
    assert fresh_sandbox.requests[0].body["seed"] == 4
    for make in (llm.__setattr__, lambda name, value: NanoGPT(api_key="k", **{name: value})):
        with pytest.raises(InvalidTypeError, match="Unknown option 'top_k'"):
            make("additional_kwargs", {"top_k": 4})
    with pytest.raises(InvalidTypeError, match="Unknown option 'top_k'"):
        await call(llm, "complete", "Hello", top_k=4)


def changed_later(way, llm, name, value):
    if way == "assignment":
        setattr(llm, name, value)
        return llm
    return llm.model_copy(update={name: value}) if way == "model_copy" else pickle.loads(pickle.dumps(llm))


@pytest.mark.parametrize("way", ["assignment", "model_copy"])
def test_llama_index_defaults_follow_options_that_are_changed_later(fresh_sandbox, way, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", fresh_sandbox.api_key)
    llm = changed_later(way, NanoGPT(base_url=fresh_sandbox.base_url), "model", "o1")
    assert llm.temperature == NanoGPT("o1").temperature == 1.0
    assert changed_later(way, llm, "model", "gpt-4o").temperature == NanoGPT("gpt-4o").temperature != 1.0
    own = changed_later(way, NanoGPT(temperature=0.5), "model", "o1")
    assert changed_later("pickle", own, "", "").model_copy(update={"model": "gpt-4o"}).temperature == 0.5
    llm = changed_later(way, NanoGPT(base_url=fresh_sandbox.base_url), "additional_kwargs", {"seed": 4})
    assert list(llm.stream_complete("Hello"))
    body = fresh_sandbox.requests[-1].body
    assert (body["seed"], body["stream_options"]) == (4, {"include_usage": True})


# --- pydantic ---


async def test_object_is_unchanged_as_a_field_of_a_pydantic_model(plugin, make, sent, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "organization-of-openai")
    chat = make(temperature=0.25)
    holder = create_model("Holder", chat=(plugin.cls, ...))(chat=chat)
    assert holder.chat is chat
    assert (await sent(holder.chat))["temperature"] == 0.25
    assert "organization-of-openai" not in repr(chat.__dict__)


@pytest.mark.parametrize("form", ["python", "json"])
async def test_dump_is_validated_back_without_the_key(plugin, make, sent, fresh_sandbox, monkeypatch, form):
    chat = make(model="any/model", temperature=0.25, timeout=7.0, max_retries=0)
    dump = chat.model_dump() if form == "python" else json.loads(chat.model_dump_json())
    assert plugin.key not in dump
    monkeypatch.setenv("NANOGPT_API_KEY", fresh_sandbox.api_key)
    for twin in (plugin.cls.model_validate(dump), plugin.cls(**dump)):
        body = await sent(twin)
        assert (body["model"], body["temperature"]) == ("any/model", 0.25)
        assert (getattr(twin, plugin.timeout), twin.max_retries) == (7.0, 0)


def test_live_facts_of_the_model_are_asked_for_at_construction_only(plugin, make, change, fresh_sandbox):
    name = "profile" if plugin.cls is ChatNanoGPT else "context_window"
    with pytest.raises(ConfigurationError, match=rf'{name}="live" .* at construction only\. Create a new object\.'):
        change(make(), {name: "live"})
    assert not fresh_sandbox.requests


@pytest.mark.parametrize("name", ["temperature", "max_tokens"])
@pytest.mark.parametrize("value", [True, False])
def test_bool_is_no_number(make, change, name, value):
    """Pydantic takes True for 1: an answer of one token."""
    with pytest.raises(InvalidTypeError, match=rf"^{name} must be a .*number .*, not bool"):
        make(**{name: value})
    with pytest.raises(InvalidTypeError, match=rf"^{name} must be a .*number .*, not bool"):
        change(make(), {name: value})


@pytest.mark.parametrize("update", ["model_copy", "copy"])
def test_none_in_a_copy_is_the_default_of_the_class(plugin, make, update):
    usual = make()
    copied = getattr(make(max_retries=7, timeout=7.0), update)(update={"max_retries": None, "timeout": None})
    for chat in (copied, copied._session):
        assert chat.max_retries == usual.max_retries
    assert getattr(copied, plugin.timeout) == getattr(usual, plugin.timeout)
    ours = subclass_of(plugin, max_retries=9)(api_key="k").model_copy(update={"max_retries": None})
    assert ours.max_retries == ours._session.max_retries == 9


@pytest.mark.usefixtures("fresh_sandbox")
def test_none_as_the_default_of_a_subclass_is_the_default_of_its_base(plugin, make):
    usual = make()
    nones = dict.fromkeys(("max_retries", plugin.timeout))
    ours = subclass_of(plugin, **nones)(api_key="k", max_retries=7)
    assert getattr(ours, plugin.timeout) == ours._session.endpoint.timeout == getattr(usual, plugin.timeout)
    assert ours.max_retries == 7
    assert ours.model_copy(update={"max_retries": None}).max_retries == usual.max_retries


# --- subclasses ---


def subclass_of(plugin, **defaults):
    """Return a subclass whose fields have other defaults."""
    types = {name: plugin.cls.model_fields[name].annotation for name in defaults if name in plugin.cls.model_fields}
    types = {name: types.get(name, Any) for name in defaults}
    return type("Ours", (plugin.cls,), {**defaults, "__annotations__": types, "__module__": __name__})


async def test_subclass_may_have_other_defaults(plugin, sent, fresh_sandbox):
    preset = {plugin.model: "other/model", "temperature": 0.25, "max_retries": 0, plugin.timeout: 7.0}
    cls = subclass_of(plugin, **preset, **{plugin.base_url: fresh_sandbox.base_url})
    chat = cls(api_key=fresh_sandbox.api_key)
    assert {name: getattr(chat, name) for name in preset} == preset
    body = await sent(chat)
    assert (body["model"], body["temperature"]) == ("other/model", 0.25)
    fresh_sandbox.add_replies(Fault(status=500))
    with pytest.raises(NanoGPTError):
        await sent(chat)
    assert len(fresh_sandbox.requests) == 2
    given = cls(api_key=fresh_sandbox.api_key, model="given/model", temperature=0.5, timeout=8.0)
    assert (await sent(given))["model"] == "given/model"
    assert (given.temperature, getattr(given, plugin.timeout), given.max_retries) == (0.5, 8.0, 0)
    copied = chat.model_copy(update={"temperature": 0.75})
    assert (await sent(copied))["model"] == "other/model"


def test_repr_has_the_model_and_the_options_that_were_set(plugin, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", "sk-nano-from-the-environment")
    monkeypatch.delenv("NANOGPT_BASE_URL", raising=False)
    name = plugin.cls.__name__
    assert repr(plugin.cls()) == f"{name}({plugin.model}='gpt-4o-mini')"
    url = "http://localhost:1/v1"
    more = {"temperature": 0.5, "timeout": 8.0, "default_headers": {"X-Token": "token-of-a-proxy"}}
    chat = plugin.cls(model="m/x", base_url=url, **more)
    options = {plugin.model: "m/x", "temperature": 0.5, plugin.timeout: 8.0, plugin.base_url: url}
    expected = sorted(f"{option}={value!r}" for option, value in options.items())
    for one in (chat, copy.copy(chat), copy.deepcopy(chat), pickle.loads(pickle.dumps(chat)), chat.model_copy()):
        shown = repr(one)
        assert shown.startswith(f"{name}(")
        assert sorted(shown.removeprefix(f"{name}(").removesuffix(")").split(", ")) == expected
    chat.temperature = 0.75
    assert "temperature=0.75" in repr(chat)
    assert "max_retries=0" in repr(chat.model_copy(update={"max_retries": 0}))


def test_key_of_a_subclass_is_in_no_output(plugin, fresh_sandbox):
    cls = subclass_of(plugin, **{plugin.key: Field(default_factory=lambda: fresh_sandbox.api_key)})
    assert fresh_sandbox.api_key not in repr(cls(base_url=fresh_sandbox.base_url))


def test_wrong_default_of_a_subclass_is_refused(plugin, fresh_sandbox):
    with pytest.raises(ConfigurationError, match="max_retries must be at least 0"):
        subclass_of(plugin, max_retries=-1)(api_key=fresh_sandbox.api_key)


def test_other_name_of_an_option_in_a_subclass_is_refused(plugin, fresh_sandbox):
    with pytest.raises(InvalidTypeError, match=f"Declare {plugin.base_url}"):
        subclass_of(plugin, base_url=fresh_sandbox.base_url)(api_key=fresh_sandbox.api_key)
    if plugin.model == "model":
        with pytest.raises(InvalidTypeError, match="Declare model"):
            subclass_of(plugin, model_name="other/model")(api_key=fresh_sandbox.api_key)

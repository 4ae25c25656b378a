"""LangChain chat model over HTTP to the sandbox, which quotes the numbered passages of the prompt."""

import asyncio
import copy
import traceback

import pytest
from langchain_core.load import dumpd, dumps
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import SecretStr, ValidationError

from langchain_nanogpt import ChatNanoGPT
from nanogpt_core import errors
from nanogpt_core.http.library import httpx as http
from nanogpt_core.sandbox import Fault

KEY = "sk-nano-0123abcd-very-secret"
MESSAGES = [
    SystemMessage("[1] The battery of the X200 lasts twelve hours.\n\n[2] Shoes come in blue."),
    HumanMessage("How long does the X200's battery last?"),
]
FACT = "The battery of the X200 lasts twelve hours."


@pytest.fixture
def make(options):
    return lambda **more: ChatNanoGPT(**options, **more)


def shown(error):
    return "".join(traceback.format_exception(error))


async def test_invoke_returns_a_quotation_with_usage(make, call, sandbox):
    answer = await call(make(model="any/model:online", temperature=0, max_tokens=500), "invoke", MESSAGES)
    assert FACT in answer.content
    assert answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"] > 0
    (request,) = sandbox.requests
    assert request.path == "/api/v1/chat/completions"
    assert {name: request.body[name] for name in ("model", "temperature")} == {
        "model": "any/model:online",
        "temperature": 0,
    }
    assert [message["role"] for message in request.body["messages"]] == ["system", "user"]


async def test_stream_ends_with_usage(make, call):
    chat = make()
    chunks = list(chat.stream(MESSAGES)) if call.kind == "sync" else [chunk async for chunk in chat.astream(MESSAGES)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    answer = await call(chat, "invoke", MESSAGES)
    assert len(chunks) > 5
    assert whole.content == answer.content
    assert {name: whole.usage_metadata[name] for name in ("input_tokens", "output_tokens")} == {
        name: answer.usage_metadata[name] for name in ("input_tokens", "output_tokens")
    }


# Names that the base class would send to another endpoint.
@pytest.mark.parametrize("model", ["gpt-5-pro", "o3-pro", "codex-mini-latest", "gpt-5.4-pro"])
async def test_every_model_goes_to_chat_completions(make, call, sandbox, model):
    await call(make(model=model), "invoke", MESSAGES)
    assert [request.path for request in sandbox.requests] == ["/api/v1/chat/completions"]


def test_chat_model_works_in_several_event_loops(make):
    chat = make()
    answers = [asyncio.run(chat.ainvoke(MESSAGES)).content for _ in range(3)]
    assert answers == [chat.invoke(MESSAGES).content] * 3


async def test_retries_are_not_multiplied(make, call, sandbox):
    sandbox.add_faults(*[Fault(503, headers={"retry-after-ms": "1"})] * 3)
    with pytest.raises(errors.ServerError):
        await call(make(max_retries=2), "invoke", MESSAGES)
    assert len(sandbox.requests) == 3


async def test_default_headers_and_own_http_clients_are_used(make, call, sandbox):
    seen = []
    client = http.Client(event_hooks={"request": [lambda _request: seen.append("sync")]})

    async def note(_request):
        seen.append("async")

    async_client = http.AsyncClient(event_hooks={"request": [note]})
    chat = make(http_client=client, http_async_client=async_client, default_headers={"X-Team": "search"})
    await call(chat, "invoke", MESSAGES)
    client.close()
    await async_client.aclose()
    assert seen == [call.kind]
    assert sandbox.requests[0].headers["x-team"] == "search"


async def test_wrong_key_is_an_authentication_error(sandbox, call):
    chat = ChatNanoGPT(api_key=KEY, base_url=sandbox.base_url)
    with pytest.raises(errors.AuthenticationError, match="401") as caught:
        await call(chat, "invoke", MESSAGES)
    assert KEY not in shown(caught.value)


def test_empty_model_name_is_refused():
    with pytest.raises(errors.ConfigurationError, match=r'^model is empty\. Use one like "openai/gpt-4o-mini"'):
        ChatNanoGPT(model=" ", api_key=KEY)


async def test_blanks_around_a_model_name_are_stripped(make, call, sandbox):
    await call(make(model=" any/model:online\n"), "invoke", MESSAGES)
    assert sandbox.requests[0].body["model"] == "any/model:online"


@pytest.mark.parametrize("bad", [{"base_url": "ftp://x"}, {"timeout": "soon"}, {"default_headers": 5}])
def test_invalid_options_are_refused(bad):
    with pytest.raises(errors.NanoGPTError) as caught:
        ChatNanoGPT(api_key=KEY, **bad)
    assert KEY[:10] not in shown(caught.value)


@pytest.mark.parametrize("bad", [{"temperature": "hot"}, {"n": 0}])
def test_key_is_in_no_message_of_pydantic(bad):
    with pytest.raises(errors.ConfigurationError, match=next(iter(bad))) as caught:
        ChatNanoGPT(api_key=KEY, **bad)
    assert KEY[:10] not in shown(caught.value)


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"top_k": 4}, r"extra_body=\{'top_k': ...\}"),
        ({"model_kwargs": {"top_k": 4}}, r"extra_body=\{'top_k': ...\}"),
        ({"model": None}, "model must be a str"),
        ({"model_name": 3}, "model must be a str"),
    ],
)
def test_unknown_and_unsupported_options_are_refused_with_a_remedy(bad, remedy):
    with pytest.raises(errors.InvalidTypeError, match=remedy) as caught:
        ChatNanoGPT(api_key=KEY, **bad)
    assert KEY[:10] not in shown(caught.value)


@pytest.mark.filterwarnings("ignore:WARNING! .* is not default parameter")
async def test_request_options_are_sent(make, call, sandbox):
    chat = make(extra_body={"top_k": 4}, user="ann", max_completion_tokens=9)
    await call(chat, "invoke", MESSAGES, prompt_cache_key="k")
    body = sandbox.requests[0].body
    assert [body[name] for name in ("top_k", "user", "prompt_cache_key")] == [4, "ann", "k"]


async def test_unknown_option_of_a_call_is_refused(make, call, sandbox):
    with pytest.raises(errors.InvalidTypeError, match=r"extra_body=\{'top_k': ...\}"):
        await call(make(), "invoke", MESSAGES, top_k=4)
    assert not sandbox.requests


def test_key_is_in_no_message_about_validated_data():
    with pytest.raises(ValidationError, match="base_url") as caught:
        ChatNanoGPT.model_validate({"api_key": KEY, "base_url": "ftp://x"})
    assert KEY[:10] not in shown(caught.value)


@pytest.mark.parametrize("name", ["openai_proxy", "organization", "default_query", "http_socket_options"])
def test_options_that_would_be_ignored_are_refused(name):
    with pytest.raises(errors.ConfigurationError, match=name):
        ChatNanoGPT(api_key=KEY, **{name: "value"})


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)])
def test_key_is_in_no_output(key):
    chat = ChatNanoGPT(api_key=key)
    assert chat.openai_api_key.get_secret_value() == KEY
    outputs = [repr(chat), str(chat), str(chat.model_dump()), dumps(chat), str(dumpd(chat)), str(chat.to_json())]
    outputs += [str(chat._identifying_params), str(chat._get_ls_params()), str(vars(chat))]
    assert [text for text in outputs if KEY in text] == []


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, ChatNanoGPT.model_copy])
async def test_copies_give_the_same_answer(make, call, duplicate):
    chat = make()
    before = await call(chat, "invoke", MESSAGES)
    assert (await call(duplicate(chat), "invoke", MESSAGES)).content == before.content


@pytest.mark.usefixtures("foreign_environment")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("openai_api_key", SecretStr("another")),
        ("openai_api_base", "https://example.org/v1"),
        ("request_timeout", 3),
        ("max_retries", 7),
        ("requests_per_second", 1),
        ("default_headers", {"X-Team": "search"}),
        ("allow_insecure_http", True),
        ("http_client", http.Client()),
        ("http_async_client", http.AsyncClient()),
    ],
)
async def test_options_of_the_http_clients_cannot_be_changed(make, call, sandbox, name, value):
    chat = make()
    with pytest.raises(errors.ConfigurationError, match=f"^{name} cannot be changed any more"):
        setattr(chat, name, value)
    chat.temperature = 0.25
    await call(chat, "invoke", MESSAGES)
    assert sandbox.requests[0].body["temperature"] == 0.25


def test_missing_key_error_names_the_environment_variable():
    with pytest.raises(errors.ConfigurationError, match="NANOGPT_API_KEY"):
        ChatNanoGPT()


@pytest.mark.usefixtures("foreign_environment")
async def test_key_and_base_url_are_read_from_the_environment(sandbox, call, monkeypatch, nothing_leaked):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    chat = ChatNanoGPT()
    await call(chat, "invoke", MESSAGES)
    nothing_leaked(1)
    assert "leaked" not in f"{chat!r} {chat.model_dump()}"
    monkeypatch.delenv("NANOGPT_BASE_URL")
    assert ChatNanoGPT().openai_api_base == "https://nano-gpt.com/api/v1"

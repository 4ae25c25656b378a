"""LangChain chat model over HTTP to the sandbox, which quotes the numbered passages of the prompt."""

import traceback
from unittest import mock

import pytest
from langchain_core.load import dumpd, dumps
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import SecretStr, ValidationError

from langchain_nanogpt import ChatNanoGPT
from nanogpt_core import errors

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


async def test_texts_between_content_blocks_are_sent_as_blocks(make, call, sandbox):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    texts = ["[1] The battery of the X200 lasts twelve hours.", "Question: How long does the battery last?"]
    answer = await call(make(), "invoke", [SystemMessage([texts[0]]), HumanMessage([image, texts[1]])])
    assert FACT in answer.content
    first, second = ({"type": "text", "text": text} for text in texts)
    assert [message["content"] for message in sandbox.requests[-1].body["messages"]] == [[first], [image, second]]


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


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"model_kwargs": {"top_k": 4}}, r"extra_body=\{'top_k': ...\}"),
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


def test_key_is_in_no_message_about_validated_data():
    with pytest.raises(ValidationError, match="base_url") as caught:
        ChatNanoGPT.model_validate({"api_key": KEY, "base_url": "ftp://x"})
    assert KEY[:10] not in shown(caught.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        *((name, "Pass http_client and http_async_client.") for name in ("openai_proxy", "http_socket_options")),
        *((name, "Pass http_client and http_async_client.") for name in ("client", "root_async_client")),
        ("organization", "Leave it out: NanoGPT has no organizations."),
        ("default_query", "Leave it out: the service's API has no such parameters."),
    ],
)
def test_options_that_would_be_ignored_are_refused(name, remedy):
    with pytest.raises(errors.ConfigurationError, match=f"^{name} is not supported. {remedy}$"):
        ChatNanoGPT(api_key=KEY, **{name: "value"})


async def test_mock_in_place_of_a_client_answers_until_it_is_removed(make, call, sandbox):
    chat, kind = make(), mock.Mock if call.kind == "sync" else mock.AsyncMock
    answer = {"choices": [{"message": {"role": "assistant", "content": "mocked"}, "finish_reason": "stop"}]}
    client = mock.Mock()
    client.with_raw_response.create = kind(return_value=mock.Mock(parse=lambda: answer))
    with mock.patch.object(chat, "client" if call.kind == "sync" else "async_client", client):
        assert (await call(chat, "invoke", MESSAGES)).content == "mocked"
    assert not sandbox.requests
    assert FACT in (await call(chat, "invoke", MESSAGES)).content


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)])
def test_key_is_in_no_output(key):
    chat = ChatNanoGPT(api_key=key)
    assert chat.openai_api_key.get_secret_value() == KEY
    outputs = [repr(chat), str(chat), str(chat.model_dump()), dumps(chat), str(dumpd(chat)), str(chat.to_json())]
    outputs += [str(chat._identifying_params), str(chat._get_ls_params()), str(vars(chat))]
    assert [text for text in outputs if KEY in text] == []

"""LlamaIndex LLM over HTTP to the sandbox, which quotes the numbered passages of the prompt."""

import copy
import inspect
import logging
import pickle
import traceback

import pytest
from llama_index.core.llms import ChatMessage
from pydantic import SecretStr

from llama_index_nanogpt import NanoGPT
from nanogpt_core import errors
from nanogpt_core.http.sdk import httpx as http
from nanogpt_core.sandbox import Fault

KEY = "sk-nano-0123abcd-very-secret"
FACT = "The battery of the X200 lasts twelve hours."
CONTEXT = f"[1] {FACT}\n\n[2] Shoes come in blue."
QUESTION = "How long does the X200's battery last?"
PROMPT = f"{CONTEXT}\n\nQuestion: {QUESTION}"
MESSAGES = [ChatMessage(role="system", content=CONTEXT), ChatMessage(role="user", content=QUESTION)]
USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


@pytest.fixture
def make(options):
    return lambda **more: NanoGPT(**options, **more)


def shown(error):
    return "".join(traceback.format_exception(error))


async def test_complete_returns_a_quotation_with_usage(make, call, sandbox):
    answer = await call(make(model="any/model:online", temperature=0, max_tokens=500), "complete", PROMPT)
    assert FACT in answer.text
    assert answer.additional_kwargs["total_tokens"] > answer.additional_kwargs["completion_tokens"] > 0
    (request,) = sandbox.requests
    assert request.path == "/api/v1/chat/completions"
    sent = {name: value for name, value in request.body.items() if name not in ("messages", "stream")}
    assert sent == {"model": "any/model:online", "temperature": 0, "max_tokens": 500}


async def test_chat_returns_a_quotation(make, call, sandbox):
    answer = await call(make(), "chat", MESSAGES)
    assert FACT in answer.message.content
    assert [message["role"] for message in sandbox.requests[0].body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(("method", "given"), [("stream_complete", PROMPT), ("stream_chat", MESSAGES)])
async def test_stream_ends_with_usage(make, call, method, given):
    llm = make()
    stream = await call(llm, method, given)
    chunks = list(stream) if call.kind == "sync" else [chunk async for chunk in stream]
    whole = await call(llm, method.removeprefix("stream_"), given)
    text = chunks[-1].text if method == "stream_complete" else chunks[-1].message.content
    assert len(chunks) > 5
    assert "".join(chunk.delta or "" for chunk in chunks) == text
    assert text == (whole.text if method == "stream_complete" else whole.message.content)
    usage = {name: chunks[-1].additional_kwargs[name] for name in USAGE}
    assert usage == {name: whole.additional_kwargs[name] for name in USAGE}


def test_metadata_has_model_and_context_window(make):
    metadata = make(model="any/model:online", context_window=32_000, max_tokens=500).metadata
    assert (metadata.context_window, metadata.num_output, metadata.model_name) == (32_000, 500, "any/model:online")
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    assert make().metadata.context_window == 128_000


@pytest.mark.parametrize(("method", "given"), [("complete", PROMPT), ("chat", MESSAGES), ("stream_chat", MESSAGES)])
async def test_retries_are_not_multiplied(make, call, sandbox, method, given):
    sandbox.add_faults(*[Fault(503, headers={"retry-after-ms": "1"})] * 3)
    llm = make(max_retries=2)

    async def run():
        stream = await call(llm, method, given)
        if method.startswith("stream"):
            assert not (list(stream) if call.kind == "sync" else [chunk async for chunk in stream])

    with pytest.raises(errors.ServerError):
        await run()
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize("copied", [False, True])
async def test_default_headers_and_own_http_clients_are_used(make, call, sandbox, copied):
    seen = []
    client = http.Client(event_hooks={"request": [lambda _request: seen.append("sync")]})

    async def note(_request):
        seen.append("async")

    async_client = http.AsyncClient(event_hooks={"request": [note]})
    clients = {"http_client": client, "async_http_client": async_client}
    llm = make(default_headers={"X-Team": "search"}, **({} if copied else clients))
    if copied:
        await call(llm, "complete", PROMPT)  # with clients of its own
        assert seen == []
        llm = llm.model_copy(update=clients)
    await call(llm, "complete", PROMPT)
    client.close()
    await async_client.aclose()
    assert seen == [call.kind]
    assert sandbox.requests[-1].headers["x-team"] == "search"


@pytest.mark.parametrize("bad", [{"base_url": "a", "api_base": "b"}])
def test_invalid_options_are_refused(bad):
    with pytest.raises(errors.NanoGPTError) as caught:
        NanoGPT(api_key=KEY, **bad)
    assert KEY[:10] not in shown(caught.value)


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"top_k": 4}, r"additional_kwargs=\{'extra_body': \{'top_k': ...\}\}"),
        ({"additional_kwargs": {"top_k": 4}}, r"additional_kwargs=\{'extra_body': \{'top_k': ...\}\}"),
        ({"stop": ["x"]}, r"additional_kwargs=\{'stop': ...\}"),
        ({"context_window": -1}, "context_window must be at least 1"),
        ({"context_window": "large"}, "context_window must be a whole number"),
        ({"is_chat_model": False}, "only chat models"),
    ],
)
def test_unknown_and_unsupported_options_are_refused_with_a_remedy(bad, remedy):
    with pytest.raises(errors.NanoGPTError, match=remedy) as caught:
        NanoGPT(api_key=KEY, **bad)
    assert KEY[:10] not in shown(caught.value)


async def drained(answer):
    # A stream sends its request when it is read.
    if hasattr(answer, "__aiter__"):
        return [part async for part in answer]
    return list(answer) if hasattr(answer, "__next__") else answer


@pytest.mark.parametrize("bad", [{"top_k": 4}, {"use_chat_completions": False}])
@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete"])
async def test_unknown_option_of_a_call_is_refused(make, call, sandbox, method, bad):
    given = PROMPT if method == "complete" else MESSAGES

    async def run():
        return await drained(await call(make(), method, given, **bad))

    with pytest.raises(errors.InvalidTypeError, match=r"Unknown option.*extra_body"):
        await run()
    assert not sandbox.requests


async def test_request_options_are_sent(make, call, sandbox):
    llm = make(additional_kwargs={"stop": ["x"], "extra_body": {"top_k": 4}})
    await call(llm, "chat", MESSAGES, seed=1)
    assert [sandbox.requests[0].body[name] for name in ("stop", "top_k", "seed")] == [["x"], 4, 1]


@pytest.mark.parametrize("prompt", [None, 3, [], MESSAGES])
@pytest.mark.parametrize("method", ["complete", "stream_complete"])
async def test_prompt_that_is_not_a_string_is_refused(make, call, sandbox, method, prompt):
    with pytest.raises(errors.InvalidTypeError, match=r"prompt must be a str.*chat\(\)"):
        await call(make(), method, prompt)
    assert not sandbox.requests


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ("Hello", "str"),
        (None, "NoneType"),
        (MESSAGES[0], "ChatMessage"),
        ((message for message in MESSAGES), "generator"),
        (["Hello"], "of str"),
        ([*MESSAGES, None], "of NoneType"),
        ([{"role": "user", "content": "Hello"}], "of dict"),
    ],
)
@pytest.mark.parametrize("method", ["chat", "stream_chat"])
async def test_messages_that_are_no_list_of_messages_are_refused(make, call, sandbox, method, messages, found):
    with pytest.raises(errors.InvalidTypeError, match=rf"list of ChatMessage objects, not {found}\. .*complete\(\)"):
        await call(make(), method, messages)
    assert not sandbox.requests


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)])
def test_key_is_in_no_output(key):
    llm = NanoGPT(api_key=key, default_headers={"X-Token": "token-of-a-proxy"})
    outputs = [repr(llm), str(llm), str(llm.model_dump()), llm.model_dump_json(), str(llm.to_dict()), llm.to_json()]
    outputs += [str(vars(llm)).replace("token-of-a-proxy", ""), str(llm.to_payload())]
    assert [text for text in outputs if KEY in text or "token-of-a-proxy" in text] == []
    assert KEY.encode() not in pickle.dumps(llm)
    assert b"token-of-a-proxy" not in pickle.dumps(llm)


async def test_dumps_can_be_read_back(make, call, sandbox):
    llm = make(model="any/model", temperature=0, max_tokens=500, timeout=7, max_retries=1, context_window=32_000)
    for twin in (
        NanoGPT.from_dict(llm.to_dict(), api_key=sandbox.api_key),
        NanoGPT.from_json(llm.to_json(), api_key=sandbox.api_key),
    ):
        assert twin.to_dict() == llm.to_dict()
        assert FACT in (await call(twin, "complete", PROMPT)).text


def test_deep_copies_share_the_callers_http_client(make, sandbox):
    with http.Client(headers={"X-Team": "search"}) as client:
        assert FACT in copy.deepcopy(make(http_client=client)).complete(PROMPT).text
    assert sandbox.requests[0].headers["x-team"] == "search"


async def test_pickle_reads_the_key_from_the_environment(make, call, sandbox, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    llm = make(model="any/model", timeout=7, default_headers={"X-Team": "search"})
    await call(llm, "complete", PROMPT)
    written = pickle.dumps(llm)
    sandbox.clear()
    with pytest.raises(errors.ConfigurationError, match="NANOGPT_API_KEY"):
        await call(pickle.loads(written), "complete", PROMPT)
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    twin = pickle.loads(written)
    assert FACT in (await call(twin, "complete", PROMPT)).text
    assert twin.timeout == 7
    assert "x-team" not in sandbox.requests[0].headers
    assert caplog.records == []


@pytest.mark.parametrize("name", ["achat", "astream_chat", "acomplete", "astream_complete"])
def test_async_methods_are_coroutine_functions(name):
    # Mocks and retry decorators look at it.
    assert inspect.iscoroutinefunction(getattr(NanoGPT, name))

"""Scripted replies of the sandbox, read with the OpenAI SDK."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from openai import APIError, APIStatusError, InternalServerError, OpenAI

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.sandbox import Fault, Reply, Sandbox, ToolCall
from nanogpt_core.sandbox.fake_chat import PREFIX


@pytest.fixture
def start():
    """Return ``start(*replies)``, which returns a sandbox with this script and a client for it."""
    with Sandbox() as sandbox, OpenAI(base_url=sandbox.base_url, api_key=sandbox.api_key, max_retries=0) as client:

        def started(*replies):
            sandbox.add_replies(*replies)
            return sandbox, client.chat.completions

        yield started


def say(chat, text="Hello", model="any/model", **more):
    return chat.create(model=model, messages=[{"role": "user", "content": text}], **more)


def text_of(answer):
    return answer.choices[0].message.content


def chunks_of(chat, **more):
    return [chunk.model_dump() for chunk in say(chat, stream=True, **more)]


def deltas(chunks, name):
    found = (chunk["choices"][0]["delta"].get(name) for chunk in chunks if chunk["choices"])
    return [one for one in found if one]


def test_scripted_replies_are_used_in_order_before_quotes(start):
    sandbox, chat = start(Reply("first"), Reply("second"))
    assert [text_of(say(chat)) for _ in range(2)] == ["first", "second"]
    assert sandbox.replies_left == 0
    assert text_of(say(chat)).startswith(PREFIX)


def test_script_option_sets_the_replies():
    with (
        Sandbox(script=[Reply("here")]) as sandbox,
        OpenAI(base_url=sandbox.base_url, api_key=sandbox.api_key) as client,
    ):
        assert text_of(say(client.chat.completions)) == "here"


def test_reply_matches_model_and_when(start):
    sandbox, chat = start(
        Reply("for another", model="other/model"),
        Reply("about tea", when=lambda body: "tea" in body["messages"][-1]["content"]),
        Reply("for all"),
    )
    assert text_of(say(chat)) == "for all"
    assert sandbox.replies_left == 2
    assert text_of(say(chat)).startswith(PREFIX)
    assert text_of(say(chat, "Which tea?")) == "about tea"
    assert text_of(say(chat, model="other/model")) == "for another"


def test_concurrent_requests_get_each_reply_once(start):
    _, chat = start(*[Reply(str(number)) for number in range(40)])
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: text_of(say(chat)), range(40)))
    assert sorted(answers, key=int) == [str(number) for number in range(40)]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_streamed_reply_equals_whole_reply(start, field):
    calls = [ToolCall("search", {"query": "größer als"}), ToolCall("none", id="call_mine")]
    reply = Reply("Let me see now.", reasoning="first think", reasoning_field=field, tool_calls=calls)
    _, chat = start(reply, reply)
    message = say(chat).choices[0]
    assert message.finish_reason == "tool_calls"
    assert getattr(message.message, field) == "first think"
    chunks = chunks_of(chat, stream_options={"include_usage": True})
    assert "".join(deltas(chunks, "content")) == message.message.content == "Let me see now."
    assert "".join(deltas(chunks, field)) == "first think"
    assert len(deltas(chunks, field)) == 2
    pieces = [piece for calls in deltas(chunks, "tool_calls") for piece in calls]
    for index, call in enumerate(message.message.tool_calls):
        own = [piece for piece in pieces if piece["index"] == index]
        assert (own[0]["id"], own[0]["function"]["name"]) == (call.id, call.function.name)
        assert [piece["id"] for piece in own[1:]] == [None] * (len(own) - 1)
        assert "".join(piece["function"]["arguments"] for piece in own) == call.function.arguments
    assert len([piece for piece in pieces if piece["index"] == 0]) > 3
    assert json.loads(message.message.tool_calls[0].function.arguments) == {"query": "größer als"}
    assert [call.id for call in message.message.tool_calls] == ["call_0", "call_mine"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"]) == ([], 2)


def test_function_when_may_add_replies(start):
    sandbox, chat = start()
    sandbox.add_replies(Reply("first", when=lambda _: sandbox.add_replies(Reply("second")) or True))
    assert [text_of(say(chat, timeout=30)) for _ in range(2)] == ["first", "second"]


def fail(*_):
    raise ValueError("mine")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"script": [Reply("x", when=fail)]}, "The function `when` of a reply failed: ValueError('mine') ("),
        ({"faults": map(fail, [1])}, "The iterator `faults` failed: ValueError('mine') ("),
        ({"faults": iter([503])}, "The iterator `faults` failed: InvalidTypeError('faults must hold Fault objects"),
    ],
)
def test_error_of_a_function_of_the_user_is_an_answer_with_its_place_and_no_traceback(options, problem, capfd):
    with Sandbox(**options) as sandbox:
        client = OpenAI(base_url=sandbox.base_url, api_key=sandbox.api_key, max_retries=0)
        with client, pytest.raises(InternalServerError) as caught:
            say(client.chat.completions)
    message = caught.value.body["message"]
    assert message.startswith(problem)
    assert (f"{__file__}, line {fail.__code__.co_firstlineno + 1}" in message) == ("mine" in problem)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("stream", [False, True])
def test_any_mapping_is_sent_as_an_object(start, stream):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    error = MappingProxyType({"message": "mine", "details": MappingProxyType({"at": 1})})
    _, chat = start(Reply("x", usage=MappingProxyType(usage)), Reply(error=error))
    if stream:
        assert chunks_of(chat, stream_options={"include_usage": True})[-1]["usage"]["total_tokens"] == 3
    else:
        assert say(chat).usage.total_tokens == 3
    with pytest.raises(APIError, match="mine") as caught:
        list(say(chat, stream=stream))
    assert caught.value.body == {"message": "mine", "details": {"at": 1}}


def test_scripted_usage_is_reported(start):
    given = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    _, chat = start(Reply("x", usage=given), Reply("x", usage=given), Reply("x"))
    assert say(chat).usage.total_tokens == 3
    assert [chunk["usage"] for chunk in chunks_of(chat)] == [None] * 3, "not asked for"
    assert say(chat, "one two").usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 2,
        "completion_tokens": 1,
        "total_tokens": 3,
    }


@pytest.mark.parametrize("value", [{"a": [1, None]}, [], "text", 0, False])
def test_json_reply_round_trips(start, value):
    _, chat = start(Reply(json=value), Reply(json=value))
    assert json.loads(text_of(say(chat))) == value
    assert json.loads("".join(deltas(chunks_of(chat), "content"))) == value


def test_error_reply_ends_a_stream_or_sets_the_status(start):
    error = {"status": 503, "message": "Service temporarily unavailable.", "code": "service_unavailable"}
    _, chat = start(Reply("Once upon", error=error), Reply("Once upon", error=error), Reply(error={"message": "x"}))
    parts = []
    with pytest.raises(APIError, match="temporarily") as caught:
        parts.extend(chunk.choices[0].delta.content for chunk in say(chat, stream=True))
    assert "".join(filter(None, parts)) == "Once upon"
    assert caught.value.body == error
    for status in (503, 500):
        with pytest.raises(APIStatusError) as plain:
            say(chat)
        assert plain.value.status_code == status


@pytest.mark.parametrize("status", ["503", 99, 1000, None])
def test_error_reply_with_a_status_that_http_does_not_have_is_a_500(start, status):
    error = {"status": status, "message": "of a host"}
    _, chat = start(Reply(error=error))
    with pytest.raises(APIStatusError) as caught:
        say(chat)
    assert (caught.value.status_code, caught.value.body) == (500, error)


def test_truncated_stream_has_no_done(start):
    _, chat = start(Reply("Once upon", cut_off=True))
    chunks = chunks_of(chat)
    assert "".join(deltas(chunks, "content")) == "Once upon"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 3


def test_stream_stops_after_disconnect(caplog):
    with (
        Sandbox(script=[Reply("word " * 20_000)]) as sandbox,
        OpenAI(base_url=sandbox.base_url, api_key=sandbox.api_key) as client,
    ):
        with say(client.chat.completions, stream=True) as stream:
            next(stream)
        assert text_of(say(client.chat.completions)).startswith(PREFIX)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize("stream", [False, True])
def test_script_may_contain_a_fault(start, stream):
    body = {"error": "Insufficient balance", "requiredBalance": 0.0035, "status": 402}
    _, chat = start(Reply("first"), Fault(402, body=body, headers={"X-Request-ID": "mine"}))
    assert text_of(say(chat)) == "first"
    with pytest.raises(APIStatusError) as caught:
        say(chat, stream=stream)
    assert (caught.value.status_code, caught.value.response.json()) == (402, body)
    assert caught.value.request_id == "mine"


def test_refused_request_uses_no_reply(start):
    sandbox, chat = start(Reply("first"))
    with pytest.raises(APIStatusError):
        say(chat, n=3)
    assert sandbox.replies_left == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Reply("a", json={}), "text or json"),
        (lambda: Reply(tool_calls=["search"]), "ToolCall"),
        (lambda: Reply(reasoning_field="thoughts"), 'must be "reasoning" or "reasoning_content"'),
        (lambda: Reply(reasoning_field=[]), "reasoning_field"),
        (lambda: Sandbox(script=["Hello"]), "not str"),
        (lambda: Sandbox(script=[Fault(None)]), "status"),
    ],
)
def test_invalid_scripts_are_refused(make, words):
    with pytest.raises(ConfigurationError, match=words):
        make()

"""One contract for the chat classes of both plugins, over HTTP to the sandbox."""

import asyncio
import copy
import functools
import pickle
import traceback
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import openai
import pytest

import fresh_process
from nanogpt_core import errors
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.chat.client import map_sdk_errors
from nanogpt_core.http.sdk import httpx as http
from nanogpt_core.plugins.embedding_model import EMBEDDER_DEFAULTS
from nanogpt_core.sandbox import Fault, Reply

TESTS = Path(__file__).parents[1]
KEY = "sk-nano-0123abcd-very-secret"
FACT = "The battery of the X200 lasts twelve hours."
PROMPT = f"[1] {FACT}\n\n[2] Shoes come in blue.\n\nQuestion: How long does the X200's battery last?"
BALANCE = {"error": "Insufficient balance", "requiredBalance": 0.0035, "status": 402}


@pytest.fixture
def make(chat_plugin, fresh_sandbox):
    """Make a chat object that talks to the sandbox."""
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    return lambda **more: chat_plugin.cls(**{**options, **more})


@pytest.fixture
def scripted(fresh_sandbox):
    """``scripted(*replies)`` scripts the sandbox, and returns it."""

    def start(*replies):
        fresh_sandbox.add_replies(*replies)
        return fresh_sandbox

    return start


def shown(error):
    return "".join(traceback.format_exception(error))


FIRST_CALL = """
import os, sys
from {module} import {name}
chat = {name}(api_key=os.environ["KEY"], base_url=os.environ["URL"])
from openai.types.chat import ChatCompletion, ChatCompletionChunk
assert ChatCompletion.__pydantic_complete__ and ChatCompletionChunk.__pydantic_complete__
before = set(sys.modules)
chat.{method}("Hello")
list(chat.{stream}("Hello"))
print(sorted(set(sys.modules) - before))
"""


def test_first_call_imports_no_module_and_builds_no_model(chat_plugin, fresh_sandbox):
    """A child that is forked meanwhile by another thread would wait for ever for the lock of that module or model."""
    names = {"module": chat_plugin.module, "name": chat_plugin.class_name}
    code = FIRST_CALL.format(**names, method=chat_plugin.method, stream=chat_plugin.stream)
    environment = {"KEY": fresh_sandbox.api_key, "URL": fresh_sandbox.base_url}
    done = fresh_process.run(code, environment=environment)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


# --- requests and replies ---


async def test_quotation_of_the_sandbox_is_returned(make, ask, fresh_sandbox):
    assert FACT in await ask(make(model="any/model:online", temperature=0, max_tokens=500), PROMPT)
    (request,) = fresh_sandbox.requests
    assert request.path == "/api/v1/chat/completions"
    sent = {name: request.body[name] for name in ("model", "temperature")}
    assert sent == {"model": "any/model:online", "temperature": 0}


async def test_stream_has_the_text_of_the_whole_answer_in_parts(chat_plugin, make, call):
    chat = make()
    parts = [part async for part in chat_plugin.parts(call, chat, PROMPT)]
    assert len(parts) > 5
    assert "".join(parts) == chat_plugin.text_of(await call(chat, chat_plugin.method, PROMPT))


# Names that the base classes would send to another endpoint.
@pytest.mark.parametrize("model", ["gpt-5-pro", "o1", "o3-pro", "codex-mini-latest", "gpt-5.2-pro", "gpt-5.4-pro"])
async def test_every_model_goes_to_chat_completions(make, ask, scripted, model):
    sandbox = scripted(Reply("Here."))
    assert await ask(make(model=model, max_tokens=9)) == "Here."
    assert [(request.path, request.model) for request in sandbox.requests] == [("/api/v1/chat/completions", model)]


async def test_blanks_around_a_model_name_are_stripped(chat_plugin, make, ask, fresh_sandbox):
    chat = make(model=" any/model:online\n")
    await ask(chat)
    assert fresh_sandbox.requests[0].body["model"] == getattr(chat, chat_plugin.model) == "any/model:online"


async def test_truncated_text_is_returned(make, ask, scripted):
    scripted(Reply("Once upon", finish_reason="length"))
    assert await ask(make(max_tokens=2)) == "Once upon"


def test_chat_works_in_several_event_loops(chat_plugin, make):
    chat = make()

    async def answer():
        return chat_plugin.text_of(await getattr(chat, f"a{chat_plugin.method}")(PROMPT))

    answers = [asyncio.run(answer()) for _ in range(3)]
    assert answers == [chat_plugin.text_of(getattr(chat, chat_plugin.method)(PROMPT))] * 3


async def test_default_headers_and_own_http_clients_are_used(chat_plugin, make, ask, call, fresh_sandbox):
    seen = []
    client = http.Client(event_hooks={"request": [lambda _request: seen.append("sync")]})

    async def note(_request):
        seen.append("async")

    async_client = http.AsyncClient(event_hooks={"request": [note]})
    clients = {"http_client": client, chat_plugin.async_client: async_client}
    await ask(make(default_headers={"X-Team": "search"}, **clients))
    client.close()
    await async_client.aclose()
    assert seen == [call.kind]
    assert fresh_sandbox.requests[0].headers["x-team"] == "search"


# --- errors ---

REFUSALS = [
    (Fault(400, body={"error": {"message": "bad tool", "code": "invalid_parameter_value"}}), errors.BadRequestError),
    (Fault(400, body={"error": {"message": "x", "code": "context_length_exceeded"}}), errors.RequestTooLargeError),
    (Fault(401, body={"error": {"message": "x"}}), errors.AuthenticationError),
    (Fault(402, body=BALANCE), errors.InsufficientBalanceError),
    (Fault(404, body={"error": {"message": "x", "code": "model_not_found"}}), errors.ModelNotFoundError),
    (Fault(429, body={"error": {"message": "x", "code": "insufficient_quota"}}), errors.QuotaExceededError),
]


@pytest.mark.parametrize(("fault", "expected"), REFUSALS, ids=[kind.__name__ for _, kind in REFUSALS])
async def test_permanent_errors_are_typed_and_not_retried(make, ask, scripted, fault, expected):
    sandbox = scripted(fault)
    with pytest.raises(expected) as caught:
        await ask(make())
    # LangChain's plugin has a subclass of each error, which is an error of LangChain too.
    assert expected in (type(caught.value), *type(caught.value).__bases__)
    assert caught.value.request_id.startswith("sandbox-")
    assert not isinstance(caught.value, openai.OpenAIError)
    assert len(sandbox.requests) == 1
    if expected is errors.InsufficientBalanceError:
        assert "$0.0035" in str(caught.value)


@pytest.mark.skipif(http.__name__ != "httpx", reason="respx does not know httpx2")
async def test_error_of_a_mock_that_replaces_transports_is_typed(make, ask):
    respx = pytest.importorskip("respx")
    with respx.mock(using="httpx") as router:  # not the default
        router.post("https://nano-gpt.com/api/v1/chat/completions").mock(side_effect=http.ConnectError("unplugged"))
        chat = make(base_url="https://nano-gpt.com/api/v1")
        with pytest.raises(errors.ConnectionFailedError, match=r"nano-gpt.com: unplugged \(ConnectError\)"):
            await ask(chat)


async def test_transient_failure_is_retried(make, ask, scripted):
    sandbox = scripted(Fault(503), Fault(500), Reply("Here."))
    with fake_clock():
        assert await ask(make()) == "Here."
    assert len(sandbox.requests) == 3


async def test_last_error_is_raised_after_max_retries(make, ask, scripted):
    sandbox = scripted(*[Fault(503)] * 9)
    with fake_clock(), pytest.raises(errors.ServerError):
        await ask(make(max_retries=2))
    assert len(sandbox.requests) == 3


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply("Once upon", error={"status": 503, "message": "down", "code": "x"}), errors.ServerError),
        (Reply("Once upon", error={"status": 402, "message": "no money"}), errors.InsufficientBalanceError),
        (Reply("Once upon", error={"message": "who knows"}), errors.ReplyError),
        (Reply("Once upon", cut_off=True), errors.ReplyError),
    ],
    ids=["503", "402", "unknown", "cut"],
)
async def test_failed_stream_raises_after_its_parts(chat_plugin, make, call, scripted, reply, expected):
    sandbox = scripted(reply)
    parts = []

    async def collect():
        async for part in chat_plugin.parts(call, make(), "Tell me a story."):
            parts.append(part)  # noqa: PERF401 - the parts before the error count

    with pytest.raises(expected):
        await collect()
    assert "".join(parts) == "Once upon"
    assert len(sandbox.requests) == 1


async def test_wrong_key_is_an_authentication_error(make, ask):
    with pytest.raises(errors.AuthenticationError, match="401") as caught:
        await ask(make(api_key=KEY))
    assert KEY not in shown(caught.value)


async def test_repr_and_args_of_an_error_have_its_message(make, ask, scripted):
    scripted(Fault(400, body={"error": {"message": "too many tokens", "code": "context_length_exceeded"}}))
    with pytest.raises(errors.RequestTooLargeError) as caught:
        await ask(make(), "Hello")
    assert " ".join(caught.value.args) == str(caught.value)
    assert "batch_size" not in repr(caught.value)
    assert "context window" in repr(caught.value)


async def test_key_that_the_service_repeats_is_in_no_error(make, ask, scripted):
    sandbox = scripted()
    sandbox.config.api_key = KEY
    sandbox.add_replies(Fault(400, body={"error": {"message": f"what is {KEY}?"}}))
    with pytest.raises(errors.BadRequestError) as caught:
        await ask(make(api_key=KEY))
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    inner = [repr(frame.f_locals) for frame in frames if not Path(frame.f_code.co_filename).is_relative_to(TESTS)]
    assert KEY not in "".join([*traceback.format_exception(caught.value), *inner, repr(caught.value.__cause__)])
    assert len(inner) > 3


# --- options ---


def test_empty_model_name_is_refused(chat_plugin):
    with pytest.raises(errors.ConfigurationError, match=r'^model is empty\. Use one like "openai/gpt-4o-mini"'):
        chat_plugin.cls(model=" ", api_key=KEY)


@pytest.mark.parametrize(
    "bad",
    [
        {"base_url": "ftp://x"},
        {"timeout": "soon"},
        {"default_headers": 5},
        {"temperature": "hot"},
        {"max_retries": -1},
        {"requests_per_second": 0},
    ],
)
def test_invalid_options_are_refused_without_showing_the_key(chat_plugin, bad):
    with pytest.raises(errors.NanoGPTError, match=next(iter(bad))) as caught:
        chat_plugin.cls(api_key=KEY, **bad)
    assert KEY[:10] not in shown(caught.value)


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"top_k": 4}, r"extra_body'?[=:] ?\{'top_k': ...\}"),
        ({"dimension": 5}, "'dimensions' is an option of embeddings, not of chat"),
        ({"batch": 5}, "'batch_size' is an option of embeddings, not of chat"),
        ({"tokens": 5}, "Did you mean 'max_tokens'"),
        ({"http_client": 5}, "http_client must be an httpx.Client, not int"),
        ({"send_reasoning": "yes"}, "send_reasoning must be True or False"),
        ({"model": None}, "model must be a str"),
        ({"model": 3}, "model must be a str"),
    ],
)
def test_unknown_and_unsupported_options_are_refused_with_a_remedy(chat_plugin, bad, remedy):
    with pytest.raises(errors.InvalidTypeError, match=remedy) as caught:
        chat_plugin.cls(api_key=KEY, **bad)
    assert KEY[:10] not in shown(caught.value)


def test_option_of_embeddings_is_not_said_to_go_into_extra_body(chat_plugin):
    known = {*chat_plugin.cls.model_fields, *chat_plugin.cls._option_names(), "user", chat_plugin.other_async_client}
    options = sorted(EMBEDDER_DEFAULTS.keys() - known)
    assert {"budget_usd", "dimensions", "batch_size", "max_concurrency"} <= set(options)
    for name in options:
        with pytest.raises(errors.InvalidTypeError, match=f"'{name}' is an option of embeddings") as caught:
            chat_plugin.cls(api_key=KEY, **{name: 1})
        assert "extra_body" not in str(caught.value)
        assert ("max_tokens" in caught.value.remedy) == (name == "budget_usd")


def test_unknown_option_error_suggests_options_of_the_class(chat_plugin):
    with pytest.raises(errors.InvalidTypeError, match=f"'{chat_plugin.async_client}'"):
        chat_plugin.cls(api_key=KEY, **{chat_plugin.other_async_client: None})


async def test_unknown_option_of_a_call_is_refused(make, ask, fresh_sandbox):
    with pytest.raises(errors.InvalidTypeError, match=r"Unknown option.*extra_body"):
        await ask(make(), top_k=4)
    assert not fresh_sandbox.requests


def nested(levels):
    return functools.reduce(lambda inner, _: {"more": inner}, range(levels), {})


async def test_request_that_is_nested_deeply_is_answered(make, ask, fresh_sandbox):
    assert await ask(make(), extra_body={"metadata": nested(300)})
    assert len(fresh_sandbox.requests) == 1


def test_other_requests_of_the_sdks_client_are_sent(make):
    """Such as the list of stored answers, which has the address of chat and no body."""
    chat = make()
    client = chat.root_client if hasattr(chat, "root_client") else chat._get_client()
    with pytest.raises(errors.BadRequestError, match=r"answered 405 .* GET "), map_sdk_errors(chat._session):
        client.chat.completions.list()
    with pytest.raises(errors.ModelNotFoundError, match="404"), map_sdk_errors(chat._session):
        client.post("/other", cast_to=object, body=["no", "mapping"])


@pytest.mark.parametrize(
    ("prompt", "options", "kind", "words"),
    [
        ("a\ud83d b", {}, errors.InvalidInputError, r"^The message at position 0 .* has an unpaired surrogate"),
        ("Hello", {"user": "a\ud83d b"}, errors.InvalidInputError, "^user has an unpaired surrogate"),
        ("Hello", {"seed": {1, 2}}, errors.InvalidTypeError, "^seed cannot be sent: .* set is not JSON serializable"),
        ("Hello", {"extra_body": {"top_k": float("inf")}}, errors.InvalidTypeError, "^top_k .* not JSON compliant"),
        ("Hello", {"extra_body": {"x": nested(10_000)}}, errors.InvalidTypeError, "^x .* recursion depth exceeded"),
        ("Hello", {"extra_body": {"x": {(1, 2): 3}}}, errors.InvalidTypeError, "^x cannot be sent: keys must be str"),
        ("Hello", {"extra_body": {"x": 10**5000}}, errors.InvalidTypeError, "^x cannot be sent: Exceeds the limit"),
        ("Hello", {"extra_body": {"messages": 5, "x": {1}}}, errors.InvalidTypeError, "^x cannot be sent: "),
    ],
    ids=["surrogate", "surrogate of an option", "set", "infinity", "nesting", "key", "digits", "no messages"],
)
async def test_request_that_cannot_be_written_as_json_is_refused_by_name(
    make, ask, fresh_sandbox, prompt, options, kind, words
):
    with pytest.raises(kind, match=words) as caught:
        await ask(make(), prompt, **options)
    assert caught.value.positions == ((0,) if prompt != "Hello" else ())
    assert not fresh_sandbox.requests


def test_plain_http_to_another_machine_must_be_allowed(chat_plugin):
    with pytest.raises(errors.ConfigurationError, match="allow_insecure_http"):
        chat_plugin.cls(api_key=KEY, base_url="http://lab.example/api/v1")
    chat = chat_plugin.cls(api_key=KEY, base_url="http://lab.example/api/v1", allow_insecure_http=True)
    assert getattr(chat, chat_plugin.base_url) == "http://lab.example/api/v1"


@pytest.mark.usefixtures("foreign_environment")
async def test_options_of_the_http_clients_cannot_be_changed(chat_plugin, make, ask, fresh_sandbox):
    chat = make()
    for name, value in {
        chat_plugin.key: "another",
        chat_plugin.base_url: "https://example.org/v1",
        chat_plugin.timeout: 3,
        "max_retries": 7,
        "requests_per_second": 1,
        "default_headers": {"X-Team": "search"},
        "allow_insecure_http": True,
        "http_client": None,
        chat_plugin.async_client: None,
    }.items():
        with pytest.raises(errors.ConfigurationError, match=f"^{name} cannot be changed after construction"):
            setattr(chat, name, value)
    chat.temperature = 0.25
    await ask(chat)
    assert fresh_sandbox.requests[0].body["temperature"] == 0.25


def test_missing_key_error_names_the_environment_variable(chat_plugin):
    with pytest.raises(errors.ConfigurationError, match="NANOGPT_API_KEY"):
        chat_plugin.cls()


@pytest.mark.usefixtures("foreign_environment")
async def test_key_and_base_url_are_read_from_the_environment(chat_plugin, sandbox, ask, monkeypatch, nothing_leaked):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    chat = chat_plugin.cls()
    await ask(chat)
    nothing_leaked(1)
    assert "leaked" not in f"{chat!r} {chat.model_dump()}"
    monkeypatch.delenv("NANOGPT_BASE_URL")
    assert getattr(chat_plugin.cls(), chat_plugin.base_url) == "https://nano-gpt.com/api/v1"


# --- pacing ---


async def test_chat_and_embeddings_share_a_pause(make, ask, scripted):
    from nanogpt_core import Embedder

    sandbox = scripted(Fault(429, headers={"Retry-After": "8"}))
    embedder = Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url)
    chat = make(max_retries=0)  # a pause is known as long as an object that uses the key
    with fake_clock() as waits:
        with pytest.raises(errors.RateLimitError):
            await ask(chat)
        embedder.embed_query("Hello")
        assert 7 < waits.seconds <= 8


# --- copies ---


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda chat: chat.model_copy()])
async def test_copies_give_the_same_answer(make, ask, duplicate):
    chat = make()
    assert await ask(duplicate(chat), PROMPT) == await ask(chat, PROMPT)


@pytest.mark.parametrize("names", [("base_url", "timeout"), None], ids=["common names", "names of the fields"])
async def test_options_of_a_copy_take_effect(chat_plugin, make, ask, scripted, names):
    sandbox = scripted(Fault(503), Reply("Here."))
    chat = make(base_url="http://127.0.0.1:9/api/v1", max_retries=0)
    base_url, timeout = names or (chat_plugin.base_url, chat_plugin.timeout)
    changes = {base_url: sandbox.base_url, timeout: 7, "max_retries": 1, "default_headers": {"X-A": "b"}}
    twin = chat.model_copy(update={**changes, "model": "any/model"})
    with fake_clock():
        assert await ask(twin) == "Here."
    found = [getattr(twin, name) for name in (chat_plugin.base_url, chat_plugin.timeout, "max_retries")]
    assert found == [sandbox.base_url, 7, 1]
    assert (sandbox.requests[0].headers["x-a"], sandbox.requests[0].model) == ("b", "any/model")
    assert getattr(chat, chat_plugin.base_url) == "http://127.0.0.1:9/api/v1"


@pytest.mark.parametrize("bad", [{"temprature": 1}, {"timeout": "soon"}, {"base_url": "ftp://x"}, {"max_retries": -1}])
def test_copy_with_an_invalid_option_is_refused(make, bad):
    with pytest.raises(errors.NanoGPTError):
        make().model_copy(update=bad)


async def test_pickle_has_no_key_and_reads_it_from_the_environment(chat_plugin, make, ask, scripted, monkeypatch):
    sandbox = scripted(Reply("first"), Reply("second"))
    chat = make(model="any/model", timeout=7, default_headers={"X-Team": "search"})
    assert await ask(chat) == "first"
    written = pickle.dumps(chat)
    assert sandbox.api_key.encode() not in written
    assert b"search" not in written
    with pytest.raises(errors.ConfigurationError, match="NANOGPT_API_KEY"):
        await ask(pickle.loads(written))
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    twin = pickle.loads(written)
    assert (getattr(twin, chat_plugin.model), getattr(twin, chat_plugin.timeout)) == ("any/model", 7)
    assert await ask(twin) == "second"
    assert ["x-team" in request.headers for request in sandbox.requests] == [True, False]


async def test_pickle_for_a_worker_process_carries_key_and_headers(make, ask, scripted):
    sandbox = scripted(*[Reply("fine")] * 3)
    twin = pickle.loads(ForkingPickler.dumps(make(default_headers={"X-Team": "search"})))
    for one in (twin, twin.model_copy(update={"max_retries": 1}), pickle.loads(ForkingPickler.dumps(twin))):
        assert await ask(one) == "fine"
    assert [request.headers["x-team"] for request in sandbox.requests] == ["search"] * 3


def test_object_with_an_own_http_client_is_not_pickled(make):
    with http.Client() as client, pytest.raises(errors.InvalidTypeError, match="http_client"):
        pickle.dumps(make(http_client=client))


def test_two_names_of_one_option_may_not_differ(chat_plugin, make):
    other = "http://127.0.0.1:9/api/v1"
    with pytest.raises(errors.ConfigurationError, match="same option, and differ"):
        make(**{"base_url": "http://127.0.0.1:8/api/v1", chat_plugin.base_url: other})
    for update in ({chat_plugin.base_url: other}, {"base_url": other, chat_plugin.base_url: None}):
        assert getattr(make().model_copy(update=update), chat_plugin.base_url) == other

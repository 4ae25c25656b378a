"""Chat through the SDK's clients, over real HTTP: pacing, retries, bounds and errors, plain and streamed."""

import asyncio
import copy
import gc
import json
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import weakref
from functools import partial
from types import SimpleNamespace

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from fault_server import Closing
from nanogpt_core import Embedder, errors
from nanogpt_core._runtime.clock import fake_clock, now
from nanogpt_core.chat.client import iterate_stream, make_async_chat_client, make_chat_client, map_sdk_errors
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.errors import DamagedReplyError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.sdk import httpx
from nanogpt_core.models.listing import fetch_chat_model

KEY = "sk-nano-0123abcd-very-secret"
MESSAGES = [{"role": "user", "content": "hello"}]
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "all of it"}, "finish_reason": "stop"}],
}


def chunk(delta=None, reason=None, **more):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def sse(*events):
    lines = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return "".join(f"data: {line}\n\n" for line in lines).encode()


ALL = sse(chunk({"content": "all "}), chunk({"content": "of it"}), chunk(reason="stop"), "[DONE]")


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture(params=["plain", "streamed"])
def form(request):
    return request.param


@pytest.fixture
def ask(kind, form):
    """``ask(caller, **more)`` returns the answer's text; the four kinds of call from one test."""
    return ask_as(kind, form)


def ask_as(kind, form):
    def sync(caller, **more):
        client = make_chat_client(caller)
        options = {"model": "m", "messages": MESSAGES, **more}
        if form == "plain":
            return client.chat.completions.create(**options).choices[0].message.content
        parts = []
        for part in client.chat.completions.create(stream=True, **options):
            parts += [choice.delta.content or "" for choice in part.choices]
        return "".join(parts)

    async def asynchronous(caller, **more):
        client = make_async_chat_client(caller)
        options = {"model": "m", "messages": MESSAGES, **more}
        if form == "plain":
            return (await client.chat.completions.create(**options)).choices[0].message.content
        parts = []
        async for part in await client.chat.completions.create(stream=True, **options):
            parts += [choice.delta.content or "" for choice in part.choices]
        return "".join(parts)

    def run(caller, **more):
        with map_sdk_errors(caller):
            return sync(caller, **more) if kind == "sync" else asyncio.run(asynchronous(caller, **more))

    return run


@pytest.fixture
def answering(serve, faults):
    """Start a server that sends the given responses in order, and then correct ones; returns it with a caller."""

    def start(*answers, key=KEY, timeout=20.0, headers=None, **more):
        left = iter(answers)

        def answer(seen):
            chosen = next(left, None)
            if chosen is not None:
                return chosen(seen) if callable(chosen) else chosen
            if seen.path.endswith("/embeddings"):
                return faults.good(seen)
            streamed = seen.json.get("stream")
            return faults.response(ALL, Content_Type="text/event-stream") if streamed else faults.response(ANSWER)

        server = serve(answer)
        connection = Endpoint.resolve(api_key=key, base_url=server.base_url, timeout=timeout, headers=headers)
        return SimpleNamespace(server=server, connection=connection, caller=ChatSession(connection, **more))

    return start


@pytest.fixture
def waits():
    with fake_clock() as waits:
        yield waits


def shown(error):
    """Return everything that a program may print of an error."""
    return "\n".join(["".join(traceback.format_exception(error)), repr(error), str(error), str(vars(error))])


def local_variables(error):
    """Return the local variables of all frames of an error, except this module's; crash reports show them."""
    frames = [frame for cause in errors.causes(error) for frame, _ in traceback.walk_tb(cause.__traceback__)]
    return "\n".join(repr(frame.f_locals) for frame in frames if frame.f_code.co_filename != __file__)


def assert_ours(error, key=KEY, *, repeated=False):
    """Check an error. A key that the server has repeated may be in local variables, and never in text."""
    assert isinstance(error, errors.NanoGPTError)
    assert not isinstance(error, (openai.OpenAIError, httpx.HTTPError))
    assert key not in shown(error)
    assert repeated or key not in local_variables(error)


def test_each_call_returns_the_text_and_sends_the_key(ask, answering):
    made = answering()
    assert ask(made.caller) == "all of it"
    (seen,) = made.server.requests
    assert seen.header("authorization") == f"Bearer {KEY}"
    assert not [name for name, _ in seen.headers if name.lower().startswith("openai-")]


def test_only_our_headers_are_sent(kind, answering, monkeypatch):
    leaked = {"OPENAI_CUSTOM_HEADERS": "X-Leaked: 1\naccept: leaked", "OPENAI_ORG_ID": "org", "OPENAI_PROJECT_ID": "p"}
    for name, value in leaked.items():
        monkeypatch.setenv(name, value)
    made = answering(headers={"X-Team": "search", "User-Agent": "ours", "X-Once": "object"})
    ask_as(kind, "plain")(made.caller, extra_headers={"X-Once": "call"})
    (seen,) = made.server.requests
    assert [seen.header(name) for name in ("x-team", "user-agent", "x-once")] == ["search", "ours", "call"]
    assert [seen.header(name) for name in ("accept", "accept-encoding")] == ["application/json", "identity"]
    names = [name.lower() for name, _ in seen.headers]
    assert not [name for name in names if name.startswith(("openai-", "x-stainless-", "x-leaked"))]
    assert len(names) == len(set(names))


def test_headers_of_one_call_are_in_no_error(ask, answering, faults):
    words = "No application/json for gateway-secret and other-secret at 127.0.0.1"
    made = answering(faults.response({"error": {"message": words}}, 400))
    headers = {"X-Gateway-Token": "gateway-secret", "Authorization": "Bearer other-secret"}
    with pytest.raises(errors.BadRequestError) as caught:
        ask(made.caller, extra_headers=headers)
    assert "No application/json for ********** and ********** at 127.0.0.1" in caught.value.message
    assert "secret" not in shown(caught.value).replace("very-secret", "")


def test_streams_are_of_the_sdk_class_that_the_caller_gives(kind, answering):
    """Instrumentation such as logfire's passes a stream class of its own."""
    made = answering()
    base = openai.Stream if kind == "sync" else openai.AsyncStream

    class Instrumented(base[ChatCompletionChunk]):
        pass

    options = {"cast_to": ChatCompletionChunk, "stream": True, "stream_cls": Instrumented}
    body = {"model": "m", "messages": MESSAGES, "stream": True}

    async def run():
        client = make_async_chat_client(made.caller)
        stream = await client.post("/chat/completions", body=body, **options)
        return stream, [part async for part in stream]

    if kind == "sync":
        stream = make_chat_client(made.caller).post("/chat/completions", body=body, **options)
        parts = list(stream)
    else:
        stream, parts = asyncio.run(run())
    assert type(stream) is Instrumented
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "all of it"


def test_header_of_one_call_that_is_not_ascii_is_no_surrogate(ask, answering):
    """The plugins refuse it by its name before."""
    with pytest.raises(UnicodeEncodeError, match="ascii"):
        ask(answering().caller, extra_headers={"X-Team": "\u20ac"})


def test_exception_of_other_code_is_neither_hidden_nor_retried(kind, form, answering):
    made = answering(max_retries=3)
    seen = []

    def fail(_request):
        seen.append(1)
        raise ZeroDivisionError

    async def afail(_request):
        fail(_request)

    options = {"model": "m", "messages": MESSAGES, "stream": form == "streamed"}

    async def run():
        async with httpx.AsyncClient(event_hooks={"request": [afail]}) as theirs:
            return await make_async_chat_client(made.caller, theirs).chat.completions.create(**options)

    def run_sync():
        with httpx.Client(event_hooks={"request": [fail]}) as theirs:
            make_chat_client(made.caller, theirs).chat.completions.create(**options)

    with pytest.raises(ZeroDivisionError), map_sdk_errors(made.caller):
        run_sync() if kind == "sync" else asyncio.run(run())
    assert len(seen) == 1


@pytest.mark.parametrize("used", [True, False])
def test_client_does_not_keep_the_rate_cap_alive(kind, answering, used):
    """The SDK's clients are part of reference cycles; a limit must not wait for the garbage collector."""
    made = answering(requests_per_second=7)
    limit = weakref.ref(made.caller._rate_cap)
    make = make_chat_client if kind == "sync" else make_async_chat_client
    client = make(made.caller)
    ask = client.chat.completions.create
    options = {"model": "m", "messages": MESSAGES}
    gc.disable()
    try:
        if used:
            ask(**options) if kind == "sync" else asyncio.run(ask(**options))
        assert limit() is not None
        del made.caller
        assert limit() is None
    finally:
        gc.enable()
    # The client still works, with a limit of its own.
    assert (ask(**options) if kind == "sync" else asyncio.run(ask(**options))).choices


# --- permanent errors ---

REFUSALS = {
    "400": (
        400,
        {"error": {"message": "bad tool", "code": "invalid_parameter_value"}},
        errors.BadRequestError,
        "bad tool",
    ),
    "too large": (
        400,
        {"error": {"message": "too many tokens", "code": "context_length_exceeded"}},
        errors.RequestTooLargeError,
        "context window",
    ),
    "401": (401, {"error": {"message": f"no key {KEY}"}}, errors.AuthenticationError, "NANOGPT_API_KEY"),
    "402": (
        402,
        {"error": "Insufficient balance", "requiredBalance": 0.0035, "status": 402},
        errors.InsufficientBalanceError,
        r"\$0\.0035",
    ),
    "403": (403, {"error": {"message": "no"}}, errors.PermissionDeniedError, "403"),
    "404": (404, {"error": {"message": "x", "code": "model_not_found"}}, errors.ModelNotFoundError, "suffixes"),
    "quota": (429, {"error": {"message": "x", "code": "daily_usd_limit_exceeded"}}, errors.QuotaExceededError, "429"),
    "redirect": (307, "", errors.BadRequestError, "Redirects"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_permanent_errors_are_typed_and_not_retried(ask, answering, faults, case):
    status, body, expected, words = REFUSALS[case]
    made = answering(faults.response(body, status, x_request_id="req-7", Location="/elsewhere"), max_retries=3)
    with pytest.raises(expected, match=words) as caught:
        ask(made.caller)
    error = caught.value
    assert type(error) is expected
    assert (error.status, error.request_id) == (status, "req-7")
    assert error.remedy
    assert isinstance(error.__cause__, openai.APIStatusError)
    assert len(made.server.requests) == 1
    assert_ours(error, repeated=KEY in str(body))


def test_redirect_names_the_base_url_that_it_leads_to(ask, answering, faults):
    made = answering(faults.response("", 308, Location="http://127.0.0.1:9/other/chat/completions"))
    with pytest.raises(errors.BadRequestError) as caught:
        ask(made.caller)
    assert "http://127.0.0.1:9/other:" in caught.value.remedy


async def test_own_http_client_does_not_follow_redirects(kind, answering, faults):
    made = answering(faults.response("", 307, Location="/elsewhere"))

    async def follow():
        options = {"model": "m", "messages": MESSAGES}
        if kind == "sync":
            with httpx.Client(follow_redirects=True) as client:
                return make_chat_client(made.caller, client).chat.completions.create(**options)
        async with httpx.AsyncClient(follow_redirects=True) as client:
            return await make_async_chat_client(made.caller, client).chat.completions.create(**options)

    with pytest.raises(errors.BadRequestError, match="Redirects"), map_sdk_errors(made.caller):
        await follow()
    assert len(made.server.requests) == 1


@pytest.mark.parametrize("case", ["list", "string", "text", "nothing"])
def test_malformed_error_bodies_give_a_typed_error(ask, answering, faults, case):
    body = {"list": ["no"], "string": '"no"', "text": "<html>no</html>", "nothing": ""}[case]
    made = answering(faults.response(body, 400))
    with pytest.raises(errors.BadRequestError, match="400") as caught:
        ask(made.caller)
    assert_ours(caught.value)


# --- transient errors and retries ---


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_statuses_are_retried(ask, answering, faults, status):
    made = answering(faults.response("later", status), max_retries=1)
    assert ask(made.caller) == "all of it"
    assert len(made.server.requests) == 2


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("retries", [0, 1, 2])
def test_retries_are_counted_once(ask, answering, faults, retries):
    made = answering(*[faults.response({"error": {"message": "down"}}, 500)] * 9, max_retries=retries)
    with pytest.raises(errors.ServerError, match="down") as caught:
        ask(made.caller)
    assert len(made.server.requests) == retries + 1
    assert_ours(caught.value)


def test_retry_after_is_respected(ask, answering, faults, waits):
    made = answering(faults.response("slow down", 429, Retry_After="7"), max_retries=1)
    assert ask(made.caller) == "all of it"
    assert 7 <= waits.seconds < 7.5


def test_long_retry_after_fails_at_once(ask, answering, faults, waits):
    made = answering(faults.response("slow down", 429, Retry_After="3600"), max_retries=3)
    with pytest.raises(errors.RateLimitError, match="Try again in 1 h"):
        ask(made.caller)
    assert (len(made.server.requests), waits.seconds) == (1, 0)


@pytest.mark.usefixtures("waits")
def test_lost_connection_is_retried(ask, answering, faults):
    made = answering(faults.RESET, max_retries=1)
    assert ask(made.caller) == "all of it"
    made = answering(faults.RESET, faults.RESET, max_retries=1)
    with pytest.raises(errors.ConnectionFailedError, match=r"127\.0\.0\.1") as caught:
        ask(made.caller)
    assert_ours(caught.value)


def test_refused_connection_is_a_connection_error(ask):
    connection = Endpoint.resolve(api_key=KEY, base_url="http://127.0.0.1:9/api/v1")
    with pytest.raises(errors.ConnectionFailedError, match=r"127\.0\.0\.1:9") as caught:
        ask(ChatSession(connection, max_retries=0))
    assert_ours(caught.value)


# --- time ---


def test_no_reply_in_time_is_a_timeout(ask, answering):
    over = threading.Event()

    def never(_seen):
        over.wait(60)
        return b""

    made = answering(never, timeout=0.2, max_retries=0)
    with pytest.raises(errors.RequestTimeoutError, match=r"0\.2 s") as caught:
        ask(made.caller)
    over.set()
    assert_ours(caught.value)


def test_timeout_of_one_call_overrides_the_default(ask, answering):
    over = threading.Event()
    made = answering(lambda _seen: [over.wait(60) and b""], max_retries=0)
    with pytest.raises(errors.RequestTimeoutError, match=r"0\.25 s"):
        ask(made.caller, timeout=0.25)
    over.set()


def trickle(over, beginning):
    def answer(_seen):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000000\r\n\r\n" + beginning
        while not over.wait(0.05):
            yield b": still here\n\n"

    return answer


@pytest.mark.parametrize("beginning", [b"", sse(chunk({"content": "all"}))], ids=["before the first", "in the middle"])
def test_stream_of_only_keep_alives_is_a_timeout(kind, answering, beginning):
    over = threading.Event()
    made = answering(trickle(over, beginning), timeout=0.3, max_retries=0)
    with pytest.raises(errors.RequestTimeoutError) as caught:
        ask_as(kind, "streamed")(made.caller)
    over.set()
    assert_ours(caught.value)


def test_stream_may_take_longer_than_the_timeout(kind, answering):
    over = threading.Event()

    def answer(_seen):
        body = [sse(chunk({"content": "all "})), sse(chunk({"content": "of it"})), sse(chunk(reason="stop"), "[DONE]")]
        length = sum(map(len, body))
        yield f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {length}\r\n\r\n".encode()
        for part in body:
            over.wait(1.5)  # three of these are longer than the timeout, and each is shorter
            yield part

    made = answering(answer, timeout=4, max_retries=0)
    assert ask_as(kind, "streamed")(made.caller) == "all of it"


# --- ends of streams ---

MID = {
    "reference": (
        [chunk({}, "error", error={"status": 503, "message": f"down {KEY}", "code": "service_unavailable"}), "[DONE]"],
        errors.ServerError,
        503,
    ),
    "balance": (
        [{"error": "Insufficient balance", "requiredBalance": 0.2, "status": 402}],
        errors.InsufficientBalanceError,
        402,
    ),
    "code alone": ([{"error": {"message": "x", "code": "model_not_found"}}], errors.ModelNotFoundError, 404),
    "rate": (
        [{"code": "rate_limited", "message": "x", "error": {"message": "x", "code": 429}}],
        errors.RateLimitError,
        429,
    ),
    "unknown": ([{"error": {"message": f"oh {KEY}", "code": None}}], errors.ReplyError, None),
    "string": ([{"error": "boom"}], errors.ReplyError, None),
    "finish only": ([chunk({}, "error")], errors.ReplyError, None),
    "not json": (["{never mind " + KEY], DamagedReplyError, None),
    "a list": (["[1, 2]"], errors.ReplyError, None),
    "cut": ([], DamagedReplyError, None),
}


@pytest.mark.parametrize("case", MID)
def test_error_in_mid_stream_is_typed(kind, answering, faults, case):
    events, expected, status = MID[case]
    body = sse(chunk({"content": "all "}), *events)
    made = answering(faults.response(body, Content_Type="text/event-stream", x_request_id="req-9"), max_retries=3)
    parts = []
    with pytest.raises(expected) as caught:
        collect(kind, made.caller, parts)
    assert parts == ["all "]
    assert len(made.server.requests) == 1, "a stream that has begun is not tried again"
    assert caught.value.request_id == "req-9"
    assert getattr(caught.value, "status", None) == status
    assert_ours(caught.value, repeated=True)


def collect(kind, caller, parts):
    options = {"model": "m", "messages": MESSAGES, "stream": True}
    if kind == "sync":
        for part in make_chat_client(caller).chat.completions.create(**options):
            parts += [choice.delta.content for choice in part.choices]
        return

    async def run():
        async for part in await make_async_chat_client(caller).chat.completions.create(**options):
            parts.extend(choice.delta.content for choice in part.choices)

    asyncio.run(run())


def lost_in_the_middle(_seen):
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100000\r\n\r\n"
    yield sse(chunk({"content": "all "}))
    yield Closing(b"data: {")


def test_connection_lost_in_mid_stream_is_a_typed_error(kind, answering):
    made = answering(lost_in_the_middle, max_retries=3)
    parts = []
    with pytest.raises(errors.ConnectionFailedError, match="broke off") as caught:
        collect(kind, made.caller, parts)
    assert parts == ["all "]
    assert len(made.server.requests) == 1
    assert_ours(caught.value)


EARLY = {
    "error first": sse({"error": {"status": 503, "message": "down"}}),
    "nothing": b"",
    "keep-alive alone": b": hello\n\n",
}


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("case", EARLY)
def test_stream_that_fails_before_its_first_chunk_is_retried(kind, answering, faults, case):
    made = answering(faults.response(EARLY[case], Content_Type="text/event-stream"), max_retries=1)
    assert ask_as(kind, "streamed")(made.caller) == "all of it"
    assert len(made.server.requests) == 2


HALF_A_CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "remove", "arguments": '{"path": "/ho'}}
A_FORM = {"response_format": {"type": "json_object"}}
A_CALL = {"tools": [{"type": "function", "function": {"name": "remove"}}]}
CUT = {
    "a call": ({"tool_calls": [HALF_A_CALL]}, A_CALL),
    "a call of old": ({"function_call": HALF_A_CALL["function"]}, {}),
    "a form": ({"content": '{"path": "/ho'}, A_FORM),
    "a form in the body": ({"content": '{"path": "/ho'}, {"extra_body": A_FORM}),
    "before a call": ({"content": "Let me"}, {**A_CALL, "tool_choice": "required"}),
    "before a call by name": (
        {"content": "Let me"},
        {**A_CALL, "tool_choice": {"type": "function", "function": {"name": "remove"}}},
    ),
}


@pytest.fixture
def cut_answer(kind, form, answering, faults):
    """``cut_answer(message, reason)`` starts a server whose answer ends there; its ``ask`` is one of four."""

    def start(message, reason):
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
        stream = sse(chunk(message), chunk(reason=reason), "[DONE]")
        body = ANSWER | {"choices": [choice]} if form == "plain" else stream
        said = "application/json" if form == "plain" else "text/event-stream"
        made = answering(faults.response(body, Content_Type=said, x_request_id="req-6"))
        made.ask = ask_as(kind, form)
        return made

    return start


@pytest.mark.parametrize("reason", ["length", "content_filter"])
@pytest.mark.parametrize("case", CUT)
def test_truncated_tool_call_or_structured_output_is_an_error(cut_answer, case, reason):
    message, request = CUT[case]
    made = cut_answer(message, reason)
    remedy = {"length": "Raise max_tokens", "content_filter": "other words"}[reason]
    with pytest.raises(errors.ReplyError, match=f"cut off .*{remedy}") as caught:
        made.ask(made.caller, **request)
    assert_ours(caught.value)
    assert caught.value.request_id == "req-6"
    assert len(made.server.requests) == 1


@pytest.mark.parametrize("more", [{}, A_CALL, {"response_format": {"type": "text"}}, {**A_CALL, "tool_choice": "auto"}])
def test_truncated_text_is_returned(cut_answer, more):
    made = cut_answer({"content": "Once upon"}, "length")
    assert made.ask(made.caller, **more) == "Once upon"


@pytest.mark.parametrize("end", [[chunk(reason="stop")], ["[DONE]"]], ids=["finish_reason", "DONE"])
def test_done_or_finish_reason_ends_a_stream(kind, answering, faults, end):
    body = sse(chunk({"content": "all of it"}), *end)
    made = answering(faults.response(body, Content_Type="text/event-stream"))
    assert ask_as(kind, "streamed")(made.caller) == "all of it"


def test_connection_lost_after_a_complete_answer_is_no_error(kind, answering):
    def answer(_seen):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100000\r\n\r\n"
        yield Closing(sse(chunk({"content": "all of it"}), chunk(reason="stop")))

    made = answering(answer, max_retries=0)
    assert ask_as(kind, "streamed")(made.caller) == "all of it"


def test_each_choice_must_have_ended(kind, answering, faults):
    two = [{"index": n, "delta": {"content": "x"}, "finish_reason": None} for n in range(2)]
    one_ends = {"index": 0, "delta": {}, "finish_reason": "stop"}
    body = sse({**chunk(), "choices": two}, {**chunk(), "choices": [one_ends]})
    made = answering(faults.response(body, Content_Type="text/event-stream"), max_retries=0)
    with pytest.raises(DamagedReplyError, match="broke off"):
        ask_as(kind, "streamed")(made.caller, n=2)


def test_extra_and_missing_fields_of_chunks_are_tolerated(kind, answering, faults):
    odd = [{**chunk(), "choices": None, "x_nanogpt_pricing": {"cost": 1}}, chunk({"content": "all of it"}, x_new=1)]
    odd.append({**chunk(), "choices": [{"index": 0, "delta": None, "finish_reason": None}]})
    body = b": hello\r\n\r\n" + sse(*odd, chunk(reason="stop"), "[DONE]").replace(b"\n", b"\r\n")
    made = answering(faults.response(body, Content_Type="text/event-stream"))
    assert ask_as(kind, "streamed")(made.caller) == "all of it"


@pytest.mark.parametrize("chunked", [True, False])
def test_chunks_are_passed_on_immediately(kind, answering, chunked):
    seen_first = threading.Event()
    parts = [sse(chunk({"content": "all "})), sse(chunk({"content": "of it"}), chunk(reason="stop"), "[DONE]")]

    def answer(_seen):
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {sum(map(len, parts))}"
        yield f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{length}\r\n\r\n".encode()
        for part in parts:
            yield b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
            assert seen_first.wait(60), "the first part was kept back"
        if chunked:
            yield b"0\r\n\r\n"

    made = answering(answer, max_retries=0)
    heard = Heard(seen_first.set)
    collect(kind, made.caller, heard)
    assert "".join(filter(None, heard)) == "all of it"


class Heard(list):
    """A list with an event that is set by each append."""

    def __init__(self, tell):
        super().__init__()
        self._tell = tell

    def __iadd__(self, parts):
        self.extend(parts)
        return self

    def extend(self, parts):
        super().extend(parts)
        self._tell()


def test_successive_streams_share_a_connection(kind, answering):
    made = answering()

    async def thrice():
        client = make_async_chat_client(made.caller)
        for _ in range(3):
            async for _part in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
                pass

    if kind == "async":
        asyncio.run(thrice())
    else:
        for _ in range(3):
            ask_as("sync", "streamed")(made.caller)
    assert (len(made.server.requests), made.server.connections) == (3, 1)


@pytest.mark.parametrize("own", [False, True])
def test_finished_stream_does_not_wait_for_the_server_to_close(kind, answering, own):
    over = threading.Event()

    def answer(_seen):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000000\r\n\r\n" + ALL
        over.wait(60)

    made = answering(answer, max_retries=0)

    async def ask():
        async with httpx.AsyncClient() as theirs:
            client = make_async_chat_client(made.caller, theirs if own else None)
            stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            return [part async for part in stream]

    if kind == "sync":
        with httpx.Client() as theirs:
            client = make_chat_client(made.caller, theirs if own else None)
            parts = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    else:
        parts = asyncio.run(ask())
    assert not over.is_set()
    over.set()
    assert len(parts) == 3


USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
WITH_USAGE = {"stream_options": {"include_usage": True}}
ENDINGS = {
    "finish_reason": ([chunk(reason="stop")], {}),
    "usage": ([chunk(reason="stop"), {**chunk(), "choices": [], "usage": USAGE}], WITH_USAGE),
    "no usage": ([chunk(reason="stop")], WITH_USAGE),
    "ignored n": ([chunk(reason="stop"), "[DONE]"], {"n": 2}),
}


@pytest.mark.parametrize("way", ["read", "held open", "own client"])
def test_usage_after_done_is_in_the_stream(kind, answering, faults, way):
    events = [
        chunk({"content": "all of it"}),
        chunk(reason="stop"),
        "[DONE]",
        {**chunk(), "choices": [], "usage": USAGE},
    ]
    over = threading.Event()
    whole = faults.response(sse(*events, "[DONE]"), Content_Type="text/event-stream")
    made = answering(held_open(over, *events) if way == "held open" else whole, timeout=60)
    options = {"model": "m", "messages": MESSAGES, "stream": True, **WITH_USAGE}

    async def ask():
        async with httpx.AsyncClient() as theirs:
            client = make_async_chat_client(made.caller, theirs if way == "own client" else None)
            return [part async for part in await client.chat.completions.create(**options)]

    if kind == "sync":
        with httpx.Client() as theirs:
            client = make_chat_client(made.caller, theirs if way == "own client" else None)
            parts = list(client.chat.completions.create(**options))
    else:
        parts = asyncio.run(ask())
    assert not over.is_set()
    over.set()
    assert [part.usage.total_tokens for part in parts if part.usage] == [13]
    assert [part.choices[0].delta.content for part in parts if part.choices] == ["all of it", None]


def held_open(over, *events):
    def answer(_seen):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000000\r\n\r\n"
        yield sse(*events)
        over.wait(60)

    return answer


@pytest.mark.parametrize("case", ENDINGS)
def test_stream_ends_without_done_if_the_answer_is_complete(kind, answering, case):
    events, more = ENDINGS[case]
    over = threading.Event()
    made = answering(held_open(over, chunk({"content": "all of it"}), *events), timeout=60)
    assert ask_as(kind, "streamed")(made.caller, **more) == "all of it"
    assert not over.is_set()
    over.set()


@pytest.mark.parametrize("case", ["finish_reason", "usage"])
def test_stream_over_own_http_client_ends_without_done(answering, case):
    events, more = ENDINGS[case]
    over = threading.Event()
    made = answering(held_open(over, chunk({"content": "all of it"}), *events), timeout=60)
    with httpx.Client() as theirs:
        stream = make_chat_client(made.caller, theirs).chat.completions.create(
            model="m", messages=MESSAGES, stream=True, **more
        )
        parts = list(stream)
    assert not over.is_set()
    over.set()
    assert [part.usage.total_tokens for part in parts if part.usage] == ([13] if case == "usage" else [])


def test_stream_waits_for_a_second_choice_and_late_usage(kind, answering):
    over = threading.Event()
    late = [
        {**chunk(), "choices": [{"index": 1, "delta": {"content": "of it"}, "finish_reason": "stop"}]},
        {**chunk(), "choices": [], "usage": USAGE},
    ]

    def answer(_seen):
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000000\r\n\r\n"
        yield sse(chunk({"content": "all "}, "stop"))
        for event in late:
            over.wait(0.7)
            yield sse(event)
        over.wait(60)

    made = answering(answer, timeout=60)
    assert ask_as(kind, "streamed")(made.caller, n=2, **WITH_USAGE) == "all of it"
    assert not over.is_set()
    over.set()


def test_abandoned_stream_returns_its_connection(kind, answering):
    made = answering()
    stream = None

    async def leave():
        async with await make_async_chat_client(made.caller).chat.completions.create(
            model="m", messages=MESSAGES, stream=True
        ) as stream:
            return await anext(stream)

    if kind == "sync":
        with make_chat_client(made.caller).chat.completions.create(model="m", messages=MESSAGES, stream=True) as stream:
            first = next(stream)
    else:
        first = asyncio.run(leave())
    assert first.choices[0].delta.content == "all "
    assert ask_as(kind, "streamed")(made.caller) == "all of it"


# If all are closed at once, httpx2's own generators close each other.
ALL_AT_ONCE = pytest.mark.skipif(httpx.__name__ != "httpx", reason="httpx2 complains of its own generators")


@pytest.mark.parametrize(
    "way",
    ["dropped", "closed", "cancelled", *(pytest.param(way, marks=ALL_AT_ONCE) for way in ("in a circle", "kept"))],
)
def test_abandoned_async_stream_closes_its_connection_without_warnings(answering, way):
    over, complaints = threading.Event(), []
    made = answering(trickle(over, sse(chunk({"content": "all "}), chunk({"content": "of it"}))), max_retries=0)

    async def read(stream, read_two, parts):
        async for _part in stream:
            parts -= 1
            if not parts:
                break
        read_two.set()
        if way == "cancelled":
            await anext(stream)  # which never comes

    async def leave():
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        client = make_async_chat_client(made.caller)
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        read_two = asyncio.Event()
        reading = asyncio.create_task(read(stream, read_two, 2))
        await read_two.wait()
        if way == "kept":
            return stream
        if way == "closed":
            await stream.close()
        if way == "in a circle":
            stream.circle = stream
        reading.cancel()
        await asyncio.wait([reading])
        del stream, reading
        gc.collect()
        await asyncio.to_thread(made.server.wait_for, lambda: not made.server.open_connections)
        return None

    asyncio.run(leave())
    gc.collect()
    made.server.wait_for(lambda: not made.server.open_connections)
    assert not over.is_set()
    assert not complaints


def test_abandoned_sync_stream_closes_its_connection_at_once(answering):
    over = threading.Event()
    made = answering(trickle(over, sse(chunk({"content": "all "}), chunk({"content": "of it"}))), max_retries=0)

    def read():
        # Frameworks return their own generator, which holds the SDK's stream.
        yield from make_chat_client(made.caller).chat.completions.create(model="m", messages=MESSAGES, stream=True)

    gc.disable()
    try:
        stream = iterate_stream(made.caller, read())
        assert next(stream).choices[0].delta.content == "all "
        del stream
        made.server.wait_for(lambda: not made.server.open_connections)
    finally:
        gc.enable()
    assert not over.is_set()


def test_exception_of_a_hook_does_not_keep_the_connection_of_an_abandoned_stream(answering, kind):
    def interrupt(_record):
        raise KeyboardInterrupt

    over = threading.Event()
    made = answering(trickle(over, sse(chunk({"content": "all "}))), max_retries=0, on_request=interrupt)
    options = {"model": "m", "messages": MESSAGES, "stream": True}

    async def leave():
        stream = await make_async_chat_client(made.caller).chat.completions.create(**options)
        with pytest.raises(KeyboardInterrupt):
            await stream.close()
        await asyncio.to_thread(made.server.wait_for, lambda: not made.server.open_connections)

    if kind == "async":
        asyncio.run(leave())
    else:
        stream = make_chat_client(made.caller).chat.completions.create(**options)
        with pytest.raises(KeyboardInterrupt):
            stream.close()
        made.server.wait_for(lambda: not made.server.open_connections)
    assert not over.is_set()


# --- replies of status 200 without an answer ---

WRONG = {
    "error": ({"error": {"message": "no model", "code": "model_not_found"}}, errors.ModelNotFoundError),
    "balance": (
        {"error": "Insufficient balance", "requiredBalance": 1, "status": 402},
        errors.InsufficientBalanceError,
    ),
    "message": ({"code": "who knows", "message": "slow down"}, errors.ReplyError),
    "message and code": ({"code": "rate_limited", "message": "slow down"}, errors.RateLimitError),
    "no choices": ({"choices": []}, errors.ReplyError),
    "null choices": ({"choices": None}, errors.ReplyError),
    "no message": ({"choices": [{"index": 0}]}, errors.ReplyError),
    "a list": ([], errors.ReplyError),
    "cut": ('{"choices": [{"mess', DamagedReplyError),
    "html": ("<html>Bad gateway</html>", DamagedReplyError),
    "nothing": ("", DamagedReplyError),
}


@pytest.mark.parametrize("case", WRONG)
def test_reply_without_an_answer_is_a_reply_error(ask, answering, faults, case):
    body, expected = WRONG[case]
    kind = "text/html" if case == "html" else "application/json"
    made = answering(faults.response(body, Content_Type=kind, x_request_id="req-5"), max_retries=0)
    with pytest.raises(expected) as caught:
        ask(made.caller)
    assert caught.value.request_id == "req-5"
    assert_ours(caught.value)


@pytest.mark.parametrize("content_type", ["application/json", "text/html", "text/event-stream"])
def test_whole_answer_to_a_streamed_request_is_a_stream(kind, answering, faults, content_type):
    made = answering(faults.response(ANSWER, Content_Type=content_type), max_retries=0)
    assert ask_as(kind, "streamed")(made.caller) == "all of it"


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/json"])
def test_lines_of_json_are_an_answer(ask, answering, faults, content_type):
    lines = [chunk({"content": "all "}), chunk({"content": "of it"}), chunk(reason="stop")]
    body = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    made = answering(faults.response(body, Content_Type=content_type), max_retries=0)
    assert ask(made.caller) == "all of it"


@pytest.mark.parametrize("make", [make_chat_client, make_async_chat_client])
def test_client_reads_no_files_to_describe_the_machine(answering, make):
    # Those would block an event loop: LlamaIndex makes its async client in the first call.
    assert make(answering().caller).platform_headers() == {}


# --- other event loops ---


@pytest.mark.parametrize("rate", [None, 0.1])
def test_async_calls_under_trio_are_refused_with_the_remedy(form, answering, rate):
    trio = pytest.importorskip("trio", reason="trio is not installed")
    made = answering(requests_per_second=rate)
    chat = make_async_chat_client(made.caller).chat.completions
    for _ in range(2):  # the second has to wait for the rate
        with pytest.raises(errors.ConfigurationError, match="asyncio"), map_sdk_errors(made.caller):
            trio.run(partial(chat.create, model="m", messages=MESSAGES, stream=form == "streamed"))
    assert made.server.requests == []


# --- the live list ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"data": [{"id": "m", "context_length": 5}]}, 5),
        ({"data": [None, {"id": 3}, {"id": "m", "context_length": None}, {"id": "m", "context_length": 6}]}, 6),
        ({"data": [{"id": "m", "context_length": None}]}, errors.ConfigurationError),
        ({"data": "none"}, errors.ReplyError),
        ([], errors.ConfigurationError),
        ("<html>", errors.ReplyError),
    ],
)
def test_context_window_is_read_from_the_live_list(answering, faults, body, expected):
    made = answering(faults.response(body))
    if isinstance(expected, int):
        assert fetch_chat_model(made.connection, "m").context_window == expected
        assert made.server.requests[0].path == "/api/v1/models?detailed=true"
        return
    with pytest.raises(expected) as caught:
        fetch_chat_model(made.connection, "m")
    assert_ours(caught.value)


# --- pacing, shared ---


@pytest.mark.usefixtures("waits")
def test_chat_and_embeddings_keep_to_one_rate(ask, answering):
    made = answering(requests_per_second=4.0)
    embedder = Embedder("lab/unlisted", api_key=KEY, base_url=made.server.base_url)
    begun = now()
    for number in range(4):
        embedder.embed([f"text {number}"])
    for _ in range(8):
        ask(made.caller)
    assert len(made.server.requests) == 12
    # The twelfth start at four a second is two seconds after the first at least, by the clock that the waits move on.
    assert now() - begun >= 2


def test_pause_of_chat_delays_embeddings(ask, answering, faults, waits):
    made = answering(faults.response("slow down", 429, Retry_After="9"), max_retries=0)
    embedder = Embedder("lab/unlisted", api_key=KEY, base_url=made.server.base_url)
    with pytest.raises(errors.RateLimitError):
        ask(made.caller)
    assert waits.seconds == 0
    embedder.embed(["text"])
    assert 8 < waits.seconds <= 9


def test_pause_of_embeddings_delays_chat(ask, answering, faults, waits):
    made = answering(
        faults.response("slow down", 429, Retry_After="9"), faults.response("slow down", 429, Retry_After="9")
    )
    embedder = Embedder("lab/unlisted", api_key=KEY, base_url=made.server.base_url, max_retries=1)
    with pytest.raises(errors.RateLimitError):
        embedder.embed(["text"])
    before = waits.seconds
    assert ask(made.caller) == "all of it"
    assert 8 < waits.seconds - before <= 9


def test_rate_error_in_mid_stream_pauses_other_calls(kind, answering, faults, waits):
    body = sse(chunk({"content": "all "}), {"error": {"status": 429, "message": "slow down"}})
    made = answering(faults.response(body, Content_Type="text/event-stream", Retry_After="3"))
    with pytest.raises(errors.RateLimitError):
        ask_as(kind, "streamed")(made.caller)
    Embedder("lab/unlisted", api_key=KEY, base_url=made.server.base_url).embed(["text"])
    assert 2 < waits.seconds <= 3


def test_pause_does_not_delay_calls_with_another_key(ask, answering, faults, waits):
    made = answering(faults.response("slow down", 429, Retry_After="9"), max_retries=0)
    with pytest.raises(errors.RateLimitError):
        ask(made.caller)
    Embedder("lab/unlisted", api_key="another-key", base_url=made.server.base_url).embed(["text"])
    assert waits.seconds == 0


# --- copies and the hidden key ---


@pytest.mark.parametrize("bad", [{"max_retries": -1}, {"max_retries": "2"}, {"requests_per_second": 0}])
def test_invalid_options_are_refused(bad):
    with pytest.raises(errors.NanoGPTError, match=next(iter(bad))):
        ChatSession(Endpoint.resolve(api_key=KEY), **bad)


def test_copies_are_equal_and_pickles_have_no_key(ask, answering, monkeypatch):
    made = answering(max_retries=5)
    assert ask(copy.deepcopy(made.caller)) == "all of it"
    written = pickle.dumps(made.caller)
    assert KEY.encode() not in written
    with pytest.raises(errors.ConfigurationError, match="NANOGPT_API_KEY"):
        ask(pickle.loads(written))
    monkeypatch.setenv("NANOGPT_API_KEY", "of-the-environment")
    assert ask(pickle.loads(written)) == "all of it"
    assert [seen.header("authorization") for seen in made.server.requests] == [
        f"Bearer {KEY}",
        "Bearer of-the-environment",
    ]


def _in_child(caller, sender):
    sender.send(ask_as("sync", "streamed")(caller))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_chat_works_after_a_fork(answering):
    made = answering()
    assert ask_as("sync", "plain")(made.caller) == "all of it"
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(made.caller, sender))
    child.start()
    assert receiver.poll(20)
    assert receiver.recv() == "all of it"
    child.join(60)
    assert ask_as("sync", "plain")(made.caller) == "all of it"


def test_key_is_in_no_log_and_no_client(ask, answering, faults, caplog):
    caplog.set_level("DEBUG")
    made = answering(faults.response({"error": {"message": "no"}}, 401))
    client = make_chat_client(made.caller)
    with pytest.raises(errors.AuthenticationError):
        ask(made.caller)
    assert KEY not in f"{caplog.text} {client!r} {vars(client)} {made.caller!r} {vars(made.caller)}"


@pytest.mark.parametrize("events", [["[DONE]"], [{"choices": [], "usage": {"prompt_tokens": 1}}, "[DONE]"]], ids=str)
def test_stream_without_an_answer_is_a_damaged_reply(kind, answering, faults, events):
    made = answering(faults.response(sse(*events), Content_Type="text/event-stream"), max_retries=0)
    with pytest.raises(errors.DamagedReplyError, match="without an answer"):
        ask_as(kind, "streamed")(made.caller)


def test_stream_with_a_byte_order_mark_keeps_its_first_event(kind, answering, faults):
    made = answering(faults.response(b"\xef\xbb\xbf" + ALL, Content_Type="text/event-stream"), max_retries=0)
    assert ask_as(kind, "streamed")(made.caller) == "all of it"


# --- signals ---


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 on this system")
@pytest.mark.parametrize("kind", ["sync"])
@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, RuntimeError])
def test_exception_of_a_signal_handler_ends_the_call(answering, ask, request, error):
    raised, done = threading.Event(), threading.Event()

    def handler(*_):
        if not raised.is_set():
            raised.set()
            raise error("time limit of a task queue")

    def interrupt(_seen):
        # More than once: Python runs no handler for a signal that comes just before a system call that blocks.
        while not raised.wait(0.01):
            os.kill(os.getpid(), signal.SIGUSR1)
        done.set()
        return b""

    before = signal.signal(signal.SIGUSR1, handler)
    request.addfinalizer(lambda: done.wait(60) and signal.signal(signal.SIGUSR1, before))
    talk = answering(interrupt)
    with pytest.raises(error, match="time limit of a task queue"):
        ask(talk.caller)
    assert len(talk.server.requests) == 1

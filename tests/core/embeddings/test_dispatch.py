"""Dispatch of a batch over HTTP, sync and async: errors, retries, splits, fallbacks."""

import gzip
import json
import threading
import traceback

import numpy as np
import openai
import pytest

from fault_server import Closing
from nanogpt_core import Embedder, ModelInfo
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.embeddings.response import DimensionsCheck
from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConnectionFailedError,
    InsufficientBalanceError,
    ModelNotFoundError,
    NanoGPTError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ReplyError,
    RequestTimeoutError,
    RequestTooLargeError,
    ServerError,
    StatusError,
    TextTooLongError,
)


def fail(embed, embedder, texts=("a text",)):
    with pytest.raises(NanoGPTError) as caught:
        embed(embedder, list(texts))
    return caught.value


def chain(error):
    while error is not None:
        yield error
        error = error.__cause__


def right(faults, texts):
    return np.array([faults.vector_of(text) for text in texts])


def body(message="no", code=None, param=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


# --- errors ---

ERRORS = [
    (
        400,
        body("bad value", "invalid_parameter_value", "user"),
        BadRequestError,
        "invalid_parameter_value",
        "bad value",
    ),
    (401, body("Invalid or missing API key"), AuthenticationError, None, "NANOGPT_API_KEY"),
    (
        402,
        {"error": "Insufficient balance", "requiredBalance": 0.0035, "status": 402},
        InsufficientBalanceError,
        None,
        "$0.0035",
    ),
    (402, body("pay first"), InsufficientBalanceError, None, "balance"),
    (403, body("not yours", "forbidden"), PermissionDeniedError, "forbidden", "NANOGPT_API_KEY"),
    (404, body("no such model", "model_not_found"), ModelNotFoundError, "model_not_found", "list_models()"),
    (404, "<html>nginx</html>", ModelNotFoundError, None, "base_url"),
    (408, "", ServerError, None, "408"),
    (409, body("conflict"), BadRequestError, None, "conflict"),
    (418, body("teapot"), BadRequestError, None, "teapot"),
    (422, {"detail": "unprocessable"}, BadRequestError, None, "unprocessable"),
    (429, body("slow down"), RateLimitError, None, "slow down"),
    (429, {"code": "rate_limited", "message": "slow down"}, RateLimitError, "rate_limited", "slow down"),
    (500, "<html><h1>Internal</h1>\n  error</html>", ServerError, None, "<h1>Internal</h1> error"),
    (502, "", ServerError, None, "no words with it"),
    (503, [1, 2], ServerError, None, "503"),
    (504, "null", ServerError, None, "504"),
    (599, body("odd"), ServerError, None, "odd"),
]


@pytest.mark.parametrize(
    ("status", "answer", "kind", "code", "words"), ERRORS, ids=lambda v: v if isinstance(v, int) else ""
)
def test_each_status_has_its_error_class_message_and_remedy(
    embed, scripted, faults, *, status, answer, kind, code, words
):
    server = scripted(faults.response(answer, status, X_Request_ID="req-7"))
    error = fail(embed, server.embedder())
    assert type(error) is kind
    assert (error.status, error.code, error.request_id) == (status, code, "req-7")
    assert words in str(error)
    assert error.remedy
    assert str(status) in str(error)
    assert isinstance(error.__cause__, openai.APIStatusError)
    assert len(str(error)) < 1000
    assert server.api_key not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 418])
def test_permanent_status_is_not_retried(embed, scripted, faults, status):
    server = scripted(faults.response(body(), status))
    error = fail(embed, server.embedder(max_retries=5))
    assert error.status == status
    assert len(server.requests) == 1


def test_unknown_model_error_suggests_similar_names(embed, make, sandbox):
    error = fail(embed, make("text-embedding-3-smal"))
    assert type(error) is ModelNotFoundError
    assert "text-embedding-3-small" in error.remedy
    assert len(sandbox.requests) == 1
    assert "list_models()" in fail(embed, make("nothing-like-it")).remedy


def test_known_model_that_is_not_found_is_not_suggested_for_itself(embed, scripted, faults):
    server = scripted(faults.response(body("gone", "model_not_found"), 404))
    assert "BAAI/bge-m3" not in fail(embed, server.embedder("BAAI/bge-m3")).remedy


def test_long_error_message_of_the_service_is_shortened(embed, scripted, faults):
    server = scripted(faults.response(body("x" * 100_000), 400))
    error = fail(embed, server.embedder())
    assert len(error.detail) <= 301
    assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "words", ["Your account has exceeded its spending limit", "dimensions must be at most 1024", "exceeds your plan"]
)
def test_error_about_another_limit_is_not_split(embed, scripted, faults, words):
    server = scripted(faults.response(body(words), 400))
    with pytest.raises(BadRequestError, match=words):
        embed(server.embedder(batch_size=50), [f"text {number}" for number in range(50)])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "error",
    [
        {"message": "You have reached your daily limit", "code": "daily_limit"},
        {"message": "Limit of requests per day (RPD) reached"},
        {"message": "no more", "type": "insufficient_quota"},
    ],
)
def test_daily_limit_is_not_retried(embed, scripted, faults, error):
    server = scripted(faults.response({"error": error}, 429))
    with pytest.raises(QuotaExceededError):
        embed(server.embedder(max_retries=5), ["a"])
    assert len(server.requests) == 1


def test_per_minute_quota_is_retried_after_a_wait(embed, scripted, faults):
    server = scripted(faults.response(body("Per-minute quota reached"), 429, Retry_After="1"))
    with fake_clock():
        embed(server.embedder(max_retries=5), ["a"])
    assert len(server.requests) == 2


def test_split_of_long_texts_does_not_shrink_batches_of_short_texts(embed, serve, faults):
    def answer(seen):
        if sum(map(len, seen.texts)) > 3000:
            return faults.response(body("too large"), 413)
        return faults.good(seen)

    server = serve(answer)
    embedder = server.embedder(batch_size=1000)
    embed(embedder, ["a" * 2000, "b" * 2000])
    server.clear()
    embed(embedder, [f"{number}" for number in range(200)])
    assert len(server.requests) == 1
    server.clear()
    embed(embedder, [f"{number} and more" for number in range(400)])
    assert len(server.requests) <= 4


def test_error_body_in_unknown_charset_keeps_status_and_message(embed, scripted, faults):
    answer = faults.response(body("no good"), 400, Content_Type="application/json; charset=rot13")
    error = fail(embed, scripted(answer).embedder())
    assert (error.status, type(error)) == (400, BadRequestError)
    assert "no good" in str(error)


def test_budget_error_during_retries_has_the_failure_as_cause(embed, scripted, faults):
    server = scripted(*[faults.response(body("kaboom"), 500)] * 9)
    embedder = server.embedder("text-embedding-3-small", budget_usd=5e-8, max_retries=9)
    with fake_clock(), pytest.raises(BudgetExceededError) as caught:
        embed(embedder, ["a"])
    assert "kaboom" in str(caught.value.__cause__)


def test_texts_echoed_by_the_service_are_not_in_tracebacks(embed, scripted, faults):
    complaints = [{"loc": ["body", "input"], "msg": "not so", "input": ["my secret text"] * 50}]
    error = fail(embed, scripted(faults.response({"detail": complaints}, 422)).embedder())
    assert "not so" in str(error)
    assert "secret" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "answer",
    [
        *(b"[" * 100_000, b'{"error":' * 50_000, b'{"error":' + b"[" * 950 + b"]" * 950 + b"}", b"\xff\xfe", b"\x00"),
        *(b'{"error": {"message": null, "code": {"a": 1}}}', b'{"error": 5}', b'{"error": [1]}', b'"\\ud800"'),
        *(b'{"error": {"message": "\\ud800 half"}}', b'{"requiredBalance": {}}', b"1" * 5000, b"1e99999", b"NaN"),
    ],
    ids=lambda value: f"{value!r:.24}",
)
@pytest.mark.parametrize("status", [400, 402])
def test_malformed_error_body_gives_a_status_error(scripted, faults, status, answer):
    server = scripted(faults.response(answer, status))
    with pytest.raises(StatusError) as caught:
        server.embedder().embed(["a text"])
    assert caught.value.status == status
    str(caught.value).encode()


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_key_echoed_by_the_service_is_redacted(embed, scripted, faults, status):
    server = scripted(faults.response(body("Incorrect API key provided: sk-nano-fault."), status))
    error = fail(embed, server.embedder())
    assert server.api_key not in "".join([str(error), repr(error), str(vars(error))])


def test_header_values_echoed_by_the_service_are_redacted(embed, scripted, faults):
    answer = faults.response(body("Bearer gateway-secret-1 or gateway-secret-1 of demo-app"), 401)
    headers = {"X-Gateway-Token": "Bearer gateway-secret-1", "X-Title": "demo-app", "X-Mode": "of"}
    error = fail(embed, scripted(answer).embedder(default_headers=headers))
    told = "".join([str(error), repr(error), str(vars(error)), *map(str, chain(error))])
    assert "gateway-secret-1" not in told
    assert "of demo-app" in told


# --- retries ---


def test_transient_statuses_are_retried(embed, scripted, faults):
    server = scripted(
        faults.response("<html>", 500, Retry_After="0"),
        faults.response(body(), 429, Retry_After="0"),
        faults.response("", 503, Retry_After="-5"),
        faults.response("", 408, Retry_After="0.0"),
    )
    embedder = server.embedder(max_retries=4)
    assert (embed(embedder, ["a text"]) == right(faults, ["a text"])).all()
    assert len(server.requests) == 5
    assert len({seen.body for seen in server.requests}) == 1
    assert (embedder.usage.requests, embedder.usage.retries, embedder.usage.texts_sent) == (1, 4, 1)
    assert embedder.usage.prompt_tokens == len("a text")


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_max_retries_limits_the_attempts(embed, serve, faults, retries):
    server = serve(lambda _: faults.response("<html>busy</html>", 503, Retry_After="0"))
    embedder = server.embedder(max_retries=retries)
    error = fail(embed, embedder)
    assert type(error) is ServerError
    assert "busy" in str(error)
    assert len(server.requests) == retries + 1
    assert embedder.usage.requests == 0


@pytest.mark.parametrize("broken", ["reset", "cut JSON", "cut body", "nothing", "html", "gzip", "base64"])
def test_truncated_response_is_retried(embed, scripted, faults, broken):
    def cut_base64(seen):
        reply = faults.document(seen.texts)
        reply["data"][0]["embedding"] = reply["data"][0]["embedding"][:-1]
        return faults.response(reply)

    answers = {
        "reset": faults.RESET,
        "cut JSON": lambda seen: faults.response(json.dumps(faults.document(seen.texts))[:-20]),
        "cut body": lambda seen: Closing(
            faults.response(faults.document(seen.texts)).replace(b"Length: ", b"Length: 9")
        ),
        "nothing": faults.response(b""),
        "html": faults.response("<html>please wait</html>"),
        "gzip": lambda seen: faults.response(
            gzip.compress(json.dumps(faults.document(seen.texts)).encode())[:-9], Content_Encoding="gzip"
        ),
        "base64": cut_base64,
    }
    server = scripted(answers[broken])
    embedder = server.embedder(max_retries=1)
    assert (embed(embedder, ["a text"]) == right(faults, ["a text"])).all()
    assert embedder.usage.retries == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {"data": []},
        {"data": [{"index": 0, "embedding": [0.0] * 6}]},
        {"error": {"message": "asleep"}},
        {"error": {"message": "asleep", "code": "asleep"}},
        [],
    ],
    ids=str,
)
def test_complete_but_invalid_response_is_not_retried(embed, scripted, faults, answer):
    server = scripted(faults.response(answer))
    embedder = server.embedder(max_retries=5)
    assert isinstance(fail(embed, embedder), ReplyError)
    assert len(server.requests) == 1
    assert embedder.usage.requests == 0


@pytest.mark.parametrize("after", ["61", "3600", "86400", "1e9", "inf"])
def test_retry_after_over_60_seconds_fails_at_once(embed, scripted, faults, after):
    server = scripted(faults.response(body("come back later"), 429, Retry_After=after))
    error = fail(embed, server.embedder(max_retries=5))
    assert type(error) is RateLimitError
    assert error.retry_after == float(after)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", ["daily_rpd_limit_exceeded", "daily_usd_limit_exceeded", "insufficient_quota"])
def test_exhausted_quota_is_not_retried(embed, scripted, faults, code):
    server = scripted(faults.response(body("used up", code), 429, Retry_After="1"))
    error = fail(embed, server.embedder(max_retries=5))
    assert type(error) is QuotaExceededError
    assert isinstance(error, RateLimitError)
    assert (error.code, len(server.requests)) == (code, 1)


@pytest.mark.parametrize("after", ["nan", "soon", ""])
def test_invalid_retry_after_is_ignored(embed, scripted, faults, after):
    server = scripted(faults.response(body(), 429, Retry_After=after))
    embedder = server.embedder(max_retries=1)
    assert embed(embedder, ["a text"]).shape == (1, faults.WIDTH)


# --- no response ---


def test_refused_connection_names_host_and_cause(embed, serve):
    with_address = serve()
    with_address.__exit__()
    error = fail(embed, with_address.embedder())
    assert type(error) is ConnectionFailedError
    assert with_address.base_url.split("/")[2] in str(error)
    assert "ConnectError" in str(error)
    assert isinstance(error.__cause__, openai.APIConnectionError)


def test_no_response_in_time_is_a_timeout(embed, serve, faults):
    gate = threading.Event()

    def never(_):
        gate.wait(60)
        return faults.response()

    server = serve(never)
    try:
        error = fail(embed, server.embedder(timeout=0.1))
    finally:
        gate.set()
    assert type(error) is RequestTimeoutError
    assert "0.1 s" in str(error)
    assert isinstance(error.__cause__, openai.APITimeoutError)


def test_trickling_response_is_a_timeout(embed, serve, faults):
    # The timeout is for the whole response: each byte comes in time, and the last one does not.
    stop = threading.Event()

    class Trickle:
        def __iter__(self):
            yield faults.response(b"x" * 100)[:-100]
            for _ in range(100):
                if stop.wait(0.05):
                    return
                yield b" "

    server = serve(lambda _: Trickle())
    try:
        error = fail(embed, server.embedder(timeout=0.4))
    finally:
        stop.set()
    assert type(error) is RequestTimeoutError


def test_redirect_is_not_followed(embed, serve, scripted, faults):
    elsewhere = serve()
    location = f"{elsewhere.base_url}/embeddings?token=hidden"
    server = scripted(*[faults.response("", 307, Location=location)] * 2)
    error = fail(embed, server.embedder(max_retries=3, default_headers={"X-Api-Key": "hunter2"}))
    assert type(error) is BadRequestError
    assert f"Redirects are not followed. This one leads to {elsewhere.base_url}:" in error.remedy
    assert "hidden" not in str(error)
    assert elsewhere.connections == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", ["http://[::1", "javascript:alert(1)", "http://" + "a" * 66_000, ""])
def test_redirect_that_leads_nowhere_is_one_request(embed, scripted, faults, location):
    server = scripted(*[faults.response("", 307, Location=location)] * 2)
    error = fail(embed, server.embedder(max_retries=3))
    assert type(error) is BadRequestError
    assert "Redirects are not followed" in error.remedy
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "headers"),
    [*((status, {"Retry_After": "0"}) for status in (403, 409, 423)), (409, {"x_should_retry": "true"})],
)
def test_refusal_with_a_short_retry_after_is_retried(embed, scripted, faults, status, headers):
    server = scripted(faults.response(body(), status, **headers))
    assert embed(server.embedder(max_retries=1), ["a text"]).shape == (1, faults.WIDTH)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "after", "remedy"),
    [
        *((403, "7200", "Try again in 2 h"), (409, "7200", "Try again in 2 h"), (403, None, "what the key")),
        *((401, "7200", "Check the key"), (402, "7200", "Add balance"), (400, "7200", "arguments"), (401, "0", "key")),
    ],
)
def test_refusal_is_not_retried_and_keeps_its_remedy(embed, scripted, faults, status, after, remedy):
    headers = {} if after is None else {"Retry_After": after}
    server = scripted(faults.response(body(), status, **headers))
    assert remedy in fail(embed, server.embedder(max_retries=3)).remedy
    assert len(server.requests) == 1


def test_one_failed_batch_ends_the_call(embed, serve, faults):
    server = serve(lambda _: faults.response(body(), 401))
    fail(embed, server.embedder(batch_size=1, max_concurrency=1), [f"text {i}" for i in range(10)])
    assert len(server.requests) == 1


# --- too large ---


def texts_of(count):
    return [f"text number {i}" for i in range(count)]


@pytest.mark.parametrize(("limit", "status"), [(3, 400), (64, 413)])
def test_batch_with_too_many_texts_is_split(embed, sandbox_with, limit, status):
    sandbox = sandbox_with(item_limits={"BAAI/bge-m3": limit})
    options = {"api_key": sandbox.api_key, "base_url": sandbox.base_url, "max_retries": 0, "requests_per_second": 1000}
    texts = texts_of(limit * 3 + 1)
    embedder = Embedder("BAAI/bge-m3", batch_size=2048, **options)
    vectors = embed(embedder, texts)
    statuses = {request.status for request in sandbox.requests}
    assert statuses == {status, 200}
    accepted = [request.inputs for request in sandbox.requests if request.status == 200]
    assert sorted(text for inputs in accepted for text in inputs) == sorted(texts)
    alone = Embedder("BAAI/bge-m3", batch_size=1, **options).embed(texts)
    assert (vectors == alone).all()
    assert embedder.usage.texts_sent == len(texts)
    assert embedder.usage.requests == len(accepted)


SIZE_ANSWERS = [
    (400, body("This model's maximum context length is 8192 tokens", "context_length_exceeded", "input")),
    (400, body("input batch size 65 > maximum allowed batch size 64")),
    (400, body("too many inputs in one request")),
    (413, ""),
    (413, "<html>Request Entity Too Large</html>"),
]


def refusing(faults, answer, too_large):
    return lambda seen: faults.response(answer[1], answer[0]) if too_large(seen.texts) else faults.good(seen)


@pytest.mark.parametrize("answer", SIZE_ANSWERS, ids=str)
def test_every_size_error_splits_the_batch(embed, serve, faults, answer):
    server = serve(refusing(faults, answer, lambda texts: len(texts) > 2))
    texts = texts_of(9)
    assert (embed(server.embedder(batch_size=9), texts) == right(faults, texts)).all()


def test_limit_on_texts_stays_when_a_batch_of_fewer_bytes_is_divided(embed, serve, faults):
    server = serve(refusing(faults, SIZE_ANSWERS[0], lambda texts: len(texts) > 4))
    embedder = server.embedder()
    embed(embedder, texts_of(8))  # shows the limit: 4 texts, or their bytes
    embed(embedder, list("abcdef"))  # sent whole, since it has fewer bytes, and then in two parts
    server.clear()
    embed(embedder, texts_of(16))
    assert [len(seen.texts) for seen in server.requests] == [4] * 4


def test_limit_on_bytes_stays_when_a_batch_of_fewer_texts_is_divided(embed, serve, faults):
    server = serve(refusing(faults, SIZE_ANSWERS[0], lambda texts: sum(map(len, texts)) > 60))
    embedder = server.embedder()
    embed(embedder, texts_of(8))  # shows the limit: 4 texts, or 52 bytes
    embed(embedder, [f"{number} twenty characters" for number in range(4)])  # sent whole, then in two parts
    server.clear()
    embed(embedder, texts_of(8))
    assert [len(seen.texts) for seen in server.requests] == [4, 4]


@pytest.mark.parametrize("answer", SIZE_ANSWERS, ids=str)
def test_single_text_that_is_too_long_is_named_by_position(embed, serve, faults, answer):
    server = serve(refusing(faults, answer, lambda texts: "long" in texts))
    texts = ["a", "a", "b", "a", "c", "d", "long", "long", "e"]
    error = fail(embed, server.embedder(max_retries=3), texts)
    assert type(error) is TextTooLongError
    assert error.positions == (6,)
    assert "position 6" in str(error)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, RequestTooLargeError)
    assert any(isinstance(cause, openai.APIStatusError) for cause in chain(error))
    # No request was repeated: each refused batch was halved.
    assert len({seen.body for seen in server.requests}) == len(server.requests)


@pytest.mark.parametrize("on_overflow", ["truncate", "split"])
def test_text_that_the_service_still_finds_too_long_is_shortened_further(embed, serve, faults, on_overflow, tmp_path):
    too_long = {"error": {"message": "maximum context length exceeded", "code": "context_length_exceeded"}}
    server = serve(refusing(faults, (400, too_long), lambda texts: any(len(text) > 20 for text in texts)))
    long = "one two three four five six seven eight nine ten"
    cache = tmp_path / "vectors.sqlite"
    embedder = server.embedder(on_overflow=on_overflow, cache=cache)
    vectors = embed(embedder, ["a", long, "b"])
    assert (vectors[[0, 2]] == right(faults, ["a", "b"])).all()
    sent = [seen.json["input"][0] for seen in server.requests if len(seen.json["input"]) == 1]
    accepted = [text for text in sent if len(text) <= 20 and text not in ("a", "b")]
    if on_overflow == "truncate":
        assert len(accepted) == 1
        assert long.startswith(accepted[0])
        assert (vectors[1] == right(faults, accepted)[0]).all()
    else:
        assert "".join(accepted) == long
        assert np.linalg.norm(vectors[1]) == pytest.approx(1, abs=1e-6)
        assert (vectors[1] @ right(faults, accepted).T > 0).all()
    server.clear()
    assert embed(server.embedder(cache=cache), ["a", "b"]).shape == (2, faults.WIDTH)
    assert not server.requests
    assert fail(embed, server.embedder(cache=cache), [long]).positions == (0,), "a shortened text must not be cached"


@pytest.mark.parametrize("on_overflow", ["truncate", "split"])
def test_text_that_is_shortened_shows_no_limit_of_batches(embed, serve, faults, on_overflow):
    server = serve(refusing(faults, SIZE_ANSWERS[0], lambda texts: any(len(text) > 20 for text in texts)))
    embedder = server.embedder(on_overflow=on_overflow)
    embed(embedder, [*texts_of(7), "one two three four five six"])
    server.clear()
    embed(embedder, texts_of(8))
    assert [len(seen.texts) for seen in server.requests] == [8]


@pytest.mark.parametrize("on_overflow", ["truncate", "split"])
def test_text_that_is_always_too_long_ends_after_a_few_requests(embed, serve, faults, on_overflow):
    too_long = {"error": {"message": "maximum context length exceeded", "code": "context_length_exceeded"}}
    server = serve(lambda _: faults.response(too_long, 400))
    error = fail(embed, server.embedder(on_overflow=on_overflow), ["word " * 100])
    assert type(error) is TextTooLongError
    assert error.positions == (0,)
    assert str(error).startswith("The service refuses the text as too long: ")
    assert len(server.requests) <= 5


@pytest.mark.parametrize(
    "answer",
    [
        body("'user' must be a string", "invalid_parameter_value", "user"),
        body("dimensions: at maximum 512 for this model", "invalid_parameter_value", "dimensions"),
        body("Invalid API tokens", "invalid_request", "authorization"),
        body("the model name is too long", None, "model"),
    ],
    ids=lambda value: value["error"]["param"],
)
def test_bad_request_that_is_not_about_size_is_not_split(embed, serve, faults, answer):
    server = serve(lambda _: faults.response(answer, 400))
    error = fail(embed, server.embedder(), texts_of(8))
    assert type(error) is BadRequestError
    assert len(server.requests) == 1


@pytest.mark.parametrize(("texts", "place"), [(["a", "b", "bad"], "position 2"), (["a"] * 6 + ["bad"], "position 6")])
def test_text_that_the_service_names_has_its_position_in_the_callers_list(embed, serve, faults, texts, place):
    def refuse(seen):
        if "bad" not in seen.texts:
            return faults.good(seen)
        return faults.response(body("no such language", param=f"input[{seen.texts.index('bad')}]"), 400)

    error = fail(embed, serve(refuse).embedder(batch_size=2, max_concurrency=1), texts)
    assert f"at {place} (counted from 0)" in str(error)
    assert error.positions == (texts.index("bad"),)


def test_service_can_forbid_a_retry(embed, scripted, faults):
    server = scripted(faults.response(body("broken for good"), 500, X_Should_Retry="false"))
    error = fail(embed, server.embedder(max_retries=5))
    assert (type(error), error.transient) == (ServerError, False)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_account_error_is_never_split(embed, serve, faults, status):
    server = serve(lambda _: faults.response(body("maximum tokens too large, too many, too long"), status))
    assert fail(embed, server.embedder(), texts_of(8)).status == status
    assert len(server.requests) == 1


# --- encoding ---


def formats(requests):
    return [seen.json.get("encoding_format") for seen in requests]


def test_base64_is_requested(embed, serve, faults):
    server = serve()
    embedder = server.embedder()
    assert (embed(embedder, ["a"]) == right(faults, ["a"])).all()
    assert formats(server.requests) == ["base64"]


def test_host_that_refuses_base64_is_sent_float_requests_afterwards(way, sandbox_with):
    sandbox = sandbox_with(refuse_base64=True)
    embedder = Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url, max_retries=0)
    first = way.embed(embedder, ["one", "two"])
    second = way.embed(embedder, ["two", "three"])
    way.query(embedder, "four")
    assert [request.body["encoding_format"] for request in sandbox.requests] == ["base64", "float", "float", "float"]
    assert (first[1] == second[0]).all()
    assert embedder.usage.requests == 3


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, body("Unknown value", "invalid_parameter_value", "encoding_format")),
        (422, {"detail": "encoding_format: base64 is not supported"}),
        (400, body("base64 is not supported")),
    ],
    ids=str,
)
def test_each_form_of_base64_refusal_falls_back_to_floats(embed, serve, faults, status, answer):
    server = serve(
        lambda seen: faults.response(answer, status) if seen.json["encoding_format"] == "base64" else faults.good(seen)
    )
    assert (embed(server.embedder(), ["a"]) == right(faults, ["a"])).all()
    assert formats(server.requests) == ["base64", "float"]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, body("Unrecognized request argument supplied: encoding_format")),
        (422, {"detail": [{"loc": ["body", "encoding_format"], "msg": "Extra inputs are not permitted"}]}),
    ],
    ids=str,
)
def test_host_that_does_not_know_encoding_format_is_not_sent_it(embed, serve, faults, status, answer):
    def without_encoding(seen):
        return faults.response(answer, status) if "encoding_format" in seen.json else faults.good(seen)

    server = serve(without_encoding)
    for text in "ab":
        assert (embed(server.embedder(), [text]) == right(faults, [text])).all()
    assert formats(server.requests) == ["base64", "float", None, None]


def test_host_that_refuses_both_encodings_is_tried_with_each_once(embed, serve, faults):
    server = serve(lambda _: faults.response(body("base64 and float are not supported"), 400))
    assert type(fail(embed, server.embedder(max_retries=5))) is BadRequestError
    assert formats(server.requests) == ["base64", "float"]


def test_floats_are_accepted_if_base64_was_requested(embed, sandbox_with, make):
    sandbox = sandbox_with(ignore_base64=True)
    vectors = embed(Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url, max_retries=0), ["one", "two"])
    assert {request.body["encoding_format"] for request in sandbox.requests} == {"base64"}
    np.testing.assert_array_equal(vectors, embed(make(), ["one", "two"]))


def test_indented_reply_with_a_line_for_each_number_is_read(embed, serve, faults):
    def answer(seen):
        rows = [(-faults.vector_of(text, 1536) / np.float64(37)).tolist() for text in seen.texts]
        data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
        return faults.response(json.dumps({"object": "list", "data": data}, indent=4).replace("\n", "\r\n"))

    texts = [f"text {number}" for number in range(128)]
    vectors = embed(serve(answer).embedder("text-embedding-3-small", dimensions=1536), texts)
    expected = [-faults.vector_of(text, 1536) / np.float64(37) for text in texts]
    assert vectors.tolist() == np.array(expected, dtype=np.float32).tolist()


def test_vectors_out_of_order_are_placed_by_index(embed, sandbox_with, make):
    sandbox = sandbox_with(shuffle=True)
    texts = texts_of(20)
    vectors = embed(Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url, max_retries=0), texts)
    np.testing.assert_array_equal(vectors, embed(make(batch_size=1), texts))


# --- width ---


@pytest.mark.parametrize(("source", "width"), [("true", 1024), ("listed", 768)])
def test_model_with_conflicting_sources_accepts_either_width(embed, sandbox_with, source, width):
    sandbox = sandbox_with(width_source=source)
    embedder = Embedder("BAAI/bge-large-en-v1.5", api_key=sandbox.api_key, base_url=sandbox.base_url, max_retries=0)
    assert embedder.width is None
    assert embed(embedder, ["one", "two"]).shape == (2, width)
    assert embedder.width == width
    assert embed(embedder, []).shape == (0, width)
    assert [request.path for request in sandbox.requests] == ["/api/v1/embeddings"]


def test_width_of_the_live_list_is_accepted(embed, sandbox_with):
    changed = ModelInfo(id="BAAI/bge-m3", dimensions=512, max_tokens=8192)
    sandbox = sandbox_with(models={"BAAI/bge-m3": changed})
    embedder = Embedder("BAAI/bge-m3", api_key=sandbox.api_key, base_url=sandbox.base_url, max_retries=0)
    assert embed(embedder, ["one"]).shape == (1, 512)
    assert embed(embedder, ["two"]).shape == (1, 512)
    assert embedder.usage.requests == 2
    paths = [request.path.rsplit("/", 1)[1] for request in sandbox.requests]
    assert paths == ["embeddings", "embedding-models", "embeddings"]


def test_width_of_the_live_list_is_accepted_by_concurrent_requests(embed, serve, faults):
    # All first replies are there before the live list answers.
    together = threading.Barrier(4)
    asked = threading.Semaphore(0)

    def answer(seen):
        if seen.path.endswith("/embedding-models"):
            asked.release()
            return faults.response({"data": [{"id": "BAAI/bge-m3", "dimensions": 6}]})
        together.wait(60)
        return faults.good(seen)

    server = serve(answer)
    texts = texts_of(4)
    embedder = server.embedder("BAAI/bge-m3", batch_size=1, max_concurrency=4)
    assert (embed(embedder, texts) == right(faults, texts)).all()


def test_width_that_another_call_learns_during_the_check_is_accepted(embed, serve, faults, monkeypatch):
    allows = DimensionsCheck.allows

    def allows_before_the_other_call(check, dimensions):
        allowed = allows(check, dimensions)
        check.add_source(6)  # as another call does
        return allowed

    monkeypatch.setattr(DimensionsCheck, "allows", allows_before_the_other_call)
    texts = texts_of(2)
    assert (embed(serve(faults.good).embedder("BAAI/bge-m3"), texts) == right(faults, texts)).all()


@pytest.mark.parametrize(
    "answer",
    [
        lambda faults: faults.response({"data": [{"id": "BAAI/bge-m3", "dimensions": 1024}]}),
        lambda faults: faults.response({"data": []}),
        lambda faults: faults.response("no", 500),
        lambda faults: faults.response("<html>"),
        lambda faults: faults.response({"data": [{"id": "BAAI/bge-m3", "pricing": {"per_million_tokens": 10**400}}]}),
        lambda faults: faults.RESET,
    ],
    ids=["another width", "not listed", "500", "html", "nonsense", "reset"],
)
def test_width_in_no_source_is_refused(embed, serve, faults, answer):
    server = serve(lambda seen: faults.good(seen) if seen.method == "POST" else answer(faults))
    embedder = server.embedder("BAAI/bge-m3")
    error = fail(embed, embedder)
    assert isinstance(error, ReplyError)
    assert "6 dimensions, not 1024" in str(error)
    again = fail(embed, embedder)
    assert isinstance(again, ReplyError)
    for one in (error, again):
        assert "".join(traceback.format_exception(one)).count("DimensionsError: ") == 1
    # The list is asked once for the object, not for each reply.
    assert [seen.method for seen in server.requests] == ["POST", "GET", "POST"]
    assert embedder.usage.requests == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[]",
        b"\0",
        b'{"data": []}',
        b'{"data": [5]}',
        b'{"data": [{"embedding": "AAAA"}]}',
        b'{"data": [{"embedding": [0.0]}]}',
        b'{"data": [{"index": 5, "embedding": [1.0]}]}',
        b'{"error": {"message": "no"}}',
    ],
    ids=lambda answer: answer.decode()[:30] or "nothing",
)
def test_each_refused_reply_names_a_remedy(embed, serve, faults, answer):
    error = fail(embed, serve(lambda _: faults.response(answer)).embedder(max_retries=0))
    assert isinstance(error, ReplyError)
    assert error.remedy
    assert " ".join(error.args) == str(error) == f"{error.message} {error.remedy}"


def test_response_that_ignores_dimensions_is_refused(embed, serve, faults):
    server = serve(
        lambda seen: (
            faults.response(faults.document(seen.texts, width=6)) if seen.method == "POST" else faults.response({})
        )
    )
    error = fail(embed, server.embedder("text-embedding-3-small", dimensions=4))
    assert isinstance(error, ReplyError)
    assert "6 dimensions, not 4" in str(error)


def test_embedder_keeps_its_first_width(way, serve, faults):
    widths = iter([8, 6, 8])

    def answer(seen):
        if seen.method == "GET":
            return faults.response({"data": []})
        return faults.response(faults.document(seen.texts, width=next(widths)))

    embedder = serve(answer).embedder()
    assert way.embed(embedder, ["a"]).shape == (1, 8)
    assert "not 8" in str(fail(way.embed, embedder))
    assert way.query(embedder, "q").shape == (8,)

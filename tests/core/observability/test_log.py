"""The logger ``nanogpt_core``: retries, pauses, splits, learned facts and requests; never a secret or a text."""

import logging
import subprocess
import sys
import warnings

import pytest

from nanogpt_core import Embedder, MemoryCache, ModelInfo, SQLiteCache
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.chat.client import make_chat_client, map_sdk_errors
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.sandbox import Fault

MODEL = "text-embedding-3-small"
KEY = "sk-nano-a-very-secret-key"
HEADER = "a-very-secret-header"
TEXT = "a very secret text"


@pytest.fixture
def log(caplog):
    """``log(level)`` returns the messages of a level so far."""
    caplog.set_level(logging.DEBUG, "nanogpt_core")
    return lambda level: [
        one.getMessage() for one in caplog.records if one.name == "nanogpt_core" and one.levelno == level
    ]


def embedder_of(sandbox, model=MODEL, **more):
    return Embedder(model, api_key=sandbox.api_key, base_url=sandbox.base_url, **more)


def test_each_request_is_logged_at_debug(sandbox_with, embed, log):
    embedder = embedder_of(sandbox_with(), cache=MemoryCache())
    embed(embedder, ["a", "b"])
    embed(embedder, ["a"])
    embed(embedder, ["c"])
    sent, cached, single = log(logging.DEBUG)
    assert sent.startswith(f"embeddings {MODEL}: 2 texts, 2 tokens, ")
    assert single.startswith(f"embeddings {MODEL}: 1 text, 1 token, ")
    assert "request sandbox-" in sent
    assert cached.startswith(f"embeddings {MODEL}: 1 text, from the cache, ")
    assert log(logging.INFO) == log(logging.WARNING) == []


def test_retries_and_pauses_are_logged_with_delay_and_reason(sandbox_with, embed, log):
    embedder = embedder_of(sandbox_with(faults=[Fault(503), Fault(429, headers={"Retry-After": "7"})]), max_retries=3)
    with fake_clock():
        embed(embedder, ["a"])
    first, pause, second = log(logging.INFO)
    assert first.startswith(f"Retry 1 of 3 of {MODEL} in ")
    assert first.endswith(" s after ServerError (status 503)")
    assert pause.startswith("Pausing all requests for 7.0 s after RateLimitError (status 429); rate: ")
    assert second.startswith(f"Retry 2 of 3 of {MODEL} in ")
    assert second.endswith(" s after RateLimitError (status 429)")
    assert "3 attempts" in log(logging.DEBUG)[-1]


def test_wait_for_the_rate_limit_above_a_second_is_logged(sandbox_with, log):
    embedder = embedder_of(sandbox_with(), requests_per_second=0.5, coalesce=False)
    with fake_clock():
        for text in "abc":
            embedder.embed([text])
    waits = [message for message in log(logging.INFO) if message.startswith("Waiting ")]
    assert waits
    assert all(message.endswith(" s for the rate limit") for message in waits)


def test_failure_is_logged_with_its_class(scripted, faults, embed, log):
    embedder = scripted(faults.response({"error": "no"}, 401)).embedder()
    with pytest.raises(NanoGPTError):
        embed(embedder, ["a"])
    (message,) = log(logging.DEBUG)
    assert "AuthenticationError" in message


def test_split_and_learned_limits_are_logged(sandbox_with, embed, log):
    embed(embedder_of(sandbox_with(item_limits={MODEL: 2})), ["a", "b", "c", "d"])
    split, learned = log(logging.INFO)
    assert split == "The host refused a batch of 4 texts as too large: dividing it"
    assert learned == "Learned: the host takes 2 texts, or 2 bytes, in a request"


@pytest.mark.parametrize(("on_overflow", "done"), [("truncate", "truncated"), ("split", "split")])
def test_texts_over_the_token_limit_are_logged_with_their_number(serve, embed, log, on_overflow, done):
    model = ModelInfo("lab/short", 6, max_tokens=4, tokenizer="cl100k_base")
    embed(serve().embedder(model, on_overflow=on_overflow), ["a", "one two three four five", "six " * 9, "six " * 9])
    limit = "over the model's limit of 4 tokens"
    assert log(logging.INFO) == [f"2 distinct texts {limit} are {done}: positions 1, 2 (from 0)"]


@pytest.mark.parametrize(("on_overflow", "doing"), [("truncate", "truncating"), ("split", "splitting")])
def test_text_that_the_host_finds_too_long_is_logged(scripted, faults, embed, log, on_overflow, doing):
    refusal = faults.response({"error": {"message": "context length", "code": "context_length_exceeded"}}, 400)
    embedder = scripted(refusal).embedder(ModelInfo("lab/known", 6), on_overflow=on_overflow)
    embed(embedder, ["one two"])
    assert log(logging.INFO) == [f"The host refused the text at position 0 as too long: {doing} it"]


def test_learned_dimensions_are_logged_once(serve, embed, log):
    embedder = serve().embedder()
    for text in "ab":
        embed(embedder, [text])
    assert log(logging.INFO) == ["Learned: vectors of lab/unlisted have 6 dimensions"]


def test_known_dimensions_are_not_logged(serve, embed, log):
    embed(serve().embedder(ModelInfo("lab/known", 6)), ["a"])
    assert log(logging.INFO) == []


def test_cache_that_is_set_aside_is_logged(tmp_path, log):
    path = tmp_path / "cache.sqlite"
    SQLiteCache(path).put_many({b"k" * 32: b"value"})
    path.write_bytes(b"SQLite format 3\0" + b"\0" * 4080)
    with pytest.warns(RuntimeWarning, match="set aside"):
        SQLiteCache(path).get_many([b"k" * 32])
    (message,) = log(logging.INFO)
    assert message.startswith(f"The embedding cache {path} is damaged, and was set aside as ")


@pytest.mark.parametrize("status", [200, 400, 401, 404, 413, 429, 500])
def test_log_holds_no_key_header_or_text_that_the_service_repeats(serve, faults, way, caplog, status):
    caplog.set_level(logging.DEBUG)

    def answer(seen):
        echo = f"{seen.headers} {seen.body.decode()}"
        more = {"X_Request_ID": f"{KEY} {HEADER}", "X_Echo": KEY}
        if status == 200 and seen.path.endswith("/embeddings"):
            return faults.response({**faults.document(seen.texts), "model": "lab/unlisted"}, **more)
        return faults.response({"error": {"message": echo, "code": echo, "type": echo}}, status, **more)

    headers = {"X-Secret": HEADER}
    server = serve(answer)

    def hook(record):
        try:
            raise KeyError(record.model)
        except KeyError:
            raise ValueError("the hook's own")  # noqa: B904 - its context is shown too

    embedder = server.embedder(api_key=KEY, default_headers=headers, max_retries=1, on_request=hook)
    endpoint = Endpoint.resolve(api_key=KEY, base_url=server.base_url, headers=headers)
    session = ChatSession(endpoint, max_retries=1)
    failed = 0
    with fake_clock():
        for _ in range(2):
            try:
                way.embed(embedder, [TEXT, f"{TEXT} again"])
            except NanoGPTError:
                failed += 1
        with pytest.raises(NanoGPTError), map_sdk_errors(session):
            make_chat_client(session).chat.completions.create(model="m", messages=[{"role": "user", "content": TEXT}])
    assert failed == (0 if status == 200 else 2)
    ours = [record for record in caplog.records if record.name == "nanogpt_core"]
    shown = "\n".join(logging.Formatter().format(record) for record in ours)
    assert "chat m: " in shown
    assert "ValueError: the hook's own" in shown
    assert "KeyError: 'lab/unlisted'" in shown
    assert "embeddings lab/unlisted: " in shown
    for secret in (KEY, HEADER, TEXT):
        assert secret not in shown


def test_program_without_logging_and_opentelemetry_prints_and_imports_nothing(sandbox):
    code = (
        "import sys\n"
        "from nanogpt_core import Embedder\n"
        f"embedder = Embedder(api_key={sandbox.api_key!r}, base_url={sandbox.base_url!r}, on_request=lambda _: 1 / 0)\n"
        "embedder.embed(['a'])\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_condition_that_lasts_warns_once(make, embed, recwarn):
    class Away:
        def get_many(self, _keys):
            raise LookupError("away")

        def put_many(self, _entries):
            raise LookupError("away")

    embedder = make(cache=Away(), batch_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for text in "abc":
            embed(embedder, [text, f"{text} again"])
    (warning,) = recwarn.list
    assert "LookupError: away" in str(warning.message)

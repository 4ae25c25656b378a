"""The contract of both plugins' embedding classes: options, changed options, errors, copies and the hidden key."""

import asyncio
import copy
import inspect
import math
import pickle
import re
import threading
import traceback
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from pydantic import ConfigDict, Field, SecretStr, ValidationError

from nanogpt_core import Embedder, ModelInfo, NanoGPTError, get_model
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InvalidInputError,
    InvalidTypeError,
    RequestTimeoutError,
    ServerError,
    TextTooLongError,
)
from nanogpt_core.http.sdk import httpx as http
from nanogpt_core.sandbox import Fault, Sandbox

# Without LlamaIndex, which ships a vocabulary, counts are upper bounds: one warning, and the tests still hold.
pytestmark = pytest.mark.filterwarnings("ignore:tiktoken's cl100k_base file:RuntimeWarning")

KEY = "sk-nano-0123abcd-very-secret"
HEADER = "token-of-a-proxy"
TEXTS = [f"Text number {i}." for i in range(7)]
BGE = "BAAI/bge-large-en-v1.5"  # 512 tokens per text, and a recommended instruction
LONG = "word " * 1500
NO_WAIT = {"Retry-After": "0"}


@pytest.fixture
def documents(plugin, call):
    """Embed documents: ``await documents(embeddings, texts)``."""
    return lambda embeddings, texts, **more: call(embeddings, plugin.documents, texts, **more)


@pytest.fixture
def query(plugin, call):
    """Embed a query: ``await query(embeddings, text)``."""
    return lambda embeddings, text: call(embeddings, plugin.query, text)


def shown(error):
    return "".join(traceback.format_exception(error))


# --- options ---


@pytest.mark.parametrize("given", [{"dimensions": 64}, {"user": "someone"}, {}], ids=str)
async def test_dimensions_and_user_are_sent(make, documents, sandbox, given):
    vectors = await documents(make(**given), TEXTS[:1])
    assert len(vectors[0]) == given.get("dimensions", 1536)
    (request,) = sandbox.requests
    rest = {name: value for name, value in request.body.items() if name not in ("input", "encoding_format")}
    assert rest == {"model": "text-embedding-3-small", **given}


async def test_batch_size_limits_texts_per_request(plugin, make, documents, sandbox):
    for name in {"batch_size", plugin.batch_size}:
        sandbox.clear()
        await documents(make(max_concurrency=1, **{name: 3}), TEXTS)
        assert [request.items for request in sandbox.requests] == [3, 3, 1]


@pytest.mark.parametrize(("coalesce", "items"), [(True, [4]), (False, [1, 1, 1, 1])])
async def test_queries_of_one_turn_of_the_event_loop_share_a_request_unless_coalesce_is_off(
    plugin, make, sandbox, coalesce, items
):
    embed = getattr(make(coalesce=coalesce), f"a{plugin.query}")
    queries = [f"A question {number}?" for number in range(4)]
    expected = [await embed(query) for query in queries]
    sandbox.clear()
    assert await asyncio.gather(*map(embed, queries)) == expected
    assert [request.items for request in sandbox.requests] == items


async def test_overflow_error_names_positions_and_sends_nothing(make, documents, sandbox):
    with pytest.raises(TextTooLongError) as caught:
        await documents(make(BGE), ["short", LONG])
    assert caught.value.positions == (1,)
    assert sandbox.requests == []


async def test_overflow_truncate_sends_the_beginning(make, documents, sandbox):
    await documents(make(BGE, on_overflow="truncate"), ["short", LONG])
    (request,) = sandbox.requests
    assert request.inputs[0] == "short"
    assert LONG.startswith(request.inputs[1])
    assert 100 < len(request.inputs[1]) < len(LONG)


async def test_overflow_split_returns_a_vector_of_length_1(make, documents, sandbox):
    _, vector = await documents(make(BGE, on_overflow="split"), ["short", LONG])
    pieces = [text for request in sandbox.requests for text in request.inputs if text != "short"]
    assert len(pieces) > 1
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("instruction", "sent"),
    [
        (None, "a question"),
        ("recommended", get_model(BGE).query_instruction.replace("{query}", "a question")),
        ("find: ", "find: a question"),
        ("Q={query}!", "Q=a question!"),
    ],
)
async def test_query_instruction_is_for_queries_only(make, documents, query, sandbox, instruction, sent):
    embeddings = make(BGE, query_instruction=instruction)
    await query(embeddings, "a question")
    await documents(embeddings, ["a question"])
    assert [request.inputs for request in sandbox.requests] == [(sent,), ("a question",)]


@pytest.mark.parametrize(("retries", "works"), [(2, True), (1, False)])
async def test_max_retries_limits_the_attempts(make, query, sandbox, retries, works):
    embeddings = make(max_retries=retries)
    sandbox.add_faults(*[Fault(503, headers=NO_WAIT)] * (retries if works else retries + 1))
    if works:
        assert len(await query(embeddings, "text")) == 1536
    else:
        with pytest.raises(ServerError):
            await query(embeddings, "text")
    assert len(sandbox.requests) == retries + 1
    assert embeddings.usage.retries == retries


@pytest.mark.parametrize("option", ["timeout", "deadline"])
async def test_timeout_and_deadline_end_a_slow_request(plugin, query, option):
    with Sandbox(faults=[Fault(None, delay=60)]) as sandbox:
        embeddings = plugin.make(api_key=sandbox.api_key, base_url=sandbox.base_url, max_retries=0, **{option: 0.2})
        with pytest.raises(RequestTimeoutError, match=r"within 0\.\d+ s"):
            await query(embeddings, "text")


async def test_requests_per_second_paces_the_requests(make, sandbox, documents):
    # At a URL of its own, since all objects with one key at one URL keep to the lowest rate among them.
    base_url = sandbox.base_url.replace("/api/v1", "/api/paid/v1")
    embeddings = make(base_url=base_url, batch_size=1, max_concurrency=1, requests_per_second=0.05)
    with fake_clock() as waits:
        await documents(embeddings, TEXTS)
    assert waits.seconds > 60  # six pauses of 20 seconds, less the time that the requests take
    assert len(sandbox.requests) == 7


async def test_cached_texts_are_not_sent_again(make, documents, sandbox, tmp_path):
    path = tmp_path / "vectors.sqlite"
    first = await documents(make(cache=path), TEXTS)
    embeddings = make(cache=path)
    again = await documents(embeddings, ["new", *TEXTS])
    assert again[1:] == first
    assert [request.inputs for request in sandbox.requests] == [tuple(TEXTS), ("new",)]
    assert embeddings.usage.texts_cached == 7


async def test_budget_is_checked_before_anything_is_sent(make, documents, sandbox):
    embeddings = make(budget_usd=1e-7)
    assert len(await documents(embeddings, ["few"])) == 1
    with pytest.raises(BudgetExceededError):
        await documents(embeddings, TEXTS)
    assert len(sandbox.requests) == 1


async def test_progress_function_gets_counts_of_texts(make, documents):
    seen = []
    await documents(make(batch_size=3, progress=lambda *counts: seen.append(counts), max_concurrency=1), TEXTS)
    assert seen == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("given", [True, None])
async def test_progress_bar_is_shown_only_if_requested(make, documents, capsys, given):
    await documents(make(progress=given), TEXTS)
    assert ("7/7" in capsys.readouterr().err) is bool(given)


async def test_default_headers_are_sent(make, query, sandbox):
    await query(make(default_headers={"X-Team": "search"}), "text")
    assert sandbox.requests[0].headers["x-team"] == "search"


class Gate:
    """Barrier for requests: opens once ``width`` of them are in flight; records the maximum in flight."""

    def __init__(self, width, event):
        self.width, self.event = width, event
        self.now = self.most = 0
        self.lock = threading.Lock()

    def enter(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == self.width:
                self.event.set()

    def leave(self):
        with self.lock:
            self.now -= 1


def gated_clients(kind, width):
    """Return a gate, and the option with a client that passes through it."""
    if kind == "sync":
        gate = Gate(width, threading.Event())

        def entering(_request):
            gate.enter()
            assert gate.event.wait(60)

        hooks = {"request": [entering], "response": [lambda _response: gate.leave()]}
        return gate, {"http_client": http.Client(event_hooks=hooks)}

    gate = Gate(width, asyncio.Event())

    async def aentering(_request):
        gate.enter()
        await asyncio.wait_for(gate.event.wait(), 30)

    async def aleaving(_response):
        gate.leave()

    hooks = {"request": [aentering], "response": [aleaving]}
    return gate, {"http_async_client": http.AsyncClient(event_hooks=hooks)}


@pytest.mark.parametrize("most", [1, 3])
async def test_own_http_client_sends_and_max_concurrency_limits(make, documents, call, sandbox, most):
    gate, clients = gated_clients(call.kind, most)
    embeddings = make(batch_size=1, max_concurrency=most, **clients)
    assert len(await documents(embeddings, TEXTS)) == 7
    assert (gate.most, gate.now, len(sandbox.requests)) == (most, 0, 7)
    for client in clients.values():
        assert not client.is_closed
        await client.aclose() if call.kind == "async" else client.close()


def test_plain_http_to_another_machine_must_be_allowed(plugin):
    options = {"api_key": "sk-nano-test", "base_url": "http://example.com/api/v1"}
    with pytest.raises(ConfigurationError, match="allow_insecure_http"):
        plugin.make(**options)
    assert plugin.base_url_of(plugin.make(**options, allow_insecure_http=True)) == "http://example.com/api/v1"


def test_model_may_be_model_info(plugin, make):
    assert plugin.model_of(make(get_model("BAAI/bge-m3"))) == "BAAI/bge-m3"


def test_every_option_is_a_field(plugin):
    names = {"model": plugin.model, "base_url": plugin.base_url, "batch_size": plugin.batch_size}
    expected = {names.get(name, name) for name in inspect.signature(Embedder).parameters}
    assert expected | plugin.own_options <= set(plugin.cls.model_fields)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"dimension": 64}, TypeError, "Did you mean 'dimensions'"),
        ({"async_http_client": None}, TypeError, "Did you mean 'http_async_client'"),
        ({"request_timeout": 5}, TypeError, "Did you mean 'timeout'"),
        ({"batch": 64}, TypeError, "Did you mean 'batch_size'"),
        ({"nonsense": 1}, TypeError, r"The options are: model(_name)?, "),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2049}, ValueError, "batch_size"),
        ({"batch_size": "8"}, TypeError, "batch_size"),
        ({"dimensions": 1537}, ValueError, "1,536"),
        ({"on_overflow": "cut"}, ValueError, "truncate"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"deadline": 0}, ValueError, "deadline"),
        ({"requests_per_second": 0}, ValueError, "requests_per_second"),
        ({"budget_usd": -1}, ValueError, "budget_usd"),
        ({"cache": 5}, TypeError, "cache"),
        ({"progress": "yes"}, TypeError, "progress"),
        ({"default_headers": {"A": 1}}, TypeError, "default_headers"),
        ({"query_instruction": 5}, TypeError, "query_instruction"),
        ({"user": 5}, TypeError, "user"),
        ({"base_url": "ftp://x"}, ValueError, "base_url"),
        ({"model": ""}, ValueError, "model"),
        ({"api_key": " "}, ValueError, "api_key"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(plugin, options, given, kind, words):
    with pytest.raises(NanoGPTError, match=words) as caught:
        plugin.make(**{**options, **given})
    assert isinstance(caught.value, kind)


async def test_estimate_and_usage(make, documents, sandbox):
    embeddings = make()
    estimate = embeddings.estimate(["one", "two", "one"])
    assert (estimate.texts, estimate.unique, estimate.requests, sandbox.requests) == (3, 2, 1, [])
    await documents(embeddings, ["one", "two", "one"])
    assert (embeddings.usage.requests, embeddings.usage.texts_sent) == (1, 2)
    assert 0 < embeddings.usage.prompt_tokens <= estimate.tokens


# --- input ---


@pytest.mark.parametrize("bad", [None, 5, "", "  \n", b"bytes"])
async def test_bad_input_is_refused_before_anything_is_sent(make, documents, query, sandbox, bad):
    kind = InvalidInputError if isinstance(bad, str) else InvalidTypeError
    with pytest.raises(kind) as caught:
        await documents(make(batch_size=1), [*TEXTS, bad])
    assert caught.value.positions == (7,)
    assert isinstance(caught.value, ValueError if isinstance(bad, str) else TypeError)
    with pytest.raises(kind):
        await query(make(), bad)
    assert sandbox.requests == []


@pytest.mark.parametrize("bad", ["a bare string", None, 5, {"a": 1}, {"a"}, frozenset("a")])
async def test_documents_that_are_not_a_list_are_refused(make, documents, sandbox, bad):
    with pytest.raises(InvalidTypeError):
        await documents(make(), bad)
    assert sandbox.requests == []


async def test_no_documents_send_nothing(make, documents, sandbox):
    assert await documents(make(), []) == []
    assert sandbox.requests == []


# --- options changed later ---


def changes(plugin):
    """Return values that differ from the defaults, for each option that an attribute or a copy may change."""
    return {
        plugin.model: "BAAI/bge-m3",
        plugin.base_url: "https://example.com/api/v1",
        plugin.batch_size: 3,
        "api_key": SecretStr("sk-nano-another"),
        "dimensions": 64,
        "user": "someone",
        "on_overflow": "split",
        "query_instruction": "find: ",
        "max_concurrency": 2,
        "coalesce": False,
        "requests_per_second": 5.0,
        "max_retries": 1,
        "timeout": 7.0,
        "deadline": 70.0,
        "cache": None,
        "budget_usd": 2.0,
        "limits": None,
        "model_info": ModelInfo(id="text-embedding-3-small", dimensions=1536),
        "progress": False,
        "on_request": None,
        "default_headers": {"X-Team": "search"},
        "http_client": None,
        "http_async_client": None,
        "allow_insecure_http": True,
        **({"show_progress_bar": True} if "show_progress_bar" in plugin.own_options else {}),
    }


def test_changes_cover_every_option(plugin):
    names = {"model": plugin.model, "base_url": plugin.base_url, "batch_size": plugin.batch_size}
    expected = {names.get(name, name) for name in inspect.signature(Embedder).parameters}
    assert set(changes(plugin)) == expected | plugin.own_options


@pytest.mark.parametrize("name", ["model_name", "api_base", "request_timeout", "headers"])
def test_setting_an_attribute_by_another_name_is_refused_with_the_options_name(make, name):
    embeddings = make()
    with pytest.raises(ConfigurationError, match=rf"{name} .*cannot be changed.*model_copy") as caught:
        setattr(embeddings, name, "value")
    if name not in type(embeddings).model_fields:
        assert re.search(r'"(model|base_url|timeout|default_headers)": ', caught.value.remedy)


def test_setting_an_unknown_attribute_is_refused_with_the_name_that_was_meant(make):
    embeddings = make()
    with pytest.raises(InvalidTypeError, match="Did you mean 'dimensions'"):
        embeddings.dimension = 4
    with pytest.raises(InvalidTypeError, match=r"The options are: model(_name)?, "):
        embeddings.nonsense = 4


async def test_model_construct_makes_a_whole_object(plugin, options, query):
    assert len(await query(plugin.cls.model_construct(**options, dimensions=64), "text")) == 64
    with pytest.raises(ConfigurationError, match="dimensions"):
        plugin.cls.model_construct(**options, dimensions=-1)


def test_setting_an_attribute_later_is_refused(plugin, make):
    embeddings = make()
    for name, value in changes(plugin).items():
        before = getattr(embeddings, name)
        with pytest.raises(ConfigurationError, match=rf'{name} cannot be changed.*model_copy\(update={{"{name}"'):
            setattr(embeddings, name, value)
        assert getattr(embeddings, name) is before


@pytest.fixture(params=["model_copy", "copy"])
def updated(request):
    """Copy with an update, by pydantic's name or its older one."""
    return lambda embeddings, **update: getattr(embeddings, request.param)(update=update)


async def test_copy_with_another_model_embeds_with_it(plugin, make, documents, query, sandbox, updated):
    old = make(batch_size=2, max_concurrency=1)
    new = updated(old, **{plugin.model: "BAAI/bge-m3"})
    assert (plugin.model_of(old), plugin.model_of(new)) == ("text-embedding-3-small", "BAAI/bge-m3")
    assert new.model_dump()[plugin.model] == "BAAI/bge-m3"
    assert [len(vector) for vector in await documents(new, ["one", "two", "three"])] == [1024] * 3
    assert len(await query(new, "text")) == 1024
    assert len(await query(old, "text")) == 1536
    names = [(request.body["model"], request.items) for request in sandbox.requests]
    assert names == [("BAAI/bge-m3", 2), ("BAAI/bge-m3", 1), ("BAAI/bge-m3", 1), ("text-embedding-3-small", 1)]


def test_copy_expects_the_dimensions_of_the_store_unless_it_asks_for_other_vectors(plugin, make, updated):
    old = make(**{plugin.model: "lab/unlisted"})
    old.check_width(64)
    for changes in ({"timeout": 5.0}, {"user": "me", "cache": None}):
        with pytest.raises(ConfigurationError, match="The store holds vectors of 32 dimensions"):
            updated(old, **changes).check_width(32)
    updated(old, **{plugin.model: "lab/other"}).check_width(32)
    updated(old, dimensions=32).check_width(32)


def test_copy_takes_every_option(plugin, make, updated):
    for name, value in changes(plugin).items():
        copied = updated(make(), **{name: value})
        expected = plugin.make(**{"api_key": KEY, name: value})
        secret = name == "api_key"
        get = (lambda one: one.api_key.get_secret_value()) if secret else (lambda one, name=name: getattr(one, name))
        assert get(copied) == get(expected), name


async def test_copy_sends_its_new_headers_dimensions_and_key(make, query, sandbox, updated):
    await query(updated(make(), dimensions=64, default_headers={"X-Team": "search"}), "text")
    (request,) = sandbox.requests
    assert (request.body["dimensions"], request.headers["x-team"]) == (64, "search")
    with pytest.raises(AuthenticationError):
        await query(updated(make(), api_key=KEY), "text")


def test_copy_with_wrong_options_is_refused(make, updated):
    embeddings = make()
    for update, kind in (
        ({"dimensions": 0}, ValueError),
        ({"timeout": "soon"}, TypeError),
        ({"dimension": 1}, TypeError),
    ):
        with pytest.raises(NanoGPTError) as caught:
            updated(embeddings, **update)
        assert isinstance(caught.value, kind)


def test_copy_keeps_a_default_a_default(make, updated):
    copied = updated(updated(make(), dimensions=64), user="someone")
    assert (copied.dimensions, copied.user) == (64, "someone")
    assert "requests_per_second" not in copied.model_fields_set  # a default is no limit of the caller's


async def test_subclass_may_add_fields(plugin, options, query, updated):
    class Own(plugin.cls):
        model_config = ConfigDict(validate_assignment=True)

        tenant: str = "none"
        tags: list[str] = Field(default_factory=list, alias="labels")
        _seen: Any = None

    embeddings = Own(**options, tenant="a", labels=["x"], dimensions=64)
    embeddings._seen = "kept"
    assert (embeddings.tenant, embeddings.tags, len(await query(embeddings, "text"))) == ("a", ["x"], 64)
    embeddings.tenant = "b"
    with pytest.raises(ValidationError):
        embeddings.tenant = 5
    with pytest.raises(ConfigurationError):
        embeddings.dimensions = 32
    copied = updated(embeddings, dimensions=32, tenant="c")
    assert (copied.tenant, copied.tags, copied._seen, len(await query(copied, "text"))) == ("c", ["x"], "kept", 32)
    with pytest.raises(InvalidTypeError, match="Did you mean 'tenant'"):
        Own(**options, tenants="a")


async def test_subclass_may_have_other_defaults(plugin, options, query, updated):
    name = "model" if "model" in plugin.cls.model_fields else "model_name"
    preset = {name: "text-embedding-3-large", "dimensions": 64, "timeout": 7.0}
    types = {name: plugin.cls.model_fields[name].annotation for name in preset}
    own = type("Own", (plugin.cls,), {**preset, "__annotations__": types, "__module__": __name__})
    left = {key: value for key, value in options.items() if key != "api_key"}
    keyed = type(
        "Keyed",
        (own,),
        {"api_key": Field(default_factory=lambda: options["api_key"]), "__annotations__": {"api_key": Any}},
    )
    for embeddings in (own(**options), keyed(**left)):
        assert (getattr(embeddings, name), embeddings.dimensions, embeddings.timeout) == tuple(preset.values())
        assert embeddings._embedder.model == "text-embedding-3-large"
        assert len(await query(embeddings, "text")) == 64
    assert options["api_key"] not in repr(keyed(**left))
    assert own(**options, dimensions=32).dimensions == 32
    assert own(**options, **{name: "text-embedding-3-small"})._embedder.model == "text-embedding-3-small"
    copied = updated(own(**options), dimensions=16)
    assert (copied._embedder.model, copied.dimensions) == ("text-embedding-3-large", 16)


@pytest.mark.parametrize(
    "name", ["model", "model_name", "api_base", "base_url", "request_timeout", "batch_size", "chunk_size"]
)
def test_other_name_of_an_option_in_a_subclass_is_refused(plugin, options, name):
    own = type("Own", (plugin.cls,), {name: "x", "__annotations__": {name: Any}, "__module__": __name__})
    if name in plugin.cls.model_fields:
        assert own.model_fields[name].default == "x"  # an option of this class
        return
    with pytest.raises(InvalidTypeError, match=f"{name} is called .* Declare"):
        own(**options)


def test_dump_can_be_read_back(plugin, make, monkeypatch):
    embeddings = make(dimensions=64, on_overflow="split", query_instruction="find: ")
    dumped = {name: value for name, value in embeddings.model_dump().items() if name != "class_name"}
    monkeypatch.setenv("NANOGPT_API_KEY", KEY)
    assert plugin.cls(**dumped).model_dump() == embeddings.model_dump()
    assert dumped["dimensions"] == 64


# --- the key, copies and pickles ---


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)], ids=["str", "SecretStr"])
def test_key_and_header_values_are_in_no_output(plugin, key):
    embeddings = plugin.make(api_key=key, default_headers={"X-Token": HEADER})
    assert embeddings.api_key.get_secret_value() == KEY
    outputs = {
        "repr": repr(embeddings),
        "str": str(embeddings),
        "vars": str(vars(embeddings)).replace(HEADER, ""),
        "repr of the key": repr(embeddings.api_key),
        "model_dump": str(embeddings.model_dump()),
        "model_dump_json": embeddings.model_dump_json(),
        "model_json_schema": str(plugin.cls.model_json_schema()),
        "repr of a copy": repr(embeddings.model_copy(update={"dimensions": 64})),
        "pickle": pickle.dumps(embeddings).decode("latin1"),
        "pickle of a copy": pickle.dumps(copy.deepcopy(embeddings)).decode("latin1"),
    }
    assert [name for name, text in outputs.items() if KEY in text or HEADER in text] == []


def test_repr_names_model_and_url(plugin):
    text = repr(plugin.make(api_key=KEY, dimensions=64))
    assert text.startswith(f"{plugin.class_name}({plugin.model}='text-embedding-3-small'")
    assert "dimensions=64" in text
    assert f"{plugin.base_url}='https://nano-gpt.com/api/v1'" in text


async def test_wrong_key_is_an_authentication_error_that_does_not_show_it(plugin, sandbox, query):
    embeddings = plugin.make(api_key=KEY, base_url=sandbox.base_url)
    with pytest.raises(AuthenticationError, match="NANOGPT_API_KEY") as caught:
        await query(embeddings, "text")
    assert KEY not in shown(caught.value)
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize("bad", [{"base_url": "ftp://x"}, {"dimension": 5}, {"timeout": "soon"}], ids=str)
def test_key_is_in_no_traceback_of_the_constructor(plugin, bad):
    with pytest.raises(NanoGPTError) as caught:
        plugin.make(api_key=KEY, **bad)
    assert KEY not in shown(caught.value)


def test_key_is_in_no_message_of_pydantic(plugin):
    with pytest.raises(ValidationError, match="base_url") as caught:
        plugin.cls.model_validate({"api_key": KEY, "base_url": "ftp://x"})
    assert KEY[:10] not in shown(caught.value)


def test_missing_key_error_names_the_environment_variable(plugin):
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        plugin.make()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: one.model_copy(deep=True)])
async def test_copies_give_the_same_vectors(make, documents, duplicate):
    embeddings = make("BAAI/bge-m3", batch_size=1, default_headers={"X-Team": "search"})
    before = await documents(embeddings, ["one", "two"])
    twin = duplicate(embeddings)
    assert await documents(twin, ["one", "two"]) == before
    assert repr(twin) == repr(embeddings)


async def test_copies_share_the_callers_http_client(plugin, make):
    with http.Client() as client:
        embeddings = make(http_client=client)
        for twin in (copy.deepcopy(embeddings), embeddings.model_copy(update={"dimensions": 1536})):
            assert twin.http_client is client
            assert len(getattr(twin, plugin.query)("text")) == 1536
            with pytest.raises(InvalidTypeError, match="http_client"):
                pickle.dumps(twin)


async def test_pickle_reads_the_key_from_the_environment(make, sandbox, query, monkeypatch, caplog):
    caplog.set_level("WARNING")
    embeddings = make(dimensions=64)
    await query(embeddings, "text")
    written = pickle.dumps(embeddings)
    sandbox.clear()

    keyless = pickle.loads(written)
    with pytest.raises(ConfigurationError, match=r"does not carry its key.*NANOGPT_API_KEY"):
        await query(keyless, "text")
    assert sandbox.requests == []

    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    twin = pickle.loads(written)
    assert await query(twin, "text") == await query(embeddings, "text")
    assert repr(twin) == repr(embeddings)
    assert caplog.records == []


async def test_pickle_for_a_worker_process_carries_key_and_headers(make, sandbox, query):
    embeddings = make(dimensions=64, default_headers={"X-Team": "search"})
    twin = pickle.loads(ForkingPickler.dumps(embeddings))
    for one in (twin, twin.model_copy(update={"max_retries": 1}), pickle.loads(ForkingPickler.dumps(twin))):
        assert len(await query(one, "text")) == 64
    assert [request.headers["x-team"] for request in sandbox.requests] == ["search"] * 3


@pytest.mark.usefixtures("foreign_environment")
async def test_openai_variables_do_not_leak(make, documents, query, nothing_leaked):
    embeddings = make()
    await documents(embeddings, ["one", "two"])
    await query(embeddings, "three")
    nothing_leaked(2)


@pytest.mark.usefixtures("foreign_environment")
def test_openai_variables_are_not_used_as_key_or_base_url(plugin, monkeypatch):
    with pytest.raises(ConfigurationError, match="No API key"):
        plugin.make()
    monkeypatch.setenv("NANO_GPT_API_KEY", KEY)
    embeddings = plugin.make()
    assert plugin.base_url_of(embeddings) == "https://nano-gpt.com/api/v1"
    assert embeddings.api_key.get_secret_value() == KEY


def test_none_in_a_copy_resets_an_option_by_each_of_its_names(plugin, make):
    for name in {"batch_size", plugin.batch_size}:
        twin = make(batch_size=5).model_copy(update={name: None})
        assert getattr(twin, plugin.batch_size) is None


def test_none_in_a_copy_resets_the_base_url_by_each_of_its_names(plugin, make, monkeypatch):
    monkeypatch.setenv("NANOGPT_BASE_URL", "https://variable.invalid/api/v1")
    for name in {"base_url", plugin.base_url}:
        assert plugin.base_url_of(make().model_copy(update={name: None})) == "https://variable.invalid/api/v1"

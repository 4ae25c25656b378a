"""The hook, usage and the log in both plugins: embeddings and chat, sync, async and streamed."""

import asyncio
import contextlib
import copy
import json
import logging
import pickle
import time

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import Usage, track_usage
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import ConfigurationError, InvalidTypeError, NanoGPTError
from nanogpt_core.sandbox import Fault, Reply

CHAT = "openai/gpt-4o-mini"
EMBEDDING = "text-embedding-3-small"
GUARD_SECONDS = 60
COUNTED = Reply("An answer.", usage={"prompt_tokens": 7, "completion_tokens": 5})
CLASSES = [ChatNanoGPT, NanoGPT, NanoGPTEmbeddings, NanoGPTEmbedding]


@pytest.fixture(params=[ChatNanoGPT, NanoGPT], ids=lambda cls: cls.__name__)
def chat_class(request):
    return request.param


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def any_class(request):
    return request.param


@pytest.fixture
def make_chat(chat_class, fresh_sandbox):
    return lambda **more: chat_class(model=CHAT, api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **more)


def method_of(chat, form):
    return {
        (ChatNanoGPT, "whole"): "invoke",
        (ChatNanoGPT, "stream"): "stream",
        (NanoGPT, "whole"): "complete",
        (NanoGPT, "stream"): "stream_complete",
    }[type(chat), form]


async def run(chat, kind, form, take=None):
    """Ask; of a stream, read ``take`` parts and then leave it, or read all of it."""
    method = getattr(chat, ("" if kind == "sync" else "a") + method_of(chat, form))
    if form == "whole":
        return method("Hello") if kind == "sync" else await method("Hello")
    stream = method("Hello")
    if kind == "sync":
        for number, _ in enumerate(stream, 1):
            if number == take:
                break
        return stream.close()
    stream = await stream if asyncio.iscoroutine(stream) else stream
    async with contextlib.aclosing(stream):
        async for _ in stream:
            if take is not None:
                break
    return None


@pytest.fixture(params=["whole", "stream"])
def form(request):
    return request.param


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


async def test_chat_request_has_a_record(make_chat, fresh_sandbox, kind, form):
    records = []
    fresh_sandbox.add_replies(COUNTED)
    await run(make_chat(on_request=records.append), kind, form)
    (record,) = records
    assert (record.kind, record.model, record.texts, record.attempts) == ("chat", CHAT, 0, 1)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 5)
    assert record.request_id.startswith("sandbox-")
    assert (record.error, record.uncertain, record.cost_usd) == (None, 0, None)  # the reply does not give its cost
    assert record.seconds > 0


async def test_chat_retries_are_attempts_of_one_record(make_chat, fresh_sandbox, kind, form):
    records = []
    fresh_sandbox.add_replies(Fault(503), Fault(429), COUNTED)
    with fake_clock(), track_usage() as usage:
        await run(make_chat(on_request=records.append), kind, form)
    (record,) = records
    assert (record.attempts, record.uncertain, record.error) == (3, 1, None)
    assert (usage.requests, usage.retries, usage.uncertain) == (1, 2, 1)


async def test_failed_chat_has_a_record(make_chat, fresh_sandbox, kind, form):
    records = []
    fresh_sandbox.add_replies(Fault(401))
    with pytest.raises(NanoGPTError), track_usage() as usage:
        await run(make_chat(on_request=records.append), kind, form)
    (record,) = records
    assert (record.error, record.prompt_tokens, record.cost_usd) == ("AuthenticationError", 0, 0.0)
    assert record.request_id.startswith("sandbox-")
    assert usage == Usage()


@pytest.mark.parametrize("reply", [Reply("An answer.", cut_off=True), Reply("An answer.", error={"status": 503})])
async def test_stream_that_fails_has_one_record(make_chat, fresh_sandbox, kind, reply):
    records = []
    fresh_sandbox.add_replies(reply)
    with pytest.raises(NanoGPTError):
        await run(make_chat(on_request=records.append, max_retries=0), kind, "stream")
    (record,) = records
    assert record.error in {"DamagedReplyError", "ServerError"}
    assert (record.uncertain, record.cost_usd) == (1, None)


async def test_stream_that_is_left_may_have_been_billed(make_chat, fresh_sandbox, kind):
    records = []
    fresh_sandbox.add_replies(Reply("An answer of many words, which is not read to its end."))
    with track_usage() as usage:
        await run(make_chat(on_request=records.append), kind, "stream", take=1)
    # The event loop closes the async generators of the frameworks a little later.
    until = time.monotonic() + GUARD_SECONDS
    while not records:
        assert time.monotonic() < until, "no record came"
        await asyncio.sleep(0)
    (record,) = records
    assert (record.error, record.uncertain, record.prompt_tokens) == ("Cancelled", 1, None)
    assert usage == Usage(uncertain=1)


def priced(form):
    """Return a reply that gives its cost."""
    head = {"id": "1", "created": 1, "model": CHAT}
    usage = {"usage": {"prompt_tokens": 7, "completion_tokens": 5}}
    pricing = {"x_nanogpt_pricing": {"amount": 0.25, "currency": "USD"}}
    said = {"role": "assistant", "content": "An answer."}
    if form == "whole":
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        return Fault(200, body={**head, "object": "chat.completion", "choices": [choice], **usage, **pricing})
    choice = {"index": 0, "delta": said, "finish_reason": "stop"}
    chunks = [{**head, "choices": [choice]}, {**head, "choices": [], **usage, **pricing}]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return Fault(200, headers={"Content-Type": "text/event-stream"}, body=body)


async def test_chat_is_counted_with_the_cost_that_replies_give(make_chat, fresh_sandbox, kind, form):
    records = []
    fresh_sandbox.add_replies(priced(form))
    chat = make_chat(on_request=records.append)
    with track_usage() as usage:
        await run(chat, kind, form)
    assert usage == Usage(requests=1, prompt_tokens=7, completion_tokens=5, cost_usd=0.25)
    assert [record.cost_usd for record in records] == [0.25]


def objects(sandbox):
    options = {"api_key": sandbox.api_key, "base_url": sandbox.base_url}
    return (
        ChatNanoGPT(model=CHAT, **options),
        NanoGPT(model=CHAT, **options),
        NanoGPTEmbeddings(EMBEDDING, **options),
        NanoGPTEmbedding(EMBEDDING, **options),
    )


async def test_one_block_counts_both_frameworks(fresh_sandbox, kind):
    chat, llm, embeddings, embedding = objects(fresh_sandbox)
    fresh_sandbox.add_replies(*[COUNTED] * 2)
    with track_usage() as usage:
        await run(chat, kind, "whole")
        await run(llm, kind, "stream")
        if kind == "sync":
            embeddings.embed_documents(["a", "b"])
            embedding.get_text_embedding_batch(["c", "d", "e"])
        else:
            await embeddings.aembed_documents(["a", "b"])
            await embedding.aget_text_embedding_batch(["c", "d", "e"])
    assert (usage.requests, usage.texts_sent, usage.completion_tokens) == (4, 5, 10)
    embedded = embeddings.usage.prompt_tokens + embedding.usage.prompt_tokens
    assert usage.prompt_tokens == 14 + embedded


def test_tasks_of_langchain_are_counted(fresh_sandbox):
    chat, *_ = objects(fresh_sandbox)
    with track_usage() as usage:
        chat.batch(["one", "two", "three"])  # in threads of LangChain's own
    assert usage.requests == 3


def use(target):
    if isinstance(target, NanoGPTEmbeddings):
        target.embed_query("a")
    elif isinstance(target, NanoGPTEmbedding):
        target.get_query_embedding("a")
    else:
        getattr(target, method_of(target, "whole"))("a")


@pytest.fixture
def make_any(any_class, fresh_sandbox):
    return lambda **more: any_class(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **more)


def test_hook_is_an_option_at_construction_and_in_copies(make_any):
    first, second = [], []
    target = make_any(on_request=first.append)
    use(target)
    changed = target.model_copy(update={"on_request": second.append})
    use(changed)
    use(copy.copy(target))
    use(copy.deepcopy(target))
    use(target.model_copy(update={"on_request": None}))
    assert (len(first), len(second)) == (3, 1)


def test_hook_cannot_be_set_later(make_any):
    target = make_any()
    with pytest.raises(ConfigurationError, match="model_copy"):
        target.on_request = print
    assert target.on_request is None


def test_hook_that_is_no_function_is_refused(make_any):
    with pytest.raises(InvalidTypeError, match="on_request"):
        make_any(on_request="print")
    with pytest.raises(InvalidTypeError, match="on_request"):
        make_any().model_copy(update={"on_request": 5})


def test_hook_that_raises_breaks_no_call(make_any, caplog):
    def hook(_record):
        raise ValueError("the hook's own")

    target = make_any(on_request=hook)
    for _ in range(2):
        use(target)
    assert [one.name for one in caplog.records if one.levelno == logging.WARNING] == ["nanogpt_core"]


def test_dumps_leave_the_hook_out_and_pickles_keep_it(make_any, fresh_sandbox, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", fresh_sandbox.api_key)
    target = make_any(on_request=print)
    assert "on_request" not in target.model_dump()
    assert "on_request" not in repr(target)
    assert pickle.loads(pickle.dumps(target)).on_request is print


def test_hook_that_cannot_be_pickled_is_not_lost(make_any):
    target = make_any(on_request=lambda record: record)
    with pytest.raises((InvalidTypeError, pickle.PicklingError, AttributeError), match=r"on_request|lambda"):
        pickle.dumps(target)


async def test_chat_requests_are_logged(make_chat, fresh_sandbox, kind, form, caplog):
    caplog.set_level(logging.DEBUG, "nanogpt_core")
    fresh_sandbox.add_faults(Fault(503))
    fresh_sandbox.add_replies(COUNTED)
    with fake_clock():
        await run(make_chat(), kind, form)
    retry, message = [one.getMessage() for one in caplog.records if one.name == "nanogpt_core"]
    assert retry.startswith("Retry 1 of ")
    assert retry.endswith(" s after ServerError (status 503)")
    assert f" of {CHAT} in " in retry
    assert message.startswith(f"chat {CHAT}: 7 tokens, 5 tokens of answer, ")

# ruff: noqa: ARG002
"""The option ``limits`` in all four classes of the plugins."""

import asyncio
import copy

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.limits import Admission


class CountingLimits:
    """Limits that may block, and that count requests."""

    may_block = True
    budget_usd = None

    def __init__(self):
        self.reserved, self.confirmed = [], 0

    def check(self, cost):
        raise AssertionError("there is no budget")

    def reserve(self, cost):
        self.reserved.append(cost)
        return Admission("id", 0.0, 0.0, ready=False, cost=cost)

    def confirm(self, admission):
        self.confirmed += 1
        return Admission("id", 0.0, 0.0, ready=True, cost=admission.cost)

    def release(self, admission):
        raise AssertionError("every request is sent")

    def settle(self, admission, outcome): ...

    def on_error(self, error, delay, admission=None): ...

    def add_saving(self, saving): ...


MAKE = [NanoGPTEmbeddings, NanoGPTEmbedding, ChatNanoGPT, NanoGPT]
CALLS = {
    NanoGPTEmbeddings: ("embed_documents", ["text"]),
    NanoGPTEmbedding: ("get_text_embedding_batch", ["text"]),
    ChatNanoGPT: ("invoke", "hello"),
    NanoGPT: ("complete", "hello"),
}


def ask(model, is_async):
    method, argument = CALLS[type(model)]
    return asyncio.run(getattr(model, f"a{method}")(argument)) if is_async else getattr(model, method)(argument)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("make", MAKE)
def test_requests_wait_for_shared_limits(make, is_async, options):
    limits = CountingLimits()
    assert ask(make(**options, limits=limits), is_async)
    assert len(limits.reserved) == limits.confirmed == 1


@pytest.mark.parametrize("make", [ChatNanoGPT, NanoGPT])
def test_streams_wait_for_shared_limits(make, options):
    limits = CountingLimits()
    model = make(**options, limits=limits)
    parts = list(model.stream("hello") if make is ChatNanoGPT else model.stream_complete("hello"))
    assert parts
    assert len(limits.reserved) == 1


@pytest.mark.parametrize("make", MAKE)
def test_copies_share_limits_and_an_update_replaces_them(make, options):
    first, second = CountingLimits(), CountingLimits()
    model = make(**options, limits=first)
    ask(copy.deepcopy(model), is_async=False)
    assert len(first.reserved) == 1
    ask(model.model_copy(update={"limits": second}), is_async=False)
    assert (len(first.reserved), len(second.reserved)) == (1, 1)


@pytest.mark.parametrize("make", MAKE)
def test_limits_cannot_be_set_later_or_combined_with_a_rate(make, options):
    model = make(**options)
    with pytest.raises(ConfigurationError):
        model.limits = CountingLimits()
    with pytest.raises(ConfigurationError, match="cannot be combined"):
        make(**options, limits=CountingLimits(), requests_per_second=5)
    with pytest.raises(InvalidTypeError, match="limits must be"):
        make(**options, limits="redis://127.0.0.1")


@pytest.mark.parametrize("make", MAKE)
def test_dumps_leave_limits_out(make, options):
    assert "limits" not in make(**options, limits=CountingLimits()).model_dump()

"""Chat objects of both plugins release their rate limit when they are dropped."""

import gc
import weakref

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_nanogpt import ChatNanoGPT
from llama_index_nanogpt import NanoGPT
from nanogpt_core import Sandbox


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize(("make", "ask"), [(ChatNanoGPT, ChatNanoGPT.invoke), (NanoGPT, NanoGPT.complete)])
def test_dropped_chat_object_releases_its_rate_limit_without_the_garbage_collector(make, ask, used):
    with Sandbox() as sandbox:
        chat = make(api_key=sandbox.api_key, base_url=sandbox.base_url, requests_per_second=7)
        limit = weakref.ref(chat._session._rate_cap)
        gc.disable()
        try:
            if used:
                ask(chat, "hello")
            assert limit() is not None
            del chat
            assert limit() is None
        finally:
            gc.enable()

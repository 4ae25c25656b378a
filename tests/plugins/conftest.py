"""Adapters to the two plugins' classes. A plugin is skipped if its framework is not installed."""

import re
import traceback
from dataclasses import dataclass
from importlib import import_module

import pytest


@dataclass(frozen=True)
class Plugin:
    """Names of one plugin's embedding class; ``call`` takes the sync names of methods."""

    module: str
    needs: str
    class_name: str
    documents: str
    query: str
    model: str
    base_url: str
    batch_size: str
    own_options: frozenset[str]

    @property
    def cls(self):
        return getattr(import_module(self.module), self.class_name)

    def make(self, model=None, **options):
        return self.cls(**options) if model is None else self.cls(model, **options)

    def model_of(self, embeddings):
        return getattr(embeddings, self.model)

    def base_url_of(self, embeddings):
        return getattr(embeddings, self.base_url)


PLUGINS = [
    Plugin(
        module="langchain_nanogpt",
        needs="langchain_openai",
        class_name="NanoGPTEmbeddings",
        documents="embed_documents",
        query="embed_query",
        model="model",
        base_url="base_url",
        batch_size="chunk_size",
        own_options=frozenset({"chunk_size", "show_progress_bar"}),
    ),
    Plugin(
        module="llama_index_nanogpt",
        needs="llama_index.llms.openai_like",
        class_name="NanoGPTEmbedding",
        documents="get_text_embedding_batch",
        query="get_query_embedding",
        model="model_name",
        base_url="api_base",
        batch_size="batch_size",
        own_options=frozenset(),
    ),
]


@pytest.fixture(params=PLUGINS, ids=lambda plugin: plugin.module.removesuffix("_nanogpt"))
def plugin(request):
    """The names of one of the plugins."""
    for package in (request.param.needs, "starlette", "uvicorn"):
        pytest.importorskip(package, exc_type=ImportError)
    return request.param


@pytest.fixture
def make(plugin, options):
    """Make an object that talks to the shared sandbox."""
    return lambda model=None, **more: plugin.make(model, **{**options, **more})


@dataclass(frozen=True)
class ChatPlugin:
    """Names of one plugin's chat class; ``call`` takes the sync names of methods."""

    module: str
    needs: str
    class_name: str
    method: str
    stream: str
    text: str
    delta: str
    model: str
    key: str
    base_url: str
    timeout: str
    async_client: str
    other_async_client: str

    @property
    def cls(self):
        return getattr(import_module(self.module), self.class_name)

    def text_of(self, answer):
        return getattr(answer, self.text)

    async def parts(self, call, chat, prompt, **options):
        """Yield the texts of a stream, from the sync or the async method."""
        if call.kind == "sync":
            for part in getattr(chat, self.stream)(prompt, **options):
                yield getattr(part, self.delta) or ""
            return
        stream = getattr(chat, f"a{self.stream}")(prompt, **options)
        async for part in stream if hasattr(stream, "__aiter__") else await stream:
            yield getattr(part, self.delta) or ""


CHAT_PLUGINS = [
    ChatPlugin(
        module="langchain_nanogpt",
        needs="langchain_openai",
        class_name="ChatNanoGPT",
        method="invoke",
        stream="stream",
        text="content",
        delta="content",
        model="model_name",
        key="openai_api_key",
        base_url="openai_api_base",
        timeout="request_timeout",
        async_client="http_async_client",
        other_async_client="async_http_client",
    ),
    ChatPlugin(
        module="llama_index_nanogpt",
        needs="llama_index.llms.openai_like",
        class_name="NanoGPT",
        method="complete",
        stream="stream_complete",
        text="text",
        delta="delta",
        model="model",
        key="api_key",
        base_url="api_base",
        timeout="timeout",
        async_client="async_http_client",
        other_async_client="http_async_client",
    ),
]


@pytest.fixture(params=CHAT_PLUGINS, ids=lambda plugin: plugin.class_name)
def chat_plugin(request):
    """The names of one of the plugins' chat classes."""
    for package in (request.param.needs, "starlette", "uvicorn"):
        pytest.importorskip(package, exc_type=ImportError)
    return request.param


@pytest.fixture(params=["plain", "streamed"])
def ask(request, chat_plugin, call):
    """``ask(chat, prompt)`` returns the text of the answer: sync and async, plain and streamed."""

    async def run(chat, prompt="Hello", **options):
        if request.param == "plain":
            return chat_plugin.text_of(await call(chat, chat_plugin.method, prompt, **options))
        return "".join([part async for part in chat_plugin.parts(call, chat, prompt, **options)])

    return run


@pytest.fixture
def key_variables():
    """Return the local variables of this project's frames in the traceback of an error that hold a key."""

    def find(error, key):
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        ours = [one for one in frames if re.search(r"nanogpt_core|_nanogpt\b", one.f_globals["__name__"])]
        assert ours
        held = [(frame.f_code.co_name, *item) for frame in ours for item in frame.f_locals.items()]
        return [(place, name) for place, name, value in held if isinstance(value, (str, dict)) and key in repr(value)]

    return find

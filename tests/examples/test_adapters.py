"""The adapter for pydantic-ai: complete, short, and the same on the page about adapters."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

import warm_process
from nanogpt_core import ConfigurationError, Embedder, InvalidInputError, ServerError, count_tokens
from nanogpt_core.sandbox import Fault

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "adapters" / "pydantic_ai_embeddings.py"
pytestmark = [
    pytest.mark.xdist_group("pydantic-ai"),  # one import for all
    pytest.mark.skipif(not warm_process.installed("pydantic_ai"), reason="pydantic-ai needs Python 3.11"),
]

TEXTS = ["Bees make honey.", "Honey keeps for years.", "Bees make honey."]
MODEL = "text-embedding-3-small"


@pytest.fixture(scope="module")
def adapter():
    spec = importlib.util.spec_from_file_location("nanogpt_test_adapter", FILE)
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)
    return adapter


@pytest.fixture
def make(adapter, fresh_sandbox):
    import pydantic_ai

    def make(**more):
        options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url, "max_retries": 0}
        return pydantic_ai.Embedder(adapter.NanoGPTEmbeddingModel(MODEL, **{**options, **more}))

    return make


@pytest.fixture(params=["sync", "async"])
def embed(request):
    """Call a method of pydantic-ai's embedder by its async name."""

    def embed(embedder, method, *args, **kwargs):
        if request.param == "async":
            return asyncio.run(getattr(embedder, method)(*args, **kwargs))
        loop = asyncio.new_event_loop()  # its sync methods take the thread's event loop
        asyncio.set_event_loop(loop)
        try:
            return getattr(embedder, f"{method}_sync")(*args, **kwargs)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()

    return embed


def plain(sandbox, texts, **more):
    """Return the vectors that the core returns, and the tokens that they took."""
    with Embedder(MODEL, api_key=sandbox.api_key, base_url=sandbox.base_url, **more) as embedder:
        return embedder.embed_lists(texts), embedder.usage.prompt_tokens


def test_documents_are_embedded_in_one_request_with_their_usage(make, embed, fresh_sandbox):
    result = embed(make(), "embed_documents", TEXTS)
    assert [request.inputs for request in fresh_sandbox.requests] == [tuple(TEXTS[:2])]
    assert (result.embeddings, result.usage.input_tokens) == plain(fresh_sandbox, TEXTS)
    assert result.provider_details["cost_usd"] > 0
    assert (result.model_name, result.provider_name) == (MODEL, "nanogpt")


def test_queries_get_the_query_instruction_and_documents_do_not(make, embed, fresh_sandbox):
    embedder = make(query_instruction="Search: ")
    embed(embedder, "embed_query", "honey")
    embed(embedder, "embed_documents", "honey")
    assert [request.inputs for request in fresh_sandbox.requests] == [("Search: honey",), ("honey",)]


def test_settings_of_pydantic_ai_take_effect(make, embed, fresh_sandbox):
    long = "honey " * 9_000
    result = embed(make(), "embed_documents", TEXTS, settings={"dimensions": 64})
    assert result.embeddings == plain(fresh_sandbox, TEXTS, dimensions=64)[0]
    with pytest.raises(InvalidInputError):
        embed(make(), "embed_documents", long)
    assert len(embed(make(), "embed_documents", long, settings={"truncate": True}).embeddings) == 1


def test_settings_without_a_meaning_here_are_refused(adapter, make, embed):
    from pydantic_ai.exceptions import UserError

    with pytest.raises(UserError, match="extra_headers"):
        embed(make(), "embed_documents", TEXTS, settings={"extra_headers": {"a": "b"}})
    with pytest.raises(UserError, match="extra_body"):
        adapter.NanoGPTEmbeddingModel(MODEL, api_key="k", settings={"extra_body": {}})


def test_options_and_errors_are_those_of_the_core(make, embed, fresh_sandbox):
    with pytest.raises(ConfigurationError, match="max_retries"):
        make(max_retries=-1)
    fresh_sandbox.add_faults(Fault(500))
    with pytest.raises(ServerError):
        embed(make(), "embed_documents", TEXTS)


def test_tokens_are_counted(make, embed):
    assert embed(make(), "count_tokens", TEXTS[0]) == count_tokens(TEXTS[0], MODEL)


def test_adapter_is_short_and_the_same_on_the_page():
    code = FILE.read_text(encoding="utf-8")
    assert len(code.splitlines()) < 60
    assert f"```python\n{code}```" in (ROOT / "docs" / "guides" / "adapters.md").read_text(encoding="utf-8")

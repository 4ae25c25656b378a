"""Rows of the service's live list as ``model``: price, limits, dimensions and budget, in the core and both plugins."""

import asyncio
import copy
import pickle
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from nanogpt_core import (
    BudgetExceededError,
    ConfigurationError,
    Embedder,
    InvalidTypeError,
    ModelInfo,
    TextTooLongError,
    list_models,
)
from nanogpt_core.http.sdk import httpx

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like")

from langchain_nanogpt import NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPTEmbedding

NEW = ModelInfo(
    id="lab/new",
    dimensions=24,
    min_dimensions=1,
    max_dimensions=24,
    usd_per_million_tokens=1000.0,
    max_tokens=8,
)
CHANGED = ModelInfo(id="BAAI/bge-m3", dimensions=48, usd_per_million_tokens=7.0, max_tokens=6)
KINDS = {"core": Embedder, "langchain": NanoGPTEmbeddings, "llama_index": NanoGPTEmbedding}


@pytest.fixture(scope="module")
def service():
    sandbox = pytest.importorskip("nanogpt_core.sandbox", reason="the sandbox extra is not installed")
    with sandbox.Sandbox(models={NEW.id: NEW, CHANGED.id: CHANGED}) as running:
        yield running


@pytest.fixture
def rows(service):
    return list_models(service.api_key, service.base_url)


@pytest.fixture(params=KINDS)
def make(request, service):
    options = {"api_key": service.api_key, "base_url": service.base_url, "max_retries": 0}
    return lambda model, **more: KINDS[request.param](model, **{**options, **more})


def embed(embeddings, texts):
    if isinstance(embeddings, Embedder):
        return embeddings.embed_lists(texts)
    if isinstance(embeddings, NanoGPTEmbeddings):
        return embeddings.embed_documents(texts)
    return embeddings.get_text_embedding_batch(texts)


async def aembed(embeddings, texts):
    if isinstance(embeddings, Embedder):
        return await embeddings.aembed_lists(texts)
    if isinstance(embeddings, NanoGPTEmbeddings):
        return await embeddings.aembed_documents(texts)
    return await embeddings.aget_text_embedding_batch(texts)


@pytest.fixture(params=["sync", "async"])
def call_documents(request):
    """Return a function that embeds documents, once sync and once async."""
    return embed if request.param == "sync" else lambda embeddings, texts: asyncio.run(aembed(embeddings, texts))


def info(embeddings):
    return embeddings.model_info if isinstance(embeddings, Embedder) else embeddings._embedder.model_info


def test_price_of_the_row_is_used_in_usage_and_estimate(make, rows):
    embeddings = make(rows["lab/new"])
    estimate = embeddings.estimate(["one two three"])
    assert estimate.cost_usd == pytest.approx(estimate.tokens * 1000 / 1e6)
    embed(embeddings, ["one two three"])
    assert embeddings.usage.cost_usd == pytest.approx(embeddings.usage.prompt_tokens * 1000 / 1e6)


@pytest.mark.parametrize("name", ["lab/new", "BAAI/bge-m3"])
def test_token_limit_of_the_row_is_used(make, rows, name):
    with pytest.raises(TextTooLongError, match=f"takes {rows[name].max_tokens} per text"):
        embed(make(rows[name]), ["word " * 20])
    with pytest.raises(TextTooLongError):
        make(rows[name]).estimate(["word " * 20])
    assert make(rows[name], on_overflow="split").estimate(["word " * 20]).requests >= 1


def test_dimensions_of_the_row_are_used(make, rows, service):
    service.clear()
    assert {len(vector) for vector in embed(make(rows["BAAI/bge-m3"]), ["one", "two"])} == {48}
    make(rows["BAAI/bge-m3"]).check_width(48)
    assert {len(vector) for vector in embed(make(rows["lab/new"], dimensions=7), ["one"])} == {7}
    with pytest.raises(ConfigurationError, match="dimensions"):
        make(rows["lab/new"], dimensions=25)
    # The catalog gives 1,024 for this model: without the row, the live list would be asked for after the reply.
    assert {request.path for request in service.requests} == {"/api/v1/embeddings"}


def test_budget_counts_the_price_of_the_row(make, rows):
    with pytest.raises(BudgetExceededError):
        embed(make(rows["lab/new"], budget_usd=0.001), ["one two three"])
    with pytest.raises(ConfigurationError, match=r'price is unknown.*model_info="live".*usd_per_million_tokens'):
        make("lab/new", budget_usd=0.001)


def test_row_survives_copies_and_pickles(make, rows, monkeypatch, service):
    monkeypatch.setenv("NANOGPT_API_KEY", service.api_key)
    embeddings = make(rows["lab/new"])
    twins = [copy.copy(embeddings), copy.deepcopy(embeddings), pickle.loads(pickle.dumps(embeddings))]
    if not isinstance(embeddings, Embedder):
        twins.append(embeddings.model_copy(update={"dimensions": 5}))
    for twin in twins:
        assert info(twin) == rows["lab/new"]
        assert twin.estimate(["one"]).cost_usd == embeddings.estimate(["one"]).cost_usd > 0


def test_row_by_keyword_is_taken(service, rows):
    options = {"api_key": service.api_key, "base_url": service.base_url}
    for cls, name in ((Embedder, "model"), (NanoGPTEmbeddings, "model"), (NanoGPTEmbedding, "model_name")):
        assert info(cls(**{name: rows["lab/new"]}, **options)) == rows["lab/new"]
    assert info(NanoGPTEmbedding(model=rows["lab/new"], **options)) == rows["lab/new"]


def test_dump_of_the_plugins_names_the_model(service, rows):
    options = {"api_key": service.api_key, "base_url": service.base_url}
    assert NanoGPTEmbeddings(rows["lab/new"], **options).model_dump()["model"] == "lab/new"
    assert NanoGPTEmbedding(rows["lab/new"], **options).to_dict()["model_name"] == "lab/new"


# --- model_info ---


@pytest.fixture
def fresh():
    """A service that nothing has asked before: its list is fetched again."""
    sandbox = pytest.importorskip("nanogpt_core.sandbox", reason="the sandbox extra is not installed")
    with sandbox.Sandbox(models={NEW.id: NEW, CHANGED.id: CHANGED}) as running:
        yield running


@pytest.fixture(params=KINDS)
def make_live(request, fresh):
    options = {"api_key": fresh.api_key, "base_url": fresh.base_url, "max_retries": 0, "model_info": "live"}
    return lambda model, **more: KINDS[request.param](model, **{**options, **more})


def paths(service):
    return [request.path.removeprefix("/api/v1") for request in service.requests]


def test_live_model_info_gives_price_limit_and_dimensions(make_live, call_documents, fresh):
    embeddings = make_live("lab/new")
    assert info(embeddings) == list_models(fresh.api_key, fresh.base_url)["lab/new"]
    estimate = embeddings.estimate(["one two three"])
    assert estimate.cost_usd == pytest.approx(estimate.tokens * 1000 / 1e6)
    with pytest.raises(TextTooLongError, match="takes 8 per text"):
        call_documents(embeddings, ["word " * 20])
    assert {len(vector) for vector in call_documents(make_live("lab/new", dimensions=7), ["one"])} == {7}
    with pytest.raises(ConfigurationError, match="dimensions"):
        make_live("lab/new", dimensions=25)
    with pytest.raises(BudgetExceededError):
        call_documents(make_live("lab/new", budget_usd=0.001), ["one two three"])


def test_live_list_is_fetched_once_in_a_process_for_each_endpoint(fresh):
    options = {"api_key": fresh.api_key, "base_url": fresh.base_url, "model_info": "live"}
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda kind: kind("lab/new", **options), [*KINDS.values()] * 4))
    assert {info(embeddings).dimensions for embeddings in made} == {24}
    assert NanoGPTEmbeddings("BAAI/bge-m3", **options).estimate(["one"]).cost_usd > 0
    assert paths(fresh) == ["/embedding-models"]
    other = f"{fresh.root_url}/api/paid/v1"
    assert Embedder("lab/new", **{**options, "base_url": other}).model_info.dimensions == 24
    assert len(fresh.requests) == 2


def test_name_that_the_live_list_does_not_have_is_refused_with_near_names(make_live):
    with pytest.raises(ConfigurationError, match=r"does not have 'BAAI/bge-m2'\. Did you mean BAAI/bge-m3"):
        make_live("BAAI/bge-m2")


def test_model_info_may_be_a_row(make_live):
    assert info(make_live("lab/new", model_info=NEW)) == NEW
    with pytest.raises(ConfigurationError, match="model_info is about 'lab/new', and model is 'BAAI/bge-m3'"):
        make_live("BAAI/bge-m3", model_info=NEW)
    for wrong in ("Live", True, {}):
        with pytest.raises(InvalidTypeError, match="model_info must be"):
            make_live("lab/new", model_info=wrong)


def test_own_http_client_fetches_the_live_list(make_live):
    seen = []
    with httpx.Client(event_hooks={"request": [lambda request: seen.append(request.url.path)]}) as client:
        make_live("lab/new", http_client=client)
    assert seen == ["/api/v1/embedding-models"]


def test_live_model_info_stays_in_copies_and_pickles(make_live, fresh, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", fresh.api_key)
    embeddings = make_live("lab/new")
    for twin in (copy.copy(embeddings), copy.deepcopy(embeddings), pickle.loads(pickle.dumps(embeddings))):
        assert info(twin) == info(embeddings)
    if not isinstance(embeddings, Embedder):
        name = "model" if isinstance(embeddings, NanoGPTEmbeddings) else "model_name"
        assert info(embeddings.model_copy(update={name: "BAAI/bge-m3"})).dimensions == 48
        assert info(embeddings.model_copy(update={"dimensions": 5})) == info(embeddings)
        catalog = embeddings.model_copy(update={name: "BAAI/bge-m3", "model_info": None})
        assert info(catalog).dimensions == 1024
    with pytest.raises(ConfigurationError, match="cannot be changed"):
        embeddings.model_info = None
    assert paths(fresh) == ["/embedding-models"]


def test_reranker_gives_a_warning(make, rows):
    for model in ("BAAI/bge-reranker-large", rows["BAAI/bge-reranker-large"]):
        with pytest.warns(UserWarning, match="is a reranker, not an embedding model") as caught:
            make(model)
        assert not re.search("nanogpt_core|_nanogpt/", caught[0].filename)


def test_embedding_models_give_no_warning(make, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, row in rows.items():
            if not row.is_reranker:
                make(name)
                make(row)

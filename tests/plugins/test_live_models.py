"""Rows of the service's live list as ``model``: price, limits, dimensions and budget, in the core and both plugins."""

import copy
import pickle
import warnings

import pytest

from nanogpt_core import BudgetExceededError, ConfigurationError, Embedder, ModelInfo, TextTooLongError, list_models

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
    with pytest.raises(ConfigurationError, match="no price"):
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


def test_reranker_gives_a_warning(make, rows):
    for model in ("BAAI/bge-reranker-large", rows["BAAI/bge-reranker-large"]):
        with pytest.warns(UserWarning, match="is a reranker, not an embedding model"):
            make(model)


def test_embedding_models_give_no_warning(make, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, row in rows.items():
            if not row.is_reranker:
                make(name)
                make(row)

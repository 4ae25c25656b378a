"""``NanoGPTProvider`` in Daft itself; skipped where Daft is not installed."""

import numpy as np
import pytest

from nanogpt_core import ConfigurationError, Embedder, InvalidTypeError

daft = pytest.importorskip("daft", reason="Daft is not installed; make scale tests it")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

from daft.functions import embed_text  # noqa: E402

from nanogpt_core.scale.daft_provider import NanoGPTProvider  # noqa: E402


@pytest.fixture(autouse=True)
def _environment(monkeypatch, sandbox):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)


def embedded(texts, provider=None, **options):
    frame = daft.from_pydict({"text": texts})
    expression = embed_text(daft.col("text"), provider=provider or NanoGPTProvider(), **options)
    return frame.with_column("embedding", expression)


def test_column_has_the_vectors_of_the_embedder_in_order(options):
    texts = [f"text {n % 7}" for n in range(30)]
    rows = embedded(texts, dimensions=64, batch_size=10).to_pydict()["embedding"]
    expected = Embedder(**options, dimensions=64).embed(texts)
    assert np.array_equal(np.array(rows, dtype=np.float32), expected)


def test_dimensions_come_from_the_catalog_without_a_request(sandbox):
    frame = embedded(["one"], model="BAAI/bge-m3")
    assert frame.schema()["embedding"].dtype == daft.DataType.embedding(daft.DataType.float32(), 1024)
    assert sandbox.requests == []


def test_rate_limit_costs_no_request_for_each_text(sandbox_with, monkeypatch):
    sandbox = sandbox_with(requests_per_second=20)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    frame = embedded([f"text {n}" for n in range(2000)], dimensions=64, batch_size=50)
    assert len(frame.to_pydict()["embedding"]) == 2000
    assert len(sandbox.requests) <= 60  # 40 are needed


def test_failure_is_raised_and_not_retried_by_daft(sandbox_with, monkeypatch):
    from nanogpt_core.sandbox import Fault

    sandbox = sandbox_with(faults=[Fault(status=400)] * 9)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    with pytest.raises(Exception, match="400"):
        embedded(["one"]).to_pydict()
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize("options", [{"max_retries": 3}, {"on_error": "ignore"}, {"batch_token_limit": 7}], ids=str)
def test_option_of_daft_that_would_be_ignored_is_refused(options):
    with pytest.raises(ConfigurationError, match=f"takes no {next(iter(options))} with"):
        embedded(["one"], **options)


@pytest.mark.parametrize("rows", [0, -1, 1.5, "many"])
def test_batch_size_that_is_no_positive_number_is_refused(rows):
    with pytest.raises((ConfigurationError, InvalidTypeError), match="batch_size must be"):
        embedded(["one"], batch_size=rows)


@pytest.mark.parametrize(
    "options", [{"on_error": "null"}, {"column": "body"}, {"dimensions": 64}, {"model": "x"}], ids=str
)
def test_option_that_the_provider_would_ignore_is_refused(options):
    with pytest.raises(ConfigurationError, match="NanoGPTProvider takes no"):
        NanoGPTProvider(**options)


def test_missing_key_is_an_error_in_the_driver(monkeypatch):
    monkeypatch.delenv("NANOGPT_API_KEY")
    with pytest.raises(ConfigurationError, match="every worker"):
        NanoGPTProvider()


def test_null_text_is_an_error():
    with pytest.raises(Exception, match="null at position 1"):
        embedded(["one", None]).to_pydict()

"""Fixtures of the demo's tests: its folder on `sys.path`, and its pipelines."""

import contextlib
import functools
import importlib
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "demo"
sys.path.insert(0, str(EXAMPLES))

NEEDS = {
    "LangChainPipeline": ("langchain_pipeline", ("langchain_classic", "langchain_openai", "langchain_qdrant")),
    "LlamaIndexPipeline": (
        "llama_index_pipeline",
        ("llama_index.llms.openai_like", "llama_index.vector_stores.qdrant"),
    ),
    "BarePipeline": ("openai_sdk_pipeline", ()),
}


def pipeline_class(name):
    module, packages = NEEDS[name]
    for package in (*packages, "starlette", "uvicorn"):
        pytest.importorskip(package, exc_type=ImportError)
    return getattr(importlib.import_module(module), name)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """Qdrant commits each passage separately; these tests do not need passages that survive a loss of power."""
    try:
        from qdrant_client.local.persistence import CollectionPersistence
    except ImportError:
        yield
        return
    begin = CollectionPersistence.__init__

    def begin_quickly(persistence, *arguments, **options):
        begin(persistence, *arguments, **options)
        persistence.storage.execute("PRAGMA synchronous = OFF")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CollectionPersistence, "__init__", begin_quickly)
        yield


@pytest.fixture(scope="session")
def corpus_module():
    """The module ``corpus``, which here reads Python's documentation only once: that takes seconds."""
    import corpus

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_documents", functools.cache(corpus._documents))
        yield corpus


@pytest.fixture(scope="session")
def corpus_passages(corpus_module):
    """The examples' corpus."""
    return corpus_module.load_passages()


@pytest.fixture(scope="session")
def module_framework():
    """Return the class of a pipeline by its name, or skip: for fixtures that outlive a test."""
    return pipeline_class


@pytest.fixture
def service(sandbox):
    from settings import Service

    return Service("the tests' sandbox", sandbox.api_key, sandbox.base_url, is_sandbox=True)


@pytest.fixture(params=["LangChainPipeline", "LlamaIndexPipeline"])
def framework(request):
    """The class of a pipeline whose index stays on disk."""
    return pipeline_class(request.param)


@pytest.fixture(params=NEEDS)
def kind(request):
    """The class of any of the pipelines."""
    return pipeline_class(request.param)


@pytest.fixture
def opened(service, tmp_path):
    """Open a pipeline by class and settings, and close the previous one; a test has one data folder."""
    from settings import Settings

    with contextlib.ExitStack() as last:

        def make(kind, **settings):
            last.close()
            return last.enter_context(
                contextlib.closing(kind(service, Settings(**{"data": tmp_path / "data", **settings})))
            )

        yield make


@pytest.fixture
def embedded(sandbox):
    """Return the texts that were embedded since the last call."""

    def take():
        texts = [text for request in sandbox.requests for text in request.inputs]
        sandbox.clear()
        return texts

    return take

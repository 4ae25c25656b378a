"""Equality of the vectors of a model through every method and framework."""

import asyncio
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt_core import MODELS, Embedder

TEXTS = [
    "The cat sat on the mat and purred.",
    "量子计算机使用量子比特进行计算。",
    "def add(a, b): return a + b",
    "The cat sat on the mat and purred.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 🥊",
    "  spaces\nand\tlines  ",
]


def ways(model, options, batch_size):
    """Yield (name, function that embeds texts, asynchronous)."""
    core = Embedder(model, **options, batch_size=batch_size)
    yield "sync", core.embed, False
    yield "async", core.aembed, True
    yield "lists", core.embed_lists, False
    yield "lists, async", core.aembed_lists, True
    if find_spec("langchain_core"):
        from langchain_nanogpt import NanoGPTEmbeddings

        langchain = NanoGPTEmbeddings(model, **options, chunk_size=batch_size)
        yield "LangChain", langchain.embed_documents, False
        yield "LangChain async", langchain.aembed_documents, True
    if find_spec("llama_index"):
        from llama_index_nanogpt import NanoGPTEmbedding

        llama_index = NanoGPTEmbedding(model, **options, embed_batch_size=batch_size)
        yield "LlamaIndex", llama_index.get_text_embedding_batch, False
        yield "LlamaIndex async", llama_index.aget_text_embedding_batch, True


async def answers(texts, model, options, batch_size):
    """Return each way's vectors, as bytes of float32, after checking that plugins' floats are float32 exactly."""
    found = {}
    for name, function, asynchronous in ways(model, options, batch_size):
        vectors = await function(texts) if asynchronous else function(texts)
        array = np.asarray(vectors, dtype=np.float32)
        assert np.asarray(vectors, dtype=np.float64).tolist() == array.astype(np.float64).tolist(), name
        found[name] = array
    return found


@pytest.mark.parametrize("model", MODELS)
async def test_all_methods_give_the_same_vectors(model, options):
    one_by_one = Embedder(model, **options)
    expected = np.stack([one_by_one.embed([text])[0] for text in TEXTS])
    assert expected.shape == (len(TEXTS), MODELS[model].dimensions)
    assert len({row.tobytes() for row in expected}) == len(set(TEXTS))
    for name, vectors in (await answers(TEXTS, model, options, 4)).items():
        assert np.array_equal(vectors, expected), name


WORDS = st.sampled_from([f"word{i}" for i in range(12)])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(WORDS, min_size=1, max_size=25), batch_size=st.integers(1, 9), model=st.sampled_from(list(MODELS))
)
def test_vectors_do_not_depend_on_batch_size_or_repeats(options, texts, batch_size, model):
    expected = {text: Embedder(model, **options).embed([text])[0].tobytes() for text in set(texts)}
    for name, vectors in asyncio.run(answers(texts, model, options, batch_size)).items():
        assert [vector.tobytes() for vector in vectors] == [expected[text] for text in texts], name

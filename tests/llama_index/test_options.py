"""Options and dumps that only the LlamaIndex class has; the shared contract is in tests/plugins."""

import copy
import json
import pickle
import threading

import pytest
from llama_index.core import Document
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.schema import MetadataMode, TextNode, TransformComponent

from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core import NanoGPTError
from nanogpt_core.errors import ConfigurationError, InvalidTypeError

KEY = "sk-nano-0123abcd-very-secret"
HEADER = "token-of-a-proxy"


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"chunk_size": 64}, TypeError, "Did you mean 'batch_size'"),
        ({"embed_batchsize": 64}, TypeError, "Did you mean 'embed_batch_size'"),
        ({"embed_batch_size": 0}, ValueError, "embed_batch_size"),
        ({"embed_batch_size": "8"}, TypeError, "embed_batch_size"),
        ({"num_workers": 0}, ValueError, "num_workers"),
        ({"model": "one", "model_name": "other"}, ValueError, "differ"),
        ({"api_base": "https://example.com/v1"}, ValueError, "differ"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, given, kind, words):
    with pytest.raises(NanoGPTError, match=words) as caught:
        NanoGPTEmbedding(**{**options, **given})
    assert isinstance(caught.value, kind)


def test_embed_batch_size_and_num_workers_can_be_changed_later(options):
    embedding = NanoGPTEmbedding(**options)
    embedding.embed_batch_size = 5
    embedding.num_workers = 2
    assert (embedding.embed_batch_size, embedding.num_workers) == (5, 2)
    with pytest.raises(ConfigurationError, match="embed_batch_size"):
        embedding.embed_batch_size = 0
    with pytest.raises(InvalidTypeError, match="num_workers"):
        embedding.num_workers = "two"


@pytest.mark.parametrize(
    "given",
    [{"model_name": "BAAI/bge-m3"}, {"model": "BAAI/bge-m3"}, {"model": "BAAI/bge-m3", "model_name": "BAAI/bge-m3"}],
    ids=str,
)
def test_model_and_model_name_are_aliases(options, given):
    assert NanoGPTEmbedding(**options, **given).model_name == "BAAI/bge-m3"


def test_api_base_and_base_url_are_aliases(options):
    url = options["base_url"]
    embedding = NanoGPTEmbedding(api_key=options["api_key"], api_base=url)
    assert (embedding.api_base, len(embedding.get_text_embedding("text"))) == (url, 1536)


def test_copy_update_accepts_both_names(options):
    copied = NanoGPTEmbedding(**options).model_copy(update={"model": "BAAI/bge-m3", "base_url": "https://example.com"})
    assert (copied.model_name, copied.api_base) == ("BAAI/bge-m3", "https://example.com")


def test_dump_has_the_options_that_change_vectors():
    embedding = NanoGPTEmbedding(api_key=KEY, dimensions=64, on_overflow="split", query_instruction="find: ", timeout=5)
    assert embedding.to_dict() == {
        "class_name": "NanoGPTEmbedding",
        "model_name": "text-embedding-3-small",
        "api_base": "https://nano-gpt.com/api/v1",
        "dimensions": 64,
        "on_overflow": "split",
        "query_instruction": "find: ",
    }


async def test_dumps_can_be_read_back(options, call, sandbox, monkeypatch):
    first = NanoGPTEmbedding("BAAI/bge-large-en-v1.5", **options, query_instruction="find: ")
    expected = await call(first, "get_query_embedding", "text")
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    for twin in (NanoGPTEmbedding.from_dict(first.to_dict()), NanoGPTEmbedding.from_json(first.to_json())):
        assert await call(twin, "get_query_embedding", "text") == expected
        assert json.loads(twin.to_json()) == first.to_dict()
    monkeypatch.delenv("NANOGPT_API_KEY")
    assert NanoGPTEmbedding.from_dict(first.to_dict(), api_key=KEY).to_dict() == first.to_dict()
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        NanoGPTEmbedding.from_dict(first.to_dict())


def test_key_and_header_values_are_in_no_dump_of_llama_index():
    embedding = NanoGPTEmbedding(api_key=KEY, default_headers={"X-Token": HEADER})
    dumped = f"{embedding.to_dict()} {embedding.to_json()} {embedding.to_payload()}"
    assert KEY not in dumped
    assert HEADER not in dumped


def test_copies_share_the_rate_limiter_and_pickles_keep_the_batch_size(options):
    limiter = TokenBucketRateLimiter(requests_per_minute=600)
    embedding = NanoGPTEmbedding(**options, rate_limiter=limiter)
    assert copy.deepcopy(embedding).rate_limiter is limiter
    assert embedding.model_copy(update={"dimensions": 64}).rate_limiter is limiter
    assert pickle.loads(pickle.dumps(NanoGPTEmbedding(**options, embed_batch_size=7))).embed_batch_size == 7


def test_wrong_rate_limiter_is_refused(options):
    embedding = NanoGPTEmbedding(**options)
    for use in (
        lambda **wrong: NanoGPTEmbedding(**options, **wrong),
        lambda **wrong: embedding.model_copy(update={**wrong}),
        lambda rate_limiter: setattr(embedding, "rate_limiter", rate_limiter),
    ):
        with pytest.raises(InvalidTypeError, match=r"rate_limiter must have acquire\(\) and async_acquire"):
            use(rate_limiter=5)


class SkipBlank(TransformComponent):
    """The transformation in the docstring of NanoGPTEmbedding."""

    def __call__(self, nodes, **_kwargs):
        return [node for node in nodes if node.get_content(MetadataMode.EMBED).strip()]


async def test_transformation_skips_blank_nodes(options, call):
    embedding = NanoGPTEmbedding(**options)
    nodes = [TextNode(text=text) for text in ("first page", " \n", "third page")]
    pipeline = IngestionPipeline(transformations=[SkipBlank(), embedding], disable_cache=True)
    embedded = await call(pipeline, "run", nodes=nodes)
    assert [node.text for node in embedded] == ["first page", "third page"]
    assert all(node.embedding for node in embedded)
    split = IngestionPipeline(transformations=[SentenceSplitter(), SkipBlank(), embedding], disable_cache=True)
    assert len(await call(split, "run", documents=[Document(text="a page"), Document(text=" ")])) == 1


class LockedHandler(LlamaDebugHandler):
    """A callback handler that cannot be copied."""

    def __init__(self):
        super().__init__(print_trace_on_end=False)
        self.lock = threading.Lock()


@pytest.mark.parametrize("make", [NanoGPT, NanoGPTEmbedding])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_limiter", TokenBucketRateLimiter(requests_per_minute=6000)),
        ("callback_manager", CallbackManager([LockedHandler()])),
    ],
    ids=["rate_limiter", "callback_manager"],
)
def test_deep_copy_shares_objects_that_hold_a_lock(make, name, value):
    made = make(api_key=KEY, **{name: value})
    for twin in (copy.deepcopy(made), made.model_copy(deep=True)):
        assert getattr(twin, name) is value

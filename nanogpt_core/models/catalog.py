"""The catalog of NanoGPT's embedding models: one row per model.

The catalog is a snapshot that works offline. NanoGPT's live list (``GET /embedding-models``) is newer, and the
dimensions of a reply overrule both: see :meth:`ModelInfo.allows_width`. Sources: "reference" is NanoGPT's reference
page for ``POST /v1/embeddings`` (price, listed dimensions, models that take ``dimensions``); "newer page" is the same
page of August 2026, with more models; "card" is the vendor's model card or API page (true dimensions, token limit,
tokenizer, query instruction); "field" is a limit observed on hosts of the model.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MAX_ITEMS = 2048
"""Most texts in one request (reference page)."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One embedding model. An unknown value is None, never a guess.

    Attributes:
        id: The name in requests.
        dimensions: Dimensions of a full vector.
        listed_dimensions: Dimensions on NanoGPT's pages if they differ from ``dimensions``; else None.
        min_dimensions: Least value of the ``dimensions`` option; None if the model does not take it.
        max_dimensions: Greatest value of the ``dimensions`` option; None if the model does not take it.
        usd_per_million_tokens: Price, in US dollars per 1,000,000 input tokens.
        max_tokens: Most tokens of one text, in the model's own tokenizer.
        tokenizer: ``"cl100k_base"``, ``"bert"``, ``"xlm-roberta"``, ``"qwen"``, ``"bpe"``, or None.
        batch_size: Most texts in one request, until a host accepts or refuses others.
        max_request_tokens: Most tokens of all texts of one request together.
        query_instruction: The model card's prompt for queries, with ``{query}`` in the query's place.
        languages: ISO 639-1 codes, or ``"multilingual"`` or ``"code"``.
        unit_length: True if vectors have Euclidean length 1.
        source: The sources of the row.
    """

    id: str
    dimensions: int | None = None
    listed_dimensions: int | None = None
    min_dimensions: int | None = None
    max_dimensions: int | None = None
    usd_per_million_tokens: float | None = None
    max_tokens: int | None = None
    tokenizer: str | None = None
    batch_size: int = 32
    max_request_tokens: int | None = None
    query_instruction: str | None = None
    languages: tuple[str, ...] = ()
    unit_length: bool | None = None
    source: str = "unknown model: not in the packaged table"

    @property
    def reduces(self) -> bool:
        """True if the model takes the ``dimensions`` option."""
        return self.max_dimensions is not None

    @property
    def on_reference_page(self) -> bool:
        """True if NanoGPT's reference page lists the model."""
        return self.source.startswith("reference")

    @property
    def is_reranker(self) -> bool:
        """True if the name says that this is a reranker: the service lists one, and it makes no usable embeddings."""
        return "rerank" in self.id.lower()

    @property
    def widths(self) -> frozenset[int]:
        """The dimensions of a full vector by all sources; empty if none is known."""
        return frozenset(d for d in (self.dimensions, self.listed_dimensions) if d is not None)

    def allows_width(self, width: int) -> bool:
        """Return True if a source gives ``width`` as the dimensions of a full vector, or no source gives any."""
        return not self.widths or width in self.widths


def _openai(name: str, dimensions: int, price: float, *, reduces: bool) -> ModelInfo:
    return ModelInfo(
        id=name,
        dimensions=dimensions,
        min_dimensions=1 if reduces else None,
        max_dimensions=dimensions if reduces else None,
        usd_per_million_tokens=price,
        max_tokens=8191,
        tokenizer="cl100k_base",
        batch_size=512,
        max_request_tokens=300_000,
        languages=("multilingual",),
        unit_length=True,
        source="reference; limits: OpenAI's API reference (8,192 tokens a text, 300,000 a request)",
    )


def _jina_v2(suffix: str, tokenizer: str, languages: tuple[str, ...], *, unit_length: bool | None = None) -> ModelInfo:
    return ModelInfo(
        id=f"jina-embeddings-v2-base-{suffix}",
        dimensions=768,
        usd_per_million_tokens=0.05,
        max_tokens=8192,
        tokenizer=tokenizer,
        batch_size=128,
        languages=languages,
        unit_length=unit_length,
        source="reference; card: jinaai/jina-embeddings-v2-base-" + suffix,
    )


_QWEN3_INSTRUCTION = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:{query}"
)


def _qwen3(size: str, dimensions: int, price: float, *, listed: int | None = None) -> ModelInfo:
    return ModelInfo(
        id=f"Qwen/Qwen3-Embedding-{size}",
        dimensions=dimensions,
        listed_dimensions=listed,
        min_dimensions=32,
        max_dimensions=dimensions,
        usd_per_million_tokens=price,
        max_tokens=32768,
        tokenizer="qwen",
        batch_size=32,
        query_instruction=_QWEN3_INSTRUCTION,
        languages=("multilingual",),
        unit_length=True,
        source=(
            f"{f'newer page (lists {listed})' if listed else 'reference'}; card: Qwen/Qwen3-Embedding-{size}"
            f"{f' ({dimensions})' if listed else ''}; field: 32 or 64 items a request"
        ),
    )


_TABLE = (
    _openai("text-embedding-3-small", 1536, 0.02, reduces=True),
    _openai("text-embedding-3-large", 3072, 0.13, reduces=True),
    _openai("text-embedding-ada-002", 1536, 0.10, reduces=False),
    ModelInfo(
        id="BAAI/bge-m3",
        dimensions=1024,
        usd_per_million_tokens=0.01,
        max_tokens=8192,
        tokenizer="xlm-roberta",
        batch_size=32,
        max_request_tokens=8192,
        languages=("multilingual",),
        unit_length=True,
        source="reference; card: BAAI/bge-m3; field: 64 or 32 items and about 8k tokens a request",
    ),
    ModelInfo(
        id="jina-clip-v1",
        dimensions=768,
        usd_per_million_tokens=0.04,
        max_tokens=8192,
        tokenizer="bert",
        batch_size=128,
        languages=("en",),
        unit_length=True,
        source="reference; card: jinaai/jina-clip-v1",
    ),
    ModelInfo(
        id="BAAI/bge-large-en-v1.5",
        dimensions=1024,
        listed_dimensions=768,
        usd_per_million_tokens=0.01,
        max_tokens=512,
        tokenizer="bert",
        batch_size=32,
        query_instruction="Represent this sentence for searching relevant passages: {query}",
        languages=("en",),
        unit_length=True,
        source="reference (lists 768); card: BAAI/bge-large-en-v1.5 (1024); field: 64 or 32 items a request",
    ),
    ModelInfo(
        id="BAAI/bge-large-zh-v1.5",
        dimensions=1024,
        usd_per_million_tokens=0.01,
        max_tokens=512,
        tokenizer="bert",
        batch_size=32,
        query_instruction="为这个句子生成表示以用于检索相关文章：{query}",
        languages=("zh",),
        unit_length=True,
        source="reference; card: BAAI/bge-large-zh-v1.5; field: 64 or 32 items a request",
    ),
    _jina_v2("en", "bert", ("en",), unit_length=False),
    _jina_v2("de", "bpe", ("de", "en")),
    _jina_v2("zh", "bpe", ("zh", "en")),
    _jina_v2("es", "bpe", ("es", "en")),
    _jina_v2("code", "bpe", ("code", "en")),
    ModelInfo(
        id="Baichuan-Text-Embedding",
        dimensions=1024,
        usd_per_million_tokens=0.088,
        max_tokens=512,
        batch_size=16,
        languages=("zh",),
        source="reference; card: Baichuan's API page (16 items a request)",
    ),
    ModelInfo(
        id="netease-youdao/bce-embedding-base_v1",
        dimensions=768,
        listed_dimensions=1024,
        usd_per_million_tokens=0.02,
        max_tokens=512,
        tokenizer="xlm-roberta",
        batch_size=32,
        languages=("zh", "en"),
        unit_length=True,
        source="reference (lists 1024); card: maidalun1020/bce-embedding-base_v1 (768); field: 64 or 32 items",
    ),
    ModelInfo(
        id="zhipu-embedding-2",
        dimensions=1024,
        usd_per_million_tokens=0.07,
        max_tokens=512,
        batch_size=16,
        max_request_tokens=8000,
        languages=("zh", "en"),
        source="reference; card: Zhipu's API page (512 tokens a text, about 8k a request)",
    ),
    _qwen3("0.6B", 1024, 0.01),
    # The models below are not on the reference page, but on the newer one.
    ModelInfo(
        id="BAAI/bge-base-en-v1.5",
        dimensions=768,
        usd_per_million_tokens=0.01,
        max_tokens=512,
        tokenizer="bert",
        batch_size=32,
        query_instruction="Represent this sentence for searching relevant passages: {query}",
        languages=("en",),
        unit_length=True,
        source="newer page; card: BAAI/bge-base-en-v1.5; field: 64 or 32 items a request",
    ),
    _qwen3("4B", 2560, 0.03, listed=1536),
    _qwen3("8B", 4096, 0.05, listed=1536),
    ModelInfo(
        id="jina-embeddings-v3",
        dimensions=1024,
        usd_per_million_tokens=0.10,
        max_tokens=8192,
        tokenizer="xlm-roberta",
        batch_size=128,
        languages=("multilingual",),
        source="newer page (does not list it as reducing); card: jinaai/jina-embeddings-v3",
    ),
    ModelInfo(
        id="jina-embeddings-v4",
        dimensions=2048,
        usd_per_million_tokens=0.10,
        max_tokens=32768,
        tokenizer="qwen",
        batch_size=128,
        languages=("multilingual",),
        source="newer page (does not list it as reducing); card: jinaai/jina-embeddings-v4; field: 512 items a request",
    ),
    ModelInfo(
        id="gemini-embedding-001",
        dimensions=3072,
        usd_per_million_tokens=0.15,
        max_tokens=2048,
        batch_size=100,
        languages=("multilingual",),
        source="newer page (does not list it as reducing); card: Google's API page (2,048 tokens); field: 100 items",
    ),
    ModelInfo(
        id="doubao-embedding-large-text-240915",
        dimensions=4096,
        usd_per_million_tokens=0.10,
        languages=("zh", "en"),
        source="newer page; card: Volcano Engine's API page (languages)",
    ),
)
_RERANKER = ModelInfo(
    id="BAAI/bge-reranker-large",
    listed_dimensions=1024,
    usd_per_million_tokens=0.01,
    max_tokens=512,
    tokenizer="xlm-roberta",
    languages=("zh", "en"),
    source="newer page, among the embedding models; card: BAAI/bge-reranker-large (a reranker)",
)

MODELS: Mapping[str, ModelInfo] = MappingProxyType({row.id: row for row in _TABLE})
"""The embedding models of NanoGPT's pages, by name: the sixteen of the reference page first."""


def get_model(name: str) -> ModelInfo:
    """Return the row of ``name``; for an unknown name, a row with only the name."""
    return MODELS.get(name) or (_RERANKER if name == _RERANKER.id else ModelInfo(id=name))


def near_names(name: str) -> list[str]:
    """Return at most three names of known models that resemble ``name``, the most similar first."""
    folded = {known.lower(): known for known in MODELS}
    tails = {known.lower().rsplit("/", 1)[-1]: known for known in MODELS}
    candidates = {**tails, **folded}
    hits = difflib.get_close_matches(name.lower(), candidates, n=6, cutoff=0.6)
    return list(dict.fromkeys(candidates[hit] for hit in hits))[:3]

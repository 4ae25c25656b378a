"""The catalog of NanoGPT's embedding models, in ``embedding_models.jsonl``: one row per model.

The catalog is a snapshot that works offline. NanoGPT's live list (``GET /embedding-models``) is newer, and the
dimensions of a reply overrule both: see :meth:`ModelInfo.allows_width`. Sources: "reference" is NanoGPT's reference
page for ``POST /v1/embeddings`` (price, listed dimensions, models that take ``dimensions``); "newer page" is the same
page of August 2026, with more models; "card" is the vendor's model card or API page (true dimensions, token limit,
tokenizer, query instruction); "field" is a limit observed on hosts of the model.
"""

from __future__ import annotations

import difflib
import json
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nanogpt_core._runtime.validation import check_not_negative, check_number
from nanogpt_core.errors import InvalidTypeError

MAX_ITEMS = 2048
"""Maximum number of texts in one request (reference page)."""

MAX_DIMENSIONS = 65_536
"""Largest number of dimensions that is taken for one, of a model that the catalog does not know."""

_LARGEST = {
    **dict.fromkeys(("dimensions", "listed_dimensions", "min_dimensions", "max_dimensions"), MAX_DIMENSIONS),
    **dict.fromkeys(("max_tokens", "max_request_tokens")),
    "batch_size": MAX_ITEMS,
}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One embedding model. An unknown value is None, never a guess.

    Attributes:
        id: The name in requests.
        dimensions: Dimensions of a full vector.
        listed_dimensions: Dimensions on NanoGPT's pages if they differ from ``dimensions``; else None.
        min_dimensions: Minimum value of the ``dimensions`` option; None if the model does not take it.
        max_dimensions: Maximum value of the ``dimensions`` option; None if the model does not take it.
        usd_per_million_tokens: Price, in US dollars per 1,000,000 input tokens.
        max_tokens: Maximum number of tokens of one text, in the model's own tokenizer.
        tokenizer: ``"cl100k_base"``, ``"bert"``, ``"xlm-roberta"``, ``"qwen"``, ``"bpe"``, or None.
        batch_size: Default maximum number of texts in a request; lowered if a host refuses more. For OpenAI's models
            fewer than the 2,048 that they take: at 25 requests per second 20,000 texts, less to send again after a
            failure, and an event loop stands still for no more than 50 ms while it parses a reply.
        max_request_tokens: Maximum number of tokens of all texts of one request together.
        query_instruction: The model card's prompt for queries, with ``{query}`` in the query's place.
        languages: ISO 639-1 codes, or ``"multilingual"`` or ``"code"``.
        unit_length: True if vectors have Euclidean length 1.
        source: The sources of the row.

    Raises:
        ConfigurationError: A number is out of range.
        InvalidTypeError: A value has the wrong type.
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

    def __post_init__(self) -> None:
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            if value is not None or name == "batch_size":
                check_number(name, value, 1, most)
        for name in ("id", "tokenizer", "query_instruction"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "id"):
                raise InvalidTypeError(f"{name} must be a str, not {type(value).__name__}.")
        if self.usd_per_million_tokens is not None:
            check_not_negative("usd_per_million_tokens", self.usd_per_million_tokens)

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


def _read_rows() -> Iterator[ModelInfo]:
    # While the module is imported: a later read could block an event loop.
    # By the loader of the package, which may be in an archive, as Spark sends packages to its workers.
    table = pkgutil.get_data(__name__, "embedding_models.jsonl") or b""
    for line in table.decode().splitlines():
        fields = json.loads(line)
        yield ModelInfo(**{**fields, "languages": tuple(fields.get("languages", ()))})


_ROWS = {row.id: row for row in _read_rows()}

MODELS: Mapping[str, ModelInfo] = MappingProxyType({row.id: row for row in _ROWS.values() if not row.is_reranker})
"""The embedding models of NanoGPT's pages, by name: the sixteen of the reference page first."""


def get_model(name: str) -> ModelInfo:
    """Return the facts about a model from the packaged catalog; for an unknown name, only the name. Sends nothing.

    Raises:
        InvalidTypeError: The name is not a string.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"model must be a str, not {type(name).__name__}.")
    return _ROWS.get(name) or ModelInfo(id=name)


def near_names(name: str, known: Collection[str] = MODELS.keys()) -> list[str]:
    """Return at most three of the ``known`` names that resemble ``name``, the most similar first."""
    folded = {one.lower(): one for one in known}
    tails = {one.lower().rsplit("/", 1)[-1]: one for one in known}
    candidates = {**tails, **folded}
    hits = difflib.get_close_matches(name.lower(), candidates, n=6, cutoff=0.6)
    return list(dict.fromkeys(candidates[hit] for hit in hits))[:3]

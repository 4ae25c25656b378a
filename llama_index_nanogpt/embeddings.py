"""LlamaIndex's ``BaseEmbedding`` over :class:`nanogpt_core.Embedder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager

from nanogpt_core import Embedder, Estimate, Usage
from nanogpt_core.catalogue import MAX_ITEMS
from nanogpt_core.connection import DEFAULT_TIMEOUT, ApiKey
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.options import EmbedderOptions, clear_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NanoGPTEmbedding"]


def _operational(default: Any) -> Any:
    # What does not change a vector stays out of dumps: LlamaIndex's caches take a dump as part of their key.
    return Field(default=default, exclude=True, repr=False)


class NanoGPTEmbedding(BaseEmbedding):
    """NanoGPT's embedding models in LlamaIndex, for ``Settings.embed_model``.

    Dumps (``to_dict``, ``to_json``) hold what changes a vector, and neither the key nor options such as timeouts; an
    object made from a dump takes its key from the environment.

    Args:
        model_name: The model's name. Default: ``text-embedding-3-small``.
        model: The same.
        api_key: The key, as text or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        api_base: Where the API begins. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        base_url: The same.
        embed_batch_size: Texts that LlamaIndex hands over at a time, 1 to 2048 (default). They go out in requests of
            ``batch_size``, several at once.
        num_workers: Batches that LlamaIndex's async methods have under way at once. Default: all.
        callback_manager: Receives the usual events.
        embeddings_cache: LlamaIndex's own cache of vectors, by text.
        rate_limiter: LlamaIndex's own limiter, asked once for each batch.
        **options: Any other option of :class:`nanogpt_core.Embedder`.

    Raises:
        ConfigurationError: An option that cannot be right, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type, or one that does not exist. It is a ``TypeError``.
    """

    embed_batch_size: int = Field(default=MAX_ITEMS, gt=0, le=MAX_ITEMS, exclude=True)
    num_workers: int | None = Field(default=None, exclude=True)
    api_base: str = Field(description="Where the API begins.")
    dimensions: int | None = Field(default=None, description="Width that vectors are reduced to.")
    user: str | None = Field(default=None, exclude=True)
    on_overflow: str = Field(default="error", description="What is done with a text over the model's token limit.")
    query_instruction: str | None = Field(default=None, description="What goes before queries.")
    api_key: Any = _operational(None)
    batch_size: int | None = _operational(None)
    max_concurrency: int = _operational(8)
    max_retries: int = _operational(5)
    timeout: float = _operational(DEFAULT_TIMEOUT)
    progress: Any = _operational(None)
    default_headers: Any = _operational(None)
    http_client: Any = _operational(None)
    http_async_client: Any = _operational(None)
    allow_insecure_http: bool = _operational(False)

    _embedder: Embedder = PrivateAttr()

    @clear_options
    def __init__(
        self,
        model_name: str | None = None,
        *,
        model: str | None = None,
        api_key: ApiKey = None,
        api_base: str | None = None,
        base_url: str | None = None,
        embed_batch_size: int = MAX_ITEMS,
        num_workers: int | None = None,
        callback_manager: CallbackManager | None = None,
        embeddings_cache: Any = None,
        rate_limiter: Any = None,
        **options: Unpack[EmbedderOptions],
    ) -> None:
        embedder = Embedder(
            _one("model_name", model_name, "model", model) or "text-embedding-3-small",
            api_key=api_key,
            base_url=_one("api_base", api_base, "base_url", base_url),
            **options,
        )
        fields: dict[str, Any] = {
            "model_name": embedder.model,
            "api_key": embedder.api_key,
            "api_base": embedder.base_url,
            "embed_batch_size": embed_batch_size,
            "num_workers": num_workers,
            "callback_manager": callback_manager or CallbackManager([]),
            "embeddings_cache": embeddings_cache,
            "rate_limiter": rate_limiter,
            **options,
        }
        super().__init__(**fields)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps carry."""
        return "NanoGPTEmbedding"

    @property
    def usage(self) -> Usage:
        """What this object has spent so far: a snapshot."""
        return self._embedder.usage

    def estimate(self, texts: list[str]) -> Estimate:
        """Say what embedding ``texts`` would take, without sending anything."""
        return self._embedder.estimate(texts)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        lists: list[Embedding] = self._embedder.embed(texts).tolist()
        return lists

    def _get_query_embedding(self, query: str) -> Embedding:
        floats: Embedding = self._embedder.embed_query(query).tolist()
        return floats

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        lists: list[Embedding] = (await self._embedder.aembed(texts)).tolist()
        return lists

    async def _aget_query_embedding(self, query: str) -> Embedding:
        floats: Embedding = (await self._embedder.aembed_query(query)).tolist()
        return floats


def _one(first_name: str, first: str | None, second_name: str, second: str | None) -> str | None:
    if first is not None and second is not None and first != second:
        raise ConfigurationError(f"{first_name} and {second_name} differ.", remedy="They mean the same; pass one.")
    return second if first is None else first

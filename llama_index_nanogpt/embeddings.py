"""LlamaIndex's ``BaseEmbedding`` over :class:`nanogpt_core.Embedder`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager

from llama_index_nanogpt.listeners import has_event_handlers
from nanogpt_core import Embedder, Estimate, Usage
from nanogpt_core.embeddings.config import EmbedderOptions, reject_unknown_options
from nanogpt_core.embeddings.inputs import check_texts
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import ApiKey
from nanogpt_core.validation import check_number

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NanoGPTEmbedding"]


class _Ready(NamedTuple):
    """Embeddings that are there, and whose: handlers of events may embed other texts, or with other objects."""

    owner: NanoGPTEmbedding
    texts: list[str]
    embeddings: list[Embedding]


_HANDED_OVER = 32_768
_AT_ONCE = 512
_ready: ContextVar[_Ready | None] = ContextVar("nanogpt_ready", default=None)


def _operational(name: str) -> Any:
    # What does not change a vector stays out of dumps: LlamaIndex's caches take a dump as part of their key.
    return Field(default=inspect.signature(Embedder).parameters[name].default, exclude=True, repr=False)


_FIXED = {"model_name", "api_key", "api_base", *EmbedderOptions.__annotations__}


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
        embed_batch_size: Texts that LlamaIndex hands over at a time, one batch after another. Each goes out in requests
            of ``batch_size``, several at once, so that smaller batches only take longer. Default: 32768.
        num_workers: Batches that LlamaIndex's async methods have under way at once. Default: all.
        callback_manager: Receives the usual events.
        embeddings_cache: LlamaIndex's own cache of vectors, by text.
        rate_limiter: LlamaIndex's own limiter, asked once for each batch.
        **options: Any other option of :class:`nanogpt_core.Embedder`.

    Raises:
        ConfigurationError: An option that cannot be right, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type, or one that does not exist. It is a ``TypeError``.
    """

    # Pydantic's errors would show the whole input, and the key with it.
    model_config = ConfigDict(hide_input_in_errors=True)

    embed_batch_size: int = Field(default=_HANDED_OVER, gt=0, exclude=True)
    num_workers: int | None = Field(default=None, exclude=True)
    embeddings_cache: Any = Field(default=None, exclude=True)
    api_base: str = Field(description="Where the API begins.")
    dimensions: int | None = Field(default=None, description="Width that vectors are reduced to.")
    on_overflow: str = Field(default="error", description="What is done with a text over the model's token limit.")
    query_instruction: str | None = Field(default=None, description="What goes before queries.")
    api_key: Any = _operational("api_key")
    user: str | None = _operational("user")
    batch_size: int | None = _operational("batch_size")
    max_concurrency: int = _operational("max_concurrency")
    requests_per_second: float | None = _operational("requests_per_second")
    max_retries: int = _operational("max_retries")
    timeout: float = _operational("timeout")
    deadline: float | None = _operational("deadline")
    cache: Any = _operational("cache")
    budget_usd: float | None = _operational("budget_usd")
    progress: Any = _operational("progress")
    default_headers: Any = _operational("default_headers")
    http_client: Any = _operational("http_client")
    http_async_client: Any = _operational("http_async_client")
    allow_insecure_http: bool = _operational("allow_insecure_http")

    _embedder: Embedder = PrivateAttr()

    @reject_unknown_options
    def __init__(
        self,
        model_name: str | None = None,
        *,
        model: str | None = None,
        api_key: ApiKey = None,
        api_base: str | None = None,
        base_url: str | None = None,
        embed_batch_size: int = _HANDED_OVER,
        num_workers: int | None = None,
        callback_manager: CallbackManager | None = None,
        embeddings_cache: Any = None,
        rate_limiter: Any = None,
        **options: Unpack[EmbedderOptions],
    ) -> None:
        name = _one("model_name", model_name, "model", model)
        embedder = Embedder(
            "text-embedding-3-small" if name is None else name,
            api_key=api_key,
            base_url=_one("api_base", api_base, "base_url", base_url),
            **options,
        )
        check_number("embed_batch_size", embed_batch_size, 1)
        if num_workers is not None:
            check_number("num_workers", num_workers, 1)
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

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED:
            raise ConfigurationError(f"{name} cannot be changed any more.", remedy="Make a new NanoGPTEmbedding.")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # The base class leaves out what cannot be pickled; an HTTP client must not get lost like that.
        self._embedder.__getstate__()
        return super().__getstate__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> NanoGPTEmbedding:
        # What stands for a connection or a shared limit is shared by copies.
        shared = (self.http_client, self.http_async_client, self.rate_limiter, self.progress, self.cache)
        memo = {} if memo is None else memo
        memo.update({id(one): one for one in shared})
        return super().__deepcopy__(memo)

    @property
    def usage(self) -> Usage:
        """What this object has spent so far: a snapshot."""
        return self._embedder.usage

    def estimate(self, texts: list[str]) -> Estimate:
        """Say what embedding ``texts`` would take, without sending anything."""
        return self._embedder.estimate(texts)

    def check_width(self, stored_width: int) -> None:
        """Check that a vector store of ``stored_width`` floats a vector takes this object's vectors; sends nothing.

        Call it after opening a store that exists already, for example with ``faiss_index.d``.

        Raises:
            ConfigurationError: Store and model do not fit; the message says what to do. It is a ``ValueError``.
        """
        self._embedder.check_width(stored_width)

    def get_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Embed documents. All texts are checked before the first batch is sent."""
        checked = check_texts(texts)
        if not self._in_parts(checked, show_progress):
            return super().get_text_embedding_batch(checked, show_progress, **kwargs)
        ready, embeddings = self._embedder.embed_lists(checked), list[Embedding]()
        if not has_event_handlers(self.callback_manager):
            return ready
        for part in _parts(len(checked)):
            with _handed_over(_Ready(self, checked[part], ready[part])):
                embeddings += super().get_text_embedding_batch(checked[part], show_progress, **kwargs)
        return embeddings

    async def aget_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **kwargs: Any
    ) -> list[Embedding]:
        """Do what :meth:`get_text_embedding_batch` does, without blocking the event loop."""
        checked = check_texts(texts)
        if not self._in_parts(checked, show_progress):
            return await super().aget_text_embedding_batch(checked, show_progress, **kwargs)
        ready, embeddings = await self._embedder.aembed_lists(checked), list[Embedding]()
        if not has_event_handlers(self.callback_manager):
            return ready
        for part in _parts(len(checked)):
            with _handed_over(_Ready(self, checked[part], ready[part])):
                embeddings += await super().aget_text_embedding_batch(checked[part], show_progress, **kwargs)
        return embeddings

    def _in_parts(self, texts: list[str], show_progress: bool) -> bool:
        """Whether texts that LlamaIndex would hand over as one batch are embedded first and then handed back in parts.

        LlamaIndex copies all lists of a batch into an event. For thousands at once that is hundreds of megabytes, and
        stops an event loop for half a second. Where nobody listens, there is no need to make events at all.
        """
        own = self.embeddings_cache is not None or self.rate_limiter is not None or show_progress
        return not own and _AT_ONCE < len(texts) <= self.embed_batch_size

    def _ready(self, texts: list[str]) -> list[Embedding] | None:
        ready = _ready.get()
        return ready.embeddings if ready and ready.owner is self and ready.texts == texts else None

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        ready = self._ready(texts)
        return self._embedder.embed_lists(texts) if ready is None else ready

    def _get_query_embedding(self, query: str) -> Embedding:
        floats: Embedding = self._embedder.embed_query(query).tolist()
        return floats

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        ready = self._ready(texts)
        return await self._embedder.aembed_lists(texts) if ready is None else ready

    async def _aget_query_embedding(self, query: str) -> Embedding:
        floats: Embedding = (await self._embedder.aembed_query(query)).tolist()
        return floats


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE))


@contextmanager
def _handed_over(ready: _Ready) -> Iterator[None]:
    token = _ready.set(ready)
    try:
        yield
    finally:
        _ready.reset(token)


def _one(first_name: str, first: str | None, second_name: str, second: str | None) -> str | None:
    if first is not None and second is not None and first != second:
        raise ConfigurationError(f"{first_name} and {second_name} differ.", remedy="They mean the same; pass one.")
    return second if first is None else first

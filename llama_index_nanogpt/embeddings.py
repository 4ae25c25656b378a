"""LlamaIndex's ``BaseEmbedding`` over :class:`nanogpt_core.Embedder`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, ClassVar

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding, dispatcher
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined] # re-exported
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.storage.kvstore.types import BaseKVStore
from llama_index.core.utils import get_tqdm_iterable
from tqdm.asyncio import tqdm_asyncio

from llama_index_nanogpt.batches import Batches, StoredBatch, positions_of_batch
from llama_index_nanogpt.separated_store import SeparatedStore, as_query
from llama_index_nanogpt.spans import has_handlers, in_span_of_base_class
from nanogpt_core import Embedder, ModelInfo
from nanogpt_core._runtime.validation import check_can_be_pickled, check_methods, check_number
from nanogpt_core._runtime.workers import call_in_thread, require_event_loop
from nanogpt_core.embeddings.inputs import check_text, check_texts
from nanogpt_core.embeddings.planning import Overflow
from nanogpt_core.errors import InvalidInputError, InvalidTypeError
from nanogpt_core.http.secrets import hide_if_secret, hide_secrets
from nanogpt_core.plugins.embedding_model import EMBEDDER_DEFAULTS, EmbeddingModelBase, hidden_option
from nanogpt_core.plugins.model import ConstructorSignature

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llama_index_nanogpt.options import EmbeddingOptions

_own_dispatcher = get_dispatcher(__name__)  # LlamaIndex's, for spans of methods that the class here overrides
_TEXTS_PER_BATCH = 32_768
_COLLECTION = "embeddings"  # LlamaIndex's own, of its embeddings_cache
_PROGRESS_LABEL = "Generating embeddings"  # LlamaIndex's own


class NanoGPTEmbedding(EmbeddingModelBase, BaseEmbedding):
    """NanoGPT's embedding models in LlamaIndex, for ``Settings.embed_model``.

    Dumps (``to_dict``, ``to_json``) hold the options that change a vector, and neither the key nor options such as
    timeouts; an object made from a dump takes its key from the environment. The core's options do not change after
    construction: ``model_copy(update={"model_name": "BAAI/bge-m3"})`` returns an object with other options.

    A blank text is an error. To skip blank nodes, put a transformation before the embedding model in a pipeline::

        class SkipBlank(TransformComponent):
            def __call__(self, nodes, **kwargs):
                return [node for node in nodes if node.get_content(MetadataMode.EMBED).strip()]

        IngestionPipeline(transformations=[SentenceSplitter(), SkipBlank(), NanoGPTEmbedding()])

    Args:
        model_name: The model's name. Default: ``text-embedding-3-small``.
        model: Another name of ``model_name``; a row of :func:`nanogpt_core.list_models` is accepted too.
        api_key: The key, a ``str`` or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        api_base: The API's URL. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        base_url: Another name of ``api_base``.
        embed_batch_size: Texts that LlamaIndex hands over at a time, one batch after another. Each is sent in requests
            of ``batch_size``, several at once, and smaller batches only take longer. Default: 32768.
        num_workers: Batches that LlamaIndex's async methods have under way at once. Default: all.
        callback_manager: Receives the usual events. Default: one without handlers.
        embeddings_cache: LlamaIndex's own cache of vectors, a key-value store. Options that change vectors have
            collections of their own in it. Default: none.
        rate_limiter: LlamaIndex's own limiter, asked once for each batch. Default: none.
        **options: The other options of :class:`nanogpt_core.Embedder`, which describes them: ``model_info``,
            ``dimensions``, ``user``, ``on_overflow``, ``query_instruction``, ``batch_size``, ``max_concurrency``,
            ``coalesce``, ``requests_per_second``, ``max_retries``, ``timeout``, ``deadline``, ``cache``,
            ``budget_usd``, ``limits``, ``progress``, ``on_request``, ``default_headers``, ``http_client``,
            ``http_async_client`` and ``allow_insecure_http``; and the fields of a subclass.

    Raises:
        ConfigurationError: An invalid option, or no key. It is a ``ValueError``.
        InvalidTypeError: An option is unknown or of the wrong type. It is a ``TypeError``.
    """

    model_name: str = Field(default=EMBEDDER_DEFAULTS["model"], description="The model's name.")
    embed_batch_size: int = Field(default=_TEXTS_PER_BATCH, gt=0, exclude=True)
    num_workers: int | None = Field(default=None, exclude=True)
    embeddings_cache: Any = Field(default=None, exclude=True)
    api_base: str = Field(default="", description="The API's URL.")
    dimensions: int | None = Field(default=None, description="Dimensions that vectors are reduced to.")
    on_overflow: Overflow = Field(default="error", description="Treatment of a text over the model's token limit.")
    query_instruction: str | None = Field(default=None, description="Text that is put before queries.")
    api_key: Any = hidden_option("api_key")
    user: str | None = hidden_option("user")
    batch_size: int | None = hidden_option("batch_size")
    max_concurrency: int = hidden_option("max_concurrency")
    coalesce: bool = hidden_option("coalesce")
    requests_per_second: float | None = hidden_option("requests_per_second")
    max_retries: int = hidden_option("max_retries")
    timeout: float = hidden_option("timeout")
    deadline: float | None = hidden_option("deadline")
    budget_usd: float | None = hidden_option("budget_usd")
    allow_insecure_http: bool = hidden_option("allow_insecure_http")

    _field_names: ClassVar[Mapping[str, str]] = {"model": "model_name", "base_url": "api_base"}
    _shared_fields: ClassVar[tuple[str, ...]] = ("rate_limiter", "callback_manager", "embeddings_cache")

    _embedder: Embedder = PrivateAttr()

    def __init__(self, model_name: str | ModelInfo | None = None, **options: Unpack[EmbeddingOptions]) -> None:
        given = options = hide_secrets({"model_name": model_name, **options})  # type: ignore[assignment]
        given.pop("class_name", None)  # dumps carry it
        self._set_options(given)

    def _set_options(self, options: Mapping[str, Any]) -> None:
        # None is the default of the model and of the URL.
        optional = {*self._field_names, *self._field_names.values()}
        options = {name: value for name, value in options.items() if value is not None or name not in optional}
        _check_own_fields(options)
        super()._set_options(options)
        self._separate_store()

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps carry."""
        return "NanoGPTEmbedding"

    def __setattr__(self, name: str, value: Any) -> None:
        value = hide_if_secret(name, value)
        _check_own_fields({name: value})
        if name == "callback_manager" and value is None:
            value = CallbackManager()  # as the constructor does
        super().__setattr__(name, value)
        if name == "embeddings_cache":
            self._separate_store()

    def _separate_store(self) -> None:
        """Replace ``embeddings_cache`` by a view of it in which these options have collections of their own."""
        store = self.embeddings_cache
        if store is not None:
            width = partial(getattr, self._embedder, "width")
            view = SeparatedStore(store, self._embedder.cache_namespace, self.query_instruction, width)
            super().__setattr__("embeddings_cache", view)  # __setattr__() here would do the same again

    def __copy__(self) -> Self:
        twin = super().__copy__()
        twin._separate_store()  # with the dimensions of its own embedder
        return twin

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        twin = super().__deepcopy__(memo)
        twin._separate_store()
        return twin

    def __getstate__(self) -> dict[Any, Any]:
        # The base class leaves out attributes that cannot be pickled; a function must not get lost like that.
        check_can_be_pickled(progress=self.progress, on_request=self.on_request)
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._embedder = state["__pydantic_private__"]["_embedder"]
        self._separate_store()

    @in_span_of_base_class
    def get_query_embedding(self, query: str) -> Embedding:
        """Embed a query, with ``query_instruction`` around it.

        Returns:
            d floats; d are the dimensions of the model's vectors.

        Raises:
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`.
        """
        if not self._needs_base_class():
            return self._embed_query(query)
        with as_query(query):
            return super().get_query_embedding(query)

    @in_span_of_base_class
    async def aget_query_embedding(self, query: str) -> Embedding:
        """Do what :meth:`get_query_embedding` does, without blocking the event loop."""
        if not self._needs_base_class():
            return await self._aembed_query(query)
        with as_query(query):
            return await super().aget_query_embedding(query)

    # LlamaIndex's own would pay for the queries before one that is refused, and take a text for a list of letters.
    def get_agg_embedding_from_queries(
        self, queries: Iterable[str], agg_fn: Callable[..., Embedding] | None = None
    ) -> Embedding:
        """Embed queries, and return the mean of their vectors, or the result of ``agg_fn``.

        Args:
            queries: The queries, at least one. All are checked before the first is sent.
            agg_fn: A function of a list of vectors. Default: the mean.

        Returns:
            d floats; d are the dimensions of the model's vectors.

        Raises:
            InvalidInputError: There is no query, or one cannot be embedded. Nothing was sent.
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`.
        """
        checked = _check_queries(queries, agg_fn)
        self._embedder.check_lengths(checked)
        return super().get_agg_embedding_from_queries(checked, agg_fn)

    async def aget_agg_embedding_from_queries(
        self, queries: Iterable[str], agg_fn: Callable[..., Embedding] | None = None
    ) -> Embedding:
        """Do what :meth:`get_agg_embedding_from_queries` does, without blocking the event loop."""
        checked = _check_queries(queries, agg_fn)
        await call_in_thread(self._embedder.check_lengths, checked)
        return await super().aget_agg_embedding_from_queries(checked, agg_fn)

    def _needs_base_class(self) -> bool:
        """Return whether more happens to a query in the base class than that it is embedded.

        The two spans and two events there take a quarter of a query's CPU time, even if no handler gets them.
        """
        if self.embeddings_cache is not None or self.rate_limiter is not None or _has_other_query_methods(type(self)):
            return True
        manager = self.callback_manager
        # One of another class may act without handlers.
        is_observed = bool(manager.handlers) or type(manager) is not CallbackManager
        return is_observed or has_handlers(dispatcher, _own_dispatcher)

    def get_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **_kwargs: Any
    ) -> list[Embedding]:
        """Embed documents. All texts are checked before the first batch is sent.

        Args:
            texts: The texts.
            show_progress: Show a progress bar over the batches of ``embed_batch_size`` texts. Default: False.

        Returns:
            A list of d floats for each text, in order.

        Raises:
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`. ``.completed`` has the vectors of finished batches.
        """
        batches = Batches(check_texts(texts), self.embed_batch_size)
        if len(batches.starts) > 1:
            self._embedder.check_lengths(batches.texts)
        shows_bar = show_progress and sys.stderr is not None
        batches.embed(get_tqdm_iterable(batches.starts, shows_bar, _PROGRESS_LABEL), self._embed_batch)
        return batches.result()

    def _embed_batch(self, batch: list[str]) -> list[Embedding]:
        with self._events(batch) as done:
            if self.rate_limiter is not None:
                self.rate_limiter.acquire()
            embed = self._get_text_embeddings if self.embeddings_cache is None else self._embed_stored_batch
            done.extend(embed(batch))
        return done

    def _embed_stored_batch(self, batch: list[str]) -> list[Embedding]:
        store = self.embeddings_cache
        stored = StoredBatch(batch, store.find(batch, _COLLECTION))
        try:
            with stored.embedding():
                stored.add(self._get_text_embeddings(stored.missing) if stored.missing else ())
        finally:
            store.store_all(stored.new_values(), _COLLECTION)
        return stored.result()

    async def aget_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **_kwargs: Any
    ) -> list[Embedding]:
        """Do what :meth:`get_text_embedding_batch` does, without blocking the event loop."""
        require_event_loop()
        batches = Batches(check_texts(texts), self.embed_batch_size)
        if len(batches.starts) > 1:
            await call_in_thread(self._embedder.check_lengths, batches.texts)
        shows_bar = show_progress and sys.stderr is not None
        gather = partial(tqdm_asyncio.gather, desc=_PROGRESS_LABEL) if shows_bar else asyncio.gather
        await batches.aembed(self._aembed_batch, self.num_workers, gather)
        return batches.result()

    async def _aembed_batch(self, batch: list[str]) -> list[Embedding]:
        with self._events(batch) as done:
            if self.rate_limiter is not None:
                await self.rate_limiter.async_acquire()
            embed = self._aget_text_embeddings if self.embeddings_cache is None else self._aembed_stored_batch
            done.extend(await embed(batch))
        return done

    async def _aembed_stored_batch(self, batch: list[str]) -> list[Embedding]:
        store = self.embeddings_cache
        stored = StoredBatch(batch, await store.afind(batch, _COLLECTION))
        try:
            with stored.embedding():
                stored.add(await self._aget_text_embeddings(stored.missing) if stored.missing else ())
        finally:
            await store.astore_all(stored.new_values(), _COLLECTION)
        return stored.result()

    @contextmanager
    def _events(self, batch: list[str]) -> Iterator[list[Embedding]]:
        """Emit LlamaIndex's events of one batch: a start, and then an end or an exception.

        The base class validates each end event, which copies every vector: half a second for thousands of texts.
        """
        model = self.to_payload()
        dispatcher.event(EmbeddingStartEvent(model_dict=model))
        done: list[Embedding] = []
        with self.callback_manager.event(CBEventType.EMBEDDING, {EventPayload.SERIALIZED: model}) as event:
            try:
                yield done
            except BaseException as error:
                dispatcher.event(ExceptionEvent(exception=error))
                raise
            event.on_end({EventPayload.CHUNKS: batch, EventPayload.EMBEDDINGS: done})
        end = EmbeddingEndEvent(chunks=[], embeddings=[])
        end.chunks, end.embeddings = batch, done
        dispatcher.event(end)

    def _request_limit(self) -> int | None:
        """Return ``embed_batch_size`` if it is below the usual number of texts in a request."""
        usual = self.batch_size or self._embedder.model_info.batch_size
        return self.embed_batch_size if self.embed_batch_size < usual else None

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._embedder.embed_lists([check_text(text)])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        first = positions_of_batch(texts)
        return self._embedder.embed_lists(texts, batch_size=self._request_limit(), first=first)

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed_query(query)

    # LlamaIndex makes a span for each call of a method with the name above. Only the base class calls that.
    def _embed_query(self, query: str) -> Embedding:
        floats: Embedding = self._embedder.embed_query(query).tolist()
        return floats

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._embedder.aembed_lists([check_text(text)]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        first = positions_of_batch(texts)
        return await self._embedder.aembed_lists(texts, batch_size=self._request_limit(), first=first)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await self._aembed_query(query)

    async def _aembed_query(self, query: str) -> Embedding:
        floats: Embedding = (await self._embedder.aembed_query(query)).tolist()
        return floats


_QUERY_METHODS = {name: vars(NanoGPTEmbedding)[name] for name in ("_get_query_embedding", "_aget_query_embedding")}


def _has_other_query_methods(cls: type[NanoGPTEmbedding]) -> bool:
    """Return whether a subclass, or a test, has replaced one of the methods that the base class calls for a query."""
    # getattr() would return another object each time, since LlamaIndex wraps these methods.
    return any(getattr_static(cls, name) is not method for name, method in _QUERY_METHODS.items())


def _check_queries(queries: Iterable[str], agg_fn: Any) -> list[str]:
    checked = check_texts(queries)
    if not checked:
        raise InvalidInputError("There are no queries.", remedy="Pass at least one.")
    if agg_fn is not None and not callable(agg_fn):
        raise InvalidTypeError(f"agg_fn must be a function of a list of vectors, not {type(agg_fn).__name__}.")
    return checked


def _check_own_fields(fields: Mapping[str, Any]) -> None:
    if "embed_batch_size" in fields:
        check_number("embed_batch_size", fields["embed_batch_size"], 1)
    if fields.get("num_workers") is not None:
        check_number("num_workers", fields["num_workers"], 1)
    check_methods("rate_limiter", fields.get("rate_limiter"), "acquire", "async_acquire")
    check_methods("callback_manager", fields.get("callback_manager"), "event")
    store = fields.get("embeddings_cache")
    if store is not None and not isinstance(store, BaseKVStore):
        raise InvalidTypeError(f"embeddings_cache must be a BaseKVStore, not {type(store).__name__}.")


def _options() -> type:
    from llama_index_nanogpt.options import EmbeddingOptions  # imports the SDK

    return EmbeddingOptions


NanoGPTEmbedding.__signature__ = ConstructorSignature("str | ModelInfo", _options)  # type: ignore[assignment]

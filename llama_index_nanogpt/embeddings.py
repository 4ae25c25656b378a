"""LlamaIndex's ``BaseEmbedding`` over :class:`nanogpt_core.Embedder`."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_index.core.async_utils import run_jobs
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding, dispatcher
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.utils import get_tqdm_iterable

from nanogpt_core import Embedder, Estimate, ModelInfo, Usage
from nanogpt_core.embeddings.inputs import check_texts
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import hide_keys
from nanogpt_core.http.lifetime import Closeable
from nanogpt_core.validation import check_can_be_pickled, check_number, check_option_names

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llama_index_nanogpt.options import EmbeddingOptions

__all__ = ["NanoGPTEmbedding"]

_TEXTS_PER_BATCH = 32_768
_PROGRESS_LABEL = "Generating embeddings"  # LlamaIndex's own
_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(Embedder).parameters.items()}
# LlamaIndex's names, and the core's for the same option. Both are accepted.
_CORE_NAMES = {"model_name": "model", "api_base": "base_url"}
_MODEL_AND_URL = {*_CORE_NAMES, *_CORE_NAMES.values()}
# Words for the same options in other embedding classes.
_ALIASES = {
    "openai_api_base": "api_base",
    "openai_api_key": "api_key",
    "nanogpt_api_key": "api_key",
    "async_http_client": "http_async_client",
    "deployment": "model_name",
    "chunk_size": "batch_size",
    "request_timeout": "timeout",
    "headers": "default_headers",
    "show_progress": "progress",
    "show_progress_bar": "progress",
}


def _operational(name: str) -> Any:
    # Options that change no vector stay out of dumps: LlamaIndex's caches take a dump as part of their key.
    return Field(default=_DEFAULTS[name], exclude=True, repr=False)


class NanoGPTEmbedding(Closeable, BaseEmbedding):
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
        model: The same.
        api_key: The key, as text or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        api_base: The API's URL. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        base_url: The same.
        embed_batch_size: Texts that LlamaIndex hands over at a time, one batch after another. Each is sent in requests
            of ``batch_size``, several at once, and smaller batches only take longer. Default: 32768.
        num_workers: Batches that LlamaIndex's async methods have under way at once. Default: all.
        callback_manager: Receives the usual events.
        embeddings_cache: LlamaIndex's own cache of vectors, by text.
        rate_limiter: LlamaIndex's own limiter, asked once for each batch.
        **options: The other options of :class:`nanogpt_core.Embedder`, which describes them: ``model_info``,
            ``dimensions``, ``user``, ``on_overflow``, ``query_instruction``, ``batch_size``, ``max_concurrency``,
            ``coalesce``, ``requests_per_second``, ``max_retries``, ``timeout``, ``deadline``, ``cache``,
            ``budget_usd``, ``limits``, ``progress``, ``on_request``, ``default_headers``, ``http_client``,
            ``http_async_client`` and ``allow_insecure_http``; and the fields of a subclass.

    Raises:
        ConfigurationError: An option has an impossible value, or there is no key. It is a ``ValueError``.
        InvalidTypeError: An option is unknown or of the wrong type. It is a ``TypeError``.
    """

    # Pydantic's errors would show the whole input, and the key with it.
    model_config = ConfigDict(hide_input_in_errors=True, populate_by_name=True)

    model_name: str = Field(default=_DEFAULTS["model"], description="The model's name.")
    embed_batch_size: int = Field(default=_TEXTS_PER_BATCH, gt=0, exclude=True)
    num_workers: int | None = Field(default=None, exclude=True)
    embeddings_cache: Any = Field(default=None, exclude=True)
    api_base: str = Field(default="", description="The API's URL.")
    dimensions: int | None = Field(default=None, description="Dimensions that vectors are reduced to.")
    on_overflow: str = Field(default="error", description="Treatment of a text over the model's token limit.")
    query_instruction: str | None = Field(default=None, description="Text that is put before queries.")
    model_info: Any = _operational("model_info")
    api_key: Any = _operational("api_key")
    user: str | None = _operational("user")
    batch_size: int | None = _operational("batch_size")
    max_concurrency: int = _operational("max_concurrency")
    coalesce: bool = _operational("coalesce")
    requests_per_second: float | None = _operational("requests_per_second")
    max_retries: int = _operational("max_retries")
    timeout: float = _operational("timeout")
    deadline: float | None = _operational("deadline")
    cache: Any = _operational("cache")
    budget_usd: float | None = _operational("budget_usd")
    limits: Any = _operational("limits")
    progress: Any = _operational("progress")
    on_request: Any = _operational("on_request")
    default_headers: Any = _operational("default_headers")
    http_client: Any = _operational("http_client")
    http_async_client: Any = _operational("http_async_client")
    allow_insecure_http: bool = _operational("allow_insecure_http")

    _embedder: Embedder = PrivateAttr()

    def __init__(self, model_name: str | ModelInfo | None = None, **options: Unpack[EmbeddingOptions]) -> None:
        # Tools that print the variables of a traceback's frames must not see the key.
        given = options = hide_keys({"model_name": model_name, **options})  # type: ignore[assignment]
        given = {name: value for name, value in given.items() if value is not None or name not in _MODEL_AND_URL}
        given.pop("class_name", None)  # dumps carry it
        check_option_names(given, _option_names(type(self)), _ALIASES)
        fields = _with_field_names(given)
        embedder = Embedder(**_embedder_options(fields))
        _check_batches(fields)
        resolved = {"model_name": embedder.model, "api_base": embedder.base_url, "api_key": embedder.api_key}
        super().__init__(**{**fields, **resolved})
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps carry."""
        return "NanoGPTEmbedding"

    def __setattr__(self, name: str, value: Any) -> None:
        value = hide_keys({name: value})[name]
        if name in _ALIASES and name not in type(self).model_fields:
            raise ConfigurationError(
                f"{name} is called {_ALIASES[name]} here, and cannot be changed after construction.",
                remedy=f'Use embedding.model_copy(update={{"{_ALIASES[name]}": ...}}).',
            )
        if name in _FIXED:
            raise ConfigurationError(
                f"{name} cannot be changed after construction.",
                remedy=f'Use embedding.model_copy(update={{"{name}": ...}}).',
            )
        _check_batches({name: value})
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with other values for the options and fields in ``update``.

        A copy with other options counts its usage and its budget from zero. Copies share clients and caches.

        Raises:
            ConfigurationError: A value is impossible. It is a ``ValueError``.
            InvalidTypeError: A name is unknown, or a value has the wrong type. It is a ``TypeError``.
        """
        update = hide_keys(update or {})
        twin = super().model_copy(deep=deep)
        if update:
            kept = {name: getattr(twin, name) for name in twin.model_fields_set}
            kept["model_name"] = twin.model_name if twin.model_info is not None else twin._embedder.model_info
            private = dict(twin.__pydantic_private__ or {})
            NanoGPTEmbedding.__init__(twin, **{**kept, **_with_field_names(update)})
            private["_embedder"] = twin._embedder
            twin.__pydantic_private__ = private
        return twin

    def copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # type: ignore[override]
        """Do what :meth:`model_copy` does; pydantic's older name for it."""
        update = hide_keys(update or {})
        return self.model_copy(update=update, deep=deep)

    def __copy__(self) -> Self:
        twin = super().__copy__()
        twin._embedder = copy.copy(self._embedder)
        return twin

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        clients = (self.http_client, self.http_async_client)
        theirs = (self.rate_limiter, self.callback_manager, self.embeddings_cache)
        shared = (*clients, *theirs, self.progress, self.on_request, self.cache, self.limits)
        memo = {} if memo is None else memo
        memo.update({id(one): one for one in shared})
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[str, Any]:
        # The base class leaves out attributes that cannot be pickled; a client or hook must not get lost like that.
        self._embedder.__getstate__()
        check_can_be_pickled(progress=self.progress, on_request=self.on_request)
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "default_headers": None}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._embedder = state["__pydantic_private__"]["_embedder"]

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            field = fields.get(name or "")
            if name == "model_name" or field is None or not (field.exclude or value == field.default):
                yield name, value

    def close(self) -> None:
        """Close the object, as :meth:`nanogpt_core.Embedder.close` does: later calls raise, calls under way go on."""
        self._embedder.close()

    async def aclose(self) -> None:
        """Close the object, as :meth:`nanogpt_core.Embedder.aclose` does, with the event loop's connections."""
        await self._embedder.aclose()

    @property
    def usage(self) -> Usage:
        """Usage of this object so far: a snapshot."""
        return self._embedder.usage

    def estimate(self, texts: list[str]) -> Estimate:
        """Estimate requests, tokens and cost of embedding ``texts``, without sending anything."""
        return self._embedder.estimate(texts)

    def check_width(self, stored_width: int) -> None:
        """Check that a vector store of ``stored_width`` floats a vector takes this object's vectors; sends nothing.

        Call it after opening an existing store, for example with ``faiss_index.d``.

        Raises:
            ConfigurationError: Store and model do not fit; the message names the remedy. It is a ``ValueError``.
        """
        self._embedder.check_width(stored_width)

    def get_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **_kwargs: Any
    ) -> list[Embedding]:
        """Embed documents. All texts are checked before the first batch is sent."""
        embeddings: list[Embedding] = []
        for batch in get_tqdm_iterable(self._batches(check_texts(texts)), show_progress, _PROGRESS_LABEL):
            with self._events(batch) as done:
                if self.rate_limiter is not None:
                    self.rate_limiter.acquire()
                embed = self._get_text_embeddings if self.embeddings_cache is None else self._get_text_embeddings_cached
                done.extend(embed(batch))
            embeddings += done
        return embeddings

    async def aget_text_embedding_batch(
        self, texts: Iterable[str], show_progress: bool = False, **_kwargs: Any
    ) -> list[Embedding]:
        """Do what :meth:`get_text_embedding_batch` does, without blocking the event loop."""
        jobs = [self._aembed_batch(batch) for batch in self._batches(check_texts(texts))]
        if self.num_workers or show_progress:
            done = await run_jobs(jobs, show_progress, self.num_workers or len(jobs), _PROGRESS_LABEL)
        else:
            done = await asyncio.gather(*jobs)
        return [embedding for batch in done for embedding in batch]

    async def _aembed_batch(self, batch: list[str]) -> list[Embedding]:
        with self._events(batch) as done:
            if self.rate_limiter is not None:
                await self.rate_limiter.async_acquire()
            embed = self._aget_text_embeddings if self.embeddings_cache is None else self._aget_text_embeddings_cached
            done.extend(await embed(batch))
        return done

    def _batches(self, texts: list[str]) -> list[list[str]]:
        size = self.embed_batch_size
        return [texts[start : start + size] for start in range(0, len(texts), size)]

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
        return self._embedder.embed_lists([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embedder.embed_lists(texts, batch_size=self._request_limit())

    def _get_query_embedding(self, query: str) -> Embedding:
        floats: Embedding = self._embedder.embed_query(query).tolist()
        return floats

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._embedder.aembed_lists([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self._embedder.aembed_lists(texts, batch_size=self._request_limit())

    async def _aget_query_embedding(self, query: str) -> Embedding:
        floats: Embedding = (await self._embedder.aembed_query(query)).tolist()
        return floats


_FIXED = {*_DEFAULTS, *_CORE_NAMES}


def _option_names(cls: type[NanoGPTEmbedding]) -> list[str]:
    aliases = [field.alias for field in cls.model_fields.values() if field.alias]
    return [*cls.model_fields, *aliases, *_CORE_NAMES.values()]


def _with_field_names(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in options.items() if name not in _CORE_NAMES.values()}
    for name, core_name in _CORE_NAMES.items():
        first, second = fields.get(name), options.get(core_name)
        if first is not None and second is not None and first != second:
            raise ConfigurationError(f"{name} and {core_name} differ.", remedy="They mean the same; pass one.")
        if core_name in options:
            fields[name] = first if second is None else second
    return fields


def _embedder_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    options = {_CORE_NAMES.get(name, name): value for name, value in fields.items()}
    return {name: value for name, value in options.items() if name in _DEFAULTS}


def _check_batches(fields: Mapping[str, Any]) -> None:
    if "embed_batch_size" in fields:
        check_number("embed_batch_size", fields["embed_batch_size"], 1)
    if fields.get("num_workers") is not None:
        check_number("num_workers", fields["num_workers"], 1)

"""LangChain's ``Embeddings`` over :class:`nanogpt_core.Embedder`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from nanogpt_core import Embedder, Estimate, ModelInfo, Usage
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import Secret, hide_keys
from nanogpt_core.http.lifetime import Closeable
from nanogpt_core.validation import check_option_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self, Unpack

    from langchain_nanogpt.options import EmbeddingsOptions

__all__ = ["NanoGPTEmbeddings"]

_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(Embedder).parameters.items()}
# Words for the same options in other embedding classes.
_ALIASES = {
    "api_base": "base_url",
    "openai_api_base": "base_url",
    "openai_api_key": "api_key",
    "nanogpt_api_key": "api_key",
    "async_http_client": "http_async_client",
    "deployment": "model",
    "model_name": "model",
    "embed_batch_size": "chunk_size",
    "num_workers": "max_concurrency",
    "request_timeout": "timeout",
    "headers": "default_headers",
    "show_progress": "show_progress_bar",
}


class _ApiKey(SecretStr):
    """A ``SecretStr`` that pickles as the core's ``Secret`` does: a pickle that may be stored leaves the key out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _api_key, (Secret(self.get_secret_value()),)


def _api_key(key: Secret) -> _ApiKey:
    return _ApiKey(key.reveal_or_empty())


def _option(name: str, **more: Any) -> Any:
    return Field(default=_DEFAULTS[name], **more)


def _hidden(name: str) -> Any:
    return _option(name, exclude=True, repr=False)


class NanoGPTEmbeddings(Closeable, BaseModel, Embeddings):
    """NanoGPT's embedding models in LangChain.

    All options of :class:`nanogpt_core.Embedder` are fields. They do not change after construction:
    ``model_copy(update={"dimensions": 64})`` returns an object with other options. Dumps leave out the key, headers,
    caches, limits, clients and functions. Subclasses may add fields.

    A blank text is an error. To skip blank documents, filter them before they are embedded::

        documents = [document for document in documents if document.page_content.strip()]

    Args:
        model: The model's name.
        api_key: The key, as text or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        base_url: The API's URL. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        chunk_size: LangChain's word for ``batch_size``, which is accepted too: most texts per request, 1 to 2048.
        show_progress_bar: LangChain's word for ``progress=True``.
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
    model_config = ConfigDict(
        arbitrary_types_allowed=True, hide_input_in_errors=True, populate_by_name=True, protected_namespaces=()
    )

    model: str = _option("model")
    model_info: Any = _hidden("model_info")
    dimensions: int | None = _option("dimensions")
    base_url: str = Field(default="")
    api_key: SecretStr = Field(default=SecretStr(""), exclude=True, repr=False)
    user: str | None = _option("user")
    on_overflow: str = _option("on_overflow")
    query_instruction: str | None = _option("query_instruction")
    chunk_size: int | None = _option("batch_size")
    max_concurrency: int = _option("max_concurrency")
    coalesce: bool = _option("coalesce")
    requests_per_second: float | None = _option("requests_per_second")
    max_retries: int = _option("max_retries")
    timeout: float = _option("timeout")
    deadline: float | None = _option("deadline")
    cache: Any = _hidden("cache")
    budget_usd: float | None = _option("budget_usd")
    limits: Any = _hidden("limits")
    show_progress_bar: bool = False
    progress: Any = _hidden("progress")
    on_request: Any = _hidden("on_request")
    default_headers: Mapping[str, str] | None = _hidden("default_headers")
    http_client: Any = _hidden("http_client")
    http_async_client: Any = _hidden("http_async_client")
    allow_insecure_http: bool = _option("allow_insecure_http")

    _embedder: Embedder = PrivateAttr()

    def __init__(self, model: str | ModelInfo = _DEFAULTS["model"], **options: Unpack[EmbeddingsOptions]) -> None:
        # Tools that print the variables of a traceback's frames must not see the key.
        given = options = hide_keys(options)  # type: ignore[assignment]
        check_option_names(given, _option_names(type(self)), _ALIASES)
        fields = _with_field_names({"model": model, **given})
        embedder = Embedder(**_embedder_options(fields))
        resolved = {"model": embedder.model, "base_url": embedder.base_url, "api_key": _api_key(embedder.api_key)}
        super().__init__(**{**fields, **resolved})
        self._embedder = embedder

    def __setattr__(self, name: str, value: Any) -> None:
        value = hide_keys({name: value})[name]
        if name in _ALIASES and name not in type(self).model_fields:
            raise ConfigurationError(
                f"{name} is called {_ALIASES[name]} here, and cannot be changed after construction.",
                remedy=f'Use embeddings.model_copy(update={{"{_ALIASES[name]}": ...}}).',
            )
        if name in _FIXED:
            raise ConfigurationError(
                f"{name} cannot be changed after construction.",
                remedy=f'Use embeddings.model_copy(update={{"{name}": ...}}).',
            )
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
            kept["model"] = twin.model if twin.model_info is not None else twin._embedder.model_info
            if not _PROGRESS.isdisjoint(update):
                kept = {name: value for name, value in kept.items() if name not in _PROGRESS}
            private = dict(twin.__pydantic_private__ or {})
            NanoGPTEmbeddings.__init__(twin, **{**kept, **_with_field_names(update)})
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
        memo = {} if memo is None else memo
        shared = (self.http_client, self.http_async_client, self.cache, self.limits, self.progress, self.on_request)
        memo.update({id(one): one for one in shared})
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        self._embedder.__getstate__()  # refuses clients, which cannot be pickled
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "default_headers": None}}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name == "model" or name not in fields or value != fields[name].default:
                yield name, value

    @property
    def cache_namespace(self) -> str:
        """A safe ``namespace`` for LangChain's ``CacheBackedEmbeddings``: it differs whenever the vectors differ.

        It is for documents. For ``query_embedding_cache``, add the query instruction to it, if there is one.
        """
        return self._embedder.cache_namespace

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

    def embed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: The texts.
            chunk_size: Most texts per request, for this call only.

        Returns:
            A list of d floats for each text, in order.

        Raises:
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`.
        """
        return self._embedder.embed_lists(texts, batch_size=chunk_size)

    def embed_documents_array(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Embed documents into a matrix of shape ``(n, d)``, float32: a tenth of the memory of lists."""
        return self._embedder.embed(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with ``query_instruction`` around it; d floats."""
        vector: list[float] = self._embedder.embed_query(text).tolist()
        return vector

    async def aembed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Do what :meth:`embed_documents` does, without blocking the event loop."""
        return await self._embedder.aembed_lists(texts, batch_size=chunk_size)

    async def aembed_query(self, text: str) -> list[float]:
        """Do what :meth:`embed_query` does, without blocking the event loop."""
        vector: list[float] = (await self._embedder.aembed_query(text)).tolist()
        return vector

    def estimate(self, texts: Iterable[str]) -> Estimate:
        """Estimate requests, tokens and cost of embedding ``texts``, without sending anything."""
        return self._embedder.estimate(texts)

    def check_width(self, stored_width: int) -> None:
        """Check that a vector store of ``stored_width`` floats a vector takes this object's vectors; sends nothing.

        Call it after opening an existing store, for example with ``store.index.d``.

        Raises:
            ConfigurationError: Store and model do not fit; the message names the remedy. It is a ``ValueError``.
        """
        self._embedder.check_width(stored_width)


_PROGRESS = {"progress", "show_progress_bar"}
_FIXED = {*NanoGPTEmbeddings.model_fields, "batch_size"}


def _option_names(cls: type[NanoGPTEmbeddings]) -> list[str]:
    aliases = [field.alias for field in cls.model_fields.values() if field.alias]
    return [*cls.model_fields, *aliases, "batch_size"]


def _with_field_names(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: value for name, value in options.items() if name != "batch_size"}
    first, second = options.get("chunk_size"), options.get("batch_size")
    if first is not None and second is not None:
        raise ConfigurationError("chunk_size and batch_size are the same option.", remedy="Pass one of them.")
    if "batch_size" in options:
        fields["chunk_size"] = first if second is None else second
    return fields


def _embedder_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in fields.items() if name in _DEFAULTS}
    if "chunk_size" in fields:
        options["batch_size"] = fields["chunk_size"]
    if fields.get("show_progress_bar") and options.get("progress") is None:
        options["progress"] = fields["show_progress_bar"]
    return options

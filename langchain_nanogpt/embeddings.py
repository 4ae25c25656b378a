"""LangChain's ``Embeddings`` over :class:`nanogpt_core.Embedder`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.embeddings import Embeddings
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr
from pydantic_core import PydanticUndefined, PydanticUndefinedType

from nanogpt_core import Embedder, ModelInfo
from nanogpt_core._runtime.validation import check_bool
from nanogpt_core.embeddings.planning import Overflow
from nanogpt_core.http.secrets import Secret, hide_secrets
from nanogpt_core.plugins.embedding_model import EmbeddingModelBase, option
from nanogpt_core.plugins.model import ConstructorSignature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self, Unpack

    from langchain_nanogpt.options import EmbeddingsOptions


class _ApiKey(SecretStr):
    """A ``SecretStr`` that pickles as the core's ``Secret`` does: a pickle that may be stored leaves the key out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _api_key, (Secret(self.get_secret_value()),)


def _api_key(key: Secret) -> _ApiKey:
    return _ApiKey(key.reveal_or_empty())


class NanoGPTEmbeddings(EmbeddingModelBase, Embeddings):
    """NanoGPT's embedding models in LangChain.

    All options of :class:`nanogpt_core.Embedder` are fields. They do not change after construction:
    ``model_copy(update={"dimensions": 64})`` returns an object with other options. Dumps leave out the key, headers,
    caches, limits, clients and functions. Subclasses may add fields.

    A blank text is an error. To skip blank documents, filter them before they are embedded::

        documents = [document for document in documents if document.page_content.strip()]

    Args:
        model: The model's name, or a row of :func:`nanogpt_core.list_models`. Default: ``"text-embedding-3-small"``.
        api_key: The key, a ``str`` or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        base_url: The API's URL. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        chunk_size: LangChain's word for ``batch_size``, which is accepted too: maximum number of texts in a request, 1
            to 2048. Default: as for ``batch_size`` of :class:`nanogpt_core.Embedder`.
        show_progress_bar: LangChain's word for ``progress=True``. Default: False.
        **options: The other options of :class:`nanogpt_core.Embedder`, which describes them: ``model_info``,
            ``dimensions``, ``user``, ``on_overflow``, ``query_instruction``, ``batch_size``, ``max_concurrency``,
            ``coalesce``, ``requests_per_second``, ``max_retries``, ``timeout``, ``deadline``, ``cache``,
            ``budget_usd``, ``limits``, ``progress``, ``on_request``, ``default_headers``, ``http_client``,
            ``http_async_client`` and ``allow_insecure_http``; and the fields of a subclass.

    Raises:
        ConfigurationError: An invalid option, or no key. It is a ``ValueError``.
        InvalidTypeError: An option is unknown or of the wrong type. It is a ``TypeError``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str = option("model")
    dimensions: int | None = option("dimensions")
    base_url: str = Field(default="")
    api_key: SecretStr = Field(default=SecretStr(""), exclude=True, repr=False)
    user: str | None = option("user")
    on_overflow: Overflow = option("on_overflow")
    query_instruction: str | None = option("query_instruction")
    chunk_size: int | None = option("batch_size")
    max_concurrency: int = option("max_concurrency")
    coalesce: bool = option("coalesce")
    requests_per_second: float | None = option("requests_per_second")
    max_retries: int = option("max_retries")
    timeout: float = option("timeout")
    deadline: float | None = option("deadline")
    budget_usd: float | None = option("budget_usd")
    show_progress_bar: bool = False
    allow_insecure_http: bool = option("allow_insecure_http")

    _field_names: ClassVar[Mapping[str, str]] = {"batch_size": "chunk_size"}
    _fixed_fields: ClassVar[tuple[str, ...]] = ("show_progress_bar",)

    _embedder: Embedder = PrivateAttr()

    def __init__(
        self, model: str | ModelInfo | PydanticUndefinedType = PydanticUndefined, **options: Unpack[EmbeddingsOptions]
    ) -> None:
        options = hide_secrets(options)  # type: ignore[assignment]
        self._set_options(options if model is PydanticUndefined else {"model": model, **options})

    @classmethod
    def _embedder_options(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        options = super()._embedder_options(fields)
        check_bool("show_progress_bar", fields.get("show_progress_bar", False))
        if fields.get("show_progress_bar") and options.get("progress") is None:
            options["progress"] = True
        return options

    @classmethod
    def _as_key(cls, key: Secret) -> SecretStr:
        return _api_key(key)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with other values for the options and fields in ``update``.

        A copy with other options counts its usage and its budget from zero. Copies share clients and caches.

        Raises:
            ConfigurationError: An option is invalid. It is a ``ValueError``.
            InvalidTypeError: A name is unknown, or a value has the wrong type. It is a ``TypeError``.
        """
        update = hide_secrets(update or {})
        # The two are one option.
        if not {"progress", "show_progress_bar"}.isdisjoint(update):
            update = {"progress": None, "show_progress_bar": False, **update}
        return super().model_copy(update=update, deep=deep)

    @property
    def cache_namespace(self) -> str:
        """A safe ``namespace`` for LangChain's ``CacheBackedEmbeddings``: it differs whenever the vectors differ.

        It is for documents. For ``query_embedding_cache``, add the query instruction to it, if there is one.
        """
        return self._embedder.cache_namespace

    def embed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: The texts.
            chunk_size: Maximum number of texts in a request, 1 to 2048, for this call only. Default: as for the object.

        Returns:
            A list of d floats for each text, in order; d are the dimensions of the model's vectors.

        Raises:
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`.
        """
        return self._embedder.embed_lists(texts, batch_size=chunk_size)

    def embed_documents_array(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Embed documents into an array, ``(n, d)`` float32, a row for each: a tenth of the memory of lists.

        Raises:
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`.
        """
        return self._embedder.embed(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with ``query_instruction`` around it.

        Returns:
            d floats.

        Raises:
            NanoGPTError: As :meth:`nanogpt_core.Embedder.embed`.
        """
        vector: list[float] = self._embedder.embed_query(text).tolist()
        return vector

    async def aembed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Embed documents as :meth:`embed_documents` does, without blocking the event loop.

        Returns:
            A list of d floats for each text, in order.
        """
        return await self._embedder.aembed_lists(texts, batch_size=chunk_size)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query as :meth:`embed_query` does, without blocking the event loop.

        Returns:
            d floats.
        """
        vector: list[float] = (await self._embedder.aembed_query(text)).tolist()
        return vector


def _options() -> type:
    from langchain_nanogpt.options import EmbeddingsOptions  # imports LangChain's chat models

    return EmbeddingsOptions


NanoGPTEmbeddings.__signature__ = ConstructorSignature("str | ModelInfo", _options)  # type: ignore[assignment]

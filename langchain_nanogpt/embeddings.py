"""LangChain's ``Embeddings`` over :class:`nanogpt_core.Embedder`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings

from nanogpt_core import Embedder, Estimate, Usage
from nanogpt_core.embeddings.config import EmbedderOptions, reject_unknown_options
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import ApiKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import SecretStr
    from typing_extensions import Unpack

__all__ = ["NanoGPTEmbeddings"]


class NanoGPTEmbeddings(Embeddings):
    """NanoGPT's embedding models in LangChain.

    Args:
        model: The model's name.
        api_key: The key, as text or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        base_url: Where the API begins. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        chunk_size: LangChain's word for ``batch_size``: most texts a request, 1 to 2048.
        show_progress_bar: LangChain's word for ``progress=True``.
        **options: Any other option of :class:`nanogpt_core.Embedder`.

    Raises:
        ConfigurationError: An option that cannot be right, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type, or one that does not exist. It is a ``TypeError``.
    """

    @reject_unknown_options
    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        api_key: ApiKey = None,
        base_url: str | None = None,
        chunk_size: int | None = None,
        show_progress_bar: bool = False,
        **options: Unpack[EmbedderOptions],
    ) -> None:
        if chunk_size is not None:
            if options.get("batch_size") is not None:
                raise ConfigurationError("chunk_size and batch_size are the same option.", remedy="Pass one of them.")
            options["batch_size"] = chunk_size
        if show_progress_bar and options.get("progress") is None:
            options["progress"] = True
        self._embedder = Embedder(model, api_key=api_key, base_url=base_url, **options)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._embedder.model

    @property
    def base_url(self) -> str:
        """Where the API begins."""
        return self._embedder.base_url

    @property
    def api_key(self) -> SecretStr:
        """The key, hidden in a ``SecretStr``."""
        from pydantic import SecretStr

        return SecretStr(self._embedder.api_key.get_secret_value())

    @property
    def cache_namespace(self) -> str:
        """A safe ``namespace`` for LangChain's ``CacheBackedEmbeddings``: other vectors, another namespace.

        It is for documents. For ``query_embedding_cache``, add the query instruction to it, if there is one.
        """
        return self._embedder.cache_namespace

    @property
    def usage(self) -> Usage:
        """What this object has spent so far: a snapshot."""
        return self._embedder.usage

    def embed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: The texts.
            chunk_size: Most texts a request, for this call alone.

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
        return _list(self._embedder.embed_query(text))

    async def aembed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Do what :meth:`embed_documents` does, without blocking the event loop."""
        return await self._embedder.aembed_lists(texts, batch_size=chunk_size)

    async def aembed_query(self, text: str) -> list[float]:
        """Do what :meth:`embed_query` does, without blocking the event loop."""
        return _list(await self._embedder.aembed_query(text))

    def estimate(self, texts: Iterable[str]) -> Estimate:
        """Say what embedding ``texts`` would take, without sending anything."""
        return self._embedder.estimate(texts)

    def check_width(self, stored_width: int) -> None:
        """Check that a vector store of ``stored_width`` floats a vector takes this object's vectors; sends nothing.

        Call it after opening a store that exists already, for example with ``store.index.d``.

        Raises:
            ConfigurationError: Store and model do not fit; the message says what to do. It is a ``ValueError``.
        """
        self._embedder.check_width(stored_width)

    def __repr__(self) -> str:
        if "_embedder" not in self.__dict__:
            return f"<{type(self).__name__}, not made>"  # a debugger may ask while the constructor fails
        return repr(self._embedder).replace(type(self._embedder).__name__, type(self).__name__, 1)


def _list(vector: Any) -> list[float]:
    floats: list[float] = vector.tolist()
    return floats

"""``NanoGPTProvider``: NanoGPT's embedding models in Daft's ``embed_text``. Needs Daft, which is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.extras import missing_extra

try:
    from daft import DataType
    from daft.ai.protocols import TextEmbedder, TextEmbedderDescriptor
    from daft.ai.provider import Provider
    from daft.ai.typing import EmbeddingDimensions, UDFOptions
except ImportError as error:
    raise missing_extra("NanoGPTProvider", "daft", error) from error

from nanogpt_core._runtime.validation import check_number
from nanogpt_core.embeddings.inputs import describe_positions
from nanogpt_core.errors import ConfigurationError, InvalidInputError
from nanogpt_core.scale.embed_table import EmbedTable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nanogpt_core.embeddings.config import EmbedderOptions

_NAME = "nanogpt"
_DEFAULT_MODEL = "text-embedding-3-small"
_OPTIONS_OF_OTHERS = {"column", "model", "output", "on_error", "reason", "fixed_size", "dimensions"}
_DAFT_OPTIONS = {"max_retries": 0, "on_error": "raise"}  # with the only values that this provider can keep to
_DEFAULT_BATCH_SIZE = 1024  # rows that Daft hands over at a time


class NanoGPTProvider(Provider):  # type: ignore[misc] # Daft is not installed everywhere
    """NanoGPT's embedding models as a provider of Daft, for ``embed_text``.

    Dimensions come from the catalog, without a request. Daft's own retries are off, since those of
    :class:`nanogpt_core.Embedder` know rate limits and pauses. The provider holds no key: each worker takes
    ``NANOGPT_API_KEY`` from its environment.

    Args:
        width: Dimensions of the vectors of a model that the catalog does not know.
        **options: Options of :class:`nanogpt_core.Embedder`, such as ``limits`` and ``cache``, except those that
            :class:`nanogpt_core.EmbedTable` refuses, and ``dimensions``, which ``embed_text`` takes itself.

    Raises:
        ConfigurationError: An invalid option, or no key in the environment of this process.
        InvalidTypeError: An option of the wrong type, or an unknown option.

    Example:
        >>> provider = NanoGPTProvider(limits=RedisLimits("redis://10.0.0.5", "wikipedia"))
        >>> frame = frame.with_column("embedding", embed_text(col("text"), provider=provider, batch_size=1024))
    """

    def __init__(self, *, width: int | None = None, **options: Unpack[EmbedderOptions]) -> None:
        for name in _OPTIONS_OF_OTHERS & options.keys():
            raise ConfigurationError(
                f"NanoGPTProvider takes no {name}.",
                remedy="Pass model and dimensions to embed_text, which names the columns. Every row needs a text.",
            )
        EmbedTable(**options)  # checks the options and the key
        self._options: dict[str, Any] = {**options, "width": width}

    @property
    def name(self) -> str:
        """Name of the provider."""
        return _NAME

    def get_text_embedder(
        self, model: str | None = None, dimensions: int | None = None, **options: Any
    ) -> TextEmbedderDescriptor:
        """Return the description of an embedder, for Daft.

        Args:
            model: Name of the model. Default: ``"text-embedding-3-small"``.
            dimensions: As for :class:`nanogpt_core.Embedder`.
            **options: ``batch_size``: rows that Daft hands over at a time, by default 1024, which are sent in requests
                of the size that the model's hosts accept.

        Raises:
            ConfigurationError: An invalid option, or one of Daft's that would be ignored.
        """
        rows = options.pop("batch_size", None)
        rows = _DEFAULT_BATCH_SIZE if rows is None else check_number("batch_size", rows, 1)
        ignored = [option[0] for option in options.items() if option not in _DAFT_OPTIONS.items()]
        if ignored:
            raise ConfigurationError(
                f"embed_text takes no {', '.join(ignored)} with this provider.",
                remedy="Pass options of Embedder, such as max_retries, to NanoGPTProvider.",
            )
        embed = EmbedTable(model=model or _DEFAULT_MODEL, dimensions=dimensions, **self._options)
        return _Descriptor(embed, rows)


@dataclass
class _Descriptor(TextEmbedderDescriptor):  # type: ignore[misc] # Daft is not installed everywhere
    embed: EmbedTable
    rows: int

    def get_provider(self) -> str:
        return _NAME

    def get_model(self) -> str:
        return self.embed.embedder.model

    def get_options(self) -> dict[str, Any]:
        return {"batch_size": self.rows}

    def get_dimensions(self) -> EmbeddingDimensions:
        return EmbeddingDimensions(size=self.embed.width, dtype=DataType.float32())

    def get_udf_options(self) -> UDFOptions:
        return UDFOptions(max_retries=0, on_error="raise", batch_size=self.rows)

    def instantiate(self) -> TextEmbedder:
        return _Embedder(self.embed)


class _Embedder:
    """Daft's ``TextEmbedder``, sync: Daft calls it in threads, and the embedder sends its batches concurrently."""

    def __init__(self, embed: EmbedTable) -> None:
        self._embed = embed

    def embed_text(self, text: list[str]) -> list[Any]:
        nulls = [row for row, one in enumerate(text) if one is None]
        if nulls:
            raise InvalidInputError(
                f"The column is null at {describe_positions(nulls)}.",
                remedy="Filter these rows.",
                positions=nulls,
            )
        return list(self._embed.embedder.embed(text))

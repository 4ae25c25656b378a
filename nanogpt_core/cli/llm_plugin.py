"""Plugin of the ``llm`` command line: all embedding models of the catalog, as ``nanogpt/NAME``. ``llm`` imports it.

Vectors are stored by ``llm`` itself. ``nanogpt/NAME-256`` and the like are vectors reduced to so many dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import click
import llm

from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.secrets import KEY_VARIABLES
from nanogpt_core.models.catalog import MODELS, ModelInfo

_PREFIX = "nanogpt/"
_REDUCED_DIMENSIONS = (256, 512, 1024)


class EmbeddingFailedError(llm.ModelError, click.ClickException):
    """The embedding failed. On the command line ``llm`` prints the message in one line; its cause is our error."""


class NanoGPTEmbeddingModel(llm.EmbeddingModel):  # type: ignore[misc, name-defined] # documented, but not in __all__
    """One embedding model, with full vectors or with vectors reduced to so many ``dimensions``."""

    needs_key = "nanogpt"
    batch_size = None  # the texts of a call go to the Embedder as one stream, which sends batches concurrently

    def __init__(self, model: ModelInfo, dimensions: int | None = None) -> None:
        self.model_id = _PREFIX + model.id + (f"-{dimensions}" if dimensions else "")
        self._model = model
        self._dimensions = dimensions
        # The first variable that is set: `llm` reads one only.
        self.key_env_var = next((name for name in KEY_VARIABLES if os.environ.get(name)), KEY_VARIABLES[0])

    def get_key(self, explicit_key: str | None = None) -> str | None:
        """Return the key; see ``llm.EmbeddingModel``.

        Raises:
            EmbeddingFailedError: There is none.
        """
        try:
            key: str | None = super().get_key(explicit_key)
        except llm.NeedsKeyException as error:
            raise EmbeddingFailedError(str(error)) from error
        return key

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """Yield a vector for each text, in order; requests are sent while the texts are read.

        The default of ``key`` is that of ``llm keys set nanogpt``, then the environment's.

        Raises:
            EmbeddingFailedError: A text is not accepted, or the service was not reached or refused.
        """
        from nanogpt_core.embeddings.embedder import Embedder

        try:
            embedder = Embedder(self._model.id, api_key=self.get_key(key), dimensions=self._dimensions)
            for batch in embedder.stream(items):  # type: ignore[arg-type] # llm refuses bytes, see supports_binary
                yield from batch.vectors.tolist()
        except NanoGPTError as error:
            raise EmbeddingFailedError(" ".join(str(error).split())) from error


@llm.hookimpl
def register_embedding_models(register: Callable[..., None]) -> None:
    """Register every model of the catalog, and reduced dimensions of those that have them."""
    for model in MODELS.values():
        register(NanoGPTEmbeddingModel(model))
        least, most = model.min_dimensions, model.max_dimensions
        for dimensions in _REDUCED_DIMENSIONS:
            if least is not None and most is not None and least <= dimensions < most:
                register(NanoGPTEmbeddingModel(model, dimensions))

"""NanoGPT's embedding models in pydantic-ai: a complete adapter over ``nanogpt_core.Embedder``."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic_ai.embeddings import EmbeddingModel, EmbeddingResult, EmbeddingSettings
from pydantic_ai.embeddings.result import EmbedInputType
from pydantic_ai.exceptions import UserError
from pydantic_ai.usage import RequestUsage

from nanogpt_core import Embedder, count_tokens, track_usage


class NanoGPTEmbeddingModel(EmbeddingModel):
    """Takes the options of ``nanogpt_core.Embedder``; of pydantic-ai's settings, ``dimensions`` and ``truncate``."""

    model_name, system = "", "nanogpt"  # abstract properties of the base class

    def __init__(self, model: str, *, settings: EmbeddingSettings | None = None, **options: Any) -> None:
        super().__init__(settings=settings)
        self.model_name, self._options, self._embedders = model, options, dict[frozenset[Any], Embedder]()
        self._embedder(settings or {})

    def _embedder(self, settings: EmbeddingSettings) -> Embedder:
        if unknown := settings.keys() - {"dimensions", "truncate"}:
            raise UserError(f"NanoGPT's embedding models have no settings {sorted(unknown)}.")
        changes: dict[str, Any] = {"on_overflow": "truncate"} if settings.get("truncate") else {}
        if "dimensions" in settings:
            changes["dimensions"] = settings["dimensions"]
        if (key := frozenset(changes.items())) not in self._embedders:
            self._embedders[key] = Embedder(self.model_name, **{**self._options, **changes})
        return self._embedders[key]

    async def embed(
        self, inputs: str | Sequence[str], *, input_type: EmbedInputType, settings: EmbeddingSettings | None = None
    ) -> EmbeddingResult:
        """Embed queries or documents."""
        texts, wanted = self.prepare_embed(inputs, settings)
        embedder = self._embedder(wanted)
        with track_usage() as usage:
            if input_type == "query":
                vectors = await asyncio.gather(*map(embedder.aembed_query, texts))
            else:
                vectors = list(await embedder.aembed(texts))
        return EmbeddingResult(
            [vector.tolist() for vector in vectors],
            inputs=texts,
            input_type=input_type,
            model_name=self.model_name,
            provider_name=self.system,
            usage=RequestUsage(input_tokens=usage.prompt_tokens or 0),
            provider_details={"cost_usd": usage.cost_usd},
        )

    async def count_tokens(self, text: str) -> int:
        """Count the tokens of a text."""
        return count_tokens(text, self.model_name)

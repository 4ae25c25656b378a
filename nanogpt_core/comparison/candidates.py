"""The candidates of a comparison: models, here or on another server, and the variants in which each is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import is_loopback, resolve_base_url
from nanogpt_core.http.secrets import ApiKey, hide_key
from nanogpt_core.models.catalog import MODELS, ModelInfo, get_model, near_names
from nanogpt_core.models.listing import list_models

DEFAULT_DIMENSIONS = (256, 512, 1024)
"""Reduced dimensions that are measured by default, for models that take them."""

_NO_KEY = "no-key"  # servers of one's own need none, and must not see the one for NanoGPT


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model, and the server that it is asked from.

    Attributes:
        name: The name as given: ``MODEL`` or ``MODEL@URL``.
        info: Facts about the model.
        base_url: Base URL of another OpenAI-compatible server; None for NanoGPT.
    """

    name: str
    info: ModelInfo
    base_url: str | None = None

    @property
    def label(self) -> str:
        """A short name: the model, and the host of another server."""
        return self.info.id if self.base_url is None else f"{self.info.id}@{urlsplit(self.base_url).netloc}"

    @property
    def is_own(self) -> bool:
        """True for a model on a server of the user's own on this machine, which costs nothing."""
        return self.base_url is not None and is_loopback(urlsplit(self.base_url).hostname or "")

    def options(self, api_key: ApiKey, base_url: str | None) -> dict[str, Any]:
        """Return model, key and address as options of an ``Embedder``.

        Args:
            api_key: The key for NanoGPT; None for the environment's. It is not sent to other servers.
            base_url: Base URL of NanoGPT; None for the environment's.
        """
        model: str | ModelInfo = self.info if self.info.id not in MODELS or self.base_url else self.info.id
        if self.base_url is None:
            return {"model": model, "api_key": api_key, "base_url": base_url}
        return {"model": model, "api_key": _NO_KEY, "base_url": self.base_url}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way to use a candidate.

    Attributes:
        candidate: The model.
        dimensions: Dimensions to reduce the vectors to; None for full vectors.
        instruction: True to put the model card's query instruction around questions.
    """

    candidate: Candidate
    dimensions: int | None = None
    instruction: bool = False

    @property
    def label(self) -> str:
        """A short name, unique in a comparison."""
        reduced = f" at {self.dimensions}" if self.dimensions else ""
        return f"{self.candidate.label}{reduced}{' + instruction' if self.instruction else ''}"


def find_candidates(names: Sequence[str], api_key: ApiKey = None, base_url: str | None = None) -> list[Candidate]:
    """Return the candidates of names; a repeated name counts once.

    Names that are not in the catalog are looked up in the service's live list. A server of ``MODEL@URL`` is not asked:
    its model has any dimensions, and costs nothing if the server is on this machine.

    Args:
        names: ``MODEL`` for NanoGPT, or ``MODEL@URL`` for another server with an OpenAI-compatible API.
        api_key: The key for NanoGPT. Default: the environment's.
        base_url: Base URL of NanoGPT. Default: the environment's.

    Raises:
        ConfigurationError: No name, or a model that the service does not offer.
        NanoGPTError: The request for the live list failed.
    """
    api_key = hide_key(api_key)
    if not names:
        raise ConfigurationError("No model to compare.", remedy="Name one or more; `nanogpt models` lists them.")
    live: dict[str, ModelInfo] | None = None
    found: dict[str, Candidate] = {}
    for name in names:
        model, _, url = name.partition("@")
        if not model.strip():
            raise ConfigurationError(f"{name!r} names no model.", remedy="Write MODEL, or MODEL@URL.")
        if url:
            found[name] = _on_other_server(name, model, url)
            continue
        info = get_model(model)
        if model not in MODELS:
            live = list_models(api_key, base_url) if live is None else live
            if model not in live:
                near = " or ".join(near_names(model)) or ", ".join(sorted(live))
                raise ConfigurationError(f"The service offers no embedding model {model!r}.", remedy=f"Try {near}.")
            info = live[model]
        found[name] = Candidate(name, info)
    return list(found.values())


def _on_other_server(name: str, model: str, url: str) -> Candidate:
    try:
        base_url = resolve_base_url(url)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error.message}", remedy=error.remedy) from None
    parts = urlsplit(base_url)
    price = 0.0 if is_loopback(parts.hostname or "") else None
    info = dataclasses.replace(get_model(model), usd_per_million_tokens=price, source=parts.netloc)
    return Candidate(name, info, base_url)


def make_variants(
    candidates: Sequence[Candidate], dimensions: Sequence[int] = DEFAULT_DIMENSIONS, *, instructions: bool = True
) -> Iterator[Variant]:
    """Yield the variants of each candidate: full and reduced dimensions, with and without its query instruction.

    Args:
        candidates: The models.
        dimensions: Dimensions to reduce vectors to. A model takes those within its range that are below its own.
        instructions: False to leave the query instructions out.
    """
    for candidate in candidates:
        least, most = candidate.info.min_dimensions, candidate.info.max_dimensions
        reduced = [d for d in sorted(set(dimensions)) if least is not None and most is not None and least <= d < most]
        for width in (None, *reversed(reduced)):
            yield Variant(candidate, width)
            if instructions and candidate.info.query_instruction:
                yield Variant(candidate, width, instruction=True)

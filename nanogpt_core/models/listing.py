"""NanoGPT's live lists of models: embedding models merged with the catalog, and chat models."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Collection, Mapping
from typing import Any

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core.errors import ConfigurationError, ReplyError
from nanogpt_core.http.client import fetch
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.error_body import excerpt
from nanogpt_core.http.secrets import ApiKey, hide_key
from nanogpt_core.models.catalog import MAX_DIMENSIONS, MODELS, ModelInfo, get_model, near_names
from nanogpt_core.models.chat_catalog import ChatModelInfo, names_without_suffixes
from nanogpt_core.models.pricing import parse_usd

_EMBEDDING_MODELS = "/embedding-models"
_CHAT_MODELS = "/models?detailed=true"


def list_models(api_key: ApiKey = None, base_url: str | None = None) -> dict[str, ModelInfo]:
    """Return the embedding models that the service offers now, by name. Blocks: on an event loop, call it in a thread.

    Dimensions, token limit and price of each come from the service (``GET /embedding-models``), the rest from the
    catalog. The result has exactly the models that the service lists; each can be passed as ``model``.

    Args:
        api_key: The key. Default: the environment's; the service also answers without one.
        base_url: The base URL of the API. Default: ``NANOGPT_BASE_URL``, then NanoGPT.

    Raises:
        ConfigurationError: An invalid argument.
        NanoGPTError: The request for the list failed.
    """
    api_key = hide_key(api_key)
    endpoint = Endpoint.resolve(api_key=api_key, base_url=base_url, key_required=False)
    return fetch(endpoint, _EMBEDDING_MODELS, parse_model_list)


class _LiveList(ForkSafe):
    """The list of one endpoint, fetched once. Other threads that need it, and a fork, wait until it is there."""

    def __init__(self) -> None:
        super().__init__()
        self._models: dict[str, ModelInfo] | None = None

    def get(self, endpoint: Endpoint, http_client: Any) -> dict[str, ModelInfo]:
        """Return the models."""
        with self._lock:
            if self._models is None:
                self._models = fetch(endpoint, _EMBEDDING_MODELS, parse_model_list, http_client=http_client)
            return self._models


_live_lists: dict[bytes, _LiveList] = {}


def live_model_info(endpoint: Endpoint, model: str, http_client: Any = None) -> ModelInfo:
    """Return the row of a model in the service's list, which is fetched once in a process for each endpoint.

    Raises:
        ConfigurationError: The list does not have the model.
        NanoGPTError: The request for the list failed.
    """
    models = _live_lists.setdefault(endpoint.digest, _LiveList()).get(endpoint, http_client)
    if model in models:
        return models[model]
    raise ConfigurationError(
        f"The service's list of embedding models does not have {model!r}.",
        remedy=f'{_near_names(model, models)}list_models() returns the list; without model_info="live" any name works.',
    )


def _near_names(model: str, rows: Collection[str]) -> str:
    near = near_names(model, rows)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def parse_model_list(body: bytes) -> dict[str, ModelInfo]:
    """Parse the reply of ``GET /embedding-models``; rows without a usable name are ignored."""
    return {name: _merged(name, row) for name, row in _parse_rows(body).items()}


def _parse_rows(body: bytes) -> dict[str, Mapping[str, Any]]:
    try:
        # It takes half of a surrogate pair, as JavaScript cuts descriptions, where a stricter parser refuses the list.
        document = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"The list of models is not JSON, but begins {excerpt(body)!r}.") from error
    rows = document.get("data") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ReplyError(f"The list of models is not a list, but begins {excerpt(body)!r}.")
    return {row["id"]: row for row in rows if isinstance(row, dict) and _is_name(row.get("id"))}


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip()) and name.isprintable()


def _merged(name: str, row: Mapping[str, Any]) -> ModelInfo:
    known = get_model(name)
    dimensions = _positive(row.get("dimensions"), MAX_DIMENSIONS)
    reduces = row.get("supports_dimensions")
    changes: dict[str, Any] = {
        "dimensions": dimensions,
        "max_tokens": _positive(row.get("max_tokens")),
        "usd_per_million_tokens": _usd(row.get("pricing")),
    }
    if dimensions is not None and known.dimensions not in (None, dimensions):
        changes["listed_dimensions"] = known.dimensions
    if reduces is True:
        changes["max_dimensions"] = _positive(row.get("max_dimensions"), MAX_DIMENSIONS) or dimensions
        changes["min_dimensions"] = known.min_dimensions or 1
    given = {key: value for key, value in changes.items() if value is not None}
    if name not in MODELS:
        given["source"] = "live list"
    merged = dataclasses.replace(known, **given)
    return dataclasses.replace(merged, min_dimensions=None, max_dimensions=None) if reduces is False else merged


def _positive(value: object, most: int = sys.maxsize) -> int | None:
    return value if type(value) is int and 0 < value <= most else None


def _usd(pricing: object, field: str = "per_million_tokens") -> float | None:
    if not isinstance(pricing, dict) or str(pricing.get("currency") or "USD").upper() != "USD":
        return None
    return parse_usd(pricing.get(field))


def fetch_chat_model(endpoint: Endpoint, model: str, http_client: Any = None) -> ChatModelInfo:
    """Return the row of a chat model in the service's list (``GET /models``), with the context window at least.

    Suffixes such as ``:online`` are removed if the list does not have the name with them.

    Raises:
        ConfigurationError: The list has no context length for the model.
        NanoGPTError: The request for the list failed.
    """
    rows = fetch(endpoint, _CHAT_MODELS, _parse_rows, http_client=http_client)
    for name in names_without_suffixes(model):
        window = _positive(rows.get(name, {}).get("context_length"))
        if window is not None:
            return _chat_model(name, window, rows[name])
    hint = "" if model in rows else _near_names(model, rows)
    raise ConfigurationError(
        f"The service's list of models has no context length for {model!r}.", remedy=f"{hint}Pass it as a number."
    )


def fetch_chat_price(endpoint: Endpoint, model: str) -> tuple[float, float] | None:
    """Return the price of a chat model in US dollars for 1,000,000 tokens of prompts and of answers; None if unknown.

    The service's list (``GET /models``) gives it. A suffix such as ``:online`` can cost more than the list says, so the
    price of a name with one is unknown unless the list has that very name.

    Raises:
        ConfigurationError: The list does not have the model.
        NanoGPTError: The request for the list failed.
    """
    rows = fetch(endpoint, _CHAT_MODELS, _parse_rows)
    if not any(name in rows for name in names_without_suffixes(model)):
        hint = _near_names(model, rows) or f"It has {', '.join(sorted(rows)[:5])} and more."
        raise ConfigurationError(f"The service's list of chat models does not have {model!r}.", remedy=hint.strip())
    pricing = rows.get(model, {}).get("pricing")
    if not isinstance(pricing, dict) or (pricing.get("unit") or "per_million_tokens") != "per_million_tokens":
        return None
    prompt, answer = _usd(pricing, "prompt"), _usd(pricing, "completion")
    return None if prompt is None or answer is None else (prompt, answer)


def _chat_model(name: str, context_window: int, row: Mapping[str, Any]) -> ChatModelInfo:
    abilities = row.get("capabilities")

    def has(ability: str) -> bool | None:
        value = abilities.get(ability) if isinstance(abilities, dict) else None
        return value if isinstance(value, bool) else None

    return ChatModelInfo(
        name,
        context_window,
        _positive(row.get("max_output_tokens")),
        tool_calling=has("tool_calling"),
        structured_output=has("structured_output"),
        image_inputs=has("vision"),
        reasoning=has("reasoning"),
        pdf_inputs=has("pdf_upload"),
    )

"""NanoGPT's live list of embedding models, laid over the packaged table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nanogpt_core.errors import ReplyError
from nanogpt_core.http.endpoint import ApiKey, Endpoint
from nanogpt_core.http.error_body import excerpt
from nanogpt_core.http.redaction import redacted
from nanogpt_core.models.catalog import MODELS, ModelInfo, get_model

__all__ = ["MOST_BYTES", "list_models", "parse_model_list"]

_HIGHEST_PRICE = 1e6
MOST_BYTES = 16 << 20
"""Most bytes that the list may have."""


def list_models(api_key: ApiKey = None, base_url: str | None = None) -> dict[str, ModelInfo]:
    """Return the models that the service offers now, by name.

    A row takes its width, token limit and price from the service (``GET /embedding-models``), and the rest from the
    packaged table. A model that the service no longer lists is left out; one that the table does not know is in.

    Args:
        api_key: The key. Default: the environment's; the service answers without one too.
        base_url: Where the API begins. Default: ``NANOGPT_BASE_URL``, then NanoGPT.

    Raises:
        ConfigurationError: An argument that cannot be right.
        NanoGPTError: The list could not be had.
    """
    from nanogpt_core.http.requester import Requester

    endpoint = Endpoint.resolve(api_key=api_key, base_url=base_url, key_required=False)
    with redacted(endpoint):
        return parse_model_list(Requester(endpoint).send("/embedding-models", None, endpoint.timeout, MOST_BYTES))


def parse_model_list(body: bytes) -> dict[str, ModelInfo]:
    """Read the reply of ``GET /embedding-models``; rows without a usable name are passed over.

    Raises:
        ReplyError: It is not a list of models.
    """
    from jiter import from_json  # comes with the SDK, which is imported late

    try:
        document = from_json(body)
    except ValueError as error:
        raise ReplyError(f"The list of models is not JSON, but begins {excerpt(body)!r}.") from error
    rows = document.get("data") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ReplyError(f"The list of models is not a list, but begins {excerpt(body)!r}.")
    named = {row["id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
    return {name: _overlay(name, row) for name, row in named.items()}


def _overlay(name: str, row: Mapping[str, Any]) -> ModelInfo:
    known = get_model(name)
    width = _positive(row.get("dimensions"))
    reduces = row.get("supports_dimensions")
    changes: dict[str, Any] = {
        "dimensions": width,
        "max_tokens": _positive(row.get("max_tokens")),
        "usd_per_million_tokens": _usd(row.get("pricing")),
    }
    if width is not None and known.dimensions not in (None, width):
        changes["listed_dimensions"] = known.dimensions
    if reduces is True:
        changes["max_dimensions"] = _positive(row.get("max_dimensions")) or width
        changes["min_dimensions"] = known.min_dimensions or 1
    given = {key: value for key, value in changes.items() if value is not None}
    if name not in MODELS:
        given["source"] = "live list"
    merged = dataclasses.replace(known, **given)
    return dataclasses.replace(merged, min_dimensions=None, max_dimensions=None) if reduces is False else merged


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _usd(pricing: object) -> float | None:
    if not isinstance(pricing, dict) or str(pricing.get("currency", "USD")).upper() != "USD":
        return None
    price = pricing.get("per_million_tokens")
    if not isinstance(price, (int, float)) or isinstance(price, bool):
        return None
    return float(price) if 0 <= price <= _HIGHEST_PRICE else None

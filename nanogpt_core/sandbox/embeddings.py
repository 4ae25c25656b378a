"""``POST /embeddings``: checks of the request, and the reply."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from nanogpt_core.models.catalog import MAX_ITEMS, ModelInfo
from nanogpt_core.sandbox.config import SandboxConfig
from nanogpt_core.sandbox.fake_vectors import embed
from nanogpt_core.sandbox.http_errors import HTTPError, invalid_value, too_large
from nanogpt_core.sandbox.tokens import count_tokens
from nanogpt_core.sandbox.usage import reported_cost

_CREATED = 1_754_000_000  # seconds since 1970


def answer_embeddings(body: Mapping[str, Any], config: SandboxConfig) -> bytes:
    """Return the JSON of the reply to a decoded request body.

    Raises:
        HTTPError: The request is not accepted.
    """
    info, texts = _model(body, config), _texts(body)
    _check_count(len(texts), info, config)
    if not isinstance(body.get("user"), (str, type(None))):
        raise invalid_value("'user' must be a string.", "user")
    tokens, dimensions = _tokens(texts, info), _dimensions(body.get("dimensions"), info)
    in_base64 = _wants_base64(body.get("encoding_format"), config)
    rows = embed(
        texts,
        model=info.id,
        width=config.width(info),
        dimensions=dimensions,
        unit_length=info.unit_length is not False,
    )
    data = [
        {"object": "embedding", "index": index, "embedding": _encode(row) if in_base64 else row}
        for index, row in enumerate(rows)
    ]
    if config.shuffle:
        data = data[1::2] + data[::2][::-1]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    reply = {"object": "list", "data": data, "model": info.id, "usage": usage}
    if config.report_cost:
        cost_usd = tokens * (info.usd_per_million_tokens or 0.0) / 1e6
        reply["x_nanogpt_pricing"] = reported_cost(cost_usd, tokens)
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def model_list(config: SandboxConfig) -> dict[str, Any]:
    """Return the body of ``GET /embedding-models``."""
    return {"object": "list", "data": [_row(info, config) for info in config.all_models().values()]}


def _row(info: ModelInfo, config: SandboxConfig) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": info.id,
        "object": "model",
        "created": _CREATED,
        "owned_by": info.id.split("/")[0] if "/" in info.id else "nanogpt-sandbox",
        "name": info.id.rsplit("/", 1)[-1],
        "description": "Served by the sandbox: vectors made of words, by no model",
        "dimensions": config.width(info),
        "supports_dimensions": info.reduces,
        "max_tokens": info.max_tokens,
    }
    if info.max_dimensions is not None:
        row["max_dimensions"] = info.max_dimensions
    if info.usd_per_million_tokens is not None:
        row["pricing"] = {"per_million_tokens": info.usd_per_million_tokens, "currency": "USD"}
    return row


def _encode(row: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode("ascii")


def _model(body: Mapping[str, Any], config: SandboxConfig) -> ModelInfo:
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise invalid_value("'model' is required and must be a string.", "model")
    info = config.all_models().get(name)
    if info is None and config.reference_page:
        raise HTTPError(400, "Invalid model specified", param="model")
    if info is None:
        raise HTTPError(404, f"The model {name!r} does not exist.", param="model", code="model_not_found")
    return info


def _texts(body: Mapping[str, Any]) -> list[str]:
    texts = body.get("input")
    if texts is None:
        raise invalid_value("'input' is required.", "input")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list):
        raise invalid_value("'input' must be a string or an array of strings.", "input")
    if not texts:
        raise invalid_value("'input' is an empty array.", "input")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise invalid_value(f"input[{index}] is not a string. Token arrays are not accepted.", "input")
        if not text:
            raise invalid_value(f"input[{index}] is an empty string.", "input")
    return texts


def _check_count(count: int, info: ModelInfo, config: SandboxConfig) -> None:
    if count > MAX_ITEMS:
        message = f"'input' array is too long: at most {MAX_ITEMS} items are allowed, got {count}."
        raise HTTPError(400, message, param="input", code="array_above_max_length")
    limit = config.max_items(info.id)
    if count > limit:
        # Hosts differ in the status: those with the lowest limits answer 400.
        status = 400 if limit < 64 else 413  # noqa: PLR2004
        raise HTTPError(status, f"input batch size {count} > maximum allowed batch size {limit}", param="input")


def _tokens(texts: list[str], info: ModelInfo) -> int:
    counts = [count_tokens(text) for text in texts]
    for index, count in enumerate(counts):
        if info.max_tokens is not None and count > info.max_tokens:
            raise too_large(
                f"This model's maximum context length is {info.max_tokens} tokens; input[{index}] has {count} tokens."
            )
    total = sum(counts)
    if info.max_request_tokens is not None and total > info.max_request_tokens:
        raise too_large(f"Requested {total} tokens, maximum {info.max_request_tokens} tokens per request.")
    return total


def _dimensions(value: Any, info: ModelInfo) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid_value("'dimensions' must be an integer.", "dimensions")
    if info.max_dimensions is None:
        raise invalid_value(f"The model {info.id!r} does not support 'dimensions'.", "dimensions")
    least = info.min_dimensions or 1
    if not least <= value <= info.max_dimensions:
        message = f"'dimensions' must be from {least} to {info.max_dimensions} for {info.id!r}, got {value}."
        raise invalid_value(message, "dimensions")
    return value


def _wants_base64(value: Any, config: SandboxConfig) -> bool:
    if value not in (None, "float", "base64"):
        raise invalid_value("'encoding_format' must be 'float' or 'base64'.", "encoding_format")
    if value != "base64" or config.ignore_base64:
        return False
    if config.refuse_base64:
        raise invalid_value("This host does not support encoding_format 'base64'; use 'float'.", "encoding_format")
    return True

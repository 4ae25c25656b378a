"""Reads error bodies: the service's message, the parameter that it names, and excerpts for our own messages."""

from __future__ import annotations

import contextlib
import encodings.utf_8_sig  # noqa: F401 - the first decoding would import it, which fails without free files
import json
import re
from typing import Any

_MAX_LAYERS = 4  # objects inside each other
# In the order in which they are looked for. error_msg is Baidu's: https://cloud.baidu.com/doc/WENXINWORKSHOP/s/tlmyncueh
_MESSAGE_FIELDS = ("error", "message", "detail", "errors", "msg", "error_msg")

# The status that the service documents for a code, or that OpenAI and Anthropic have for a type: an error in a stream
# does not always repeat its status.
_STATUS_BY_CODE = {
    400: "context_length_exceeded content_policy_violation invalid_parameter_value no_fallback_available "
    "invalid_request_error",
    401: "invalid_api_key authentication_error",
    402: "insufficient_balance memory_balance_required webSearch_balance_required both_balance_required billing_error",
    403: "model_not_allowed api_key_origin_not_allowed permission_error",
    404: "model_not_found model_not_available invalid_model not_found_error",
    429: "rate_limited rate_limit_exceeded insufficient_quota daily_rpd_limit_exceeded daily_usd_limit_exceeded "
    "rate_limit_error",
    500: "server_error internal_server_error api_error",
    503: "service_unavailable all_fallbacks_failed overloaded_error",
}
_STATUSES = {code: status for status, codes in _STATUS_BY_CODE.items() for code in codes.split()}
_STATUS = re.compile(r"[45]\d\d", re.ASCII)


def parse_error_body(content: bytes) -> object:
    """Return the object of an error body; None if it is not JSON.

    Messages with line breaks, and with half of a surrogate pair, as JavaScript cuts texts, are read too.
    """
    with contextlib.suppress(ValueError, RecursionError):
        return _object(json.loads(content.decode("utf-8-sig", errors="replace"), strict=False))
    return None


def _object(document: object) -> object:
    # Gemini's endpoint for the OpenAI SDK sends it in an array.
    return document[0] if isinstance(document, list) and document else document


def _layers(document: object) -> list[dict[str, Any]]:
    """Return the objects of an error body that are inside each other, the innermost first, as gateways nest them."""
    layers: list[dict[str, Any]] = []
    while isinstance(document, dict) and len(layers) < _MAX_LAYERS:
        layers.insert(0, document)
        inner = (document.get(name) for name in ("error", "detail"))
        document = next((one for one in inner if isinstance(one, dict)), None)
    return layers


def error_message(document: object) -> str:
    """Return the message of an error body, truncated; empty if it has none."""
    document = _object(document)
    with contextlib.suppress(RecursionError):  # Python 3.13 parses JSON that is too deep for it to print
        return excerpt(_words(document)) if isinstance(document, dict) else ""
    return ""


def _words(value: object, layers: int = _MAX_LAYERS) -> str:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            return _words(json.loads(value), layers) or value
    if isinstance(value, list) and layers:
        return "; ".join(_complaint(item, layers - 1) for item in value)
    if not isinstance(value, dict) or not layers:
        return str(value) if value else ""
    found = (value[name] for name in _MESSAGE_FIELDS if value.get(name))
    words = next((words for one in found if (words := _words(one, layers - 1) or str(one))), "")
    # OpenRouter's message is a general one, with the host's own words beside it.
    metadata = value.get("metadata")
    raw = _words(metadata.get("raw"), layers - 1) if isinstance(metadata, dict) else ""
    return f"{words}: {raw}" if words and raw and raw not in words else words


def _complaint(item: object, layers: int) -> str:
    # FastAPI repeats the request's texts, which must not be logged or searched for words.
    if isinstance(item, dict) and "msg" in item and "loc" in item:
        return f"{item['msg']} ({item['loc']})"
    return _words(item, layers) or str(item)


def error_field(document: object, name: str) -> str | None:
    """Return a field of an error body, such as ``code``, as text, truncated; None if it has none."""
    value = next((layer[name] for layer in _layers(document) if layer.get(name) is not None), None)
    if name == "param" and isinstance(document, dict) and isinstance(document.get("detail"), list):
        value = _param_of_complaints(document["detail"])
    with contextlib.suppress(RecursionError):
        return excerpt(str(value)) if value is not None else None
    return None


def _param_of_complaints(complaints: list[object]) -> str:
    # FastAPI's list of errors, of which the texts are the most likely reason.
    places = [item.get("loc") for item in complaints if isinstance(item, dict)]
    names = [place[-1] if "input" not in place else "input" for place in places if isinstance(place, list) and place]
    return "input" if "input" in names or not names else str(names[0])


def error_status(document: dict[str, Any]) -> int | None:
    """Return the HTTP status that an error in a reply of status 200 names or implies; None if neither is clear."""
    layers = _layers(document)
    for value in (layer.get(name) for name in ("status", "code") for layer in layers):
        status = int(value) if isinstance(value, str) and _STATUS.fullmatch(value) else value
        if isinstance(status, int) and 400 <= status <= 599:
            return status
    if any({"payment", "requiredBalance"} & layer.keys() for layer in layers):
        return 402
    codes = (layer.get(name) for name in ("code", "type") for layer in layers)
    return next((_STATUSES[code] for code in codes if isinstance(code, str) and code in _STATUSES), None)


def excerpt(text: bytes | str, most: int = 300) -> str:
    """Return the beginning of ``text``, ``most`` characters in one line, for an error message."""
    if isinstance(text, bytes):
        text = text[: most * 4].decode(errors="replace")
    # Half a surrogate pair can be said in JSON, but not written out.
    line = " ".join(text[: most * 4].encode(errors="replace").decode().split())
    return line if len(line) <= most else line[:most] + "…"


def remedy_of_page(body: bytes, otherwise: str = "") -> str:
    """Return the remedy for a web site's page in place of a reply: the base URL may lack the API's path."""
    return "Check base_url: it should end in /api/v1." if body.lstrip().startswith(b"<") else otherwise


def as_sentence(text: str) -> str:
    """Return ``text`` with a full stop at its end, unless it ends a sentence already."""
    # With the full-width characters of Chinese and Japanese.
    return text if text.endswith(tuple(".!?\u2026\u3002\uff01\uff1f")) else f"{text}."

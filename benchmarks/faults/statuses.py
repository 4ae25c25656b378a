"""Faults that the service announces itself, with a status."""

from __future__ import annotations

import time
from email.utils import formatdate

from benchmarks.faults.fault import EITHER, OURS_RETRY, RIGHT, Fault, always, once
from benchmarks.faults.server import Reply, Request, Step, good, response
from benchmarks.faults.tasks import MOST_CHARACTERS
from benchmarks.faults.vectors import KEY, MODEL, TEXTS

_HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>upstream sent no reply</h1></body></html>"


def _error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return always(response(body, status, **headers))


def _dated(_: Request) -> list[Step]:
    # Dates have whole seconds: the time asked for lies between 5 and 6 seconds ahead.
    moment = formatdate(time.time() + 6, usegmt=True)
    return [response({"error": {"message": "slow down"}}, 429, Retry_After=moment)]


def _most_items(most: int, status: int, body: object) -> Reply:
    return lambda request: [response(body, status)] if len(request.texts) > most else good(request)


def _one_too_long(request: Request) -> list[Step]:
    if TEXTS[5] in request.texts:
        return [response({"error": {"message": "maximum context length is 512 tokens", "code": None}}, 400)]
    return good(request)


def _no_base64(request: Request) -> list[Step]:
    if request.encoding == "base64":
        return [response({"error": {"message": "encoding_format 'base64' is not supported", "code": None}}, 400)]
    return good(request)


def _counts_high(request: Request) -> list[Step]:
    if max(map(len, request.texts)) > MOST_CHARACTERS:
        return [response({"error": {"message": "This model's maximum context length is 512 tokens"}}, 400)]
    return good(request)


_BUSY = "slow down"
RATE = [
    Fault("429", "429 once, Retry-After: 7", once(_error(429, _BUSY, Retry_After="7")), RIGHT, 2, waits=7),
    Fault("429", "429 once, Retry-After as a date", once(_dated), RIGHT, 2, waits=4),
    Fault(
        "429", "429 once, retry-after-ms: 2500", once(_error(429, _BUSY, retry_after_ms="2500")), RIGHT, 2, waits=2.5
    ),
    Fault("429", "429 once, no header", once(_error(429, _BUSY)), RIGHT, 2),
    Fault("429", "429 once, Retry-After: nonsense", once(_error(429, _BUSY, Retry_After="soon")), RIGHT, 2),
    Fault("429", "429 once, Retry-After: -5", once(_error(429, _BUSY, Retry_After="-5")), RIGHT, 2),
    Fault("429", "429 always, no header", _error(429, _BUSY), most=OURS_RETRY, words=(_BUSY,)),
    Fault("429", "429 always, Retry-After: 600", _error(429, _BUSY, Retry_After="600"), words=("10 min",)),
    Fault("429", "429 always, Retry-After: 7200", _error(429, _BUSY, Retry_After="7200"), words=("2 h",)),
    Fault("429", "429 with a quota's code", _error(429, "no quota left", "insufficient_quota"), words=("quota",)),
    Fault(
        "429",
        "429 with a daily cap's code",
        _error(429, "daily limit reached", "daily_rpd_limit_exceeded", Retry_After="30"),
        words=("daily",),
    ),
]

FAILURES = [
    Fault("Server errors", "500 once", once(_error(500, "it broke")), RIGHT, 2),
    Fault("Server errors", "500 always", _error(500, "it broke"), most=OURS_RETRY, words=("it broke",)),
    Fault("Server errors", "502 with HTML once", once(always(response(_HTML, 502, "text/html"))), RIGHT, 2),
    Fault(
        "Server errors", "502 with HTML always", always(response(_HTML, 502, "text/html")), most=6, words=("upstream",)
    ),
    Fault("Server errors", "503 once, Retry-After: 3", once(_error(503, "later", Retry_After="3")), RIGHT, 2, waits=3),
    Fault("Server errors", "504 once", once(_error(504, "gateway")), RIGHT, 2),
    Fault("Server errors", "408 once", once(_error(408, "too slow")), RIGHT, 2),
    Fault("Server errors", "503 always, nothing in it", always(response(b"", 503)), most=OURS_RETRY, words=("503",)),
]

_PAYMENT = {"x402Version": 1, "requiredBalance": 0.25, "accepts": [{"scheme": "exact", "network": "base"}]}
_NO_KEY = {
    "error": {"message": "Payment required", "type": "insufficient_quota", "code": "insufficient_quota"},
    "payment": {"amountUsd": 0.25},
}
# Messages of hosts about more than two items in a request, with their status.
_HOSTS = {
    "OpenAI": (
        400,
        {
            "message": "Invalid 'input': array too long. Expected an array with maximum length 2, but got 8 instead.",
            "param": "input",
            "code": "array_above_max_length",
        },
    ),
    "TEI": (413, "batch size 8 > maximum allowed batch size 2"),
    "DashScope": (400, {"message": "batch size is invalid, it should not be larger than 2.: input.contents"}),
    "Cohere": (400, {"message": "invalid request: total number of texts must be at most 2 - received 8"}),
    "Gemini": (400, {"message": "at most 2 requests can be in one batch"}),
    "Jina": (422, {"message": "Input list can contain at most 2 elements"}),
    "Zhipu": (400, {"message": "input数组最大不得超过2", "code": "1214"}),
    "vLLM": (
        400,
        {"message": "This model's maximum context length is 32 tokens. However, you requested 80 tokens."},
    ),
}
SIZES = [
    Fault("Sizes", f"{status} as {host} says it", _most_items(2, status, {"error": error}), RIGHT, 7)
    for host, (status, error) in _HOSTS.items()
]
SIZES.append(
    Fault(
        "Sizes",
        "a text that has more tokens than estimated, truncated on request",
        _counts_high,
        RIGHT,
        12,
        task="cut_further",
        settings={"on_overflow": "truncate"},
    )
)
REFUSALS = [
    Fault("Refusals", "401", _error(401, "Invalid session", "invalid_api_key"), words=("401",)),
    Fault("Refusals", "401 that repeats the key", _error(401, f"Incorrect key {KEY}"), words=("401",)),
    Fault("Refusals", "402 with a body of its own kind", always(response(_PAYMENT, 402)), words=("0.25",)),
    Fault("Refusals", "403", _error(403, "key may not embed"), words=("may not embed",)),
    Fault("Refusals", "404 for the model", _error(404, f"no model {MODEL}", "model_not_found"), words=("no model",)),
    Fault("Refusals", "404 with HTML", always(response("<h1>Not here</h1>", 404, "text/html")), words=("404",)),
    Fault("Refusals", "400 with a list as its body", always(response(["bad"], 400)), words=("400",)),
    Fault(
        "Refusals", "422 with a list of details", always(response({"detail": [{"msg": "odd"}]}, 422)), words=("odd",)
    ),
    Fault(
        "Refusals",
        "400 for more than 2 items",
        _most_items(2, 400, {"error": {"message": "too many inputs: maximum is 2"}}),
        RIGHT,
        7,
    ),
    Fault("Refusals", "413 with HTML for more than 4 items", _most_items(4, 413, "<h1>413</h1>"), RIGHT, 3),
    # To get there takes log2(8) + 1 refusals; the other halves may be sent too.
    Fault("Refusals", "400 for one text that is too long", _one_too_long, most=15, words=("position 5",)),
    Fault("Refusals", "400 refuses base64", _no_base64, RIGHT, 2),
    Fault(
        "Refusals",
        "400: dimensions too large",
        _error(400, "dimensions must be at most 1024, fewer than requested"),
        words=("at most 1024",),
    ),
    Fault("Refusals", "400: Invalid model specified", _error(400, "Invalid model specified"), words=("list_models",)),
    Fault(
        "Refusals",
        "404 with HTML, base URL without /api/v1",
        always(response("<h1>Not here</h1>", 404, "text/html")),
        place="no path",
        words=("/api/v1",),
    ),
    Fault("Refusals", "402 without a key", always(response(_NO_KEY, 402)), words=("no key",)),
    Fault("Refusals", "403 model_not_allowed", _error(403, "not allowed", "model_not_allowed"), words=("key",)),
    Fault(
        "Refusals",
        "503 all_fallbacks_failed, always",
        _error(503, "All fallbacks failed", "all_fallbacks_failed"),
        most=OURS_RETRY,
        words=("provider",),
    ),
    Fault("Refusals", "409", _error(409, "already processed"), words=("already processed",)),
    Fault("Refusals", "415", _error(415, "no", "unsupported_content_encoding"), words=("content-encoding",)),
    Fault("Refusals", "204", always(b"HTTP/1.1 204 No Content\r\n\r\n"), EITHER, OURS_RETRY),
]

FAULTS = [*RATE, *FAILURES, *REFUSALS, *SIZES]

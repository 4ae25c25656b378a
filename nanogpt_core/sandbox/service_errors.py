"""The error replies that NanoGPT documents, as faults for a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nanogpt_core.sandbox.script import Fault


def _error(status: int, code: str | None, message: str, kind: str, param: str | None = None) -> Fault:
    return Fault(status, body={"error": {"message": message, "type": kind, "param": param, "code": code}})


_PAYMENT = {"version": 1, "paymentId": "pay_sandbox", "amountUsd": "0.0714", "accepted": []}

SERVICE_ERRORS: Mapping[str, Fault] = MappingProxyType(
    {
        # The reference page
        "invalid_model": _error(400, None, "Invalid model specified", "invalid_request_error", param="model"),
        "invalid_api_key": _error(401, "invalid_api_key", "Invalid or missing API key.", "authentication_error"),
        "server_error": _error(500, None, "Server error", "server_error"),
        "insufficient_balance": Fault(
            402, body={"error": "Insufficient balance", "requiredBalance": 0.0035, "status": 402}
        ),
        "rate_limited": Fault(
            429, headers={"Retry-After": "1"}, body={"code": "rate_limited", "message": "Too many requests."}
        ),
        # Newer documentation
        "insufficient_quota": Fault(
            402,
            body={
                "error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Payment required."},
                "payment": _PAYMENT,
                "x402Version": 1,
                "accepts": [],
            },
        ),
        "model_not_found": _error(
            404, "model_not_found", "The model does not exist.", "invalid_request_error", param="model"
        ),
        "model_not_allowed": _error(403, "model_not_allowed", "Model not allowed.", "permission_error"),
        "api_key_origin_not_allowed": _error(
            403, "api_key_origin_not_allowed", "Origin not allowed for this key.", "permission_error"
        ),
        "no_fallback_available": _error(
            400, "no_fallback_available", "No preferred provider is available.", "invalid_request_error"
        ),
        "all_fallbacks_failed": _error(503, "all_fallbacks_failed", "All providers failed.", "service_unavailable"),
        "conflict": _error(409, None, "Already processed.", "invalid_request_error"),
        "unsupported_content_encoding": _error(
            415, "unsupported_content_encoding", "Unsupported Content-Encoding.", "invalid_request_error"
        ),
        "daily_rpd_limit_exceeded": _error(
            429,
            "daily_rpd_limit_exceeded",
            "Daily request limit exceeded (1000/1000). Resets at midnight UTC.",
            "rate_limit_error",
        ),
        "daily_usd_limit_exceeded": _error(
            429, "daily_usd_limit_exceeded", "Daily spend limit exceeded. Resets at midnight UTC.", "rate_limit_error"
        ),
    }
)
"""One fault for each documented error reply, by its code or by a name if it has none.

``sandbox.add_faults(SERVICE_ERRORS["insufficient_quota"])`` gives it to the next request.
"""

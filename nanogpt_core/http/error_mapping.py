"""Turns the SDK's errors into ours: status, code, request id, the service's message and a remedy."""

from __future__ import annotations

import contextlib
import re
import ssl
from typing import Any

import openai
from jiter import from_json

from nanogpt_core import errors
from nanogpt_core.errors import NanoGPTError, StatusError
from nanogpt_core.http.error_body import as_sentence, error_message, error_param, excerpt
from nanogpt_core.http.library import httpcore, httpx
from nanogpt_core.http.retry import MAX_RETRY_AFTER_SECONDS, parse_retry_after, reset_message

__all__ = ["foreign_error", "map_error", "truncate_sdk_error"]

_BY_STATUS: dict[int, tuple[type[StatusError], str]] = {
    401: (errors.AuthenticationError, "Check the key in api_key or NANOGPT_API_KEY."),
    402: (errors.InsufficientBalanceError, "Add balance at https://nano-gpt.com/balance."),
    403: (errors.PermissionDeniedError, "Check what the key in api_key or NANOGPT_API_KEY may do."),
    404: (errors.ModelNotFoundError, "Check the model's name and base_url; list_models() tells what there is."),
    408: (errors.ServerError, "Try again."),
    413: (errors.RequestTooLargeError, "Send less at a time: a smaller batch_size."),
    429: (errors.RateLimitError, "Send fewer requests at a time, or try again later."),
}
_SIZE_CODES = ("context_length_exceeded", "array_above_max_length", "string_above_max_length", "request_too_large")
_SIZE_WORDS = re.compile(
    r"context.?length|too (long|large|many|big)|batch.?size|exceed|longer than|larger than|more than \d|at most \d"
    r"|max(imum)?\b.{0,40}\b(tokens?|items?|inputs?|length|size|batch|texts?|characters)"
)
_OTHER_LIMITS = re.compile(
    r"dimension|spending|billing|quota|credit|balance|account|plan\b|rate limit|per (minute|day)"
)
_QUOTA_WORDS = re.compile(r"quota|daily|per.day|\brpd\b")
_QUOTA_CODES = ("insufficient_quota", "daily_rpd_limit_exceeded", "daily_usd_limit_exceeded")


# Everything that is raised about a request: by us, by the SDK, by the HTTP client, by sockets and TLS.
_ABOUT_THE_REQUEST = (
    NanoGPTError,
    openai.OpenAIError,
    httpx.HTTPError,
    httpx.StreamError,
    httpx.InvalidURL,
    *(getattr(httpcore, name) for name in ("TimeoutException", "NetworkError", "ProtocolError", "ProxyError")),
)


def foreign_error(error: BaseException) -> BaseException | None:
    """Return the error at the bottom of an SDK error that is not about the request, or None.

    The SDK calls everything that is raised during a request a connection error: a mistake in our own code, or an
    exception that a signal handler raised meanwhile, such as a task queue's time limit. Neither may be retried.
    """
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    return None if cause is None or isinstance(cause, _ABOUT_THE_REQUEST) else cause


def map_error(error: Exception, host: str, seconds: float) -> NanoGPTError:
    """Return our error for ``error``, to be raised from it.

    Args:
        error: An error of the SDK, of the HTTP client or of the limits on an attempt.
        host: The host that should have answered.
        seconds: The time limit of the attempt.
    """
    chain = list(errors.causes(error))
    ours = next((cause for cause in chain if isinstance(cause, NanoGPTError)), None)
    if ours is not None:
        return ours
    if isinstance(error, openai.APIStatusError):
        return _from_status(error)
    cause = error.__cause__ or error
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        return errors.RequestTimeoutError(
            f"No complete answer from {host} within {seconds:.3g} s ({type(cause).__name__}).",
            remedy="Try again, or raise timeout.",
        )
    told = f"{excerpt(str(cause)) or 'no reason given'} ({type(cause).__name__})"
    if any(isinstance(each, ssl.SSLError) for each in chain):
        refused = errors.ConnectionFailedError(
            f"No secure connection to {host}: {told}.", remedy="Check the certificate, the clock and base_url."
        )
        # A handshake that was broken off may succeed a moment later.
        refused.transient = not any(isinstance(each, ssl.SSLCertVerificationError) for each in chain)
        return refused
    return errors.ConnectionFailedError(f"No answer from {host}: {told}.", remedy="Check base_url and the network.")


def truncate_sdk_error(error: Exception) -> None:
    """Truncate the SDK error's message, which repeats the whole body; with some servers that holds the texts."""
    if isinstance(error, openai.APIStatusError):
        detail = error_message(error.body) or excerpt(error.response.content)
        error.message = f"Error code: {error.status_code} - {detail}"
        error.args = (error.message,)
        error.body = None


def _from_status(error: openai.APIStatusError) -> StatusError:
    response = error.response
    status = response.status_code
    # Not response.text, which decodes by whatever character set the service names.
    text = response.content.decode(errors="replace")
    document: Any = None
    with contextlib.suppress(ValueError):
        document = from_json(response.content)
    wait = parse_retry_after(response.headers)
    detail = error_message(document) or excerpt(text)
    code, param = _field(document, "code"), _field(document, "param")
    kind, remedy = _kind(status, code or _field(document, "type"), param, detail)
    if (
        kind is errors.QuotaExceededError
        and code not in _QUOTA_CODES
        and wait is not None
        and wait <= MAX_RETRY_AFTER_SECONDS
    ):
        kind, remedy = _BY_STATUS[status]  # a quota for a minute
    if status == 402 and isinstance(document, dict) and "requiredBalance" in document:  # noqa: PLR2004
        remedy = f"The request needs ${document['requiredBalance']}. {remedy}"
    named = f"{status} ({code})" if code else f"{status}"
    if kind is errors.QuotaExceededError or (wait or 0.0) > MAX_RETRY_AFTER_SECONDS:
        remedy = reset_message(wait) or remedy
    return kind(
        as_sentence(f"The service answered {named}: {detail or 'no words with it'}"),
        remedy=remedy,
        status=status,
        code=code,
        param=param,
        request_id=response.headers.get("x-request-id"),
        detail=detail,
        retry_after=wait,
    )


def _field(document: Any, name: str) -> str | None:
    if not isinstance(document, dict):
        return None
    error = document.get("error")
    value = error.get(name) if isinstance(error, dict) else document.get(name)
    if name == "param" and isinstance(document.get("detail"), list):
        value = error_param(document["detail"])
    return excerpt(str(value)) if value is not None else None


def _kind(status: int, code: str | None, param: str | None, detail: str) -> tuple[type[StatusError], str]:
    words = f"{code or ''} {detail}".lower()
    if status == 429 and (code in _QUOTA_CODES or _QUOTA_WORDS.search(words)):  # noqa: PLR2004
        return errors.QuotaExceededError, "Wait until the quota resets, or raise it."
    about_texts = param in (None, "", "input", "messages")
    # Servers on FastAPI answer 422 instead of 400.
    of_size = code in _SIZE_CODES or (_SIZE_WORDS.search(words) and not _OTHER_LIMITS.search(words))
    if status in (400, 422) and about_texts and of_size:
        return errors.RequestTooLargeError, "Send less at a time: a smaller batch_size, or shorter texts."
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:  # noqa: PLR2004
        return errors.ServerError, "The service failed; try again later."
    if 300 <= status < 400:  # noqa: PLR2004
        return errors.BadRequestError, "Redirects are not followed; set base_url to where the API is."
    return errors.BadRequestError, "Check the arguments."

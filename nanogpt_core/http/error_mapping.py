"""Turns the SDK's errors into ours: status, code, request id, the service's message and a remedy."""

from __future__ import annotations

import re
import ssl
import time
from typing import Any

import openai

from nanogpt_core import errors
from nanogpt_core._runtime.threads import lacks_threads
from nanogpt_core.errors import NanoGPTError, StatusError
from nanogpt_core.http.error_body import (
    as_sentence,
    error_field,
    error_message,
    error_status,
    excerpt,
    parse_error_body,
)
from nanogpt_core.http.retry import MAX_RETRY_AFTER_SECONDS, parse_retry_after, reset_message
from nanogpt_core.http.sdk import httpcore, httpx
from nanogpt_core.http.size_errors import is_size_error

_BY_STATUS: dict[int, tuple[type[StatusError], str]] = {
    401: (errors.AuthenticationError, "Check the key in api_key or NANOGPT_API_KEY."),
    402: (errors.InsufficientBalanceError, "Add balance at https://nano-gpt.com/balance."),
    403: (errors.PermissionDeniedError, "Check what the key in api_key or NANOGPT_API_KEY may do."),
    404: (errors.ModelNotFoundError, "Check the model's name and base_url; list_models() tells what there is."),
    407: (errors.PermissionDeniedError, "A proxy asks for a login: put it into the proxy's URL, or check the proxy."),
    408: (errors.ServerError, "Try again."),
    409: (errors.BadRequestError, "The service has processed this request already, or another one is in conflict."),
    413: (errors.RequestTooLargeError, "Send less at a time: a smaller batch_size."),
    415: (errors.BadRequestError, "Remove Content-Encoding and Content-Type from default_headers."),
    425: (errors.ServerError, "Try again."),
    429: (errors.RateLimitError, "Send fewer requests at a time, or try again later."),
}
_BY_HUNDREDS: dict[int, tuple[type[StatusError], str]] = {
    3: (errors.BadRequestError, "Redirects are not followed; set base_url to where the API is."),
    4: (errors.BadRequestError, "Check the arguments."),
    5: (errors.ServerError, "The service failed; try again later."),
}
# Remedies for codes of NanoGPT; the class follows from the status.
_REMEDIES = {
    "model_not_allowed": "This key may not use the model: take another one, or change the key's settings.",
    "api_key_origin_not_allowed": "The key is limited to some web origins: change its settings, or take another key.",
    "all_fallbacks_failed": "Every provider of the model failed: try again later, or take another model.",
    "no_fallback_available": "No provider is available for the model: allow fallbacks, or take another model.",
    "fallback_blocked_for_cache_consistency": "Remove stickyProvider from the request, or try again later.",
    "memory_balance_required": "Add balance, or remove :memory from the model's name.",
    "webSearch_balance_required": "Add balance, or remove :online from the model's name.",
    "both_balance_required": "Add balance, or remove :memory and :online from the model's name.",
    "content_policy_violation": "The service's content policy does not allow this text.",
}
_NO_SUCH_MODEL_CODES = (
    *("model_not_found", "model_not_available", "invalid_model", "unknown_model", "unsupported_model"),
    *("model_not_supported", "model_decommissioned", "model_deprecated"),
)
_NO_SUCH_MODEL = re.compile(
    r"\b(?:invalid|unknown|no such|unsupported|unrecognized) model\b(?! (?:param|option|config|output|response))"
    r"|not a valid model\b|\bmodel\b.{0,80}\b(?:not exist|not found|not be found|unknown|not available)|模型不存在"
    r"|\bmodel\b.{0,80}\b(?:decommissioned|no longer (?:available|supported))"
    r"|^(?:the |this )?(?:requested )?model (?!is\b)\S+ is not supported\b"
)
# Some hosts have another status for these.
_INVALID_KEY = re.compile(r"(?:invalid|incorrect) api.?key|api.?key (?:is )?(?:not valid|invalid|incorrect)")
_NO_BALANCE = re.compile(
    r"insufficient (?:account )?(?:balance|credits?|funds)|balance is (?:too low|insufficient)|can only afford|余额不足"
    r"|out of credits|欠费|额度不足"
)

# Answers of HTTP and SOCKS proxies that trying again does not change: the login, and hosts that are not allowed.
_REFUSED_BY_PROXY = re.compile(
    r"4(?!08|25|29)\d\d |Requested |Invalid username/password|.*not allowed by ruleset", re.ASCII
)
# Google and Azure call limits for a minute quotas too.
_SHORT_WORDS = re.compile(
    r"(?:per|\b(?:a|each|every|this)|/).?(?:second|minute)|/ ?(?:s|sec|min)\b|\b(?:[rt]pm|rps)\b|\bconcurren"
    r"|(?:retry|try again) (?:after|in) \d+(?:\.\d+)? ?(?:m?s|m\d|min)"
)
# With Retry-After, these are refusals for a while: of too many requests by a firewall (403), or of locks (409, 423).
_MAY_ASK_TO_WAIT = (403, 409, 423)
_SHORT_REFUSALS = (errors.PermissionDeniedError, errors.BadRequestError)
_TELLS_WHEN = re.compile(r"(?:retry|try again) (?:after|in) \d")
_DAILY_WORDS = re.compile(r"daily|per.day|\brpd\b")
_LONG_WORDS = re.compile(
    r"quota|(?<![a-z/])(?:billing[ _]hard|spend|spending|usage|subscription)[ _](?:limit|cap\b)"
    r"|(?:weekly|monthly)(?:[ _/]\w+?){0,2}[ _](?:limit|cap\b|credits)"
    r"|(?:calls|requests|queries|tokens|credits) ?(?:per|a|/) ?(?:week|month)\b"
)
_QUOTA_CODES = ("insufficient_quota", "daily_rpd_limit_exceeded", "daily_usd_limit_exceeded")
_SECONDS_PER_DAY = 86_400

# The end of a base URL: NanoGPT's /api/v1, /api/paid/v1 or /api/v1legacy; a gateway's may be /v1.
_BASE_PATH = re.compile(r"/v\d+[a-z]*")
_BALANCE = "/check-balance"  # below the base URL without its version
_ENDPOINTS = ("/embeddings", "/chat/completions", "/completions", "/embedding-models", "/models", "/usage", _BALANCE)


# Everything that is raised about a request: by us, by the SDK, by the HTTP client, by sockets and TLS.
_ABOUT_THE_REQUEST = (
    NanoGPTError,
    openai.OpenAIError,
    httpx.HTTPError,
    httpx.StreamError,
    httpx.InvalidURL,
    *(getattr(httpcore, name) for name in ("TimeoutException", "NetworkError", "ProtocolError", "ProxyError")),
)


# Without a connection, nothing was sent.
_BEFORE_SENDING = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


def foreign_error(error: BaseException) -> BaseException | None:
    """Return the error at the bottom of an SDK error that is not about the request, or None.

    The SDK calls everything that is raised during a request a connection error: a mistake in our own code, or an
    exception that a signal handler raised meanwhile, such as a task queue's time limit. Neither may be retried.
    """
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if cause is None or isinstance(cause, _ABOUT_THE_REQUEST) or lacks_threads(cause):
        return None
    return cause


def map_error(error: Exception, host: str, timeout: float) -> NanoGPTError:
    """Return our error for ``error``, which becomes its cause."""
    chain = list(errors.causes(error))
    ours = next((cause for cause in chain if isinstance(cause, NanoGPTError)), None)
    if ours is not None:
        return ours
    failure = _from_sdk_error(error, chain, host, timeout)
    failure.unsent = isinstance(error.__cause__ or error, _BEFORE_SENDING) or lacks_threads(error)
    if isinstance(error, openai.APIStatusError):
        _truncate(error)
    failure.__cause__ = error
    return failure


def raise_for_error_body(response: Any) -> None:
    """Raise the SDK's error for a reply of status 200, read, that contains an error with a status."""
    document = parse_error_body(response.content)
    status = error_status(document) if isinstance(document, dict) and document.get("error") else None
    if status is not None:
        raise status_error(status, response.content, response.headers, response.request)


def status_error(
    status: int, content: bytes, headers: Any, request: Any, location: str | None = None
) -> openai.APIStatusError:
    """Return the SDK's error for an error body, as if it had come with ``status``; ``content`` is decoded."""
    # No Content-Encoding: the content is decoded.
    names = ("x-request-id", "retry-after", "retry-after-ms", "date", "x-should-retry")
    kept = {name: headers[name] for name in names if name in headers}
    extensions = {} if location is None else {"location": location}
    response = httpx.Response(status, content=content, headers=kept, request=request, extensions=extensions)
    return openai.APIStatusError(f"Error code: {status}", response=response, body=parse_error_body(content))


def _from_sdk_error(error: Exception, chain: list[BaseException], host: str, timeout: float) -> NanoGPTError:
    if isinstance(error, openai.APIStatusError):
        return _from_status(error)
    cause = error.__cause__ or error
    proxy = next(filter(None, (getattr(one, "proxy", None) for one in chain)), None)
    through = f" through the proxy {proxy}" if proxy else ""
    if isinstance(error, (openai.APITimeoutError, TimeoutError)):
        message = f"No complete answer from {host}{through} within {timeout:.3g} s ({type(cause).__name__})."
        remedy = f"Try again, {'check the proxy, ' if proxy else ''}or raise timeout."
        if isinstance(error, openai.APITimeoutError) and isinstance(cause, httpx.ConnectTimeout):
            seconds = min(timeout, error.request.extensions.get("timeout", {}).get("connect") or timeout)
            message = f"No connection to {host}{through} within {seconds:.3g} s."
            remedy = f"Check {'the proxy' if proxy else 'base_url'} and the network."
        return errors.RequestTimeoutError(message, remedy=remedy)
    if lacks_threads(error):
        return _thread_error(str(error))
    told = f"{excerpt(str(cause)) or 'no reason given'} ({type(cause).__name__})"
    if any(isinstance(each, ssl.SSLError) for each in chain):
        remedy = f"Check the certificate, the clock{', the proxy' if proxy else ''} and base_url."
        if "WRONG_VERSION_NUMBER" in told:
            which = "base_url or the proxy's URL" if proxy else "base_url"
            remedy = f"The server speaks no TLS at this port: check {which}, which may have to begin with http://."
        refused = errors.ConnectionFailedError(f"No secure connection to {host}{through}: {told}.", remedy=remedy)
        # A handshake that was broken off may succeed a moment later.
        refused.transient = not any(isinstance(each, ssl.SSLCertVerificationError) for each in chain)
        return refused
    if proxy or isinstance(cause, httpx.ProxyError):
        failed = errors.ConnectionFailedError(
            f"No answer from {host}{through}: {told}.",
            remedy="Check the proxy, unset the variable, or add the host to NO_PROXY.",
        )
        failed.transient = _REFUSED_BY_PROXY.match(told) is None
        return failed
    return errors.ConnectionFailedError(f"No answer from {host}: {told}.", remedy="Check base_url and the network.")


def _thread_error(words: str) -> NanoGPTError:
    if "interpreter shutdown" in words:
        return NanoGPTError(
            "The program is ending, so no other thread can start; nothing was sent.",
            remedy="Make the first async call before the main thread ends, or use the sync methods.",
        )
    failure = NanoGPTError(
        "The process may not start another thread; nothing was sent.",
        remedy="Raise its limit (ulimit -u, or the limit of the container), or end other threads.",
    )
    failure.transient = True
    return failure


def _truncate(error: openai.APIStatusError) -> None:
    # The SDK's message repeats the whole body; with some servers that holds the texts.
    detail = error_message(error.body) or excerpt(error.response.content)
    error.message = f"Error code: {error.status_code} - {detail}"
    error.args = (error.message,)
    error.body = None


def _from_status(error: openai.APIStatusError) -> StatusError:
    response = error.response
    status = response.status_code
    # Not response.text, which decodes by whatever character set the service names.
    text = response.content.decode("utf-8-sig", errors="replace")
    document = parse_error_body(response.content)
    wait = parse_retry_after(response.headers)
    detail = error_message(document) or excerpt(text)
    code, param = error_field(document, "code"), error_field(document, "param")
    is_page = status in (400, 403, 404) and text.lstrip().startswith("<")
    # The words of such a page are not about the request. With status 400 they may be about its size.
    words = "" if is_page and status != 400 else detail
    kind, remedy = _kind(status, code or error_field(document, "type"), param, words)
    is_short = wait is not None and wait <= MAX_RETRY_AFTER_SECONDS
    if kind is errors.QuotaExceededError and is_short and code not in _QUOTA_CODES:
        kind, remedy = _BY_STATUS[status]  # a quota for a minute
    remedy = _REMEDIES.get(code or "", remedy)
    if is_page and kind is not errors.RequestTooLargeError:
        remedy = "A firewall or proxy in front of the service sent this page: check the network, and base_url."
    if "location" in response.extensions and 300 <= status < 400:
        remedy = _redirect_remedy(error.request.url, response.extensions["location"]) or remedy
    if status == 402:
        remedy = _balance_remedy(document, remedy)
    named = f"{status} ({code})" if code and code != str(status) else f"{status}"
    should_retry = response.headers.get("x-should-retry")  # the SDK heeds it too
    may_pass = should_retry == "true" or (status in _MAY_ASK_TO_WAIT and wait is not None)
    is_transient = kind.transient or (may_pass and kind in _SHORT_REFUSALS)
    if kind is errors.QuotaExceededError or (is_transient and (wait or 0.0) > MAX_RETRY_AFTER_SECONDS):
        remedy = _quota_remedy(wait, f"{code} {words}".lower()) or remedy
    base_url_remedy = _base_url_remedy(error.request.url) if _concerns_path(status, code, param, words) else ""
    failure = kind(
        as_sentence(f"The service answered {named}: {detail or 'no words with it'}"),
        remedy=base_url_remedy or remedy,
        status=status,
        code=code,
        param=param,
        request_id=response.headers.get("x-request-id"),
        detail=detail,
        retry_after=wait,
    )
    failure.transient = is_transient and should_retry != "false"
    if isinstance(failure, errors.ModelNotFoundError):
        failure.wrong_base_url = bool(base_url_remedy) or is_page
    return failure


def _balance_remedy(document: Any, remedy: str) -> str:
    """Return the remedy of a 402, with the amount; ``payment`` is there if the service saw no key."""
    if not isinstance(document, dict):
        return remedy
    inner = document.get("error")
    fields = {**inner, **document} if isinstance(inner, dict) else document
    needed, payment = fields.get("requiredBalance"), fields.get("payment")
    if isinstance(payment, dict):
        needed = payment.get("amountUsd") if needed is None else needed
        remedy = f"{remedy} The service saw no key: check that nothing removes the Authorization header."
    amount = excerpt(str(needed)) if isinstance(needed, (int, float, str)) and not isinstance(needed, bool) else ""
    return f"The request needs ${amount}. {remedy}" if amount else remedy


def _quota_remedy(wait: float | None, words: str) -> str:
    if _DAILY_WORDS.search(words) is None or (wait is None and _TELLS_WHEN.search(words)):
        return reset_message(wait)
    # NanoGPT's daily limits reset at midnight UTC, even if no Retry-After says so.
    left = _SECONDS_PER_DAY - time.time() % _SECONDS_PER_DAY
    return f"Daily limits reset at midnight UTC. {reset_message(left if wait is None else wait)}".rstrip()


def _concerns_path(status: int, code: str | None, param: str | None, detail: str) -> bool:
    if status == 405:
        return True
    about_model = _denies_model(code, param, detail) or param == "model" or re.search(r"\bmodel\b", detail.lower())
    return status == 404 and not about_model


def _base_url_remedy(url: Any) -> str:
    """Return a remedy if the base URL of a request looks wrong; empty if it is one of NanoGPT's."""
    path = url.path
    endpoint = next((end for end in _ENDPOINTS if path.endswith(end)), "")
    base = path.removesuffix(endpoint)
    is_nanogpt = url.host == "nano-gpt.com" or url.host.endswith(".nano-gpt.com")
    if endpoint == _BALANCE:
        return "" if is_nanogpt else f"Check base_url, as {url.scheme}://{url.netloc.decode()}{path} may not be there."
    has_version = _BASE_PATH.fullmatch(f"/{base.rpartition('/')[2]}") is not None
    port = f":{url.port}" if url.port else ""
    base_url = f"{url.scheme}://{url.host}{port}{base or '/'}"
    if has_version and not is_nanogpt:
        return f"Check base_url, as {base_url} may have no {endpoint or path}, and the model's name."
    if has_version and base.startswith("/api/") and len(_BASE_PATH.findall(base)) == 1:
        return ""
    return f"The base URL looks wrong: {base_url}. It should end in /api/v1, as https://nano-gpt.com/api/v1 does."


def _redirect_remedy(url: Any, location: str) -> str:
    """Return a remedy with the base URL that a redirect leads to; empty if it cannot be read."""
    try:
        target = url.join(location)
    except httpx.InvalidURL:
        return ""
    endpoint = next((end for end in _ENDPOINTS if target.path.endswith(end)), "")
    base_url = f"{target.scheme}://{target.netloc.decode()}{target.path.removesuffix(endpoint)}"
    return f"Redirects are not followed. This one leads to {excerpt(base_url)}: set base_url to it if the API is there."


def _kind(status: int, code: str | None, param: str | None, detail: str) -> tuple[type[StatusError], str]:
    words = f"{code or ''} {detail}".lower()
    is_long = _DAILY_WORDS.search(words) or (_LONG_WORDS.search(words) and not _SHORT_WORDS.search(words))
    if status == 429 and (code in _QUOTA_CODES or is_long):
        return errors.QuotaExceededError, "Wait until the quota resets, or raise it."
    if status in (400, 403, 429) and _NO_BALANCE.search(words):
        return _BY_STATUS[402]
    if status in (400, 403) and (code == "invalid_api_key" or _INVALID_KEY.search(words)):
        return _BY_STATUS[401]
    # Servers on FastAPI answer 422 instead of 400; llama.cpp answers 500.
    if status in (400, 422, 500) and is_size_error(code, param, detail, known_only=status == 500):
        return errors.RequestTooLargeError, "Send less at a time: a smaller batch_size, or shorter texts."
    if status in (400, 422) and _denies_model(code, param, detail):
        return _BY_STATUS[404]
    return _BY_STATUS.get(status) or _BY_HUNDREDS.get(min(status // 100, 5), _BY_HUNDREDS[4])


def _denies_model(code: str | None, param: str | None, detail: str) -> bool:
    """Return whether an error says that the model does not exist."""
    if code in _NO_SUCH_MODEL_CODES:
        return True
    return param in (None, "", "model") and _NO_SUCH_MODEL.search(detail.lower()) is not None

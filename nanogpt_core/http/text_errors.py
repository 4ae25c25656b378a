"""Tells errors that one of a request's texts can cause from errors about the request, the account or the service.

Calls that share a request need that: if one text can be the reason, the request is divided to find it, and only its
call fails. Any other error concerns all calls, and dividing would only repeat it: docs/adr/0060-gathered-batches.md.
"""

from __future__ import annotations

import re

from nanogpt_core.errors import (
    BadRequestError,
    NanoGPTError,
    PermissionDeniedError,
    ReplyError,
    RequestTooLargeError,
    ServerError,
    StatusError,
)
from nanogpt_core.http.size_errors import is_text_parameter, names_other_parameter

# Statuses of errors about what a request says: 451 is a refusal for legal reasons. Others, such as 405 and 415, are
# about the way in which it was sent.
_STATUSES = (400, 422, 451)

# Codes of services, in lower case, which decide whatever the message says.
_CODES = {
    # NanoGPT
    "invalid_model model_not_allowed model_not_available model_not_found invalid_api_key api_key_origin_not_allowed "
    "insufficient_balance memory_balance_required websearch_balance_required both_balance_required insufficient_quota "
    "no_fallback_available all_fallbacks_failed fallback_blocked_for_cache_consistency unsupported_content_encoding "
    "method_not_allowed service_unavailable": False,
    # OpenAI, Azure
    "unknown_parameter unsupported_parameter missing_required_parameter unsupported_value account_deactivated "
    "billing_hard_limit_reached billing_not_active invalid_organization unsupported_country_region_territory "
    "unsupported_model operationnotsupported deploymentnotfound": False,
    # Anthropic; Qwen (DashScope)
    "overloaded_error authentication_error billing_error": False,
    "arrearage accessdenied.unpurchased model.accessdenied modelnotfound": False,
    # A text that breaks rules: NanoGPT, OpenAI and Azure; Qwen; Zhipu
    "content_policy_violation content_filter invalid_prompt moderation_blocked": True,
    "datainspectionfailed data_inspection_failed": True,
    "1301": True,
}
_CONCERNS_ONE_TEXT = {code: concerns for codes, concerns in _CODES.items() for code in codes.split()}

# The account is the reason, even if one of its texts was the reason for that.
_ACCOUNT_IS_CLOSED = re.compile(
    r"\b(?:account|api.?key|organi[sz]ation|project|user)\b.{0,40}"
    r"\b(?:block|suspend|disabl|deactivat|banned|restrict|terminat|flagged|closed|on hold|inactive|not active|overdue)"
)
# Words about a text that breaks rules; a 403 with them is about a text.
_RULES = re.compile(
    r"\bflagged\b|moderation|content.{0,12}(?:polic|filter|management)|sensitive|unsafe|inappropriate|harmful"
)
# Words for texts, and for reasons in a text. A message with one of them may be about one text.
_TEXTS = re.compile(
    r"\b(?:inputs?|texts?|contents?|documents?|sentences?|strings?|prompts?|passages?|quer(?:y|ies)|messages?|words?"
    r"|characters?|tokens?|unicode|utf-?8|surrogates?|languages?|items?|elements?|nan|null|empty|blank)\b|输入|文本|内容"
)
# Words for everything else that a request can be refused for.
_OTHERS = re.compile(
    r"\b(?:parameters?|arguments?|fields?|options?|headers?|api.?keys?|accounts?|organi[sz]ations?|subscriptions?"
    r"|billing|balance|credits?|payments?|plan|quota|projects?|regions?|country|providers?|deployments?|endpoints?"
    r"|method|version|redirects?)\b"
    r"|\bmodels?\b.{0,60}\b(?:supports?|available|unavailable|deprecated|disabled|retired|allowed|access|exists?|loaded)"
    r"|\bnot (?:a |an )?(?:supported|embeddings?) (?:model|operation)"
)
# input[3], $.input[3], input.3, ['body', 'input', 3] and ['body', 'input', 'list[str]', 3] (vLLM), "input at index 3",
# "input id 3" (Mistral), "example at index 3" (Voyage)
_POSITION = re.compile(
    r"\b(?:inputs?|texts?|contents?|documents|sentences|example)"
    r"(?:\[|\.|['\"], (?:'list\[str\]', )?|(?: item| element)? (?:at )?(?:index|id) )(\d{1,4})\b"
)


def may_concern_one_text(error: NanoGPTError) -> bool:
    """Return whether one of the request's texts can be the reason for an error, by code, parameter and message."""
    if not isinstance(error, StatusError) or isinstance(error, RequestTooLargeError):
        return isinstance(error, (ReplyError, RequestTooLargeError))
    words = error.detail.lower()
    if _ACCOUNT_IS_CLOSED.search(words):
        return False
    by_code = _CONCERNS_ONE_TEXT.get((error.code or "").lower())
    if by_code is not None:
        return by_code
    if isinstance(error, BadRequestError):
        return error.status in _STATUSES and _may_be_about_a_text((error.param or "").lower(), words)
    if isinstance(error, PermissionDeniedError):
        return _RULES.search(words) is not None
    return isinstance(error, ServerError)  # a text can crash the host


def _may_be_about_a_text(param: str, words: str) -> bool:
    if param:
        return is_text_parameter(param) or _POSITION.search(param) is not None
    if _TEXTS.search(words) or _RULES.search(words):
        return True
    return not (_OTHERS.search(words) or names_other_parameter(words))


def named_position(error: BaseException, count: int) -> int | None:
    """Return the position of the text that an error names, as ``input[3]`` does, counted from 0.

    Return None if it names none, or one of more than the ``count`` texts: some services count from 1.
    """
    if not isinstance(error, StatusError):
        return None
    found = _POSITION.search((error.param or "").lower()) or _POSITION.search(error.detail.lower())
    position = int(found.group(1)) if found else count
    return position if position < count else None


def add_position(error: StatusError, index: int, position: int | None) -> None:
    """Add to an error that names a text by its position in the request the position in the caller's list.

    ``position`` is that position, and None for a text of another call; ``index`` is the one in the request.
    """
    if position is None:
        error.message += " It is a text of another call that shared the request."
        return
    error.positions = (position,)
    if position != index:
        error.message += f" In this call it is the text at position {position} (counted from 0)."

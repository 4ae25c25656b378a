"""Recognises errors about the size of a request: too many tokens, too long a text, too many items.

Hosts behind NanoGPT report the same problem with different status codes (400, 413, 422) and words. Smaller requests
cure only these errors. Any other error must not match: its request would be sent again, and may be billed twice.
"""

from __future__ import annotations

import re

_SIZE_CODES = frozenset(
    {
        "context_length_exceeded",  # NanoGPT, OpenAI, Groq
        "array_above_max_length",  # OpenAI: too many items
        "string_above_max_length",  # OpenAI: too many characters
        "max_tokens_per_request",  # OpenAI: 300,000 tokens in one request
        "model_context_window_exceeded",  # Z.ai
        "request_too_large",  # Anthropic
        "tokens_limit_reached",  # GitHub Models
    }
)

# Short parts of the messages of real hosts, in lower case; the comment names hosts that send them.
_HOST_MESSAGES = (
    # Total or context length
    r"maximum context length",  # OpenAI, vLLM, SGLang, Together, DeepSeek, OpenRouter, SiliconFlow
    r"context.?(?:length|window|size)\b.{0,40}\bexceed",  # MiniMax, LiteLLM
    r"exceed\w*\b.{0,40}\bcontext.?(?:length|window|size|limit)",  # Ollama, llama.cpp, Anthropic
    # vLLM, LM Studio, llama.cpp
    r"(?:longer|greater|larger) than the (?:model'?s )?(?:max(?:imum)? )?(?:context|model) ?(?:length|window|size)",
    r"keep the first \d+ tokens when context",  # LM Studio
    r"(?:input|prompt|messages?) token length must be",  # Qwen (DashScope)
    r"tokens of image and text exceed",  # Volcengine
    r"configured context size",  # DwarfStar
    r"max(?:imum)? prompt length",  # xAI
    r"prompt (?:is )?too long|prompt 超长",  # Anthropic, Ollama; Zhipu (1261)
    r"reduce (?:the length of )?(?:the|your) (?:messages|input|prompt)",  # Groq, vLLM
    r"exceeded model token limit",  # Moonshot
    r"input token count\b.{0,60}\bexceed",  # Gemini
    r"too many input tokens|input is too long",  # Bedrock, Mistral
    r"expected maxlength: \d+, actual",  # Bedrock with Cohere's models
    # Tokens or characters of one text
    r"max(?:imum)? input length",  # OpenAI, Azure
    r"range of input length should be|input length should be \[",  # Qwen (DashScope)
    r"\binputs?\W{1,3}must have less than [\d,]+ (?:tokens|characters)",  # TEI, SiliconFlow, Together
    r"`?inputs`? tokens \+ `?max_new_tokens`? must be",  # Together, TGI
    r"input length is larger than the largest allowed",  # Jina
    r"physical batch size",  # llama.cpp
    # Tokens of all texts of one request
    r"max(?:imum)? (?:request size is )?[\d,]+ tokens per request",  # OpenAI, Azure
    r"max allowed tokens per submitted batch",  # Voyage
    r"too many tokens|total number of tokens\b.{0,40}\bcannot exceed",  # Cohere, Mistral
    r"request payload size exceeds",  # Gemini
    # Items of one request
    r"batch size\b.{0,40}(?:>|exceed|larger|greater|too large|max|limit|at most)",  # TEI, SiliconFlow, Qwen, Voyage
    r"max(?:imum)?(?: allowed)? batch size",  # TEI, SiliconFlow
    r"total number of texts must be at most",  # Cohere
    r"input list can contain at most",  # Jina
    r"at most \d+ requests can be in one batch",  # Gemini
    r"数组最大不得超过",  # Zhipu (1214)
    r"(?:输入|文本|长度|tokens?).{0,12}(?:超过|超出|超长|过长)",  # hosts that answer in Chinese
)
# For hosts that are not in the list: a limit, and in the same sentence a noun for tokens, length or items.
_LIMIT = (
    r"(?:too many|too large|too long|at most|up to|(?:no )?more than (?![01]\b)|(?:less|fewer|longer) than"
    r"|(?:larger|greater) than|\bmax(?:imum)?\b|exceed\w*|over the limit|\blimit(?:ed)?\b|<=|>)"
)
_COUNTED = (
    r"(?<![^\W_])(?:tokens|token (?:limit|count|length)|items|elements|strings|inputs|texts|documents|sentences"
    r"|characters|batch.size|(?:context|input|prompt|text|message|sequence) (?:length|size|window))\b"
)
_TOO_LONG = (
    r"\b(?:input|prompt|text|message|document|sequence|string|array|list|batch|request|body|payload|content|entity)s?\b"
    r"[^.;!?]{0,40}\b(?:too (?:long|large|big)\b|exceeds? (?:the )?(?:limit|max|allowed)|(?:must|may|can) ?not exceed)"
)
_GENERAL = re.compile(rf"{_COUNTED}[^.!?]{{0,60}}{_LIMIT}|{_LIMIT}[^.;!?]{{0,60}}{_COUNTED}|{_TOO_LONG}")
_HOST_MESSAGE = re.compile("|".join(_HOST_MESSAGES))

# Limits of an account, and limits per time.
_OTHER_LIMITS = re.compile(
    r"spending|billing|quota|credit|balance|\baccount|plan\b|rate.?limit"
    r"|(?:per|each|every) (?:second|minute|hour|day|month)|hourly|daily|weekly|monthly|\bafford|organi[sz]ation"
    r"|额度|配额|余额|账户|每[秒分日天月]"
    r"|tokens ?/ ?(?:s|sec|min|minute|h|hour|day)\b|throttl|concurren|simultaneous|\bqueue"
)
# Limits of single parameters. A message that fits no host's must not name one of them.
_OTHER_PARAMETERS = re.compile(
    r"dimension|temperature|top_?[pk]\b|penalt|log_?probs|logit|\bseed\b|\bstop|\btools?\b|tool_|function|metadata"
    r"|\buser\b|\bname\b|image|audio|video|\bfile|schema|\benum\b|encoding|max_?\w*tokens"
    r"|\bmax(?:imum)? (?:new )?tokens (?:must|should|has to|needs? to|cannot|value|parameter|setting|is too)"
    r"|(?:completion|output|new|generated) tokens|to (?:generate|sample|predict)\b|prediction|thinking|reasoning|budget"
    # A lower limit.
    r"|(?:must|should|has to|have to|needs? to) (?:be|have|contain) (?:more|longer|larger|greater) than"
    r"|\bn\b|best_of|header|\burl\b|\bkeys?\b|password|e-?mail|username|identifier|suffix|choices|candidates"
)
# A word with an underscore is the name of a parameter. Names of texts and of their size, and codes, have these parts.
_NAME_PARTS_OF_TEXTS = (
    r"(?:max|num|n|total|model|batch|inputs?|texts?|tokens?|prompt|context|messages?|contents?|documents?|seq|sequence"
    r"|length|len|size|count|limit|ctx|window|too|long|large|exceeded|array|string|list|ids|invalid|request|error)"
)
_OTHER_NAMES = re.compile(rf"(?<!\w)(?=[a-z]+_)(?!(?:{_NAME_PARTS_OF_TEXTS}(?:_|\b))+(?!\w))\w+")
# OpenAI names the parameter in quotes: Invalid 'tools': array too long.
_QUOTED_PARAMETER = re.compile(r"\binvalid ['\"`]([^'\"`]+)['\"`]")
_TEXT_PARAMETER = re.compile(
    r"(?:(?:body|payload|\$)(?:\.| -> ))?(?:inputs?|texts?|prompt|messages|contents?|documents|sentences)"
    r"(?:_tokens|_text)?(?:\[\d+\])?(?:\.(?:contents?|text)(?:\[\d+\](?:\.text)?)?)?"
)


def is_size_error(code: str | None, param: str | None, message: str, *, known_only: bool = False) -> bool:
    """Return whether an error is about tokens, length or number of the texts of a request.

    With ``known_only``, only codes and messages of known hosts count.
    """
    words = message.lower()
    quoted = _QUOTED_PARAMETER.search(words)
    named = (param or "").lower() or (quoted.group(1) if quoted else "")
    # vLLM names max_tokens if the messages and the answer together are over the context length.
    fills_context = named in ("max_tokens", "max_completion_tokens") and "context length" in words
    if named and not fills_context and not is_text_parameter(named):
        return False
    if code in _SIZE_CODES:
        return True
    if _OTHER_LIMITS.search(words):
        return False
    if _HOST_MESSAGE.search(words):
        return True
    return not known_only and _GENERAL.search(words) is not None and not names_other_parameter(words)


def is_text_parameter(name: str) -> bool:
    """Return whether a parameter that a service names holds the texts, such as ``input`` or ``input[3]``."""
    return _TEXT_PARAMETER.fullmatch(name.lower()) is not None


def names_other_parameter(words: str) -> bool:
    """Return whether a message, in lower case, names a parameter that holds no texts."""
    return bool(_OTHER_PARAMETERS.search(words) or _OTHER_NAMES.search(words))

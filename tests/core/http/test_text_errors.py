"""Errors that one of a request's texts can cause, and errors that concern all calls of a shared request."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from nanogpt_core import errors
from nanogpt_core.http.text_errors import _CONCERNS_ONE_TEXT, may_concern_one_text, named_position

# Status, message, code, parameter.
ABOUT_ALL = [
    (400, "dimensions must be at most 1024, fewer than requested", None, None),
    (400, "This model does not support dimensions.", None, None),
    (400, "Invalid value.", "invalid_parameter_value", "dimensions"),
    (400, "encoding_format must be float", None, None),
    (422, "Field required", None, "model"),
    (400, "Unknown parameter: 'input_type'.", None, None),
    (400, "Unrecognized request argument supplied: truncate", None, None),
    (400, "Extra fields are not permitted", None, None),
    (400, "The embeddings operation does not work with the specified model", "OperationNotSupported", None),
    (400, "Access denied, please make sure your account is in good standing.", "Arrearage", None),
    (400, "Insufficient credits", None, None),
    (400, "Your organization must be verified", None, None),
    (400, "No preferred provider is available.", "no_fallback_available", None),
    (400, "This model is not available in your region", None, None),
    (400, "Your account was suspended for inputs that violate our content policy", "content_policy_violation", None),
    (403, "This API key has been disabled", None, None),
    (403, "Model not allowed.", "model_not_allowed", None),
    (405, "Method not allowed", None, None),
    (409, "Already processed.", None, None),
    (415, "Unsupported Content-Encoding.", "unsupported_content_encoding", None),
    (301, "", None, None),
    (503, "All providers failed.", "all_fallbacks_failed", None),
]
ABOUT_ONE_TEXT = [
    (400, "Bad request", None, None),
    (400, "", None, None),
    (400, "forbidden words", "content", None),
    (400, "input cannot be an empty string", None, None),
    (400, "'$.input' is invalid", "invalid_request_error", None),
    (400, "Invalid value.", "invalid_parameter_value", "input"),
    (400, "Invalid value.", None, "input[3]"),
    (422, "Input should be a valid string (['body', 'input', 3])", None, "input"),
    (400, "The model cannot embed this text", None, None),
    (400, "Output data may contain inappropriate content.", "DataInspectionFailed", None),
    (400, "The request was rejected by our safety system", "content_policy_violation", None),
    (403, "Your input was flagged", None, None),
    (403, "This request requires moderation and was flagged for: violence", None, None),
    (451, "Unavailable for legal reasons", None, None),
    (500, "", None, None),
    (502, "Bad gateway", None, None),
]
KINDS = {403: errors.PermissionDeniedError, 500: errors.ServerError, 502: errors.ServerError, 503: errors.ServerError}


def error_of(status, message, code=None, param=None):
    return KINDS.get(status, errors.BadRequestError)("no", status=status, detail=message, code=code, param=param)


@pytest.mark.parametrize("answer", ABOUT_ALL, ids=str)
def test_error_that_no_text_can_cause_concerns_all_calls(answer):
    assert not may_concern_one_text(error_of(*answer))


@pytest.mark.parametrize("answer", ABOUT_ONE_TEXT, ids=str)
def test_error_that_a_text_can_cause_may_concern_one_call(answer):
    assert may_concern_one_text(error_of(*answer))


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.AuthenticationError, 401),
        (errors.InsufficientBalanceError, 402),
        (errors.ModelNotFoundError, 404),
        (errors.RateLimitError, 429),
        (errors.QuotaExceededError, 429),
    ],
)
def test_kinds_of_errors_that_no_text_can_cause(kind, status):
    assert not may_concern_one_text(kind("no", status=status, detail="your input was refused"))


@pytest.mark.parametrize("error", [errors.RequestTimeoutError("no"), errors.LimitsUnavailableError("no")])
def test_error_without_an_answer_concerns_all_calls(error):
    assert not may_concern_one_text(error)


def test_invalid_vector_and_size_may_concern_one_call():
    assert may_concern_one_text(errors.ReplyError("no"))
    assert may_concern_one_text(errors.RequestTooLargeError("no", status=413))


@settings(max_examples=50)
@given(
    code=st.sampled_from(sorted(_CONCERNS_ONE_TEXT)),
    message=st.text(max_size=40).filter(lambda text: "account" not in text.lower()),
    param=st.sampled_from([None, "input", "model"]),
    upper=st.booleans(),
)
def test_known_code_decides_whatever_the_message_says(code, message, param, upper):
    answer = (400, message, code.upper() if upper else code, param)
    assert may_concern_one_text(error_of(*answer)) is _CONCERNS_ONE_TEXT[code]


@settings(max_examples=50)
@given(
    message=st.text(max_size=40),
    param=st.sampled_from(["model", "dimensions", "encoding_format", "user", "truncate", "temperature"]),
    status=st.sampled_from([400, 422]),
)
def test_parameter_without_texts_concerns_all_calls_whatever_the_message_says(message, param, status):
    assert not may_concern_one_text(error_of(status, message, None, param))


@settings(max_examples=50)
@given(
    position=st.integers(0, 70),
    form=st.sampled_from(
        [
            "input[{}]",
            "Invalid '$.input[{}]': too long",
            "input.{} is bad",
            "bad (['body', 'input', {}])",
            "Input should be a valid string (['body', 'input', 'list[str]', {}])",
            "text index {}",
            "Input id {} has 9000 tokens, exceeding max 8192 tokens.",
            "The example at index {} in your batch has too many tokens",
        ]
    ),
    in_param=st.booleans(),
)
def test_named_position_is_read_from_parameter_and_message(position, form, in_param):
    named = form.format(position)
    error = error_of(400, "no", None, named) if in_param else error_of(400, named)
    assert named_position(error, 64) == (position if position < 64 else None)


@settings(max_examples=50)
@given(st.text(alphabet="inputexs [].,'0123456789", max_size=30))
def test_any_message_names_a_position_within_the_request_or_none(message):
    position = named_position(error_of(400, message), 8)
    assert position is None or 0 <= position < 8

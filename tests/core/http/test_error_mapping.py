"""Error replies of the service and of the hosts behind it, and the errors that they become."""

import asyncio
import json
import re
from datetime import datetime, timedelta, timezone

import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanogpt_core import Embedder, errors
from nanogpt_core.chat.client import make_async_chat_client, make_chat_client, map_sdk_errors
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.error_body import as_sentence
from nanogpt_core.http.error_mapping import map_error
from nanogpt_core.http.sdk import httpx

BASE = "https://nano-gpt.com/api/v1"


def mapped(status, body, url=f"{BASE}/embeddings", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = httpx.Response(status, content=content, headers=headers, request=httpx.Request("POST", url))
    error = openai.APIStatusError("no", response=response, body=None)
    return map_error(error, "nano-gpt.com", 60.0)


def body(message, code=None, param=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


# --- words about size ---

# One message of each host, as public issues and sources report it: (host, status, message).
SIZE_MESSAGES = [
    ("OpenAI", 400, "Invalid 'input[1]': maximum input length is 8192 tokens."),
    ("OpenAI", 400, "Invalid 'input': maximum request size is 300000 tokens per request."),
    ("OpenAI", 400, "Requested 319487 tokens, max 300000 tokens per request"),
    (
        "OpenAI",
        400,
        "Invalid 'input': array too long. Expected an array with maximum length 2048, but got 2049 instead.",
    ),
    (
        "OpenAI",
        400,
        (
            "This model's maximum context length is 8192 tokens, however you requested 8610 tokens (8610 in your "
            "prompt; 0 for the completion). Please reduce your prompt; or completion length."
        ),
    ),
    (
        "OpenAI chat with tools",
        400,
        (
            "This model's maximum context length is 16385 tokens. However, your messages resulted in 17000 tokens "
            "(16000 in the messages, 1000 in the functions). Please reduce the length of the messages or functions."
        ),
    ),
    (
        "Qwen",
        400,
        (
            "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger "
            "than 10.: input.contents"
        ),
    ),
    ("Qwen", 400, "InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]"),
    ("Groq", 400, "Please reduce the length of the messages or completion."),
    (
        "Groq",
        413,
        (
            "Request too large for model `x` in organization `org` service tier `on_demand` on tokens per minute "
            "(TPM): Limit 6000, Requested 7222, please reduce your message size and try again."
        ),
    ),
    (
        "Together",
        422,
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2019 `inputs` "
            "tokens and 30 `max_new_tokens`"
        ),
    ),
    ("Together", 422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 1244"),
    (
        "vLLM",
        400,
        (
            "This model's maximum context length is 512 tokens. However, you requested 1451 tokens in the input for "
            "embedding generation. Please reduce the length of the input."
        ),
    ),
    ("vLLM", 400, "The decoder prompt (length 5951) is longer than the maximum model length of 4096."),
    (
        "vLLM",
        400,
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 8192 "
            "tokens and your request has 100 input tokens (9000 > 8192 - 100)."
        ),
    ),
    ("TEI", 413, "Input validation error: `inputs` must have less than 512 tokens. Given: 534"),
    ("TEI", 413, "Input validation error: `inputs` must have less than 32000 characters. Given: 67337"),
    ("TEI", 422, "batch size 65 > maximum allowed batch size 32"),
    ("SiliconFlow", 400, "input batch size 100 > maximum allowed batch size 64"),
    ("SiliconFlow", 413, "input must have less than 512 tokens"),
    (
        "Jina",
        400,
        (
            "[RID: ec4] Validation error: 'body -> jina-embeddings-v4' Each input list can contain at most 512 items.. "
            "Field errors: : Invalid value"
        ),
    ),
    ("Jina", 400, "input length is larger than the largest allowed size 2048"),
    ("Cohere", 400, "invalid request: total number of texts must be at most 96 - received 131"),
    (
        "Cohere",
        400,
        (
            "too many tokens: total number of tokens (prompt and prediction) cannot exceed 2048 - received 6354. "
            "Try using a shorter prompt or a smaller max_tokens value."
        ),
    ),
    (
        "Voyage",
        400,
        (
            "Request to model 'voyage-4-large' failed. The max allowed tokens per submitted batch is 120000. Your "
            "batch has 187609 tokens after truncation."
        ),
    ),
    ("Voyage", 400, "The batch size limit is 128. Your batch size is 131."),
    ("Zhipu", 400, "input数组最大不得超过64条"),
    ("Mistral", 400, "Too many tokens in batch. Max is 16384 got 17555"),
    ("Mistral", 400, "Input is too long. Max length is 8192 got 10970"),
    ("Gemini", 400, "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch"),
    ("Gemini", 400, "The input token count (2845475) exceeds the maximum number of tokens allowed (1048576)."),
    ("Gemini", 400, "Request payload size exceeds the limit: 4194304 bytes."),
    ("Bedrock", 400, "Input is too long for requested model."),
    ("Bedrock", 400, "Malformed input request: expected maxLength: 2048, actual: 2459, please reformat your input."),
    ("xAI", 400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
    ("Anthropic", 400, "prompt is too long: 210000 tokens > 200000 maximum"),
    ("Moonshot", 400, "Your request exceeded model token limit: 8192 (requested: 8310)"),
    ("MiniMax", 400, "invalid params, context window exceeds limit (2013)"),
    ("Ollama", 400, "the input length exceeds the context length"),
    ("Ollama", 400, "prompt too long; exceeded max context length by 12 tokens"),
    ("llama.cpp", 400, "the request exceeds the available context size. try increasing it"),
    ("llama.cpp", 400, "input (600 tokens) is too large to process. increase the physical batch size (current: 512)"),
    ("llama.cpp", 500, "input is too large to process. increase the physical batch size"),
    ("LM Studio", 400, "The number of tokens to keep from the initial prompt is greater than the context length."),
    (
        "LM Studio",
        400,
        (
            "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with "
            "context length of only 4096 tokens, which is not enough."
        ),
    ),
    ("Qwen", 400, "messages token length must be in (0, 128000], but get 200001."),
    ("Volcengine", 400, "Total tokens of image and text exceed max message tokens. Request id: 021"),
    ("another host", 400, "The prompt is longer than the model's maximum context length"),
    ("another host", 400, "input_tokens exceed the limit of 8192 (invalid_request_error)"),
    ("another host", 400, "the batch_size exceeds 64"),
    ("another host", 400, "prompt_tokens: 9000 tokens, more than the limit of 8192"),
    ("another host", 400, "too many inputs in one request"),
    ("another host", 400, "You may send up to 64 texts."),
    ("another host", 400, "You provided 100 documents; the limit is 64"),
    ("another host", 400, "Input array must contain no more than 96 elements"),
    ("another host", 400, "messages exceed the model's token limit"),
    ("another host", 400, "输入长度超过限制"),
    ("another host", 400, "tokens 数量超过限制 8192"),
    ("another host", 400, "Text exceeds max length"),
    ("another host", 400, "`input` exceeds the allowed size"),
    ("another host", 400, "messages: total length 300000 exceeds limit 200000"),
    ("another host", 400, "length of input must not exceed 10"),
    ("another host", 400, "Request entity too large"),
]


@pytest.mark.parametrize(("host", "status", "message"), SIZE_MESSAGES, ids=lambda value: str(value)[:40])
def test_messages_of_real_hosts_about_size_are_too_large(host, status, message):
    for answer in (body(message), {"message": message}, {"detail": message}, {"error": message}):
        assert type(mapped(status, answer)) is errors.RequestTooLargeError, host


@pytest.mark.parametrize("code", ["context_length_exceeded", "array_above_max_length", "max_tokens_per_request"])
@pytest.mark.parametrize("param", [None, "input", "messages", "input[3]", "messages[0].content"])
def test_codes_about_size_are_too_large(code, param):
    assert type(mapped(400, body("no", code, param))) is errors.RequestTooLargeError


@pytest.mark.parametrize("param", ["input_tokens", "input_text", "max_tokens", "max_completion_tokens"])
def test_parameters_that_vllm_names_are_too_large(param):
    message = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
    assert type(mapped(400, body(message, 400, param))) is errors.RequestTooLargeError
    assert type(mapped(400, body("max_tokens must be at least 1", 400, "max_tokens"))) is errors.BadRequestError


@pytest.mark.parametrize("cut", [rb"\ud83d", b"\n", b"\xf0\x9f"], ids=["half a pair", "line break", "half a character"])
def test_error_body_that_is_no_strict_json_is_read(cut):
    error = mapped(400, b'{"error": {"message": "no' + cut + b' tea", "code": "context_length_exceeded"}}')
    assert type(error) is errors.RequestTooLargeError
    assert str(error).encode().startswith(b"The service answered 400 (context_length_exceeded): no")


def test_fastapi_list_of_items_is_too_large():
    item = {"type": "too_long", "loc": ["body", "input"], "msg": "List should have at most 64 items, not 65"}
    assert type(mapped(422, {"detail": [item]})) is errors.RequestTooLargeError
    assert type(mapped(422, {"detail": [{**item, "loc": ["body", "stop"]}]})) is errors.BadRequestError


OTHER_MESSAGES = [
    "temperature must be at most 2",
    "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
    "top_p must be less than 1",
    "top_logprobs must be at most 20",
    "n must be less than or equal to 128",
    "dimensions must be at most 1024",
    "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
    "Range of max_tokens should be [1, 8192]",
    "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 132.",
    "Invalid 'stop': array too long. Expected an array with maximum length 4, but got 5.",
    "Invalid 'user': string too long. Expected a string with maximum length 64, but got 65.",
    "Invalid 'messages[3].tool_calls[0].id': string too long. Expected a string with maximum length 40, but got 41.",
    "stop: at most 4 items",
    "'stop' must be an array of at most 4 strings",
    "input must have more than 0 characters",
    "input text must be longer than 3 characters",
    "You exceeded your monthly token limit",
    "Daily token limit exceeded",
    "organization tokens limit exceeded",
    "每月 tokens 超过限制",
    "Input should be less than or equal to 2",
    "Extra inputs are not permitted",
    "Function name too long: at most 64 characters",
    "response_format schema too large",
    "logit_bias has more than 300 items",
    "the image is too large: at most 20 MB",
    "thinking budget must be at most 32768 tokens",
    "thinkingBudget must be at most 24576 tokens",
    "reasoning budget exceeds the limit of 1024 tokens",
    "budget_tokens exceeds the limit of 1024 tokens",
    "Max tokens must be greater than 16",
    "The max tokens value exceeds the limit of 4096 tokens",
    "maxOutputTokens must be at most 8192 tokens",
    "max_completion_tokens must be at most 16384 tokens",
    "max_tokens is larger than the model supports",
    "Number of tokens to generate exceeds limit",
    "at most 4096 new tokens",
    "safety_identifier: string too long",
    "safety identifier: string too long",
    "prompt_cache_key too long: at most 64 characters",
    "prompt_cache_key: string too long",
    "The prediction content is too long",
    "stop_sequences: each string must be at most 64 characters",
    "stopSequences: at most 4 items",
    "stop must have less than 20 characters",
    "user_id must be at most 64 characters",
    "metadata values must be at most 512 characters",
    "tool name must be at most 64 characters",
    "top_logprobs: list too long",
    "logit_bias: list too long",
    "service_tier: string too long",
    "Password must have at most 20 characters",
    "Password must have less than 20 characters",
    "maximum number of concurrent inputs exceeded",
    "You may send up to 60000 tokens each minute",
    "limit of 500 tokens/s exceeded",
    "You exceeded your current quota",
    "Your account has exceeded its spending limit",
    "exceeds your plan",
    "Rate limit: at most 60 inputs per minute",
    "The value exceeds the maximum",
    "Failed to deserialize the JSON body",
    "This model does not support tools",
    "'input' must be a string or an array of strings",
    "Unsupported content part",
    "",
]


@pytest.mark.parametrize("message", OTHER_MESSAGES, ids=lambda value: value[:40])
def test_other_messages_stay_bad_requests(message):
    assert type(mapped(400, body(message))) is errors.BadRequestError


@pytest.mark.parametrize(
    "param", ["temperature", "tools", "stop", "user", "max_tokens", "messages[1].tool_calls[0].id"]
)
def test_size_code_of_another_parameter_stays_a_bad_request(param):
    answer = body("array too long: at most 4 items", "array_above_max_length", param)
    assert type(mapped(400, answer)) is errors.BadRequestError


# Words that speak of tokens, length or number of items. A message without them is not about size.
SPEAKS_OF_SIZE = re.compile(
    r"token|item|input|text|document|sentence|character|batch|context|prompt|message|sequence|string|array|list|request"
    r"|body|payload|content|length|long|数组|prompt|条|base64|encoding_format",
    re.IGNORECASE,
)
PARAMETER = st.sampled_from(
    ["temperature", "top_p", "n", "seed", "the value", "presence_penalty", "it", "user", "stop"]
)
COMPLAINT = st.sampled_from(
    ["must be at most 2", "is too large", "exceeds the maximum of 2", "must be less than 2", "is limited to 64", "> 2"]
)
SENTENCES = st.lists(st.builds("{} {}".format, PARAMETER, COMPLAINT), min_size=1, max_size=3).map(". ".join)
NOT_ABOUT_SIZE = (SENTENCES | st.text(max_size=60)).filter(lambda text: not SPEAKS_OF_SIZE.search(text))
CODE = st.sampled_from([None, "invalid_parameter_value", "invalid_request", "bad_request", 1214, 20015, "20042"])
PARAM = st.sampled_from([None, "", "input", "temperature", "messages", "model"])


@settings(max_examples=300)
@given(NOT_ABOUT_SIZE, CODE, PARAM, st.sampled_from([400, 422]))
@example("temperature must be at most 2", None, None, 400)
def test_400_without_words_about_size_is_never_too_large(message, code, param, status):
    error = mapped(status, body(message, code, param))
    assert not isinstance(error, errors.RequestTooLargeError)
    assert not error.transient


@pytest.fixture(scope="module")
def refusing(faults):
    """A server that answers each request with the current ``answer``; module scope, for many examples."""
    current = {}
    with faults.FaultServer(lambda _: faults.response(current["answer"], current["status"])) as server:
        server.current = current
        yield server


@settings(max_examples=60)
@given(NOT_ABOUT_SIZE, CODE, PARAM, st.sampled_from([400, 422]), st.booleans())
@example("temperature must be at most 2", None, None, 400, False)
@example("temperature must be at most 2", None, None, 400, True)
def test_400_without_words_about_size_causes_one_request(refusing, message, code, param, status, is_async):
    refusing.clear()
    refusing.current.update(answer=body(message, code, param), status=status)
    embedder = Embedder("lab/unlisted", api_key=refusing.api_key, base_url=refusing.base_url, batch_size=50)
    texts = [f"text {number}" for number in range(50)]
    with pytest.raises(errors.StatusError) as caught:
        asyncio.run(embedder.aembed(texts)) if is_async else embedder.embed(texts)
    assert not isinstance(caught.value, (errors.RequestTooLargeError, errors.TextTooLongError))
    assert len(refusing.requests) == 1


# --- chat ---


@pytest.fixture(params=["sync", "async"])
def ask_chat(request):
    """Ask for a chat answer at a base URL; return the error."""

    def ask(server, base_url=None, headers=None):
        endpoint = Endpoint.resolve(api_key=server.api_key, base_url=base_url or server.base_url, headers=headers)
        session = ChatSession(endpoint)
        options = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}

        async def run():
            await make_async_chat_client(session).chat.completions.create(**options)

        with pytest.raises(errors.NanoGPTError) as caught, map_sdk_errors(session):
            make_chat_client(session).chat.completions.create(**options) if request.param == "sync" else asyncio.run(
                run()
            )
        return caught.value

    return ask


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("temperature must be at most 2", errors.BadRequestError),
        ("Range of input length should be [1, 202745]", errors.RequestTooLargeError),
        ("Please reduce the length of the messages or completion.", errors.RequestTooLargeError),
    ],
)
def test_chat_uses_the_same_words_about_size(ask_chat, scripted, faults, message, kind):
    server = scripted(faults.response(body(message), 400))
    error = ask_chat(server)
    assert type(error) is kind
    assert ("context window" in error.remedy) is (kind is errors.RequestTooLargeError)
    assert len(server.requests) == 1


def test_header_values_echoed_by_the_service_are_redacted_in_chat(ask_chat, scripted, faults):
    answer = faults.response(body("no token gateway-secret-1"), 401)
    error = ask_chat(scripted(answer), headers={"X-Gateway-Token": "gateway-secret-1"})
    assert "no token" in str(error)
    assert "gateway-secret-1" not in "".join([str(error), str(vars(error)), str(error.__cause__)])


# --- models that do not exist ---

NO_MODEL = [
    body("Invalid model specified", None, "model"),  # the reference page's example
    body("text-embedding-3-smal is not a valid model ID"),  # OpenRouter
    body("Invalid model: text-embedding-3-smal", "invalid_model"),  # Mistral
    body("Model Not Exist"),  # DeepSeek
    {"code": 20012, "message": "Model does not exist. Please check it carefully.", "data": None},  # SiliconFlow
    body("模型不存在，请检查模型代码。", "1211"),  # Zhipu
    body("no", "model_not_found"),
    body("The model `x` has been decommissioned and is no longer supported.", "model_decommissioned"),
    body("This model is no longer available."),
    body("Model text-embedding-3-smal is not supported"),
]


@pytest.mark.parametrize("answer", NO_MODEL, ids=str)
@pytest.mark.parametrize("status", [400, 404])
def test_unknown_model_is_not_found_with_near_names(embed, scripted, faults, answer, status):
    server = scripted(faults.response(answer, status))
    with pytest.raises(errors.ModelNotFoundError) as caught:
        embed(server.embedder("text-embedding-3-smal", max_retries=3), ["a", "b"])
    assert "text-embedding-3-small" in caught.value.remedy
    assert not caught.value.wrong_base_url
    assert len(server.requests) == 1


def test_unknown_chat_model_has_the_remedy_of_chat(ask_chat, scripted, faults):
    error = ask_chat(scripted(faults.response(NO_MODEL[0], 400)))
    assert type(error) is errors.ModelNotFoundError
    assert "suffixes" in error.remedy


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("This model does not support tools", None),
        ("Function calling with model x is not supported", None),
        ("The model is not supported with tools", None),
        ("'model' is required and must be a string.", "model"),
        ("the model name is too long", "model"),
        ("invalid model parameter: temperature", None),
        ("The user was not found", None),
    ],
)
def test_other_messages_about_models_stay_bad_requests(message, param):
    assert type(mapped(400, body(message, None, param))) is errors.BadRequestError


# --- a wrong base URL ---

MODEL_RAILWAYS = b"<html>Model railways. 404: the model was not found, or this page.</html>"
NO_PATH = [
    (404, b"<html>404: This page could not be found</html>"),
    (404, MODEL_RAILWAYS),
    (404, {"detail": "Not Found"}),
    (405, b""),
]
WRONG = ["", "/api", "/dashboard"]


@pytest.mark.parametrize(("status", "answer"), NO_PATH, ids=str)
@pytest.mark.parametrize("path", WRONG)
def test_wrong_base_url_is_named_with_its_right_end(embed, scripted, faults, path, status, answer):
    server = scripted(faults.response(answer, status))
    base = server.base_url.removesuffix("/api/v1") + path
    with pytest.raises(errors.StatusError, match="base URL looks wrong") as caught:
        embed(Embedder("text-embedding-3-small", api_key=server.api_key, base_url=base, max_retries=3), ["a"])
    assert base in str(caught.value)
    assert "should end in /api/v1" in str(caught.value)
    assert "Did you mean" not in str(caught.value)
    assert len(server.requests) == 1


def test_wrong_base_url_of_chat_is_named(ask_chat, sandbox):
    error = ask_chat(sandbox, sandbox.root_url)
    assert isinstance(error, errors.ModelNotFoundError)
    assert error.wrong_base_url
    assert "should end in /api/v1" in error.remedy


def test_base_url_without_api_v1_of_the_sandbox_is_named(embed, sandbox):
    with pytest.raises(errors.ModelNotFoundError, match="should end in /api/v1") as caught:
        embed(Embedder(api_key=sandbox.api_key, base_url=sandbox.root_url), ["a"])
    assert "text-embedding-3" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "wrong"),
    [
        ("https://nano-gpt.com/api/v1", False),
        ("https://nano-gpt.com/api/paid/v1", False),
        ("https://nano-gpt.com/api/subscription/v1", False),
        ("https://nano-gpt.com/api/v1legacy", False),
        ("https://api.nano-gpt.com/api/v1", False),
        ("https://nano-gpt.com/v1", True),
        ("https://nano-gpt.com/api/v1/v1", True),
        ("https://nano-gpt.com", True),
        ("https://gateway.example:8443/api", True),
    ],
)
def test_base_urls_that_look_right(base, wrong):
    error = mapped(404, {"detail": "Not Found"}, f"{base}/embeddings")
    assert error.wrong_base_url is wrong
    assert ("looks wrong" in error.remedy) is wrong
    assert not mapped(404, body("gone", "model_not_found"), f"{base}/embeddings").wrong_base_url


def test_page_with_status_404_points_at_the_base_url_also_if_it_looks_right():
    error = mapped(404, MODEL_RAILWAYS, "https://nano-gpt.com/api/v1/embeddings")
    assert error.wrong_base_url
    assert "check the network, and base_url" in error.remedy


def test_page_of_a_proxy_with_status_400_can_say_that_the_request_is_too_large():
    assert type(mapped(400, b"<html>400: Request Entity Too Large</html>")) is errors.RequestTooLargeError


@pytest.mark.parametrize("answer", [{"detail": "Not Found"}, b"<html>404</html>", MODEL_RAILWAYS, b""], ids=str)
@pytest.mark.parametrize("path", ["/v1", "/api/v2", "/api/v1"])
def test_404_of_another_host_that_names_no_model_points_at_the_base_url(embed, scripted, faults, path, answer):
    server = scripted(faults.response(answer, 404))
    base = server.base_url.removesuffix("/api/v1") + path
    with pytest.raises(errors.ModelNotFoundError, match="Check base_url") as caught:
        embed(Embedder("text-embedding-3-smal", api_key=server.api_key, base_url=base), ["a"])
    assert f"{base} may have no /embeddings" in caught.value.remedy
    assert caught.value.wrong_base_url
    assert "text-embedding-3-small" not in str(caught.value)


def test_404_of_another_host_in_chat_points_at_the_base_url(ask_chat, scripted, faults):
    error = ask_chat(scripted(faults.response({"detail": "Not Found"}, 404)))
    assert "api/v1 may have no /chat/completions" in error.remedy


LONG = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
INSIDE = body(LONG, "context_length_exceeded", "messages")
NESTED = [
    {"error": INSIDE},
    {"detail": INSIDE},
    {"error": {"message": json.dumps(INSIDE), "code": 400}},
    {"error": json.dumps(INSIDE)},
    {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(INSIDE)}}},
    {"success": False, "errors": [{"code": 7003, "message": LONG}], "result": None},
    {"code": 1, "msg": LONG, "data": None},
    {"errors": [{"msg": LONG}]},
    {"error_code": 336003, "error_msg": LONG},
]


@pytest.mark.parametrize("document", NESTED, ids=str)
def test_words_of_the_inner_error_are_read(document):
    error = mapped(400, document)
    assert type(error) is errors.RequestTooLargeError
    assert error.detail.endswith(LONG)
    assert "{" not in str(error)


def test_code_and_parameter_of_an_inner_error_are_read():
    error = mapped(400, {"error": {"error": {"message": "no", "code": "model_not_found", "param": "model"}}})
    assert (type(error), error.code, error.param) == (errors.ModelNotFoundError, "model_not_found", "model")


def test_array_of_errors_is_read():
    error = mapped(400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}])
    assert (error.detail, error.code) == ("API key not valid.", "400")
    for empty in ([], [[]], [1], ["no"]):
        assert type(mapped(400, empty)) is errors.BadRequestError


def test_page_in_place_of_a_reply_points_at_the_base_url(embed, scripted, faults):
    server = scripted(faults.response("<!DOCTYPE html><html>Welcome</html>", 200))
    with pytest.raises(errors.DamagedReplyError, match="should end in /api/v1"):
        embed(server.embedder(), ["a"])


# --- codes and statuses of the service today ---

PAYMENT = {
    "error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Payment required."},
    "payment": {"version": 1, "paymentId": "pay_1", "amountUsd": "0.0714", "accepted": []},
    "x402Version": 1,
}


@pytest.mark.parametrize(
    ("answer", "kind", "remedy"),
    [
        ({"error": {"code": 402, "message": "no balance"}}, errors.InsufficientBalanceError, "Add balance"),
        (body("no balance", "insufficient_balance"), errors.InsufficientBalanceError, "Add balance"),
        ({"error": {"status": 401, "message": "no"}}, errors.AuthenticationError, "Check the key"),
    ],
    ids=str,
)
def test_error_with_a_status_in_a_reply_of_status_200_is_mapped(embed, scripted, faults, answer, kind, remedy):
    server = scripted(faults.response(answer, 200))
    with pytest.raises(kind, match=remedy):
        embed(server.embedder(), ["a text"])
    assert len(server.requests) == 1


def test_nested_request_for_payment_names_the_amount():
    error = mapped(402, {"error": {"message": "Payment required", "payment": {"amountUsd": 0.25}}})
    assert "The request needs $0.25." in error.remedy
    assert "saw no key" in error.remedy


def test_request_for_payment_is_an_insufficient_balance():
    error = mapped(402, PAYMENT)
    assert type(error) is errors.InsufficientBalanceError
    assert error.code == "insufficient_quota"
    assert "$0.0714" in error.remedy
    assert "Authorization" in error.remedy
    assert not error.transient


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "model_not_allowed", errors.PermissionDeniedError, "may not use the model"),
        (403, "api_key_origin_not_allowed", errors.PermissionDeniedError, "web origins"),
        (503, "all_fallbacks_failed", errors.ServerError, "Every provider"),
        (400, "no_fallback_available", errors.BadRequestError, "No provider"),
        (503, "no_fallback_available", errors.ServerError, "No provider"),
        (503, "fallback_blocked_for_cache_consistency", errors.ServerError, "stickyProvider"),
        (402, "memory_balance_required", errors.InsufficientBalanceError, ":memory"),
        (402, "webSearch_balance_required", errors.InsufficientBalanceError, ":online"),
        (407, None, errors.PermissionDeniedError, "asks for a login"),
        (409, None, errors.BadRequestError, "in conflict"),
        (415, "unsupported_content_encoding", errors.BadRequestError, "Content-Encoding"),
        (415, "unsupported_media_type", errors.BadRequestError, "Content-Type"),
        (400, "invalid_api_key", errors.AuthenticationError, "Check the key"),
    ],
)
def test_codes_have_a_fitting_class_and_remedy(status, code, kind, words):
    error = mapped(status, body("no", code))
    assert type(error) is kind
    assert words in error.remedy
    assert error.code == code


@pytest.mark.parametrize("code", ["billing_hard_limit_reached", "monthly_limit_exceeded", "weekly_token_limit"])
def test_code_of_a_long_limit_is_an_exhausted_quota(code):
    assert type(mapped(429, body("no", code))) is errors.QuotaExceededError


@pytest.mark.parametrize("code", ["daily_rpd_limit_exceeded", "daily_usd_limit_exceeded"])
@pytest.mark.parametrize("hours", [None, 3])
def test_daily_limits_say_that_they_reset_at_midnight_utc(code, hours):
    headers = {} if hours is None else {"Retry-After": str(hours * 3600)}
    before = datetime.now(timezone.utc)
    error = mapped(429, body("Daily request limit exceeded (1000/1000).", code), **headers)
    assert type(error) is errors.QuotaExceededError
    assert "midnight UTC" in error.remedy
    shown = re.search(r"\((\S+ \S+) UTC\)", error.remedy).group(1)
    moment = datetime.strptime(shown, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
    midnight = (before + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    expected = midnight if hours is None else before + timedelta(hours=hours)
    assert abs(moment - expected) < timedelta(seconds=30)
    assert error.retry_after == (None if hours is None else hours * 3600)


def test_quota_error_that_is_not_daily_does_not_mention_midnight():
    assert "midnight" not in mapped(429, body("no", "insufficient_quota")).remedy


@pytest.mark.parametrize("words", ["Please try again in 14m24s.", "Please retry in 2h."])
def test_daily_limit_with_its_own_time_does_not_mention_midnight(words):
    error = mapped(429, body(f"Rate limit reached on tokens per day (TPD): Limit 100000. {words}"))
    assert isinstance(error, errors.QuotaExceededError)
    assert "midnight" not in error.remedy
    assert "midnight UTC" in mapped(429, body("Rate limit reached on tokens per day (TPD): Limit 100000.")).remedy


@pytest.mark.parametrize("status", [400, 403, 429])
@pytest.mark.parametrize(
    "message",
    [
        "Your credit balance is too low to access the API.",
        "Sorry, your account balance is insufficient",
        "Insufficient credits",
        "You requested up to 65536 tokens, but can only afford 1000",
        "余额不足或无可用资源包,请充值。",
        "You have run out of credits",
        "账户欠费",
        "用户额度不足, 剩余额度: 0.01",
    ],
)
def test_words_about_the_balance_are_an_insufficient_balance(status, message):
    error = mapped(status, body(message))
    assert type(error) is errors.InsufficientBalanceError
    assert not error.transient


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            httpx.ReadTimeout,
            "No complete answer from nano-gpt.com within 60 s (ReadTimeout). Try again, or raise timeout.",
        ),
        (httpx.ConnectTimeout, "No connection to nano-gpt.com within 60 s. Check base_url and the network."),
    ],
)
def test_timeouts_have_a_fitting_remedy(cause, words):
    error = openai.APITimeoutError(httpx.Request("POST", BASE))
    error.__cause__ = cause("late")
    timeout = map_error(error, "nano-gpt.com", 60.0)
    assert type(timeout) is errors.RequestTimeoutError
    assert str(timeout) == words


def test_invalid_key_in_a_400_is_an_authentication_error():
    answer = {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}
    assert type(mapped(400, answer)) is errors.AuthenticationError


@pytest.mark.parametrize("page", [b"<html><h1>400 Bad Request</h1><hr>nginx</html>", b"<!DOCTYPE html>ERR_REQ"])
def test_page_of_a_proxy_with_status_400_does_not_blame_the_arguments(page):
    error = mapped(400, page)
    assert type(error) is errors.BadRequestError
    assert error.remedy.startswith("A firewall or proxy")


def test_page_of_a_firewall_does_not_blame_the_key():
    error = mapped(403, b"\n<!DOCTYPE html><title>Attention Required! | Cloudflare</title>")
    assert type(error) is errors.PermissionDeniedError
    assert error.remedy.startswith("A firewall or proxy")


def test_byte_order_mark_before_an_error_is_ignored(embed, scripted, faults):
    answer = b"\xef\xbb\xbf" + json.dumps(body("no", "insufficient_balance")).encode()
    assert mapped(400, answer).code == "insufficient_balance"
    with pytest.raises(errors.InsufficientBalanceError):
        embed(scripted(faults.response(answer, 200)).embedder(), ["a text"])


NAMES = st.sampled_from(["error", "payment", "amountUsd", "requiredBalance", "code", "param", "message", "detail"])
LEAF = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8)
INNER = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(NAMES, LEAF, max_size=4)
ODD = INNER | st.lists(INNER, max_size=3) | st.dictionaries(NAMES, INNER, max_size=5)


@given(ODD, st.sampled_from([400, 402, 403, 404, 405, 409, 413, 415, 422, 429, 500]))
def test_any_error_document_gives_an_error_of_ours(document, status):
    error = mapped(status, document)
    assert isinstance(error, errors.StatusError)
    assert error.status == status
    assert len(str(error)) < 1500


@pytest.mark.parametrize("end", [".", "...", "\u2026", "!", "?", "\u3002", "\uff01", "\uff1f"])
def test_message_that_ends_a_sentence_gets_no_further_full_stop(end):
    assert as_sentence(f"Wait{end}") == f"Wait{end}"
    assert as_sentence(f"Wait{end} please") == f"Wait{end} please."


@pytest.mark.parametrize(
    ("message", "transient"),
    [
        # Azure
        ("exceeded call rate limit. Please retry after 1 second. See https://aka.ms/oai/quotaincrease", True),
        ("Quota exceeded for quota metric 'Embed requests' and limit 'EmbedRequests per minute'", True),  # Google
        ("You exceeded your current quota, please check your plan. Please retry in 27.9s.", True),  # Gemini
        ("Rate limit reached on tokens per day (TPD): Limit 100000. Please try again in 14m24s.", False),  # Groq
        ("Rate limit reached on tokens per day (TPD): Limit 100000. Please try again in 14.4s.", False),
        ("You exceeded your current quota, please check your plan and billing details.", False),  # OpenAI
        ("Your monthly quota is used up", False),
        ("Weekly/Monthly Limit Exhausted. Your limit will reset at 2026-12-01 00:00:00", False),  # Z.ai
        ("Usage limit reached for 5 hour. Your limit will reset at 2026-11-28 05:00:00", False),
        ("You have exceeded your monthly included credits", False),  # Hugging Face
        ("You are using a Trial key, which is limited to 1000 API calls / month.", False),  # Cohere
        ("You are using a Trial key, which is limited to 40 API calls / minute.", True),
        ("Spending limit of this key reached", False),
        ("weekly token limit reached for this subscription", False),
        ("Subscription limit reached", False),
        ("API key rate limit exceeded", True),
        ("Rate limit reached. Upgrade for $20 per month", True),
        ("Subscription limit: 60 requests/min", True),
        ("Rate limit: 10000 requests per week", False),
        ("Organization rate limit exceeded; see your monthly invoice", True),
        ("You have hit the hard limit of 5 concurrent requests", True),
        ("Concurrent usage limit reached", True),
        ("The usage capacity of this model is reached", True),
        ("You have hit your usage limit for this minute", True),
        ("Usage limit reached: 60 requests a minute", True),
        ("Usage limit of 20 requests/s reached", True),
        ("requests_per_minute: your plan's usage limit is reached", True),
        ("Usage limit reached, try again in 1m30s", True),
        ("Usage limit reached, try again in 500ms", True),
        ("Usage limit reached, try again in 5 minutes", True),
        ("Usage limit reached, try again in 3 days", False),
        ("Too many requests. See https://host.example/docs/usage_limits", True),
        ("Monthly spend cap reached", False),
        ("Rate limit reached on requests per month", False),
    ],
)
def test_quota_of_a_minute_is_a_rate_limit(message, transient):
    error = mapped(429, body(message))
    assert error.transient is transient
    assert type(error) is (errors.RateLimitError if transient else errors.QuotaExceededError)

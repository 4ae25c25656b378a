"""Mutated chat replies and streams of many hosts through both frameworks: right answers, or errors of this project."""

import asyncio
import copy
import json
from itertools import combinations

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_core.exceptions import OutputParserException
from langchain_openai.chat_models.base import OpenAIRefusalError
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from langchain_nanogpt import ChatNanoGPT
from length import usual_or_long
from llama_index_nanogpt import NanoGPT
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.sdk import httpx

# LlamaIndex's own classes use deprecated members; langchain-openai dumps an event with a parsed object in it.
ITS_OWN_WARNING = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecationWarning", "ignore:Pydantic serializer warnings:UserWarning"
)
PROMPT = PromptTemplate("Clean x.")
EXAMPLES = usual_or_long(250, 1000)  # of each framework
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
DETAILS = {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 2}}
PRICING = {"cost": 0.25, "paymentSource": "USD", "inputTokens": 10, "outputTokens": 3}
SIGNATURE = {"google": {"thought_signature": "abc"}}
FILTERED = {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
LOGPROBS = {"content": [{"token": "all", "logprob": -0.5, "bytes": [97], "top_logprobs": []}], "refusal": None}


def call(name="clean", arguments='{"path": "x"}', **more):
    return {"id": "call_a", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


LOOK = call("look", '{"q": "y"}', id="call_b")

# The message, and more fields of its choice and of the reply.
MESSAGES = {
    "openai": ({"content": None, "refusal": None, "annotations": [], "tool_calls": [call(), LOOK]}, {}, {}),
    "refusal": ({"content": None, "refusal": "I can't help with that."}, {}, {}),
    "ollama": ({"content": "", "tool_calls": [{"function": {"index": 0, **call()["function"]}}]}, {}, {}),
    "arguments as an object": ({"content": "", "tool_calls": [call(arguments={"path": "x"})]}, {}, {}),
    "fenced": ({"content": None, "tool_calls": [call(arguments='```json\n{"path": "x"}\n```')]}, {}, {}),
    "unreadable": ({"content": None, "tool_calls": [call(arguments='{"path": "/ho'), LOOK]}, {}, {}),
    "no arguments": ({"content": None, "tool_calls": [call(arguments="")]}, {}, {}),
    "mistral": (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "all of it"},
                {"type": "reference", "reference_ids": [1]},
            ]
        },
        {},
        {},
    ),
    "refusal as a part": ({"content": [{"type": "refusal", "refusal": "no"}]}, {}, {}),
    "image": ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}, {}, {}),
    "azure": ({"content": "all of it"}, FILTERED, {"prompt_filter_results": [{"prompt_index": 0, **FILTERED}]}),
    "deepseek": ({"content": "all of it", "reasoning_content": "hm"}, {"logprobs": LOGPROBS}, {}),
    "kimi": ({"content": "", "reasoning_content": "hm", "tool_calls": [call(id="functions.clean:0")]}, {}, {}),
    "glm": ({"content": "\nall of it", "reasoning_content": "hm"}, {}, {"request_id": "7"}),
    "vllm": (
        {"content": None, "reasoning": "hm", "tool_calls": [call()], "function_call": None},
        {"stop_reason": 1},
        {},
    ),
    "lm studio": ({"content": "all of it", "tool_calls": []}, {}, {"stats": {}, "system_fingerprint": "m"}),
    "groq": ({"content": "all of it"}, {}, {"x_groq": {"id": "r"}, "usage": {**USAGE, "queue_time": 0.1}}),
    "together": ({"content": "all of it", "tool_calls": []}, {"seed": 10**19}, {"prompt": []}),
    "gemini": ({"tool_calls": [call(extra_content=SIGNATURE, id=""), LOOK]}, {}, {}),
    "openrouter": (
        {
            "content": "all of it",
            "reasoning": "hm",
            "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}],
            "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}],
            "tool_calls": [call(function={**call()["function"], "thought_signature": "abc"})],
        },
        {},
        {},
    ),
    "litellm": (
        {
            "content": None,
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            "provider_specific_fields": {"thought_signatures": ["abc"]},
            "tool_calls": [call(), LOOK],
        },
        {},
        {},
    ),
    "old": ({"content": None, "function_call": call()["function"]}, {}, {}),
}


def whole(message, choice, more):
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    one = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, **choice}
    head = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [one]}
    return {**head, "usage": {**USAGE, **DETAILS}, "x_nanogpt_pricing": PRICING, **more}


def chunk(delta, reason=None, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def part(index=0, name=None, arguments=None, **more):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


ENDING = {**chunk({}), "choices": [], "usage": USAGE, "x_nanogpt_pricing": PRICING}
STREAMS = {
    "openai": [
        chunk({"role": "assistant", "content": "", "refusal": None}, usage=None),
        chunk(part(0, "clean", "", id="call_a", type="function"), usage=None),
        chunk(part(0, arguments='{"path"')),
        chunk(part(0, arguments=': "x"}')),
        chunk(part(1, "look", '{"q": "y"}', id="call_b", type="function")),
        chunk({}, "tool_calls"),
        ENDING,
    ],
    "azure": [
        {**ENDING, "usage": None, "prompt_filter_results": [{"prompt_index": 0, **FILTERED}]},
        chunk({"role": "assistant", "content": "all "}),
        chunk({"content": "of it"}, "stop"),
        {**chunk({}), "choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {}, **FILTERED}]},
    ],
    "deepseek": [
        chunk({"role": "assistant", "content": None, "reasoning_content": ""}),
        chunk({"content": None, "reasoning_content": "hm"}),
        chunk({"content": "all of it", "reasoning_content": None}),
        chunk({"content": ""}, "stop", usage={**USAGE, **DETAILS}),
    ],
    "usage in every chunk": [
        chunk({"role": "assistant", "content": "all "}, usage={**USAGE, "completion_tokens": 1, "total_tokens": 11}),
        chunk({"content": "of it"}, usage=USAGE),
        chunk({}, "stop", usage=USAGE, x_nanogpt_pricing=PRICING),
        ENDING,
    ],
    "mistral": [
        chunk({"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        chunk({"content": [{"type": "text", "text": "all of it"}]}),
        chunk({"tool_calls": [call(id="D681PevKs")]}, "tool_calls", usage=USAGE),
    ],
    "gemini": [
        chunk({"tool_calls": [call(index=0, extra_content=SIGNATURE), {**LOOK, "index": 0}]}, "stop", usage=USAGE)
    ],
    "ollama": [
        chunk({"role": "assistant", "content": "", "tool_calls": [call(index=0)]}),
        chunk({"content": ""}, "stop"),
    ],
    "vllm": [
        chunk({"role": "assistant", "content": "", "reasoning": "hm"}),
        chunk(part(0, "clean", id="chatcmpl-tool-1", type="function")),
        chunk(part(0, arguments='{"path": "x"}', id="chatcmpl-tool-2")),
        chunk({"content": ""}, "tool_calls", stop_reason=None),
        ENDING,
    ],
    "kimi": [
        chunk({"role": "assistant", "content": "", "reasoning_content": "hm"}),
        chunk(part(0, "clean", '{"path": ', id="functions.clean:0", type="function")),
        chunk(part(0, arguments='"x"}')),
        {**chunk({}), "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls", "usage": USAGE}]},
    ],
    "openrouter": [
        chunk({"role": "assistant", "content": "", "reasoning": "h", "reasoning_details": [{"text": "h", "index": 0}]}),
        chunk({"reasoning": "m", "reasoning_details": [{"text": "m", "index": 0}, {"data": "x", "index": 1}]}),
        chunk({"reasoning_details": [{"signature": "s", "index": 0}]}),
        chunk(part(0, "clean", '{"path": "x"}', id="call_a")),
        chunk(part(1, "look", '{"q": "y"}', id="call_b")),
        chunk(part(0, extra_content=SIGNATURE)),
        chunk({}, "tool_calls", usage=USAGE),
    ],
    "cumulative arguments": [
        *(chunk(part(0, "clean", '{"path": "x"}'[:end], id="call_a")) for end in (4, 9, 13)),
        chunk({}, "tool_calls"),
    ],
    "answer in another place": [
        {"choices": [{"index": 0, "message": {"content": "all ", "tool_calls": [call()]}, "finish_reason": None}]},
        {"choices": [{"index": 1, "text": "of it", "finish_reason": "stop"}]},
    ],
    "name in pieces": [
        chunk(part(0, "cl", id="call_a")),
        chunk(part(0, "ean", "")),
        chunk(part(0, arguments='{"path": "x"}')),
        chunk({}, "tool_calls"),
    ],
    "unreadable": [
        chunk(part(0, "clean", '{"path": "/ho', id="call_a")),
        chunk(part(0, arguments="me/us")),
        chunk({}, "stop"),
    ],
    "refusal": [
        chunk({"content": None, "refusal": "I can't "}),
        chunk({"refusal": "help."}),
        chunk({}, "stop"),
        ENDING,
    ],
    "groq": [
        chunk({"role": "assistant", "content": "all of it"}, x_groq={"id": "r"}),
        chunk({}, "stop", x_groq={"id": "r", "usage": {**USAGE, "queue_time": 0.1}}),
    ],
    "error": [chunk({"content": "all "}), chunk({}, "error", error={"status": 503, "message": "down"})],
}
ODD = st.sampled_from(
    [None, 0, -1, 1.5, True, "", "x", "{", '{"path": "z"}', [], [None], ["x"], {}, {"type": "x"}, [[]], 10**30]
)


def paths(value, at=()):
    """Return the path of every part of a document."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [path for key, item in items for path in paths(item, (*at, key))]


def mutate(draw, document):
    *parents, last = draw(st.sampled_from(paths(document)))
    parent = document
    for key in parents:
        parent = parent[key]
    way = draw(st.sampled_from(["odd", "missing", "doubled", "moved"]))
    if way == "missing":
        del parent[last]
    elif way == "doubled" and isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    elif way == "moved" and isinstance(parent, list):
        parent.insert(draw(st.integers(0, len(parent))), parent.pop(last))
    else:
        parent[last] = copy.deepcopy(draw(ODD))


@st.composite
def replies(draw):
    """Return ``(streamed, documents, body)`` of a real reply with up to three changes."""
    streamed = draw(st.booleans())
    source = [whole(*row) for row in MESSAGES.values()], list(STREAMS.values())
    documents = copy.deepcopy(draw(st.sampled_from(source[streamed])))
    documents = documents if streamed else [documents]
    for _ in range(draw(st.integers(0, 3))):
        mutate(draw, documents)
        documents = documents or [None]
    if not streamed:
        body = json.dumps(documents[0]).encode()
    else:
        body = "".join(f"data: {json.dumps(one)}\n\n" for one in documents).encode()
        body += draw(st.sampled_from([b"data: [DONE]\n\n", b"", b"data: [DONE]\n\n" + body]))
    if draw(st.integers(0, 9)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    return streamed, documents, body


def strings(value, name):
    """Return all values of the fields ``name`` anywhere in a document, in order."""
    found = []
    if isinstance(value, dict):
        found += [value[name]] if name in value else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return found + [one for item in items for one in strings(item, name)]


def parsed(text):
    """Return the JSON object in a text, even if it is fenced or encoded twice; None if there is none."""
    try:
        value = json.loads(text.strip().removeprefix("```json").removesuffix("```"), strict=False)
    except (ValueError, AttributeError):
        return None
    return parsed(value) if isinstance(value, str) else value if isinstance(value, dict) else None


def written_objects(documents):
    """Return the JSON objects that fragments of arguments make, some of them joined in order."""
    written = [value for value in strings(documents, "arguments") if value is not None]
    texts = [value if isinstance(value, str) else json.dumps(value) for value in written]
    joined = ["".join(some) for count in range(1, len(texts) + 1) for some in combinations(texts, count)]
    if any(text.strip() in ("", "null", '""') for text in texts) or len(texts) < len(strings(documents, "name")):
        joined.append("{}")  # no arguments
    return [found for found in map(parsed, joined) if found is not None]


def check_calls(calls, documents):
    """Check that the model named each tool and wrote its arguments: no text was completed or left out."""
    names = [name for name in strings(documents, "name") if isinstance(name, str)]
    known = {"".join(some) for count in (1, 2, 3) for some in combinations(names, count)}
    objects = written_objects(documents)
    assert len(calls) <= len(names)
    for name, arguments in calls:
        assert name in known
        assert arguments in objects


def check_usage(found, documents):
    """Check that the tokens are those of one usage in the documents, and no sum of several."""
    counts = {name: [n for n in strings(documents, name) if is_count(n)] for name in (*USAGE, *TOKENS_OF_PRICING)}
    prompts = counts["prompt_tokens"] + counts["inputTokens"]
    completions = counts["completion_tokens"] + counts["outputTokens"]
    totals = counts["total_tokens"]
    prompt, completion, total = found
    assert prompt in [*prompts, *(max(0, one - other) for one in totals for other in [0, *completions]), 0]
    assert completion in [*completions, *(max(0, one - other) for one in totals for other in [0, *prompts]), 0]
    assert total in [*totals, prompt + completion]


TOKENS_OF_PRICING = ("inputTokens", "outputTokens")


def is_count(value):
    return type(value) is int and value >= 0


class Clean(BaseModel):
    """A path to clean; a call without readable arguments must not become this one."""

    path: str = "/"


def clean(path: str = "/") -> str:
    """Remove everything below a path."""
    RAN.append(path)
    return path


def look(q: str = "") -> str:
    """Look something up."""
    RAN.append(q)
    return q


RAN = []
DEFAULTS = ("/", "")
TOOLS = [FunctionTool.from_defaults(clean), FunctionTool.from_defaults(look)]


class Host:
    """The next reply, and objects of both frameworks that get it."""

    body, kind = b"", ""


@pytest.fixture(scope="module")
def host():
    """Clients of the caller's own over a host in memory, which sends ``body`` to every request."""
    state = Host()

    def answer(_request):
        return httpx.Response(200, headers={"content-type": state.kind}, content=state.body)

    sync = httpx.Client(transport=httpx.MockTransport(answer))
    asynchronous = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    options = {"api_key": "sk-nano-fuzz", "base_url": "http://127.0.0.1:9/api/v1", "max_retries": 0}
    chat = ChatNanoGPT(http_client=sync, http_async_client=asynchronous, **options)
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("clean", "look")]
    state.langchain = {
        **dict.fromkeys(("tools", "run"), chat.bind_tools(tools)),
        "tool": chat.with_structured_output(Clean),
        "schema": chat.with_structured_output(Clean, method="json_schema"),
    }
    state.llama_index = {
        schema: NanoGPT(
            http_client=sync, async_http_client=asynchronous, should_use_structured_outputs=schema, **options
        )
        for schema in (False, True)
    }
    loop = asyncio.new_event_loop()
    state.run = loop.run_until_complete
    with fake_clock():
        yield state
    loop.run_until_complete(asynchronous.aclose())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    sync.close()


async def parts_of(stream):
    return [part async for part in stream]


def answer_of(host, runnable, *, streamed, is_async):
    if not streamed:
        return host.run(runnable.ainvoke("Hello")) if is_async else runnable.invoke("Hello")
    # Parsers get the joined message: LangChain's sequences leave generators of failed streams to the garbage collector.
    model, *parsers = getattr(runnable, "steps", [runnable])
    answer, *parts = host.run(parts_of(model.astream("Hello"))) if is_async else list(model.stream("Hello"))
    for part in parts:
        answer += part
    for parser in parsers:
        answer = parser.invoke(answer)
    return answer


def check_object(found, documents):
    """Check that a ``Clean`` was written by the model, in a tool call or in the text."""
    texts = [one for name in ("content", "text", "delta") for one in strings(documents, name) if isinstance(one, str)]
    objects = [*written_objects(documents), *filter(None, map(parsed, texts))]
    assert {"path": found.path} in [{"path": one.get("path", "/")} for one in objects]


FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,  # a new example may show a new fault: in a change of its own, not in the build of another one
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) - {Phase.explain},
)
WAYS = st.sampled_from(["tools", "tools", "tools", "tool", "schema", "run"])


@ITS_OWN_WARNING
@FUZZ
@given(reply=replies(), is_async=st.booleans(), way=WAYS)
def test_langchain_gives_a_right_answer_or_a_known_error(host, reply, is_async, way):
    streamed, documents, host.body = reply
    host.kind = "text/event-stream" if streamed else "application/json"
    known = (NanoGPTError,) if way in ("tools", "run") else (NanoGPTError, OutputParserException, OpenAIRefusalError)
    try:
        answer = answer_of(host, host.langchain[way], streamed=streamed, is_async=is_async)
    except known as error:
        event(type(error).__name__)
        return
    event(f"{way}: {type(answer).__name__}")
    if way in ("tool", "schema"):
        assert answer is None or isinstance(answer, Clean)
        if answer is not None:
            check_object(answer, documents)
        return
    assert isinstance(answer.content, (str, list))
    assert isinstance(answer.content_blocks, list)
    check_calls([(one["name"], one["args"]) for one in answer.tool_calls], documents)
    if answer.usage_metadata:
        names = ("input_tokens", "output_tokens", "total_tokens")
        check_usage([answer.usage_metadata[name] for name in names], documents)
    assert answer.response_metadata.get("cost_usd") in (
        None,
        *map(str, strings(documents, "cost")),
        *strings(documents, "cost"),
    )


@ITS_OWN_WARNING
@FUZZ
@given(reply=replies(), is_async=st.booleans(), way=WAYS)
def test_llama_index_gives_a_right_answer_or_a_known_error(host, reply, is_async, way):
    streamed, documents, host.body = reply
    host.kind = "text/event-stream" if streamed else "application/json"
    llm = host.llama_index[way == "schema"]
    RAN.clear()

    def call(method, *args, **options):
        if is_async:
            answer = host.run(getattr(llm, f"a{method}")(*args, **options))
            return host.run(parts_of(answer)) if hasattr(answer, "__aiter__") else answer
        answer = getattr(llm, method)(*args, **options)
        return list(answer) if hasattr(answer, "__next__") else answer

    known = (NanoGPTError, ValueError) if way == "tool" and not streamed else (NanoGPTError,)
    form = "stream_" if streamed else ""
    options = {"user_msg": "Hello", "allow_parallel_tool_calls": True}
    try:
        if way == "run" and not streamed:
            call(
                "predict_and_call", TOOLS, user_msg="Hello", error_on_no_tool_call=False, allow_parallel_tool_calls=True
            )
            answer = None
        elif way in ("tool", "schema"):
            answer = call(f"{form}structured_predict", Clean, PROMPT)
        else:
            answer = call(f"{form}chat_with_tools", TOOLS, **options)
    except known as error:
        event(type(error).__name__)
        return
    event(f"{way}: {type(answer).__name__}")
    # LlamaIndex passes on a single argument under any name.
    values = [one for found in written_objects(documents) for one in (found.values() if found else DEFAULTS)]
    assert all(ran in values for ran in RAN)
    if answer is None:
        return
    answer = answer[-1] if streamed else answer
    if isinstance(answer, Clean):
        check_object(answer, documents)
        return
    selections = llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
    assert isinstance(answer.message.content, (str, type(None)))
    readable = [one for one in selections if not one.tool_name.endswith("that are not a JSON object")]
    check_calls([(one.tool_name, one.tool_kwargs) for one in readable], documents)
    if "total_tokens" in answer.additional_kwargs:
        check_usage([answer.additional_kwargs[name] for name in USAGE], documents)

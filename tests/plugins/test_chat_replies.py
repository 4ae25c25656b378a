"""Costs, tool calls in pieces, provider fields and errors of chat replies, through both frameworks."""

import json

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_core.messages import HumanMessage, ToolMessage
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from langchain_nanogpt import ChatNanoGPT
from llama_index_nanogpt import NanoGPT
from nanogpt_core.errors import InsufficientBalanceError, QuotaExceededError
from nanogpt_core.sandbox import Fault, Reply

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
PRICING = {"amount": 0.25, "currency": "USD", "cost": 0.25, "paymentSource": "USD"}
SIGNATURE = {"google": {"thought_signature": "abc"}}


def clean(path: str = "/") -> str:
    """Remove everything below a path."""
    return path


def look(q: str = "") -> str:
    """Look something up."""
    return q


class LangChain:
    """Asks ``ChatNanoGPT``, with tools."""

    def __init__(self, call, form, options):
        self._call, self._form = call, form
        self._chat = ChatNanoGPT(**options).bind_tools([clean, look])

    async def ask(self, *messages):
        given = [HumanMessage("Hello"), *messages]
        if self._form == "plain":
            return await self._call(self._chat, "invoke", given)
        if self._call.kind == "sync":
            parts = list(self._chat.stream(given))
        else:
            parts = [part async for part in self._chat.astream(given)]
        answer = parts[0]
        for part in parts[1:]:
            answer += part
        return answer

    def calls(self, answer):
        return [(one["name"], one["args"]) for one in answer.tool_calls]

    def cost(self, answer):
        return answer.response_metadata.get("cost_usd")

    def refusal(self, answer):
        return answer.additional_kwargs.get("refusal")

    def with_tool_result(self, answer):
        return [answer, ToolMessage("gone", tool_call_id=answer.tool_calls[0]["id"])]


class LlamaIndex:
    """Asks ``NanoGPT``, with tools."""

    def __init__(self, call, form, options):
        self._call, self._form = call, form
        self._llm = NanoGPT(**options)

    async def ask(self, *messages):
        options = {
            "tools": [FunctionTool.from_defaults(clean), FunctionTool.from_defaults(look)],
            "chat_history": [ChatMessage(role="user", content="Hello"), *messages],
            "allow_parallel_tool_calls": True,
        }
        if self._form == "plain":
            return await self._call(self._llm, "chat_with_tools", **options)
        stream = await self._call(self._llm, "stream_chat_with_tools", **options)
        return (list(stream) if self._call.kind == "sync" else [part async for part in stream])[-1]

    def calls(self, answer):
        selections = self._llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
        return [(one.tool_name, one.tool_kwargs) for one in selections]

    def cost(self, answer):
        return answer.additional_kwargs.get("cost_usd")

    def refusal(self, answer):
        return answer.message.additional_kwargs.get("refusal")

    def with_tool_result(self, answer):
        (selection,) = self._llm.get_tool_calls_from_response(answer)
        result = ChatMessage(role="tool", content="gone", additional_kwargs={"tool_call_id": selection.tool_id})
        return [answer.message, result]


@pytest.fixture(params=["plain", "streamed"])
def form(request):
    return request.param


@pytest.fixture(params=[LangChain, LlamaIndex])
def chat(request, call, form, fresh_sandbox):
    """One framework over a sandbox, which is ``chat.sandbox``; ``chat.reply`` adds a reply, whole or as a stream."""
    made = request.param(call, form, {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url})

    def reply(*deltas, reason="stop", **more):
        if form == "plain":
            (message,) = deltas
            return Fault(200, body={"choices": [{"message": message, "finish_reason": reason}], **more})
        chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], **more})
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        return Fault(200, body=body + "data: [DONE]\n\n")

    made.sandbox = fresh_sandbox
    made.reply = lambda *deltas, **more: fresh_sandbox.add_replies(reply(*deltas, **more))
    return made


def fragment(name=None, arguments=None, **more):
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": 0, "type": "function", "function": function, **more}]}


@pytest.mark.parametrize(
    ("more", "cost"),
    [
        ({"usage": USAGE, "x_nanogpt_pricing": PRICING}, 0.25),
        ({"x_nanogpt_pricing": {"cost": "0.5", "inputTokens": 10, "outputTokens": 3}}, 0.5),
        ({"usage": USAGE}, None),
    ],
)
async def test_cost_of_the_reply_is_in_the_answer(chat, more, cost):
    chat.reply({"role": "assistant", "content": "all of it"}, **more)
    assert chat.cost(await chat.ask()) == cost


@pytest.mark.parametrize("form", ["streamed"])
async def test_tool_names_in_pieces_are_joined(chat):
    chat.reply(fragment("cl", "", id="a"), fragment("ean", ""), fragment(arguments='{"path": "x"}'))
    assert chat.calls(await chat.ask()) == [("clean", {"path": "x"})]


async def test_calls_of_two_tools_without_arguments_stay_separate(chat):
    calls = [{"index": 0, "type": "function", "function": {"name": name}} for name in ("clean", "look")]
    chat.reply({"tool_calls": calls}, reason="tool_calls")
    assert chat.calls(await chat.ask()) == [("clean", {}), ("look", {})]


@pytest.mark.parametrize("form", ["streamed"])
async def test_provider_fields_of_later_fragments_are_sent_back(chat):
    chat.reply(
        fragment("clean", "", id="a"),
        fragment(arguments='{"path": "x"}', extra_content=SIGNATURE),
        reason="tool_calls",
    )
    chat.sandbox.add_replies(Reply("Done."))
    answer = await chat.ask()
    await chat.ask(*chat.with_tool_result(answer))
    (sent,) = [one for one in chat.sandbox.requests[-1].body["messages"] if one["role"] == "assistant"]
    assert [one["extra_content"] for one in sent["tool_calls"]] == [SIGNATURE]


@pytest.mark.parametrize(
    "message", [{"refusal": {"message": "no"}}, {"content": [{"type": "refusal", "refusal": "no"}]}], ids=str
)
async def test_refusal_of_any_form_is_in_the_answer(chat, message):
    chat.reply({"role": "assistant", "content": None, **message})
    assert chat.refusal(await chat.ask()) == "no"


@pytest.mark.parametrize(
    ("more", "kind"), [({"payment": {"amountUsd": "0.0714"}}, InsufficientBalanceError), ({}, QuotaExceededError)]
)
async def test_used_up_quota_inside_a_reply_is_an_error_of_balance_or_quota(chat, more, kind):
    error = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Payment required."}
    chat.reply({"content": "all "}, error=error, **more)
    with pytest.raises(kind) as caught:
        await chat.ask()
    assert caught.value.code == "insufficient_quota"
    assert len(chat.sandbox.requests) == 1

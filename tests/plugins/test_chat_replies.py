"""Costs, tool calls in pieces, provider fields and errors of chat replies, through both frameworks."""

import json

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_core.messages import HumanMessage, ToolMessage, messages_from_dict, messages_to_dict
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from langchain_nanogpt import ChatNanoGPT
from llama_index_nanogpt import NanoGPT
from nanogpt_core.errors import (
    ConfigurationError,
    InsufficientBalanceError,
    PermissionDeniedError,
    QuotaExceededError,
)
from nanogpt_core.sandbox import Fault, Reply

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
PRICING = {"amount": 0.25, "currency": "USD", "cost": 0.25, "paymentSource": "USD"}
SIGNATURE = {"google": {"thought_signature": "abc"}}


AUDIO = {"id": "audio_1", "data": "QUJDREVG", "transcript": "Hi there.", "expires_at": 9}


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
        self._model = ChatNanoGPT(**options)
        self._chat = self._model.bind_tools([clean, look])

    def set(self, **options):
        self._chat = self._model.model_copy(update=options).bind_tools([clean, look])

    async def ask(self, *messages, **more):
        given = [HumanMessage("Hello"), *messages]
        if self._form == "plain":
            return await self._call(self._chat, "invoke", given, **more)
        if self._call.kind == "sync":
            parts = list(self._chat.stream(given, **more))
        else:
            parts = [part async for part in self._chat.astream(given, **more)]
        answer = parts[0]
        for part in parts[1:]:
            answer += part
        return answer

    def calls(self, answer):
        return [(one["name"], one["args"]) for one in answer.tool_calls]

    def cost(self, answer):
        return answer.response_metadata.get("cost_usd")

    def usage(self, answer):
        return [answer.usage_metadata[name] for name in ("input_tokens", "output_tokens", "total_tokens")]

    def refusal(self, answer):
        return answer.additional_kwargs.get("refusal")

    def annotations(self, answer):
        return answer.additional_kwargs.get("annotations")

    def audio(self, answer):
        return answer.additional_kwargs.get("audio")

    def with_tool_result(self, answer):
        stored = messages_from_dict(json.loads(json.dumps(messages_to_dict([answer]))))
        return [*stored, *[ToolMessage("gone", tool_call_id=one["id"]) for one in answer.tool_calls]]


class LlamaIndex:
    """Asks ``NanoGPT``, with tools."""

    def __init__(self, call, form, options):
        self._call, self._form = call, form
        self._llm = NanoGPT(**options)

    def set(self, **options):
        self._llm = self._llm.model_copy(update=options)

    async def ask(self, *messages, **more):
        options = {
            **more,
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

    def usage(self, answer):
        return [answer.additional_kwargs[name] for name in USAGE]

    def refusal(self, answer):
        return answer.message.additional_kwargs.get("refusal")

    def annotations(self, answer):
        found = answer.message.additional_kwargs.get("annotations")
        assert answer.additional_kwargs.get("annotations") == found
        return found

    def audio(self, answer):
        (block,) = [one for one in answer.message.blocks if one.block_type == "audio"]
        sound = {"id": answer.message.additional_kwargs["reference_audio_id"], "data": block.audio.decode()}
        assert block.format == "wav"
        return {**AUDIO, **sound}  # LlamaIndex has no place for the rest

    def with_tool_result(self, answer):
        calls = self._llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
        results = [
            ChatMessage(role="tool", content="gone", additional_kwargs={"tool_call_id": one.tool_id}) for one in calls
        ]
        # Chat stores keep messages as JSON.
        return [ChatMessage.model_validate_json(answer.message.model_dump_json()), *results]


@pytest.fixture(params=["plain", "streamed"])
def form(request):
    return request.param


@pytest.fixture(params=[LangChain, LlamaIndex])
def chat(request, call, form, fresh_sandbox):
    """One framework over a sandbox, which is ``chat.sandbox``; ``chat.reply`` adds a reply, whole or as a stream."""
    made = request.param(call, form, {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url})

    def reply(*deltas, reason="stop", in_every_chunk=None, **more):
        more = {**more, **(in_every_chunk or {})}
        if form == "plain":
            (message,) = deltas
            return Fault(200, body={"choices": [{"message": message, "finish_reason": reason}], **more})
        chunks = [{"choices": [{"index": 0, "delta": delta}], **(in_every_chunk or {})} for delta in deltas]
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


@pytest.mark.parametrize("form", ["plain"])
@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
async def test_stream_that_was_not_asked_for_is_the_answer_of_one_request(chat, content_type):
    deltas = [fragment("clean", "", id="a"), fragment(arguments='{"path": '), fragment(arguments='"x"}')]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "usage": USAGE}
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, {**end, "x_nanogpt_pricing": PRICING}])
    chat.sandbox.add_replies(Fault(200, headers={"Content-Type": content_type}, body=f"{body}data: [DONE]\n\n"))
    answer = await chat.ask()
    assert chat.calls(answer) == [("clean", {"path": "x"})]
    assert (chat.usage(answer), chat.cost(answer)) == ([10, 3, 13], 0.25)
    assert len(chat.sandbox.requests) == 1


CHUNKS = [
    {"id": "1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"id": "1", "choices": [{"index": 0, "delta": fragment("clean", "", id="a")}]},
    *({"id": "1", "choices": [{"index": 0, "delta": fragment(arguments=text)}]} for text in ('{"path": ', '"x"}')),
    {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
]
TOTALS = {"id": "1", "choices": [], "usage": USAGE, "x_nanogpt_pricing": PRICING}
OLLAMA = [
    {
        "message": {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "clean", "arguments": {"path": "x"}}}],
        },
        "done": False,
    },
    {"message": {"role": "assistant", "content": ""}, "done": True, "prompt_eval_count": 10, "eval_count": 3},
]


def events(*documents):
    return "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in documents)


ODD_STREAMS = {
    "usage after the end": events(*CHUNKS, TOTALS, "[DONE]"),
    "usage after DONE": events(*CHUNKS, "[DONE]", TOTALS),
    "usage twice": events(*CHUNKS, TOTALS, "[DONE]", TOTALS, "[DONE]"),
    "stream twice": events(*CHUNKS, TOTALS, "[DONE]") * 2,
    "stream twice before DONE": events(*CHUNKS, *CHUNKS, TOTALS, "[DONE]"),
    "numbered events twice": "".join(f"id: {at}\n{events(one)}" * 2 for at, one in enumerate([*CHUNKS, TOTALS])),
    "arguments twice": events(*CHUNKS[:4], *CHUNKS[2:], TOTALS, "[DONE]"),
    "lines of JSON": "".join(f"{json.dumps(one)}\n" for one in [*CHUNKS, TOTALS]),
    "lines of Ollama": "".join(f"{json.dumps({'model': 'm', **one})}\n" for one in OLLAMA),
}


@pytest.mark.parametrize("case", ODD_STREAMS)
async def test_repeated_late_and_unframed_events_count_once(chat, case):
    chat.sandbox.add_replies(Fault(200, body=ODD_STREAMS[case]))
    answer = await chat.ask()
    assert chat.calls(answer) == [("clean", {"path": "x"})]
    assert (chat.usage(answer), chat.cost(answer)) == ([10, 3, 13], None if "Ollama" in case else 0.25)
    assert len(chat.sandbox.requests) == 1


@pytest.mark.parametrize("before", ["", ": wait\n\n", "event: error\n"])
async def test_server_sent_events_with_an_error_status_are_read(chat, before):
    error = {"code": "model_not_allowed", "message": "Not for this key."}
    body = error if "event" in before else {"error": error}
    chat.sandbox.add_replies(Fault(403, body=f"{before}data: {json.dumps(body)}\n\ndata: [DONE]\n\n"))
    with pytest.raises(PermissionDeniedError, match=r"403 \(model_not_allowed\): Not for this key\. ") as caught:
        await chat.ask()
    assert caught.value.code == "model_not_allowed"


async def test_calls_in_content_blocks_are_calls(chat):
    block = {"type": "tool_use", "id": "a", "name": "clean", "input": {"path": "x"}}
    chat.reply({"content": [{"type": "text", "text": "I clean."}, block]}, reason="tool_use")
    assert chat.calls(await chat.ask()) == [("clean", {"path": "x"})]


@pytest.mark.parametrize("form", ["streamed"])
async def test_several_choices_in_a_stream_are_refused_before_they_cost(chat):
    with pytest.raises(ConfigurationError, match="n must be 1 in a stream"):
        await chat.ask(n=2)
    assert len(chat.sandbox.requests) == 0


async def test_usage_that_every_chunk_repeats_counts_once(chat):
    chat.reply({"role": "assistant", "content": "all of it"}, in_every_chunk={"usage": USAGE})
    assert chat.usage(await chat.ask()) == [10, 3, 13]


@pytest.mark.parametrize("arguments", ['```json\n{"path": "x"}\n```', {"path": "x"}, '"{\\"path\\": \\"x\\"}"'])
async def test_fenced_and_doubly_encoded_tool_arguments_are_parsed(chat, arguments):
    chat.reply(fragment("clean", arguments, id="a"), reason="tool_calls")
    assert chat.calls(await chat.ask()) == [("clean", {"path": "x"})]


async def test_arguments_under_another_name_are_parsed(chat):
    chat.reply({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "clean", "parameters": {"path": "x"}}}]})
    assert chat.calls(await chat.ask()) == [("clean", {"path": "x"})]


async def test_parallel_calls_with_one_index_are_two_calls(chat):
    calls = [fragment("clean", json.dumps({"path": path}), id=path)["tool_calls"][0] for path in ("x", "y")]
    chat.reply({"tool_calls": calls}, reason="tool_calls")
    assert chat.calls(await chat.ask()) == [("clean", {"path": "x"}), ("clean", {"path": "y"})]


@pytest.mark.parametrize("form", ["streamed"])
async def test_tool_names_in_pieces_are_joined(chat):
    chat.reply(fragment("cl", "", id="a"), fragment("ean", ""), fragment(arguments='{"path": "x"}'))
    assert chat.calls(await chat.ask()) == [("clean", {"path": "x"})]


@pytest.mark.parametrize("form", ["streamed"])
async def test_arguments_sent_whole_again_in_every_chunk_are_parsed(chat):
    chat.reply(*[fragment("clean", '{"path": "x"}'[:end], id="a") for end in (4, 9, 13)], reason="tool_calls")
    assert chat.calls(await chat.ask()) == [("clean", {"path": "x"})]


async def test_calls_of_two_tools_without_arguments_stay_separate(chat):
    calls = [{"index": 0, "type": "function", "function": {"name": name}} for name in ("clean", "look")]
    chat.reply({"tool_calls": calls}, reason="tool_calls")
    assert chat.calls(await chat.ask()) == [("clean", {}), ("look", {})]


CALLED = {"id": "a", "type": "function", "function": {"name": "clean", "arguments": '{"path": "x"}'}}
DETAIL = {"type": "reasoning.text", "text": "I must clean.", "signature": "s", "index": 0}
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "I must clean."}]}

# A whole message, the deltas of a stream, and the fields of the message that is sent back.
SENT_BACK = {
    "reasoning_details": (
        {"reasoning": "I must clean.", "reasoning_details": [DETAIL]},
        [
            {"reasoning": "I must ", "reasoning_details": [{**DETAIL, "text": "I must ", "signature": None}]},
            {"reasoning": "clean.", "reasoning_details": [{**DETAIL, "text": "clean.", "signature": None}]},
            {"reasoning_details": [{"type": "reasoning.text", "signature": "s", "index": 0}]},
        ],
        {"reasoning": "I must clean.", "reasoning_details": [DETAIL]},
    ),
    "only reasoning_details": (
        {"reasoning_details": [DETAIL]},
        [{"reasoning_details": [{**DETAIL, "text": "I must "}]}, {"reasoning_details": [{**DETAIL, "text": "clean."}]}],
        {"reasoning_details": [DETAIL]},
    ),
    "signatures in the message": (
        {"reasoning_content": "hm", "thinking_signature": "s", "extra_content": SIGNATURE},
        [{"reasoning_content": "hm", "thinking_signature": "s"}, {"content": "", "extra_content": SIGNATURE}],
        {"reasoning_content": "hm", "thinking_signature": "s", "extra_content": SIGNATURE},
    ),
    "thinking blocks in the content": (
        {"content": [THOUGHT]},
        [{"content": [{**THOUGHT, "thinking": text}]} for text in ("I must ", "clean.")],
        {"content": [{**THOUGHT, "thinking": "I must clean."}]},
    ),
}
SENT_BACK["thinking blocks in the content"][0]["content"] = SENT_BACK["thinking blocks in the content"][2]["content"]
REASONING = ("reasoning", "reasoning_content", "reasoning_details", "thinking_signature", "extra_content")


async def second_turn(chat):
    """Ask again with the answer and the result of its tool call; return the answer as it is sent back."""
    chat.sandbox.add_replies(Reply("Done."))
    answer = await chat.ask()
    assert chat.calls(answer) == [("clean", {"path": "x"})]
    await chat.ask(*chat.with_tool_result(answer))
    (sent,) = [one for one in chat.sandbox.requests[-1].body["messages"] if one["role"] == "assistant"]
    return sent


@pytest.mark.parametrize(("message", "deltas", "expected"), SENT_BACK.values(), ids=SENT_BACK)
async def test_reasoning_fields_of_a_message_are_sent_back(chat, form, message, deltas, expected):
    deltas = [*deltas, {"tool_calls": [{"index": 0, **CALLED}]}]
    chat.reply(*(deltas if form == "streamed" else [{**message, "tool_calls": [CALLED]}]), reason="tool_calls")
    sent = await second_turn(chat)
    assert {name: sent[name] for name in REASONING if name in sent} == {
        name: value for name, value in expected.items() if name != "content"
    }
    assert sent["content"] == expected.get("content")
    assert sent["tool_calls"] == [CALLED]


SIGNED_CALLS = {
    "in the call": {**CALLED, "extra_content": SIGNATURE},
    "in its function": {**CALLED, "function": {**CALLED["function"], "thought_signature": "abc"}},
}


@pytest.mark.parametrize("signed", SIGNED_CALLS.values(), ids=SIGNED_CALLS)
async def test_signatures_of_tool_calls_are_sent_back(chat, form, signed):
    more = {"index": 0} if form == "streamed" else {}
    chat.reply({"tool_calls": [{**signed, **more}]}, reason="tool_calls")
    assert (await second_turn(chat))["tool_calls"] == [signed]


@pytest.mark.parametrize("form", ["streamed"])
@pytest.mark.parametrize("late", [{"index": 0}, {"id": "a"}, {"index": 0, **CALLED}], ids=["index", "id", "call"])
async def test_provider_fields_of_later_fragments_are_sent_back(chat, late):
    chat.reply(
        fragment("clean", "", id="a"),
        fragment(arguments='{"path": "x"}'),
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "look", "arguments": "{}"}}]},
        {"tool_calls": [{"extra_content": SIGNATURE, **late}]},
        reason="tool_calls",
    )
    chat.sandbox.add_replies(Reply("Done."))
    answer = await chat.ask()
    assert chat.calls(answer) == [("clean", {"path": "x"}), ("look", {})]
    await chat.ask(*chat.with_tool_result(answer))
    (sent,) = [one for one in chat.sandbox.requests[-1].body["messages"] if one["role"] == "assistant"]
    assert [one.get("extra_content") for one in sent["tool_calls"]] == [SIGNATURE, None]


async def test_option_turns_reasoning_and_provider_fields_of_earlier_turns_off(chat, form):
    more = {"index": 0} if form == "streamed" else {}
    calls = [{**CALLED, **more, "extra_content": SIGNATURE}]
    chat.reply({**SENT_BACK["reasoning_details"][0], "extra_content": SIGNATURE, "tool_calls": calls})
    chat.set(send_reasoning=False)
    assert await second_turn(chat) == {"role": "assistant", "content": None, "tool_calls": [CALLED]}


@pytest.mark.parametrize(
    "message", [{"refusal": {"message": "no"}}, {"content": [{"type": "refusal", "refusal": "no"}]}], ids=str
)
async def test_refusal_of_any_form_is_in_the_answer(chat, message):
    chat.reply({"role": "assistant", "content": None, **message})
    assert chat.refusal(await chat.ask()) == "no"


CITATIONS = [
    {"type": "url_citation", "url_citation": {"url": f"https://{name}.example", "title": name, "start_index": at}}
    for at, name in enumerate(("bees", "ants"))
]


async def test_citations_of_online_search_are_in_the_answer_and_not_sent_back(chat, form):
    deltas = [{"content": "all "}, {"content": "of it"}]
    late = [{"annotations": found} for found in (CITATIONS[:1], None, "none", CITATIONS, CITATIONS[1])]
    whole = {"role": "assistant", "content": "all of it", "annotations": CITATIONS}
    chat.reply(*([*deltas, *late] if form == "streamed" else [whole]))
    answer = await chat.ask()
    assert chat.annotations(answer) == CITATIONS
    chat.sandbox.add_replies(Reply("Done."))
    await chat.ask(*chat.with_tool_result(answer))
    assert chat.sandbox.requests[-1].body["messages"][-1] == {"role": "assistant", "content": "all of it"}


@pytest.mark.parametrize("form", ["plain"])
@pytest.mark.parametrize("annotations", [None, [], {}, "none", [None, 7]], ids=str)
async def test_annotations_of_another_type_are_none(chat, annotations):
    chat.reply({"role": "assistant", "content": "all of it", "annotations": annotations})
    assert chat.annotations(await chat.ask()) is None


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


async def test_audio_is_in_the_answer_and_its_id_is_sent_back(chat, form):
    deltas = [
        {"audio": {"id": "audio_1", "transcript": "Hi "}},
        {"audio": {"data": "QUJD"}},
        {"audio": {"transcript": "there.", "data": "REVG"}},
        {"audio": {"expires_at": 9}},
    ]
    chat.reply(*([{"audio": AUDIO}] if form == "plain" else deltas))
    asked = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    answer = await chat.ask(**asked)
    assert chat.audio(answer) == AUDIO
    chat.reply({"content": "Bye."})
    await chat.ask(*chat.with_tool_result(answer))
    assert chat.sandbox.requests[-1].body["messages"][1]["audio"] == {"id": "audio_1"}


async def test_text_and_tool_calls_beside_audio_are_sent_back(chat, form):
    calls = fragment("look", "{}", id="call_1")
    chat.reply(
        *(
            [{"content": "Hi.", "audio": AUDIO, **calls}]
            if form == "plain"
            else [{"content": "Hi."}, {"audio": AUDIO}, calls]
        ),
        reason="tool_calls",
    )
    answer = await chat.ask()
    chat.reply({"content": "Bye."})
    await chat.ask(*chat.with_tool_result(answer))
    _, sent, _ = chat.sandbox.requests[-1].body["messages"]
    assert sent["audio"] == {"id": "audio_1"}
    assert sent["content"] == "Hi."
    assert [one["id"] for one in sent["tool_calls"]] == ["call_1"]

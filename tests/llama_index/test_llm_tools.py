"""Tool calls and structured output that go wrong in LlamaIndex: unknown tools, unreadable arguments, broken schemas."""

import asyncio

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel

from llama_index_nanogpt import NanoGPT
from llama_index_nanogpt.errors import StructuredOutputError, ToolArgumentsError
from nanogpt_core.errors import ConfigurationError, NanoGPTError
from nanogpt_core.sandbox import Fault, Reply, ToolCall

ITS_OWN_WARNING = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
PROMPT = PromptTemplate("Clean {what}.")
HALF = '{"path": "/home/us'
DEEP = pytest.param('{"path": ' + "[" * 1100, id="deep")


class Clean(BaseModel):
    """A path to clean."""

    path: str = "/"


@pytest.fixture
def scripted(fresh_sandbox):
    """Return ``scripted(*replies, **options)``, which gives a sandbox with these replies and its ``llm``."""

    def start(*replies, **options):
        fresh_sandbox.add_replies(*replies)
        fresh_sandbox.llm = NanoGPT(api_key=fresh_sandbox.api_key, base_url=fresh_sandbox.base_url, **options)
        return fresh_sandbox

    return start


@pytest.fixture
def cleaner():
    """Return a tool with a dangerous default, and the list of paths of its calls."""
    paths = []

    def clean(path: str = "/") -> str:
        """Remove everything below a path."""
        paths.append(path)
        return "gone"

    return FunctionTool.from_defaults(clean), paths


def calling(name, arguments='{"path": "x"}'):
    return Reply(tool_calls=[ToolCall(name, arguments)])


@pytest.mark.parametrize("parallel", [True, False])
async def test_call_of_an_unknown_tool_is_a_tool_output_with_an_error(scripted, call, cleaner, parallel):
    tool, paths = cleaner
    llm = scripted(calling("nosuch")).llm
    options = {"user_msg": "Clean x.", "allow_parallel_tool_calls": parallel}
    answer = await call(llm, "predict_and_call", [tool], **options)
    (output,) = answer.sources
    assert output.is_error
    assert output.tool_name == "nosuch"
    assert "Tool nosuch not found. Please select a tool that is available." in str(answer)
    assert paths == []


async def test_call_of_an_unknown_tool_is_an_error_on_request(scripted, call, cleaner):
    llm = scripted(calling("nosuch")).llm
    with pytest.raises(ValueError, match="Tool nosuch not found"):
        await call(llm, "predict_and_call", [cleaner[0]], user_msg="Clean x.", error_on_tool_error=True)


async def test_known_tools_run_beside_an_unknown_one(scripted, call, cleaner):
    tool, paths = cleaner
    llm = scripted(Reply(tool_calls=[ToolCall("nosuch", {}), ToolCall("clean", {"path": "x"})])).llm
    answer = await call(llm, "predict_and_call", [tool], user_msg="Clean x.", allow_parallel_tool_calls=True)
    assert [output.is_error for output in answer.sources] == [True, False]
    assert paths == ["x"]


@pytest.mark.parametrize("arguments", [HALF, "path=x", "[1]"])
async def test_unreadable_arguments_are_a_tool_output_if_no_error_is_wanted(scripted, call, cleaner, arguments):
    tool, paths = cleaner
    llm = scripted(calling("clean", arguments)).llm
    answer = await call(llm, "predict_and_call", [tool], user_msg="Clean x.", error_on_no_tool_call=False)
    (output,) = answer.sources
    assert output.is_error
    assert "clean with arguments that are not a JSON object" in str(answer)
    assert paths == []


async def test_answer_without_a_tool_call_is_text_if_no_error_is_wanted(scripted, call, cleaner):
    llm = scripted(Reply("Nothing to do."), Reply("Nothing to do.")).llm
    answer = await call(llm, "predict_and_call", [cleaner[0]], user_msg="Clean x.", error_on_no_tool_call=False)
    assert (str(answer), answer.sources) == ("Nothing to do.", [])
    with pytest.raises(ValueError, match="at least one tool call"):
        await call(llm, "predict_and_call", [cleaner[0]], user_msg="Clean x.")


@ITS_OWN_WARNING
@pytest.mark.parametrize("streaming", [True, False])
def test_agent_tells_the_model_that_a_tool_is_unknown(scripted, cleaner, streaming):
    tool, paths = cleaner
    sandbox = scripted(calling("nosuch"), Reply("I give up."))
    agent = FunctionAgent(tools=[tool], llm=sandbox.llm, streaming=streaming)

    async def run():
        handler = agent.run("Clean x.")
        events = [event async for event in handler.stream_events()]
        return events, str(await handler)

    events, answer = asyncio.run(run())
    assert answer == "I give up."
    assert [event.tool_output.is_error for event in events if isinstance(event, ToolCallResult)] == [True]
    (told,) = [message for message in sandbox.requests[-1].body["messages"] if message["role"] == "tool"]
    assert "Tool nosuch not found" in told["content"]
    assert paths == []


@pytest.mark.parametrize("arguments", ['{"path": "x"}', HALF])
async def test_program_raises_for_unknown_tools_and_unreadable_arguments(scripted, call, arguments):
    llm = scripted(calling("nosuch" if arguments != HALF else "Clean", arguments)).llm
    program = FunctionCallingProgram.from_defaults(Clean, llm=llm, prompt=PROMPT)

    async def run():
        return program(what="x") if call.kind == "sync" else await program.acall(what="x")

    with pytest.raises(ValueError, match=r"not found|not a JSON object"):
        await run()


# --- structured output ---


async def predicted(call, llm, *, streamed):
    method = "stream_structured_predict" if streamed else "structured_predict"
    answer = await call(llm, method, Clean, PROMPT, what="x")
    if streamed:
        return (list(answer) if call.kind == "sync" else [part async for part in answer])[-1]
    return answer


STREAMED = pytest.mark.parametrize("streamed", [True, False])


@STREAMED
@pytest.mark.parametrize("arguments", [HALF, "path=x", "[1]", "false", '{"path": "x"}{"path": "y"}', DEEP])
async def test_unreadable_arguments_of_structured_output_are_an_error(scripted, call, streamed, arguments):
    llm = scripted(calling("Clean", arguments)).llm
    with pytest.raises(ToolArgumentsError, match="not a JSON object"):
        await predicted(call, llm, streamed=streamed)


@STREAMED
@pytest.mark.parametrize("text", [HALF, "path=x", "[1]", '{"path": 5}'])
async def test_text_that_breaks_the_schema_is_an_error(scripted, call, streamed, text):
    llm = scripted(Reply(text), should_use_structured_outputs=True).llm
    with pytest.raises(StructuredOutputError, match="schema of Clean"):
        await predicted(call, llm, streamed=streamed)


@STREAMED
@pytest.mark.parametrize("text", ['{"path": "x"}', '```json\n{"path": "x"}\n```', "{}"])
async def test_whole_json_is_structured_output(scripted, call, streamed, text):
    llm = scripted(Reply(text), should_use_structured_outputs=True).llm
    assert await predicted(call, llm, streamed=streamed) == Clean(path="/" if text == "{}" else "x")


@STREAMED
async def test_arguments_that_break_the_schema_are_an_error(scripted, call, streamed):
    llm = scripted(calling("Clean", '{"path": [1]}')).llm
    with pytest.raises(StructuredOutputError, match="schema of Clean"):
        await predicted(call, llm, streamed=streamed)


@STREAMED
async def test_call_of_another_tool_is_no_structured_output(scripted, call, streamed):
    llm = scripted(calling("Other")).llm
    with pytest.raises(StructuredOutputError, match="Other"):
        await predicted(call, llm, streamed=streamed)


async def test_text_in_place_of_a_call_is_no_structured_output(scripted, call):
    with pytest.raises(StructuredOutputError, match="schema of Clean"):
        await predicted(call, scripted(Reply("path=x")).llm, streamed=False)


async def test_arguments_that_break_the_schema_are_an_error_of_a_structured_llm(scripted, call):
    llm = scripted(calling("Clean", '{"path": [1]}')).llm.as_structured_llm(Clean)
    with pytest.raises(StructuredOutputError, match="schema of Clean"):
        await call(llm, "chat", [ChatMessage(content="Clean x.")])


async def test_first_of_several_calls_is_the_streamed_output(scripted, call):
    calls = [ToolCall("Clean", {"path": "x"}), ToolCall("Clean", {"path": "y"})]
    assert await predicted(call, scripted(Reply(tool_calls=calls)).llm, streamed=True) == Clean(path="x")


async def test_stream_sends_the_options_of_the_call(scripted, call):
    sandbox = scripted(calling("Clean"))
    given = {"what": "x", "llm_kwargs": {"seed": 4}}
    answer = await call(sandbox.llm, "stream_structured_predict", Clean, PROMPT, **given)
    parts = list(answer) if call.kind == "sync" else [part async for part in answer]
    assert parts[-1] == Clean(path="x")
    body = sandbox.requests[0].body
    assert (body["seed"], body["tool_choice"], body["messages"][-1]["content"]) == (4, "required", "Clean x.")


async def test_stream_of_a_text_program_is_checked(scripted, call):
    llm = scripted(Reply("path=x"), is_function_calling_model=False).llm

    class Strict(BaseModel):
        path: str

    answer = await call(llm, "stream_structured_predict", Strict, PROMPT, what="x")
    with pytest.raises(StructuredOutputError, match="schema of Strict"):
        assert not (list(answer) if call.kind == "sync" else [part async for part in answer])


@STREAMED
async def test_service_error_of_structured_output_is_not_wrapped(scripted, call, streamed):
    llm = scripted(Fault(401, body={"error": {"message": "no"}})).llm
    with pytest.raises(NanoGPTError, match="401"):
        await predicted(call, llm, streamed=streamed)


@STREAMED
@pytest.mark.parametrize("mode", [PydanticProgramMode.GUIDANCE, PydanticProgramMode.LM_FORMAT_ENFORCER])
async def test_mode_for_models_in_this_process_is_a_configuration_error(scripted, call, streamed, mode):
    sandbox = scripted(pydantic_program_mode=mode)
    with pytest.raises(ConfigurationError, match=f"'{mode.value}' is for models that run in this process"):
        await predicted(call, sandbox.llm, streamed=streamed)
    assert sandbox.requests == []

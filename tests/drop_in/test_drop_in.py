"""Programs written for OpenAI's classes run with only the import and the class name changed.

``langchain/`` and ``llama_index/`` have the programs, in the shapes of public tutorials; each asserts its results.
"""

import gc
import json
import re
import sys
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
PROGRAMS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.py"))
IMPORTS = {
    "from langchain_openai import": "from langchain_nanogpt import",
    "from llama_index.embeddings.openai import": "from llama_index_nanogpt import",
    "from llama_index.llms.openai import": "from llama_index_nanogpt import",
}
CLASSES = {
    "OpenAIEmbeddings": "NanoGPTEmbeddings",
    "ChatOpenAI": "ChatNanoGPT",
    "OpenAIEmbedding": "NanoGPTEmbedding",
    "OpenAI": "NanoGPT",
}


def call(name, /, **arguments):
    return {"tool_calls": [(name, arguments)]}


JOKE = {"setup": "Why do bees hum?", "punchline": "They forgot the words."}
PEOPLE = {"people": [{"name": "Alan", "height_in_meters": 1.83}, {"name": "Anna"}]}
ALBUM = {"name": "Hums", "songs": [{"title": "Bees", "length_seconds": 60}, {"title": "Wasps", "length_seconds": 90}]}
REACT = [
    'Thought: I multiply.\nAction: multiply\nAction Input: {"a": 2, "b": 4}',
    'Thought: I add.\nAction: add\nAction Input: {"a": 20, "b": 8}',
    "Thought: I can answer without using any more tools.\nAnswer: 28",
]
SONG = call("generate_song", name="Hum", artist="Bee")
SUM = {"tool_calls": [("multiply", {"a": 3, "b": 12}), ("add", {"a": 11, "b": 49})]}
COUNTRIES = {"countries": [{"name": "France", "population": 68}]}
# The model's answers, by program. A text is a reply, a mapping the fields of one. Programs without answers, and those
# that ask on, get quotes from the context that they send.
REPLIES = {
    "langchain/advanced_retrievers": ["honey of bees\nships on the sea", "Bees make honey.", "NO_OUTPUT"],
    "langchain/agent": [
        call("get_weather", city="sf"),
        "It is sunny in sf.",
        "You are welcome.",
        call("get_weather", city="la"),
        "Sunny in la.",
        call("get_weather", city="ny"),
        json.dumps({"city": "ny", "sunny": True}),
    ],
    "langchain/agent_middleware": [
        "Five notes.",
        call("divide", a=1, b=0),
        "It is undefined.",
        call("Answer", number=5),
    ],
    "langchain/evaluators": [
        "It is short.\n\nY",
        "Topeka is another city.\n\nN",
        "As the reference.\n\nRating: [[10]]",
        "Both are right; the first as the reference.\n\n[[A]]",
        "CORRECT",
    ],
    "langchain/history_aware_retrieval": ["Splitting a task into steps.", "And does honey keep?", "Yes, for years."],
    "langchain/langgraph_store": [call("recall", query="plumber"), "You are a plumber."],
    "langchain/langgraph_tools": [
        call("search", query="What do bees make?"),
        call("GradeDocuments", binary_score="yes"),
        "Honey.",
    ],
    "langchain/memory": ["Hello Bob.", "Your name is Bob.", "¡Hola, Ana!", "Te llamas Ana."],
    "langchain/streaming": [
        "One two three.",
        "A parrot walks into a bar.",
        "1, 2, 3",
        "1, 2, 3",
        json.dumps(COUNTRIES),
    ],
    "langchain/structured_output": [
        call("Joke", **JOKE),
        call("JokeDict", **JOKE),
        call("Joke", **JOKE),
        call("Joke", **JOKE),
        json.dumps(JOKE),
        json.dumps(JOKE),
        call("Joke", **JOKE),
        call("JokeDict", **JOKE),
        call("Data", **PEOPLE),
        json.dumps(JOKE),
        f"```json\n{json.dumps(JOKE)}\n```",
        '{"a": 1, "b": 2}',
    ],
    "langchain/summaries": [
        "About bees.",
        "About ships.",
        "Bees and ships.",
        "About bees.",
        "Bees, then ships.",
        "Honey.",
        "A bee.",
    ],
    "langchain/tool_calling": [
        SUM,
        "3 * 12 is 36, and 11 + 49 is 60.",
        SUM,
        call("Subtract", a=7, b=4),
        call("add", a=1, b=1),
    ],
    "llama_index/chat_engine": [
        "They make honey.",
        "For years.",
        "Honey.",
        "How long does honey keep?",
        "Years.",
        "Honey, honey.",
        "A line.",
        "Honey again.",
    ],
    "llama_index/evaluators": [
        "Honey.",
        "YES",
        "YES",
        "4.5\nNearly the same.",
        "1. Yes.\n2. Yes.\n\n[RESULT] 2",
        "1. Yes.\n2. Yes.\n\n[RESULT] 4",
        json.dumps({"passing": True, "feedback": "Kind."}),
        "Honey is right.\n\n[[A]]",
        "Honey.",
        "YES",
        "YES",
    ],
    "llama_index/function_agent": [
        {"tool_calls": [("multiply", {"a": 1234, "b": 4567}), ("search_documents", {"query": "tea"})]},
        "It is 5635678.",
        "A product.",
        call("notes", input="bees"),
        "Honey, say the notes.",
        "Honey.",
        call("handoff", to_agent="Writer", reason="Write it."),
        "Written.",
    ],
    "llama_index/ingestion": ["Bees", "All about bees", "A summary.", "bees, honey", "What do bees make?"],
    "llama_index/llm": [
        "a writer.",
        "a writer.",
        "Captain.",
        "Captain.",
        "y",
        SONG,
        SONG,
        SONG,
        "A pirate joke.",
        "Fine.",
        "y",
        "Counted.",
        "(Bees, Make, Honey)",
        "insects",
    ],
    "llama_index/memory": [
        "Good for the cat.",
        "<facts><fact>Bob has a cat.</fact></facts>",
        "A cat.",
        "Words were said.",
    ],
    "llama_index/react_agent": [*REACT, *REACT],
    "llama_index/routers": [
        call("SingleSelection", index=2, reason="a single question"),
        "Honey.",
        json.dumps([{"choice": 1, "reason": "a summary"}]),
        "Bees and ships.",
        call("MultiSelection", selections=[{"index": 1, "reason": "x"}, {"index": 2, "reason": "y"}]),
        json.dumps([{"sub_question": question, "tool_name": "vectors"} for question in ("bees?", "ships?")]),
        "Honey.",
        "They sail.",
        "Bees make honey, ships sail.",
        "ships?",
        "Bees make honey.",
        "Honey.",
        "Doc: 2, Relevance: 9",
    ],
    "llama_index/structured_output": [
        *[call("Album", **ALBUM)] * 6,
        {"tool_calls": [("Song", song) for song in ALBUM["songs"]]},
        json.dumps(ALBUM),
        call("Album", **ALBUM),
    ],
}


def changed(source):
    """Return the source with the import and the class names changed, and nothing else."""
    for old, new in IMPORTS.items():
        source = source.replace(old, new)
    return re.sub(rf"\b({'|'.join(CLASSES)})\b", lambda match: CLASSES[match[0]], source)


def _collect(namespace):
    # LlamaIndex never closes the database of a chat memory, which gives a warning when it is collected.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        namespace.clear()
        gc.collect()


@pytest.fixture
def run(monkeypatch, fresh_sandbox):
    """Return a function that runs a program against a sandbox, and returns the requests that it saw."""
    from nanogpt_core.sandbox import Reply, ToolCall

    def reply(answer):
        if isinstance(answer, str):
            return Reply(answer)
        return Reply(tool_calls=[ToolCall(name, arguments) for name, arguments in answer["tool_calls"]])

    def run_program(name, source):
        fresh_sandbox.add_replies(*map(reply, REPLIES.get(name, ())))
        monkeypatch.setenv("NANOGPT_API_KEY", fresh_sandbox.api_key)
        monkeypatch.setenv("NANOGPT_BASE_URL", fresh_sandbox.base_url)
        namespace = {"__name__": "__main__"}
        gc.disable()  # until _collect, which ignores the warning
        try:
            exec(compile(source, FOLDER / f"{name}.py", "exec"), namespace)
        finally:
            _collect(namespace)
            gc.enable()
        assert fresh_sandbox.replies_left == 0
        return fresh_sandbox.requests

    return run_program


@pytest.fixture(autouse=True)
def settings_of_llama_index(monkeypatch):
    """Hide the global settings of one program from the next."""
    core = sys.modules.get("llama_index.core")
    for name in ("_llm", "_embed_model", "_callback_manager") if core else ():
        monkeypatch.setattr(core.Settings, name, None)


def test_programs_name_openai_only_in_imports_and_class_names():
    for name in PROGRAMS:
        source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert "openai" in source.lower()
        assert "openai" not in changed(source).lower(), name


# The programs have the shapes of older tutorials too.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Skipping serialization of known unserializable key")
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_for_openai_runs_with_nanogpt(run, name):
    source = changed((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    if re.search(r"import .*\bNanoGPT\b", source):
        pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)
    for package in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE):
        pytest.importorskip(package, exc_type=ImportError)
    requests = run(name, source)
    assert requests
    assert {request.status for request in requests} == {200}

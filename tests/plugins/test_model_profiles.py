"""Context window, longest answer and abilities of chat models, for agents and chunking, in both plugins."""

import copy
import csv
import pickle
from pathlib import Path

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.indices.prompt_helper import PromptHelper

from langchain_nanogpt import ChatNanoGPT
from llama_index_nanogpt import NanoGPT
from nanogpt_core import ConfigurationError, Sandbox
from nanogpt_core.models import chat_catalog
from nanogpt_core.models.chat_catalog import CHAT_MODELS, get_chat_model

WINDOW = 400


@pytest.fixture(scope="module")
def live():
    with Sandbox(context_lengths={"lab/small": WINDOW, "lab/small:thinking": 50}) as sandbox:
        yield {"api_key": sandbox.api_key, "base_url": sandbox.base_url}


def test_catalog_rows_are_unique_and_plausible():
    rows = list(csv.DictReader(Path(chat_catalog.__file__).with_name("chat_models.csv").read_text().splitlines()))
    names = {row["name"] for row in rows} | {row["name"].partition("/")[2] for row in rows}
    assert CHAT_MODELS.keys() == names
    assert len(names) == 2 * len(rows) > 300
    assert not {ability for row in rows for ability in row["abilities"]} - set("tsvr")
    for row in CHAT_MODELS.values():
        assert 4_000 < row.context_window < 3_000_000
        assert row.max_output_tokens is None or row.max_output_tokens < row.context_window


@pytest.mark.parametrize("name", ["openai/gpt-4o-mini", "gpt-4o-mini", "openai/gpt-4o-mini:online:memory"])
def test_catalog_finds_a_model_with_and_without_vendor_and_suffixes(name):
    assert get_chat_model(name).context_window == 128_000
    assert get_chat_model("lab/unknown") is None


def test_profile_and_context_window_come_from_the_same_catalog():
    for name in ("openai/gpt-4o-mini", "anthropic/claude-haiku-4.5", "deepseek/deepseek-v3.2:thinking"):
        row, profile = get_chat_model(name), ChatNanoGPT(name, api_key="k").profile
        metadata = NanoGPT(name, api_key="k").metadata
        assert profile["max_input_tokens"] == metadata.context_window == row.context_window
        assert profile["max_output_tokens"] == row.max_output_tokens
        assert profile["image_inputs"] == row.image_inputs
        assert metadata.num_output == min(row.max_output_tokens, row.context_window // 4)


def test_unknown_model_has_no_profile_and_the_default_window():
    assert ChatNanoGPT("lab/unknown", api_key="k").profile is None
    metadata = NanoGPT("lab/unknown", api_key="k").metadata
    assert (metadata.context_window, metadata.num_output) == (128_000, -1)


@pytest.mark.parametrize("name", ["lab/small", "lab/small:online"])
def test_live_list_gives_profile_and_context_window(live, name):
    profile = ChatNanoGPT(name, profile="live", **live).profile
    assert (profile["max_input_tokens"], profile["tool_calling"], profile["image_inputs"]) == (WINDOW, True, False)
    metadata = NanoGPT(name, context_window="live", **live).metadata
    assert (metadata.context_window, metadata.num_output) == (WINDOW, WINDOW // 4)


def test_live_profile_of_the_default_model_is_read(live):
    assert ChatNanoGPT(profile="live", **live).profile["max_input_tokens"] == 128_000


@pytest.mark.parametrize(
    ("name", "words"), [("lab/smal", r"'lab/smal'\. Did you mean lab/small .*Pass"), ("zzz", r"'zzz'\. Pass")]
)
def test_model_that_the_live_list_does_not_have_is_refused_with_near_names(live, name, words):
    with pytest.raises(ConfigurationError, match=words):
        ChatNanoGPT(name, profile="live", **live)
    with pytest.raises(ConfigurationError, match=words):
        NanoGPT(name, context_window="live", **live)


def test_own_values_go_first():
    assert ChatNanoGPT("gpt-4o-mini", api_key="k", profile={"max_input_tokens": 7}).profile == {"max_input_tokens": 7}
    metadata = NanoGPT("gpt-4o-mini", api_key="k", context_window=9_000, max_tokens=5).metadata
    assert (metadata.context_window, metadata.num_output) == (9_000, 5)


def by_attribute(target, name):
    setattr(target, "model_name" if isinstance(target, ChatNanoGPT) else "model", name)
    return target


@pytest.mark.parametrize(
    "change",
    [
        by_attribute,
        lambda one, name: one.model_copy(update={"model": name}),
        lambda one, name: by_attribute(copy.deepcopy(one), name),
    ],
    ids=["attribute", "model_copy", "deepcopy"],
)
def test_profile_and_window_follow_the_model(change):
    other = "anthropic/claude-haiku-4.5"
    assert change(ChatNanoGPT("gpt-4o-mini", api_key="k"), other).profile["max_input_tokens"] == 200_000
    assert change(NanoGPT("gpt-4o-mini", api_key="k"), other).metadata.context_window == 200_000
    own = ChatNanoGPT("gpt-4o-mini", api_key="k", profile={"max_input_tokens": 7})
    assert change(own, other).profile == {"max_input_tokens": 7}
    assert change(NanoGPT("gpt-4o-mini", api_key="k", context_window=9_000), other).metadata.context_window == 9_000


def test_copy_may_get_another_profile():
    chat = ChatNanoGPT("gpt-4o-mini", api_key="k").model_copy(update={"profile": {"max_input_tokens": 7}})
    assert chat.model_copy(update={"model": "lab/unknown"}).profile == {"max_input_tokens": 7}
    assert chat.model_copy(update={"profile": None}).profile["max_input_tokens"] == 128_000


def test_profile_and_window_survive_pickling(live, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", "k")
    chat, llm = ChatNanoGPT("lab/small", profile="live", **live), NanoGPT("lab/small", context_window="live", **live)
    assert pickle.loads(pickle.dumps(chat)).profile == chat.profile
    assert pickle.loads(pickle.dumps(llm)).metadata == llm.metadata


async def test_summarization_middleware_summarizes_at_a_fraction_of_the_window(live, call):
    chat = ChatNanoGPT("lab/small", profile="live", **live)
    middleware = SummarizationMiddleware(chat, trigger=("fraction", 0.5), keep=("messages", 1))
    agent = create_agent(chat, middleware=[middleware])
    short = [HumanMessage("Bees make honey."), AIMessage("They do."), HumanMessage("Why?")]
    kept = await call(agent, "invoke", {"messages": short})
    assert [message.text for message in kept["messages"][:2]] == ["Bees make honey.", "They do."]
    long = [HumanMessage("Bees make honey. " * 60), AIMessage("They do. " * 60), HumanMessage("Why?")]
    cut = await call(agent, "invoke", {"messages": long})
    assert "summary" in cut["messages"][0].text
    assert [message.text for message in cut["messages"][1:2]] == ["Why?"]


def test_llama_index_leaves_room_for_the_answer(live):
    llm = NanoGPT("lab/small", context_window="live", **live)
    helper = PromptHelper.from_llm_metadata(llm.metadata)
    assert (helper.context_window, helper.num_output) == (WINDOW, WINDOW // 4)

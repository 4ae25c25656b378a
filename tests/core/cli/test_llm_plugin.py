"""The plugin of `llm`, through the real `llm`: its command line in a process of its own, and its Python interface."""

import json
import subprocess
import sys

import pytest

import warm_process
from nanogpt_core import MODELS, Embedder
from nanogpt_core.sandbox import Fault

pytestmark = [
    pytest.mark.xdist_group("llm"),  # one import for all
    pytest.mark.skipif(not warm_process.installed("llm"), reason="the llm extra is not installed"),
]
TEXTS = {"1": "Bees make honey.", "2": "A lock keeps a door shut.", "3": "Honey is sweet."}


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def configured(monkeypatch, home, sandbox):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    return home


@pytest.fixture
def invoke(configured, monkeypatch):  # noqa: ARG001
    """Return a function that runs `llm` in this process, with our plugin only."""
    import llm.plugins
    import sqlite_utils
    from click.testing import CliRunner
    from llm.cli import cli

    from nanogpt_core.cli import llm_plugin

    plugins = llm.plugins.pm
    llm.plugins._loaded = True  # else `llm` would load the plugins that the environment happens to have
    added = not plugins.is_registered(llm_plugin)
    if added:
        plugins.register(llm_plugin, name="nanogpt")
    # `llm` leaves its databases open until its process ends. From Python 3.13 on, each of them would give a warning in
    # a later test.
    opened = []

    class Database(sqlite_utils.Database):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(self)

    monkeypatch.setattr(sqlite_utils, "Database", Database)
    yield lambda *words, **options: CliRunner().invoke(cli, words, **options)
    for database in opened:
        database.close()
    if added:
        plugins.unregister(llm_plugin)


@pytest.mark.usefixtures("configured")
def test_llm_finds_the_plugin_by_its_entry_point_and_embeds(options):
    command = [sys.executable, "-m", "llm", "embed", "-m", "nanogpt/BAAI/bge-m3", "-c", TEXTS["1"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == pytest.approx(Embedder("BAAI/bge-m3", **options).embed_query(TEXTS["1"]).tolist())


def test_every_model_of_the_catalog_is_listed_with_reduced_dimensions(invoke):
    done = invoke("embed-models", "list")
    names = {line.split(": ")[1].split(" ")[0] for line in done.output.splitlines() if ": nanogpt/" in line}
    assert {f"nanogpt/{name}" for name in MODELS} < names
    assert "nanogpt/text-embedding-3-small-512" in names
    assert "nanogpt/Qwen/Qwen3-Embedding-0.6B-512" in names
    assert "nanogpt/Qwen/Qwen3-Embedding-0.6B-1024" not in names  # the full dimensions
    assert not [name for name in names if name.startswith("nanogpt/BAAI/bge-m3-")]


def test_embed_multi_stores_vectors_that_similar_finds(invoke, configured, sandbox):
    rows = "\n".join(json.dumps({"id": number, "text": text}) for number, text in TEXTS.items())
    model = "nanogpt/text-embedding-3-small-256"
    done = invoke("embed-multi", "notes", "-", "--format", "nl", "-m", model, "--store", input=rows)
    assert done.exit_code == 0, done.output
    assert [(request.items, request.body["dimensions"]) for request in sandbox.requests] == [(3, 256)]
    found = invoke("similar", "notes", "-c", "sweet honey", "-n", "2")
    assert [json.loads(line)["id"] for line in found.output.splitlines()] == ["3", "1"]
    assert (configured / "embeddings.db").exists()


def test_key_of_llm_goes_before_the_environment(invoke, sandbox, monkeypatch):
    monkeypatch.setenv("NANOGPT_API_KEY", "sk-nano-wrong")
    assert invoke("keys", "set", "nanogpt", "--value", sandbox.api_key).exit_code == 0
    assert invoke("embed", "-m", "nanogpt/BAAI/bge-m3", "-c", "text").exit_code == 0


def test_second_key_variable_is_read(invoke, sandbox, monkeypatch):
    monkeypatch.delenv("NANOGPT_API_KEY")
    monkeypatch.setenv("NANO_GPT_API_KEY", sandbox.api_key)
    assert invoke("embed", "-m", "nanogpt/BAAI/bge-m3", "-c", "text").exit_code == 0


def test_missing_key_is_one_line_that_names_both_remedies(invoke, monkeypatch):
    monkeypatch.delenv("NANOGPT_API_KEY")
    done = invoke("embed", "-m", "nanogpt/BAAI/bge-m3", "-c", "text")
    assert done.exit_code == 1
    assert done.output == (
        "Error: No key found - add one using 'llm keys set nanogpt' or set the NANOGPT_API_KEY environment variable\n"
    )


@pytest.mark.parametrize(
    ("fault", "text", "message"),
    [
        (Fault(401), "text", "The service answered 401"),
        (None, "word " * 600, "Too many tokens for the model"),
    ],
)
def test_error_is_one_line_without_a_traceback(invoke, sandbox, fault, text, message):
    if fault:
        sandbox.add_faults(fault)
    done = invoke("embed", "-m", "nanogpt/BAAI/bge-large-zh-v1.5", "-c", text)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert done.output.startswith("Error: ")
    assert message in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.usefixtures("configured")
def test_many_texts_are_sent_in_batches_as_they_are_read(sandbox):
    from nanogpt_core.cli.llm_plugin import NanoGPTEmbeddingModel

    model = NanoGPTEmbeddingModel(MODELS["BAAI/bge-m3"])
    vectors = list(model.embed_multi(f"text {number}" for number in range(100)))
    assert [len(vector) for vector in vectors] == [1024] * 100
    assert sorted(request.items for request in sandbox.requests) == [4, 32, 32, 32]

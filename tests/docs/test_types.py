"""Types of options: lists for type checkers, docstrings, users' programs, and the snippets of the pages."""

import inspect
import json
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from openai import NotGiven
from pydantic_core import PydanticUndefinedType

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings, chat_models
from langchain_nanogpt.options import ChatOptions, EmbeddingsOptions
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from llama_index_nanogpt.options import EmbeddingOptions, LLMOptions
from nanogpt_core import Embedder
from nanogpt_core.embeddings.config import EmbedderConfig, EmbedderOptions

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nanogpt_core", "langchain_nanogpt", "llama_index_nanogpt")
# Marks as in test_snippets.py.
BLOCK = re.compile(r"(?:^<!-- snippet: (.+?) -->\n)?^```(python|diff)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
SECONDS = 1800  # without mypy's cache, both frameworks are analysed: a minute of CPU time

# Fields that are refused, or that only the base class sets.
CHAT_REFUSED = {*chat_models._UNUSED, *chat_models._RESPONSES_ONLY, *chat_models._CLIENTS}
LLM_REFUSED = {"api_version"}

OPTIONS = {
    NanoGPTEmbeddings: (EmbeddingsOptions, {"batch_size"}, set()),
    ChatNanoGPT: (ChatOptions, set(), CHAT_REFUSED),
    NanoGPTEmbedding: (EmbeddingOptions, {"model", "base_url"}, set()),
    NanoGPT: (LLMOptions, {"base_url", "http_client", "async_http_client"}, LLM_REFUSED),
}
each_plugin_class = pytest.mark.parametrize("cls", OPTIONS, ids=lambda cls: cls.__name__)

# A later version of these may have fields that the lists do not know yet.
KNOWN_VERSIONS = {"langchain-core": "1.8.", "langchain-openai": "1.7.", "llama-index-core": "0.14."}


def options_for_type_checkers(cls, listed):
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - {"self"} | set(listed.__annotations__)


@each_plugin_class
def test_options_for_type_checkers_are_the_fields(cls):
    listed, other_names, refused = OPTIONS[cls]
    fields = {name: field for name, field in cls.model_fields.items() if name not in refused}
    accepted = {*fields, *(field.alias for field in fields.values() if field.alias), *other_names}
    options = options_for_type_checkers(cls, listed)
    assert options <= accepted
    if all(version(name).startswith(known) for name, known in KNOWN_VERSIONS.items()):
        assert accepted <= options


@each_plugin_class
def test_signature_shows_the_options_with_their_defaults(cls):
    listed, _, _ = OPTIONS[cls]
    shown = inspect.signature(cls).parameters
    assert shown.keys() == options_for_type_checkers(cls, listed)
    assert shown["api_key"].default is shown["base_url"].default is None
    assert shown[next(iter(shown))].default in {"text-embedding-3-small", "gpt-4o-mini"}
    assert not any(isinstance(one.default, (NotGiven, PydanticUndefinedType)) for one in shown.values())


@pytest.mark.parametrize(
    ("cls", "name", "default"),
    [
        (NanoGPTEmbeddings, "batch_size", None),
        (NanoGPTEmbeddings, "max_concurrency", 16),
        (ChatNanoGPT, "stop", None),
        (ChatNanoGPT, "timeout", 600),
        (NanoGPTEmbedding, "model", "text-embedding-3-small"),
        (NanoGPTEmbedding, "embed_batch_size", 32_768),
        (NanoGPT, "context_window", None),
        (NanoGPT, "max_retries", 3),
    ],
)
def test_signature_shows_the_default_of_an_option(cls, name, default):
    assert inspect.signature(cls).parameters[name].default == default


def test_signature_of_a_callable_object_is_its_own():
    assert list(inspect.signature(NanoGPTEmbedding(api_key="k")).parameters) == ["nodes", "kwargs"]


def test_options_of_the_embedder_are_those_of_its_configuration():
    options = inspect.signature(EmbedderConfig.__init__).parameters.keys() - {"self", "model"}
    assert options == EmbedderOptions.__annotations__.keys()


@pytest.mark.parametrize("cls", [Embedder, *OPTIONS], ids=lambda cls: cls.__name__)
def test_docstring_names_every_option(cls):
    listed = EmbedderOptions if cls is Embedder else OPTIONS[cls][0]
    assert [
        name
        for name in options_for_type_checkers(cls, listed)
        if not re.search(rf"``{name}``|^    +{name}:", inspect.getdoc(cls), flags=re.MULTILINE)
    ] == []


def snippets():
    """Yield a name and the code of each Python snippet that runs by itself; of a diff, its new side."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        if page.parent.name == "scale":
            continue  # most of its packages are no part of the environment for development
        name, before = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_"), ""
        for number, (mark, kind, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1):
            lines = [line[1:] or "\n" for line in code.splitlines(keepends=True) if not line.startswith("-")]
            new = code if kind == "python" else "".join(lines)
            before = f"{before}\n{new}" if mark == "continues" else new
            if not mark.startswith("not run") and ("pydantic_ai" not in before or find_spec("pydantic_ai")):
                yield f"{name}_{number}", before


@pytest.mark.xdist_group("types")
def test_mypy_accepts_packages_and_snippets_and_marks_exactly_the_wrong_options(tmp_path):
    written = dict(snippets())
    for name, code in written.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    # With the strict configuration. `make test` has no other check of the types: one run analyses the frameworks once.
    checked = [*(ROOT / name for name in PACKAGES), ROOT / "typing_tests"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *checked, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(len([*folder.rglob("*.py")]) for folder in checked) + len(written)
    assert f"no issues found in {count} source files" in done.stdout


@pytest.mark.xdist_group("types")
def test_pyright_marks_exactly_the_wrong_options():
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["generalDiagnostics"] == []
    assert found["summary"]["filesAnalyzed"] == 2

"""Modules that our packages import, in a fresh interpreter."""

import json
import zipfile
from pathlib import Path

import pytest

import fresh_process
import nanogpt_core
import warm_process

HEAVY = {
    "openai",
    "tiktoken",
    "numpy",
    "httpx",
    "httpx2",
    "pydantic",
    "orjson",
    "jiter",
    "tqdm",
    "starlette",
    "uvicorn",
    "requests",
}
LANGCHAIN = {"langchain", "langchain_core", "langchain_openai", "langgraph", "langsmith", "langchain_nanogpt"}
LLAMA = {"llama_index", "llama_index_nanogpt", "llama_index_instrumentation", "llama_cloud"}


def loaded(code, *options):
    """Run ``code`` in a fresh interpreter; return the names of the top-level modules that are loaded then."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = fresh_process.run(script, options=options)
    assert (done.returncode, done.stderr) == (0, "")
    return set(json.loads(done.stdout.splitlines()[-1]))


def importorskip(package):
    if not warm_process.installed(package):
        pytest.skip(f"{package} is not installed")


def test_importing_the_core_imports_no_heavy_module():
    found = loaded("import nanogpt_core")
    assert "nanogpt_core" in found
    assert not found & (HEAVY | LANGCHAIN | LLAMA)


def test_making_an_embedder_imports_neither_sdk_nor_numpy():
    found = loaded("from nanogpt_core import Embedder, MODELS, NanoGPTError; Embedder(api_key='k')")
    assert not found & (HEAVY | LANGCHAIN | LLAMA)


def test_refusing_input_imports_neither_sdk_nor_numpy():
    found = loaded(
        "from nanogpt_core import Embedder, NanoGPTError\n"
        "try: Embedder(api_key='k').embed([''])\n"
        "except NanoGPTError: pass\n"
        "else: raise SystemExit('not refused')"
    )
    assert not found & (HEAVY | LANGCHAIN | LLAMA)


def test_core_names_can_be_used_without_importing_a_framework():
    importorskip("starlette")
    found = loaded("import nanogpt_core\nfor name in nanogpt_core.__all__: getattr(nanogpt_core, name)")
    assert not found & (LANGCHAIN | LLAMA)


@pytest.mark.parametrize(("package", "other"), [("langchain_nanogpt", LLAMA), ("llama_index_nanogpt", LANGCHAIN)])
def test_importing_one_plugin_does_not_import_the_other_framework(package, other):
    importorskip({"langchain_nanogpt": "langchain_openai", "llama_index_nanogpt": "llama_index"}[package])
    found = loaded(f"import {package}", "-W", "error")
    assert package in found
    assert not found & other


def test_core_can_be_imported_from_an_archive(tmp_path):
    # As Spark sends packages to its workers.
    package = Path(nanogpt_core.__file__).parent
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                file.write(path, path.relative_to(package.parent))
    code = (
        f"sys.path.insert(0, {str(archive)!r})\n"
        "import nanogpt_core\n"
        f"assert nanogpt_core.__file__.startswith({str(archive)!r})\n"
        "from nanogpt_core import Embedder, MODELS\n"
        "from nanogpt_core.models.chat_catalog import CHAT_MODELS\n"
        "assert MODELS and CHAT_MODELS\n"
        "Embedder(api_key='k')"
    )
    assert "nanogpt_core" in loaded(code)


@pytest.mark.parametrize(
    ("missing", "statement", "extra"),
    [
        ("starlette", "from nanogpt_core import Sandbox", "sandbox"),
        ("uvicorn", "from nanogpt_core.testing import Sandbox", "sandbox"),
        ("langchain_core", "import langchain_nanogpt", "langchain"),
        ("langchain_openai", "from langchain_nanogpt import ChatNanoGPT", "langchain"),
        ("langchain_openai", "import langchain_nanogpt.chat_models", "langchain"),
        ("llama_index.core", "import llama_index_nanogpt", "llama-index"),
        ("llama_index.llms.openai_like", "from llama_index_nanogpt import NanoGPT", "llama-index"),
        ("llama_index.llms.openai_like", "import llama_index_nanogpt.llm", "llama-index"),
        ("daft", "import nanogpt_core.scale.daft_provider", "daft"),
        ("pyarrow", "from nanogpt_core import EmbedTable; EmbedTable()", "arrow"),
        ("redis", "from nanogpt_core import RedisLimits; RedisLimits('redis://localhost', 'name')", "redis"),
        ("redis", "from nanogpt_core import RedisCache; RedisCache('redis://localhost')", "redis"),
    ],
)
def test_missing_package_is_an_import_error_with_the_command_of_its_extra(missing, statement, extra):
    importorskip({"langchain": "langchain_openai", "llama-index": missing}.get(extra, "json"))
    code = f"""
sys.modules[{missing!r}] = None
try:
    {statement}
except ModuleNotFoundError as error:
    message = str(error)
else:
    raise SystemExit("no error")
from nanogpt_core._runtime.extras import install_command
assert " needs {missing}" in message and ", which is not installed. Run: pip " in message, message
assert message.endswith(install_command({extra!r})), message
"""
    loaded(code)

"""Tutorial notebooks: they run in a kernel of this environment, print the expected text, and have no saved outputs."""

import asyncio
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

import warm_process

NEEDED = ("nbformat", "nbclient", "ipykernel")
pytestmark = [
    pytest.mark.xdist_group("notebooks"),  # each notebook runs once for all
    pytest.mark.skipif(not all(map(warm_process.installed, NEEDED)), reason=f"needs {', '.join(NEEDED)}"),
]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NEEDS = {
    "langchain": ("langchain", "langchain_openai", "langchain_text_splitters"),
    "llama_index": ("llama_index.llms.openai_like",),
}
NOT_OURS = (
    # LlamaIndex's agent looks at all members of its pydantic model, those that pydantic wants forgotten too.
    "ignore:Accessing the 'model_",
    "ignore:The `__fields",
    # LlamaIndex's settings import it if it is installed.
    "ignore:`langchain-community` is being sunset",
    # From Python 3.12 on, asyncio deprecates a call that ipykernel makes as it starts.
    "ignore:There is no current event loop",
    # ipykernel's own, as it ends.
    "ignore:For consistency across implementations",
)
HANGS = 120  # time limit of a cell, in seconds
SOURCE = "Python's language reference, try"


def read(name):
    import nbformat

    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def execute(notebook, folder):
    """Run all cells in ``folder`` with this interpreter, independent of the installed kernels."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    kernels = folder / "kernels"
    (kernels / "this").mkdir(parents=True)
    warnings = [f"-W{filter_}" for filter_ in ("error", *NOT_OURS)]
    command = [sys.executable, *warnings, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "This environment", "language": "python"}
    (kernels / "this" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    specs = KernelSpecManager(kernel_dirs=[str(kernels)], ensure_native_kernel=False)
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="this", kernel_spec_manager=specs),
        timeout=HANGS,
        startup_timeout=HANGS,
        iopub_timeout=HANGS,  # after this time nbclient would go on without the rest of a cell's output
        resources={"metadata": {"path": str(folder)}},
    )
    asyncio.run(client.async_execute(cleanup_kc=True))  # ends the kernel that it started


@pytest.fixture(scope="module", params=NEEDS)
def said(request, tmp_path_factory):
    """Return the output of each code cell by the cell's id."""
    for package in (*NEEDS[request.param], "starlette", "uvicorn"):
        pytest.importorskip(package, exc_type=ImportError)
    folder = tmp_path_factory.mktemp(request.param)
    notebook = read(request.param)
    with pytest.MonkeyPatch.context() as environment:
        # IPython's history and Jupyter's files must not be written to the user's home.
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            environment.setenv(name, str(folder / "jupyter"))
        execute(notebook, folder)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = {cell.id: cell.outputs for cell in cells}
    strange = {name: out for name, outs in outputs.items() for out in outs if out.get("name") != "stdout"}
    assert not strange, "warnings and the like"
    return {name: "".join(out.text for out in outs) for name, outs in outputs.items()}


def test_answer_has_a_citation_and_its_source(said):
    answer, *sources = said["answer"].splitlines()
    assert '"finally"' in answer
    assert re.search(r"\[1\]", answer)
    assert f"[1] {SOURCE}" in sources
    assert said["stream"].strip() == answer
    assert re.match(r"\d+ pieces: \[NanoGPT sandbox, not a language model\]", said["stream-async"])


def test_batches_and_streams_return_all_vectors(said):
    assert said["batches"].count("language reference, del") == 1
    assert said["batches"].count("language reference, lambda") == 1
    assert re.match(r"from 0: \d+ vectors of 1536, float32", said["corpus-as-stream"])


def test_second_run_costs_nothing(said):
    assert "requests=1," in said["vectors"]
    passages = int(re.search(r"(\d+) passages", said["passages"])[1])
    assert f"texts={passages}, unique={passages}, cached={passages}, tokens=0" in said["second-run"]
    assert f"0 requests, {passages} texts from the cache, 0.0 dollars" in said["second-run"]
    assert said["second-run"].endswith("The same vectors: True\n")


def test_error_messages_name_the_remedy(said):
    assert said["budget"].startswith("BudgetExceededError: ")
    width, refusal = said["queries"].splitlines()
    assert width == "256 numbers"
    assert refusal.endswith("Leave it out.")
    assert said["errors"].startswith("InvalidInputError: ")


def test_agent_calls_the_tool_and_cites(said):
    lines = said["agent"].splitlines()
    assert any("look_up({'query': 'finally clause return statement'})" in line for line in lines)
    assert any("[1] >" in line for line in lines), "what the tool returned"
    assert lines[-2].startswith("The exception is dropped: it is not raised again [1].")
    assert lines[-1] == f"[1] {SOURCE}"


@pytest.mark.parametrize("name", NEEDS)
def test_citation_is_distinguished_from_an_index(name):
    cell = next(cell for cell in read(name).cells if cell.id == "answer")
    (function,) = re.findall(r"(?s)def sources.*?\n\n\n", cell.source.replace("\nprompt =", "\n\nprompt =") + "\n\n\n")
    names = {"re": re, "list": list}
    exec(f"from __future__ import annotations\n{function}", names)
    said = names["sources"]("`[9]`, lists[9], a[9][9], but [1, 4][2], 因此【3】, 所以[6-8].", [])
    assert said == [f"[{number}] made up" for number in (1, 2, 3, 4, 6, 7, 8)]


@pytest.mark.parametrize(("key", "talks_to"), [("", "the sandbox at http://127.0.0.1:"), ("sk-mine", "the key in ")])
@pytest.mark.parametrize("name", NEEDS)
def test_sandbox_takes_the_place_of_a_missing_or_empty_key(name, key, talks_to, monkeypatch, capsys):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    monkeypatch.setenv("NANOGPT_API_KEY", key)
    names = {}
    cells = {cell.id: cell.source for cell in read(name).cells}
    exec(cells["start"], names)
    exec(cells["stop"], names)
    assert talks_to in capsys.readouterr().out
    assert set(names["service"]) == (set() if key else {"api_key", "base_url"})


@pytest.mark.parametrize("name", NEEDS)
def test_number_of_concurrent_requests_is_the_default(name):
    from nanogpt_core import Embedder

    text = " ".join(" ".join(cell.source for cell in read(name).cells).split())
    said = re.findall(r"up to (\d+) requests at a time \(`max_concurrency`\)", text)
    assert said == [str(inspect.signature(Embedder).parameters["max_concurrency"].default)]


@pytest.mark.parametrize("name", NEEDS)
def test_notebooks_are_saved_without_outputs(name):
    from nbformat import validate

    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    validate(read(name))
    notebook = json.loads(text)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    for cell in notebook["cells"]:
        assert re.fullmatch("[a-z]+(-[a-z]+)*", cell["id"]), "an id that stays when cells move"
        assert cell["metadata"] == {}
        assert isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)

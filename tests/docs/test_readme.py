"""The snippets of the README and of the pages in docs run as they stand; the README's table is the catalogue's."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nanogpt_core import MODELS, ModelInfo

pytestmark = pytest.mark.xdist_group("snippets")  # one warm process for all

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (ROOT / "README.md", ROOT / "docs" / "chat.md", ROOT / "docs" / "migrating.md")
BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def side(kind, code, drop):
    """Return the code, and of a diff the side that is left without the lines that begin with ``drop``."""
    lines = code.splitlines(keepends=True)
    return code if kind == "python" else "".join(line[1:] or "\n" for line in lines if not line.startswith(drop))


BLOCKS = [
    (f"{page.name}-{number}", *block.groups())
    for page in PAGES
    for number, block in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1)
]
# LlamaIndex imports it wherever it is installed.
SUNSET = "`langchain-community` is being sunset"
SNIPPETS = [pytest.param(side(kind, code, "-"), id=name) for name, kind, code in BLOCKS]
BEFORE = [pytest.param(side(kind, code, "+"), id=name) for name, kind, code in BLOCKS if kind == "diff"]
NEEDS = {
    "langchain_nanogpt": "langchain_openai",
    "langchain.agents": "langchain",
    "langchain_classic": "langchain_classic",
    "llama_index_nanogpt": "llama_index.llms.openai_like",
}


def installed(name: str) -> bool:
    parent = name.rpartition(".")[0]
    return (not parent or installed(parent)) and find_spec(name) is not None


# From Python 3.12 on, asyncio deprecates a call that LlamaIndex makes.
LOOP = "There is no current event loop:DeprecationWarning:llama_index.core.async_utils"
STRICT = [sys.executable, "-W", "error", "-W", f"ignore:{SUNSET}:DeprecationWarning", "-W", f"ignore:{LOOP}", "-c"]
# Importing a framework takes longer than most snippets: one process does it, and each snippet gets a fork of it.
WARM = """
import gc, json, os, sys, types, warnings
for line in json.loads(sys.argv[1]):
    exec(line, {})
gc.freeze()  # or each fork would copy all of it to look at it
for line in sys.stdin:
    job = json.loads(line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that numpy has outside of Python
        child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
os.chdir(job["folder"])
for number, name in enumerate((os.devnull, "../out", "../err")):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
sys.modules["__main__"] = main = types.ModuleType("__main__")
exec(compile(job["code"], "<string>", "exec"), vars(main))
"""


# What openai imports as the first request goes out.
LATE = "import openai.resources.chat, openai.resources.embeddings"


def imports(snippet: str) -> set[str]:
    """The lines that import what is installed."""
    lines = set()
    for node in ast.walk(ast.parse(snippet)):
        names = (
            [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in getattr(node, "names", [])]
        )
        if isinstance(node, ast.Import | ast.ImportFrom) and all(map(installed, names)):
            lines.add(ast.unparse(node))
    return lines


def frameworks(snippet: str) -> frozenset[str]:
    return frozenset(name for name in ("langchain", "llama_index") if name in snippet)


@pytest.fixture(scope="module")
def warm(shared_sandbox):
    """Return a process by the frameworks that are imported in it already."""
    environment = {
        **os.environ,
        "NANOGPT_API_KEY": shared_sandbox.api_key,
        "NANOGPT_BASE_URL": shared_sandbox.base_url,
    }
    running = {}

    def process(wanted):
        if wanted not in running:
            like = [snippet for (snippet,) in (param.values for param in SNIPPETS) if frameworks(snippet) == wanted]
            running[wanted] = subprocess.Popen(
                [*STRICT, WARM, json.dumps([LATE, *sorted(set().union(*map(imports, like)))])],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        return running[wanted]

    yield process
    for each in running.values():
        each.communicate(timeout=30)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs_in_a_process_of_its_own(snippet, warm, tmp_path):
    for plugin, framework in NEEDS.items():
        if plugin in snippet and not installed(framework):
            pytest.skip(f"{framework} is not installed")
    folder = tmp_path / "folder"
    folder.mkdir()
    process = warm(frameworks(snippet))
    process.stdin.write(json.dumps({"code": snippet, "folder": str(folder)}) + "\n")
    process.stdin.flush()
    status = process.stdout.readline().strip() or process.communicate()[1]
    assert status == "0", (tmp_path / "err").read_text() if (tmp_path / "err").exists() else status
    assert (tmp_path / "out").read_text().strip()


@pytest.mark.parametrize("code", BEFORE)
def test_what_stood_there_before_is_python(code):
    # Most of its packages are not needed here, and ServiceContext is gone.
    assert "openai" in code
    ast.parse(code)


def test_first_snippet_stands_early():
    assert README.splitlines().index("```python") < 40


def row(model: ModelInfo) -> str:
    width = f"{model.dimensions}" + (f" ({model.listed_dimensions})" if model.listed_dimensions else "")
    reduces = f"{model.min_dimensions} to {model.max_dimensions}" if model.reduces else "–"
    price = f"{model.usd_per_million_tokens:.3f}".rstrip("0")
    price += "0" * (2 - len(price.partition(".")[2]))
    languages = ", ".join(model.languages)
    return f"| `{model.id}` | {width} | {reduces} | {price} | {model.max_tokens:,} | {languages} |"


def test_table_of_models_is_the_catalogue():
    head = ["| model | width | reduces to | price | tokens a text | languages |", "|---|---|---|---|---|---|"]
    expected = "\n".join([*head, *map(row, MODELS.values())])
    table = README.split("<!-- models: begin -->")[1].split("<!-- models: end -->")[0].strip()
    assert table == expected, f"the table should be:\n{expected}"

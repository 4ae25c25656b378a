"""README and pages: snippets run unchanged, and tables and figures agree with the code and the measurements."""

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nanogpt_core import MODELS, Embedder

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
# LlamaIndex imports it if it is installed.
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


# Modules that openai imports with the first request.
LATE = "import openai.resources.chat, openai.resources.embeddings"


def imports(snippet: str) -> set[str]:
    """Return the lines that import installed packages."""
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
def test_snippet_runs_in_its_own_process(snippet, warm, tmp_path):
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
def test_removed_lines_of_diffs_are_python(code):
    # Most of its packages are not needed here, and ServiceContext is gone.
    assert "openai" in code
    ast.parse(code)


def test_first_snippet_is_in_the_first_40_lines():
    assert README.splitlines().index("```python") < 40


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / ".ci" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_current(generator):
    assert generator.update("README.md") == README, "run `make readme`"


def test_table_of_options_has_each_option_with_its_default(generator):
    table = generator.options_table()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    assert list(rows) == list(inspect.signature(Embedder).parameters)
    assert rows["max_concurrency"] == "`16`"
    assert rows["base_url"] == "`NANOGPT_BASE_URL`, then `https://nano-gpt.com/api/v1`"
    assert rows["cache"] == "no cache"


def test_table_of_models_has_each_model(generator):
    assert re.findall(r"^\| `(.+?)` \|", generator.models_table(), re.MULTILINE) == list(MODELS)


OUTCOMES = ("right", "typed error", "raw error", "silently wrong", "hang")


def totals(fault, column, first="core"):
    """Return a figure of the totals in FAULTS.md: of embeddings, or of chat, whose table begins with another column."""
    lines = (ROOT / "benchmarks" / "FAULTS.md").read_text(encoding="utf-8").splitlines()
    table = lines[next(number for number, line in enumerate(lines) if line.startswith(f"| | {first} |")) :]
    head, row = table[0], next(line for line in table if line.startswith(f"| {fault} |"))
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in (head, row)]
    return dict(zip(*cells, strict=True))[column]


def test_fault_figures_equal_the_measured_figures():
    said = " ".join(README.split("<!-- faults: begin -->")[1].split("<!-- faults: end -->")[0].split())
    others = "langchain-openai"
    number = sum(int(totals(outcome, "LangChain")) for outcome in OUTCOMES)
    assert f"Of {number} measured faults" in said
    assert f"wrong vectors for {totals('silently wrong', others)} and hangs for {totals('hang', others)}" in said
    assert totals("silently wrong", "core") == totals("hang", "core") == "0"
    most = "most requests for one fault"
    assert f"up to {totals(most, others)} requests" in said
    assert f"up to {totals(most, 'LlamaIndex OpenAI')}." in said
    assert f"at most {totals(most, 'core')}," in said
    assert f"{totals('something leaked', others)} of the {number} faults" in said


def test_chat_fault_figures_equal_the_measured_figures():
    said = " ".join(README.split("<!-- faults: begin -->")[1].split("<!-- faults: end -->")[0].split())
    figures = {
        outcome: [totals(outcome, column, "LangChain") for column in ("langchain-openai", "LlamaIndex OpenAI")]
        for outcome in OUTCOMES
    }
    number = sum(int(totals(outcome, "LangChain", "LangChain")) for outcome in OUTCOMES)
    assert f"Of {number} measured faults of chat" in said
    assert (
        "wrong results for {} and raw errors for {}".format(figures["silently wrong"][0], figures["raw error"][0])
        in said
    )
    assert (
        "wrong results for {} and raw errors for {}".format(figures["silently wrong"][1], figures["raw error"][1])
        in said
    )
    for column in ("LangChain", "LlamaIndex"):
        assert {totals(outcome, column, "LangChain") for outcome in ("raw error", "silently wrong", "hang")} == {"0"}


PLACES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")})


@pytest.mark.parametrize("page", PLACES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_named_test_files_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)]
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?|examples/[\w/]+\.py)`", text)
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []

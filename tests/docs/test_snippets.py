"""Snippets of all pages run unchanged, each in a process of its own against one sandbox.

A comment in front of a snippet changes how it is run:

``<!-- snippet: continues -->``: after the snippets in front of it, up to the last one without this comment.
``<!-- snippet: not run: REASON -->``: only checked for its syntax.

Snippets find a folder ``passages/`` with a Parquet file of texts. Addresses of Redis are replaced by the address of a
server of the tests.
"""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("snippets")  # one warm process for all

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- snippet: (.+?) -->\n)?^```(python|diff)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
REDIS = re.compile(r"redis://[\d.]+:63\d\d")
# Packages that are no part of some environments, or that warn; their snippets run if they are there, with warnings.
OPTIONAL = {"celery", "dask", "daft", "langchain_community", "lance", "pyspark", "ray"}
FRAMEWORKS = ("langchain", "llama_index")
# Packages that come with an extra, and are left out in some environments of CI.
NEEDS = {
    "fastapi": "fastapi",
    "langchain_nanogpt": "langchain_openai",
    "langchain.agents": "langchain",
    "langchain_classic": "langchain_classic",
    "llama_index_nanogpt": "llama_index.llms.openai_like",
    "pydantic_ai": "pydantic_ai",  # needs Python 3.11
}


def side(kind, code, drop):
    """Return the code, and of a diff the side that is left without the lines that begin with ``drop``."""
    lines = code.splitlines(keepends=True)
    return code if kind == "python" else "".join(line[1:] or "\n" for line in lines if not line.startswith(drop))


def snippets(page):
    """Yield a name, the mark and the code of each snippet of a page; a continuation with the code in front of it."""
    name, before = page.relative_to(ROOT).as_posix(), ""
    for number, block in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1):
        mark, kind, code = block.groups()
        code = side(kind, code, "-")
        before = f"{before}\n{code}" if mark == "continues" else code
        yield f"{name}-{number}", mark or "", before


ALL = [snippet for page in PAGES for snippet in snippets(page)]
RUN = [pytest.param(code, id=name) for name, mark, code in ALL if not mark.startswith("not run")]
BEFORE = [
    pytest.param(side(kind, code, "+"), id=f"{page.name}-{number}")
    for page in PAGES
    for number, (_, kind, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1)
    if kind == "diff"
]


def installed(name):
    parent = name.rpartition(".")[0]
    return (not parent or installed(parent)) and find_spec(name) is not None


# LlamaIndex imports langchain-community if it is installed. From Python 3.12 on, asyncio deprecates a call that
# LlamaIndex makes.
SUNSET = "`langchain-community` is being sunset"
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
if job["with_warnings"]:
    warnings.simplefilter("default")
sys.modules["__main__"] = main = types.ModuleType("__main__")
exec(compile(job["code"], "<string>", "exec"), vars(main))
sys.stdout.flush()
os._exit(0)  # the end of an interpreter looks at all objects, and would copy their pages: a third of the CPU time
"""


# Modules that openai imports with the first request.
LATE = "import openai.resources.chat, openai.resources.embeddings"


def imported(snippet):
    """Return the import statements of a snippet with the modules that they name."""
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom):
            yield ast.unparse(node), [node.module]
        elif isinstance(node, ast.Import):
            yield ast.unparse(node), [alias.name for alias in node.names]


def imports(snippet):
    """Return the lines that import installed packages."""
    return {line for line, names in imported(snippet) if all(map(installed, names))}


def optional_packages(snippet):
    return OPTIONAL & {name.partition(".")[0] for _, names in imported(snippet) for name in names}


def missing_package(snippet):
    """Return the name of a package that the snippet needs and that is not installed, or None."""
    needed = {framework for plugin, framework in NEEDS.items() if plugin in snippet} | optional_packages(snippet)
    return next((name for name in sorted(needed) if not installed(name)), None)


def frameworks(snippet):
    """Return the frameworks that a snippet imports: a process with all of them would be slow to fork."""
    names = {name for _, names in imported(snippet) for name in names}
    return frozenset(each for each in FRAMEWORKS if any(name.startswith(each) for name in names))


@pytest.fixture(scope="module")
def environment(shared_sandbox):
    return {
        **os.environ,
        "NANOGPT_API_KEY": shared_sandbox.api_key,
        "NANOGPT_BASE_URL": shared_sandbox.base_url,
    }


@pytest.fixture(scope="module")
def warm(environment):
    """Return a process by the frameworks that are imported in it already."""
    running = {}

    def process(wanted):
        if wanted not in running:
            like = [code for (code,) in (param.values for param in RUN) if frameworks(code) == wanted]
            like = [code for code in like if missing_package(code) is None]
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
        each.communicate(timeout=60)


@pytest.fixture
def folder(tmp_path):
    """The folder that a snippet runs in."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("snippet", RUN)
def test_snippet_runs_in_its_own_process(snippet, warm, environment, folder, request):
    if name := missing_package(snippet):
        pytest.skip(f"{name} is not installed")
    if REDIS.search(snippet):
        snippet = REDIS.sub(request.getfixturevalue("redis_url"), snippet)
    if "passages/" in snippet:
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"id": [1, 2], "source": ["bees.md", "honey.md"], "text": ["Bees make honey.", "Honey keeps."]}
        table = pytest.importorskip("pyarrow").table(columns)
        (folder / "passages").mkdir()
        parquet.write_table(table, folder / "passages" / "part.parquet")
    out, err = folder.parent / "out", folder.parent / "err"
    if hasattr(os, "fork"):
        process = warm(frameworks(snippet))
        job = {"code": snippet, "folder": str(folder), "with_warnings": bool(optional_packages(snippet))}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        status = process.stdout.readline().strip() or process.communicate()[1]
    else:
        with out.open("w") as output, err.open("w") as errors:
            done = subprocess.run(
                [*STRICT, snippet], cwd=folder, env=environment, stdout=output, stderr=errors, check=False
            )
        status = str(done.returncode)
    assert status == "0", err.read_text() if err.exists() else status
    assert out.read_text().strip() or "print(" not in snippet


def test_marks_of_snippets_are_known_and_give_reasons():
    for name, mark, code in ALL:
        ast.parse(code)
        assert mark in {"", "continues"} or re.fullmatch(r"not run: \w.+", mark), name


@pytest.mark.parametrize("code", BEFORE)
def test_removed_lines_of_diffs_are_python(code):
    # Most of its packages are not needed here, and ServiceContext is gone.
    assert "openai" in code
    ast.parse(code)

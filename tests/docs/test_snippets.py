"""Snippets of all pages run unchanged, each in a process of its own against one sandbox.

A comment in front of a snippet changes how it is run:

``<!-- snippet: continues -->``: after the snippets in front of it, up to the last one without this comment.
``<!-- snippet: not run: REASON -->``: only checked for its syntax.

Snippets find a folder ``passages/`` with a Parquet file of texts. Addresses of Redis are replaced by the address of a
server of the tests.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

import warm_process

pytestmark = pytest.mark.xdist_group("warm processes")

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- snippet: (.+?) -->\n)?^```(python|diff)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
REDIS = re.compile(r"redis://[\d.]+:63\d\d")
# Packages that are no part of some environments, or that warn; their snippets run if they are there, with warnings.
OPTIONAL = {"celery", "dask", "daft", "langchain_community", "lance", "pyspark", "ray"}
# Packages that come with an extra, and are left out in some environments of CI.
NEEDS = {
    "fastapi": "fastapi",
    "langchain_nanogpt": "langchain_openai",
    "langchain.agents": "langchain",
    "langchain_classic": "langchain_classic",
    "llama_index_nanogpt": "llama_index.llms.openai_like",
    "pydantic_ai": "pydantic_ai",  # needs Python 3.11
}


# Words of install commands for packages whose names differ; all others are installed by their names.
INSTALLED_BY = {
    "langchain_core": "langchain",
    "langchain_nanogpt": "langchain",
    "langchain_openai": "langchain",
    "llama_index": "llama-index",
    "llama_index_nanogpt": "llama-index",
    "nanogpt_core.sandbox": "sandbox",
    "nanogpt_core.testing": "sandbox",
    "nanogpt_core.comparison": "compare",
    "pyarrow": "arrow",
    "lance": "pylance",
    "pydantic_ai": "pydantic-ai",
    "pyspark": "spark",
    "opentelemetry": "otel",
}
# The install command of README.md brings the base, which has these.
BASE = sys.stdlib_module_names | {"nanogpt_core", "openai", "httpx", "numpy", "tiktoken", "certifi", "pydantic"}


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


def optional_packages(snippet):
    return OPTIONAL & {name.partition(".")[0] for _, names in warm_process.imported(snippet) for name in names}


def missing_package(snippet):
    """Return the name of a package that the snippet needs and that is not installed, or None."""
    needed = {framework for plugin, framework in NEEDS.items() if plugin in snippet} | optional_packages(snippet)
    return next((name for name in sorted(needed) if not warm_process.installed(name)), None)


@pytest.fixture(scope="module")
def environment(shared_sandbox):
    return {"NANOGPT_API_KEY": shared_sandbox.api_key, "NANOGPT_BASE_URL": shared_sandbox.base_url}


@pytest.mark.parametrize("snippet", RUN)
def test_snippet_runs_in_its_own_process(snippet, warm, environment, tmp_path, request):
    if name := missing_package(snippet):
        pytest.skip(f"{name} is not installed")
    if REDIS.search(snippet):
        snippet = REDIS.sub(request.getfixturevalue("redis_url"), snippet)
    if "passages/" in snippet:
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = {"id": [1, 2], "source": ["bees.md", "honey.md"], "text": ["Bees make honey.", "Honey keeps."]}
        table = pytest.importorskip("pyarrow").table(columns)
        (tmp_path / "passages").mkdir()
        parquet.write_table(table, tmp_path / "passages" / "part.parquet")
    with_warnings = bool(optional_packages(snippet))
    status, out, err = warm.run(snippet, tmp_path, environment=environment, with_warnings=with_warnings)
    assert status == 0, err or status
    assert out.strip() or "print(" not in snippet


def test_marks_of_snippets_are_known_and_give_reasons():
    for name, mark, code in ALL:
        ast.parse(code)
        assert mark in {"", "continues"} or re.fullmatch(r"not run: \w.+", mark), name


@pytest.mark.parametrize("code", BEFORE)
def test_removed_lines_of_diffs_are_python(code):
    # Most of its packages are not needed here, and ServiceContext is gone.
    assert "openai" in code
    ast.parse(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_says_before_a_snippet_how_to_install_its_packages(page):
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        commands = " ".join(re.findall(r"[Ii]nstall.*", text[: block.start()])).replace(
            "[all]", "[langchain,llama-index,sandbox]"
        )
        names = {name for _, names in warm_process.imported(side(*block.groups()[1:], "-")) for name in names}
        packages = {
            next((one for one in INSTALLED_BY if name.startswith(one)), name.partition(".")[0]) for name in names
        }
        words = {INSTALLED_BY.get(name, name.replace("_", "-")) for name in packages - BASE}
        assert [word for word in sorted(words) if word not in commands] == []

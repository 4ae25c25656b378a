"""The snippets of the README and of the pages in docs run as they stand; the README's table is the catalogue's."""

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nanogpt_core import MODELS, ModelInfo

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs_in_a_process_of_its_own(snippet, sandbox, tmp_path):
    for plugin, framework in NEEDS.items():
        if plugin in snippet and not installed(framework):
            pytest.skip(f"{framework} is not installed")
    environment = {**os.environ, "NANOGPT_API_KEY": sandbox.api_key, "NANOGPT_BASE_URL": sandbox.base_url}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", f"ignore:{SUNSET}:DeprecationWarning", "-c", snippet],
        check=False,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


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

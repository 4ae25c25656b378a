"""The page about tracing: its first snippet prints a log. The table of tests of observability names existing tests."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TABLE = PAGE.split("<!-- tests -->")[1].split("<!-- end of tests -->")[0].strip().splitlines()
CELLS = sorted({cell.strip() for row in TABLE[2:] for cell in row.strip("| ").split("|")[1:]})


def test_table_has_all_rows_and_columns():
    names = [row.strip("| ").split("|")[0].strip() for row in TABLE[2:]]
    assert names == ["log", "usage", "records", "spans", "metrics", "close", "types"]
    assert [len(row.strip("| ").split("|")) for row in TABLE[2:]] == [4] * 7


@pytest.mark.parametrize("cell", CELLS)
def test_each_cell_names_a_test(cell):
    file, name = re.fullmatch(r"`(.+)::(test_\w+)`", cell).groups()
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.xdist_group("warm processes")
def test_snippet_that_turns_on_the_log_prints_a_line_as_on_the_page(warm, shared_sandbox, tmp_path):
    page = (ROOT / "docs" / "guides" / "tracing_and_costs.md").read_text(encoding="utf-8")
    snippet = re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
    environment = {"NANOGPT_API_KEY": shared_sandbox.api_key, "NANOGPT_BASE_URL": shared_sandbox.base_url}
    status, _, printed = warm.run(snippet, tmp_path, environment=environment)
    assert status == 0, printed
    line = (
        r"\d\d:\d\d:\d\d nanogpt_core embeddings text-embedding-3-small: (1 text|\d+ texts), [\d,]+ tokens, [\d.]+ s, "
    )
    assert re.fullmatch(line + r"request sandbox-\w+\n", printed)
    assert re.search(rf"^{line}3 attempts, request 5f1c$", page, re.MULTILINE)

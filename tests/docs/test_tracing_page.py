"""The table of tests of observability: each cell names a test that there is."""

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

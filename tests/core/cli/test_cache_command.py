"""`nanogpt cache`: on real cache files."""

import json
import sqlite3

import numpy as np
import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

from nanogpt_core import Embedder
from nanogpt_core.cli.entry import run


@pytest.fixture
def file(tmp_path, options):
    """A cache file with three vectors of 1024 dimensions and one of 256."""
    path = tmp_path / "vectors.sqlite"
    Embedder("BAAI/bge-m3", cache=path, **options).embed(["one", "two", "three"])
    Embedder(dimensions=256, cache=path, **options).embed(["four"])
    return path


def damage(file):
    with sqlite3.connect(file) as database:
        database.execute(
            "UPDATE nanogpt_entries SET entry = substr(entry, 1, 40) "
            "WHERE key = (SELECT key FROM nanogpt_entries ORDER BY length(entry) DESC LIMIT 1)"
        )
    database.close()


def test_info_counts_vectors_and_dimensions(file, capsys):
    assert run(["cache", "info", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"{file}: 4 vectors, " in out
    assert "3 of 1,024 dimensions" in out
    assert run(["cache", "info", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {"path": str(file), "entries": 4, "bytes": report["bytes"], "dimensions": {"256": 1, "1024": 3}}


def test_verify_tells_sound_and_damaged_files_apart_by_exit_code(file, capsys):
    assert run(["cache", "verify", str(file)]) == 0
    assert "sound" in capsys.readouterr().out
    damage(file)
    assert run(["cache", "verify", str(file), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["unsound"] == 1
    assert err == f"nanogpt: {file} is damaged: 1 unsound vector.\n"


def test_export_writes_the_vectors_for_numpy(file, tmp_path, capsys):
    assert run(["cache", "export", str(file), str(tmp_path / "out.npz")]) == 0
    assert capsys.readouterr().out == f"4 vectors written to {tmp_path / 'out.npz'}.\n"
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["vectors_1024"].shape == (3, 1024)
    assert run(["cache", "export", str(file), str(tmp_path / "out.txt")]) == 2
    assert "must end in .npz" in capsys.readouterr().err


def test_clear_needs_a_confirmation(file, capsys):
    assert run(["cache", "clear", str(file)]) == 6
    assert "Nothing was deleted. Confirm with --yes." in capsys.readouterr().err
    assert run(["cache", "clear", str(file), "--yes"]) == 0
    assert capsys.readouterr().out == "4 vectors deleted.\n"
    assert run(["cache", "info", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 0


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("n\n", 6), ("", 6)])
def test_clear_asks_in_a_terminal(file, capsys, monkeypatch, typed, code):
    import io

    stdin = io.StringIO(typed)
    stdin.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(["cache", "clear", str(file)]) == code
    assert f"Delete 4 vectors of {file}? [y/N] " in capsys.readouterr().err


@pytest.mark.parametrize("action", ["info", "verify", "clear"])
def test_file_that_is_no_cache_is_one_line_and_stays_as_it_is(action, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("not a cache")
    for name, message in (("missing.sqlite", "no cache file at"), ("notes.txt", "cannot be used")):
        assert run(["cache", action, str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
    assert (tmp_path / "notes.txt").read_text() == "not a cache"
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]

"""Paths: standard input, an output and the files beside it, and paths in messages."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

STDIN = "<stdin>"
"""Standard input. On the command line it is ``-``, which cyclopts would take for an option."""

MANIFEST = ".manifest.json"
"""End of the name of a manifest."""

UNFINISHED = ".unfinished"
"""End of the name of anything that is written and not complete."""


def data_files(output: Path) -> list[Path]:
    """Return the files that hold an output: one, and for an array also that with the passages."""
    return [output, passages_path(output)] if output.suffix.lower() == ".npy" else [output]


def passages_path(output: Path) -> Path:
    """Return the file with the passages of an array: ``docs.passages.jsonl``."""
    return output.with_name(f"{output.stem}.passages.jsonl")


def manifest_path(output: Path) -> Path:
    """Return the manifest of an output: ``docs.parquet.manifest.json``."""
    return output.with_name(output.name + MANIFEST)


def state_folder(output: Path) -> Path:
    """Return the folder with the state of an output that is not finished: ``docs.parquet.unfinished``."""
    return output.with_name(output.name + UNFINISHED)


def index_path(output: Path) -> Path:
    """Return the index of a large output: ``docs.parquet.index``."""
    return output.with_name(f"{output.name}.index")


def path_as_text(path: Path) -> str:
    r"""Return a path as text: ``/`` between folders, and an escape such as ``\xe9`` for a byte that is not UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def leads_into(path: Path, places: Iterable[Path]) -> bool:
    """Return True if ``path`` leads to one of ``places``, with all links followed, or into one that is a folder."""
    real = Path(os.path.realpath(path))  # Path.resolve() fails for links in a circle
    return any(Path(os.path.realpath(place)) in (real, *real.parents) for place in places)

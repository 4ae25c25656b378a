"""Names: standard input, and the files beside an output."""

from __future__ import annotations

import os
from pathlib import Path

MANIFEST = ".manifest.json"
"""End of the name of the manifest: ``corpus.parquet.manifest.json``."""

PASSAGES = ".passages.jsonl"
"""End of the name of the passages beside an array, in place of ``.npy``: ``corpus.passages.jsonl``."""

UNFINISHED = ".unfinished"
"""End of the name of the folder with the state of an output that is not finished: ``corpus.parquet.unfinished``."""

INDEX = ".index"
"""End of the name of the index of a large output: ``corpus.parquet.index``."""

STDIN = "<stdin>"
"""Standard input. On the command line it is ``-``, which cyclopts would take for an option."""


def name_of(path: Path) -> str:
    r"""Return a path as text: ``/`` between folders, and an escape such as ``\xe9`` for a byte that is not UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")

"""``nanogpt verify``: counts the rows of an output again, and compares them with its manifest."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from cyclopts import App

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import print_error, print_json
from nanogpt_core.cli.exit_codes import ExitCode
from nanogpt_core.cli.formats.base import VectorReader, open_output
from nanogpt_core.cli.job.manifest import Manifest, read_manifest
from nanogpt_core.cli.options import JsonFlag

_MAX_ROWS_SHOWN = 20
_EXAMPLES = """\
The exit code is 0 if everything is as the manifest says, and 1 if not.

Examples:
  nanogpt verify docs.parquet
  nanogpt verify docs.parquet --json
"""

command = App(name="verify", help_epilogue=_EXAMPLES)


@command.default
def verify(output: Path, /, *, json: JsonFlag = False) -> int:
    """Compare an output with its manifest, and name rows without a vector.

    Args:
        output: A file that `nanogpt embed` has written.
        json: Print JSON.
    """
    reader = open_output(output)
    manifest = read_manifest(output)
    vectors = _Vectors(reader)
    texts = hashlib.sha256()
    rows, places, missing = 0, {}, set(vectors.missing)
    for number, row in enumerate(reader.rows()):
        texts.update(hashlib.sha256(row.text.encode()).digest())
        rows += 1
        if number in missing:
            places[number] = row.place
    problems = _problems(manifest, reader, vectors, rows, texts.hexdigest())
    if json:
        without = [{"row": number, "place": places.get(number)} for number in vectors.missing]
        facts = {"output": str(output), "rows": rows, "dimensions": vectors.dimensions, "without_vector": without}
        print_json({**facts, "problems": problems, "ok": not problems and not without})
    for problem in problems:
        print_error(f"{output}: {problem}")
    for number in vectors.missing[:_MAX_ROWS_SHOWN]:
        print_error(f"{output}: row {number} has no vector ({places.get(number, 'no passage')})")
    if len(vectors.missing) > _MAX_ROWS_SHOWN:
        print_error(f"{output}: and {counted(len(vectors.missing) - _MAX_ROWS_SHOWN, 'more row')} without a vector")
    if problems or vectors.missing:
        return ExitCode.FOUND_PROBLEM
    if not json:
        sys.stdout.write(
            f"{output}: {counted(rows, 'row')} of {counted(vectors.dimensions, 'dimension')}; as in the manifest\n"
        )
    return ExitCode.OK


class _Vectors:
    """Reads all vectors.

    Attributes:
        missing: Numbers of the rows without a vector, or with one that is not finite or has only zeros.
        sha256: SHA-256 of all vectors, in hexadecimal.
    """

    def __init__(self, reader: VectorReader) -> None:
        import numpy as np

        total = hashlib.sha256()
        self.rows = self.dimensions = 0
        self.missing: list[int] = []
        for block in reader.blocks():
            total.update(np.ascontiguousarray(block, dtype="<f4").data)
            sound = np.isfinite(block).all(axis=1) & block.any(axis=1)
            self.missing += (self.rows + np.flatnonzero(~sound)).tolist()
            self.rows += len(block)
            self.dimensions = block.shape[1]
        self.sha256 = total.hexdigest()


def _problems(
    manifest: Manifest | None, reader: VectorReader, vectors: _Vectors, rows: int, texts_sha256: str
) -> list[str]:
    problems = []
    if rows != vectors.rows:
        problems.append(f"it has {counted(rows, 'passage')} and {counted(vectors.rows, 'vector')}")
    if reader.facts is not None and reader.facts.texts_sha256 != texts_sha256:
        problems.append("the texts are not those of which the file itself tells")
    if manifest is None:
        return [*problems, "the manifest is missing"]
    expected = {
        "row": (manifest.rows, vectors.rows),
        "dimension": (manifest.dimensions, vectors.dimensions),
    }
    problems += [
        f"{counted(found, name)}, and the manifest says {said:,}"
        for name, (said, found) in expected.items()
        if said != found
    ]
    if manifest.texts_sha256 != texts_sha256:
        problems.append("the texts are not those of the manifest")
    if manifest.vectors_sha256 != vectors.sha256 and not vectors.missing:
        problems.append("the vectors are not those of the manifest")
    return problems

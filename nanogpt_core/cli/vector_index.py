"""The index of a large output: a file beside it that finds candidates without reading every vector."""

from __future__ import annotations

import hashlib
import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from nanogpt_core._runtime.extras import install_command
from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import print_warning
from nanogpt_core.cli.formats.base import VectorLookup, VectorReader
from nanogpt_core.cli.nearest import Hit, nearest
from nanogpt_core.cli.paths import UNFINISHED, index_path, manifest_path
from nanogpt_core.cli.progress import Progress, make_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_INDEXED_NUMBERS = 2**29
"""Rows times dimensions from which an index is made: 350,000 rows of 1,536, 2 GiB. docs/cli/embed.md has the times."""

_VERSION = b"nanogpt index 1"
# A random rotation, then 1 bit for each dimension: 1/25 of the vectors' size. Exact scores of the candidates make up
# for the rest. Without the rotation, vectors with many zeros lose half of their neighbours.
_RECIPE = "RR{dimensions},IVF{lists},RaBitQ"
_SAMPLE_ROWS_PER_LIST = 40  # faiss warns below 39
_TRAINING_ROUNDS = 10
# With 1,024, the threads of faiss wait for each other: a tenth of the speed on a busy machine.
_ROWS_PER_ADDITION = 8192
_LISTS_PER_SEARCH = 64
_MIN_CANDIDATES = 100
_CANDIDATES_PER_HIT = 4


class _Index(NamedTuple):
    vectors: Any  # faiss.Index
    without_vector: int


def indexed_nearest(
    output: Path, reader: VectorReader, query: NDArray[np.float32], count: int
) -> tuple[list[Hit], int] | None:
    """Find the rows with the highest cosines among the candidates of the index, which is made if there is none.

    Returns:
        The rows with exact scores, as :func:`nanogpt_core.cli.nearest.nearest` returns them, and the number of rows
        without a vector. None if the exact search has to be taken: the output is small, of a format without access to
        single vectors, faiss is missing, the index cannot be stored, or it finds too few rows.
    """
    if not isinstance(reader, VectorLookup) or reader.row_count * len(query) < MIN_INDEXED_NUMBERS:
        return None
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        print_warning(f"every vector of {output} is compared. For an index, run: {install_command('cli-index')}")
        return None
    path = index_path(output)
    try:
        identity = _identity(output)
        index = _load(faiss, path, identity) or _make(faiss, path, identity, reader)
    except OSError as error:
        print_warning(f"every vector of {output} is compared: its index, {path}: {error.strerror or error}.")
        return None
    hits = _search(faiss, index, reader, query, count)
    if len(hits) < min(count, reader.row_count - index.without_vector):
        return None
    return hits, index.without_vector


def _search(faiss: Any, index: _Index, reader: VectorLookup, query: NDArray[np.float32], count: int) -> list[Hit]:
    import numpy as np

    if not index.vectors.ntotal:  # nor is it trained: faiss would refuse to search
        return []
    faiss.extract_index_ivf(index.vectors).nprobe = _LISTS_PER_SEARCH
    unit = query / np.linalg.norm(query)
    _, found = index.vectors.search(unit[None], max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * count))
    candidates = np.sort(found[found >= 0]).tolist()
    hits, _ = nearest([reader.vectors(candidates)], query, count)
    return [Hit(candidates[hit.row], hit.score) for hit in hits]


def _identity(output: Path) -> bytes:
    """Return facts that change with the output: of its manifest, if there is one, and of the file itself."""
    manifest, facts = manifest_path(output), output.stat()
    content = manifest.read_bytes() if manifest.exists() else b""
    return b"%s %d %d" % (hashlib.sha256(content).digest(), facts.st_size, facts.st_mtime_ns)


def _checksum(identity: bytes, without_vector: int, body: NDArray[np.uint8]) -> str:
    checksum = hashlib.sha256(b"%s %s %d " % (_VERSION, identity, without_vector))
    checksum.update(body.data)
    return checksum.hexdigest()


def _load(faiss: Any, path: Path, identity: bytes) -> _Index | None:
    """Return the index in a file; None if there is none, or if it is damaged or of other vectors."""
    import numpy as np

    try:
        with path.open("rb") as file:
            header, body = file.readline(), np.frombuffer(file.read(), dtype=np.uint8)
        facts = orjson.loads(header)
        without_vector = int(facts["without_vector"])
        # faiss checks little: a damaged file could end the process.
        if facts["sha256"] == _checksum(identity, without_vector, body):
            return _Index(faiss.deserialize_index(body), without_vector)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RuntimeError):  # RuntimeError: of another version of faiss
        pass
    print_warning(f"{path} is damaged or out of date, and is made again.")
    return None


def _make(faiss: Any, path: Path, identity: bytes, reader: VectorLookup) -> _Index:
    """Build the index, and store it: written beside, and renamed at the end."""
    part = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    progress = make_progress(quiet=False)
    try:
        with part.open("wb") as file:
            index = _build(faiss, reader, progress)
            body = faiss.serialize_index(index.vectors)
            facts = {
                "without_vector": index.without_vector,
                "sha256": _checksum(identity, index.without_vector, body),
            }
            file.write(orjson.dumps(facts, option=orjson.OPT_APPEND_NEWLINE))
            file.write(body.data)
        part.replace(path)
        progress.end(f"{counted(reader.row_count, 'row')}, {len(body) / 1e6:,.1f} MB in {path.name}")
    finally:
        progress.close()
        part.unlink(missing_ok=True)
    return index


def _build(faiss: Any, reader: VectorLookup, progress: Progress) -> _Index:
    """Read the vectors twice, block by block: a sample to divide them into lists, then all of them."""
    import numpy as np

    rows = reader.row_count
    step = max(1, rows // (math.isqrt(rows) * _SAMPLE_ROWS_PER_LIST))
    progress.begin("Index of the vectors: sampling rows", rows)
    parts, first = [], 0
    for block in reader.blocks():
        parts.append(_unit_vectors(block[-first % step :: step])[1])
        first += len(block)
        progress.advance_to(first)
    sample = np.concatenate(parts)
    del parts
    dimensions = sample.shape[1]
    recipe = _RECIPE.format(dimensions=dimensions, lists=max(1, len(sample) // _SAMPLE_ROWS_PER_LIST))
    vectors = faiss.index_factory(dimensions, recipe, faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(vectors).cp.niter = _TRAINING_ROUNDS
    progress.begin(f"Index of the vectors: grouping {len(sample):,} of them", None)
    if len(sample):
        vectors.train(sample)
    del sample
    progress.begin("Index of the vectors: adding rows", rows)
    first = 0
    for block in _large_blocks(reader.blocks()):
        numbers, units = _unit_vectors(block)
        if len(numbers):
            vectors.add_with_ids(units, first + numbers)
        first += len(block)
        progress.advance_to(first)
    return _Index(vectors, rows - vectors.ntotal)


def _large_blocks(blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of at least :data:`_ROWS_PER_ADDITION` rows, but for the last one."""
    import numpy as np

    parts, rows = [], 0
    for block in blocks:
        parts.append(block)
        rows += len(block)
        if rows >= _ROWS_PER_ADDITION:
            large = np.concatenate(parts)
            parts, rows = [], 0  # before the caller works with the copy
            yield large
    if parts:
        yield np.concatenate(parts)


def _unit_vectors(block: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the numbers of the rows that have a vector, and these vectors with length 1."""
    import numpy as np

    lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
    numbers = np.flatnonzero(np.isfinite(lengths) & (lengths > 0))
    return numbers, block[numbers] / lengths[numbers, None]

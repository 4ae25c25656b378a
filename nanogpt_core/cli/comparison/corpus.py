"""The corpus of a comparison, read as ``nanogpt embed`` reads its input."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter

from nanogpt_core.cli.job.intake import take_in
from nanogpt_core.cli.job.progress import Progress
from nanogpt_core.cli.job.spool import Spool
from nanogpt_core.cli.names import name_of
from nanogpt_core.cli.options import InputOptions
from nanogpt_core.cli.reading.passage import Passage as PlacedPassage

if TYPE_CHECKING:
    from nanogpt_core.comparison import Passage

__all__ = ["CorpusOptions", "read_corpus"]

_JSON_LINES = (".jsonl", ".ndjson")
_DEFAULT_ID_FIELD = "source"


@Parameter(name="*", group=Group.create_ordered("Corpus"))
@dataclass(frozen=True)
class CorpusOptions:
    """Reading of the corpus.

    Attributes:
        field: Field of records (JSONL, JSON, CSV, Parquet) that holds the text.
        id_field: Field of records that holds the name of their source. Default: `source`; in JSONL also `id`.
        include: Pattern of the files to read in folders, such as `*.py`. May be repeated. Default: text, Markdown,
            HTML, PDF, JSONL, CSV and Parquet.
        encoding: Encoding of text files and CSV.
        chunk_tokens: Most tokens of a passage; 0 for whole documents. Default: 400 for documents and pages, and whole
            texts for records.
        chunk_overlap: Tokens that a passage repeats of the one before it, at most. Default: a tenth of chunk-tokens.
        skip_bad: Leave out parts of the corpus that cannot be embedded, and count them.
    """

    field: str = "text"
    id_field: str | None = None
    include: tuple[str, ...] = ()
    encoding: str = "utf-8"
    chunk_tokens: int | None = None
    chunk_overlap: int | None = None
    skip_bad: bool = False


def read_corpus(corpus: Path, options: CorpusOptions, progress: Progress) -> list[Passage]:
    """Return the passages of a file or folder. The source of a document is its path in the folder.

    Args:
        corpus: The file or folder.
        options: The options of reading.
        progress: Shows the number of passages.

    Raises:
        CommandError: The corpus has no text, or a part that cannot be embedded.
        InvalidInputError: A line of JSON is not a passage.
    """
    from nanogpt_core.comparison import Passage, load_passages

    if corpus.suffix.lower() in _JSON_LINES and options == CorpusOptions():
        return load_passages(corpus)
    reading = InputOptions(**{**asdict(options), "id_field": options.id_field or _DEFAULT_ID_FIELD})
    with (
        tempfile.TemporaryDirectory(prefix="nanogpt-") as folder,
        contextlib.closing(Spool(Path(folder, "passages.sqlite"))) as spool,
    ):
        take_in([str(corpus)], reading, spool, progress)
        return [Passage(row.passage.text, _source(row.passage, corpus)) for row in spool.rows()]


def _source(passage: PlacedPassage, corpus: Path) -> str:
    if passage.key is not None:
        return passage.key
    path = Path(passage.source)
    return path.relative_to(name_of(corpus)).as_posix() if corpus.is_dir() else path.name

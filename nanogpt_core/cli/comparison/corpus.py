"""The corpus of a comparison, read as ``nanogpt embed`` reads its input."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter

from nanogpt_core.cli.options import InputOptions, ReadingOptions
from nanogpt_core.cli.paths import leads_into, path_as_text
from nanogpt_core.cli.progress import Progress
from nanogpt_core.cli.reading.input import read_input
from nanogpt_core.cli.reading.passage import Passage as PlacedPassage
from nanogpt_core.cli.reading.spool import Spool

if TYPE_CHECKING:
    from nanogpt_core.comparison import Passage

_JSON_LINES = (".jsonl", ".ndjson")
_DEFAULT_ID_FIELD = "source"


@Parameter(name="*", group=Group.create_ordered("Corpus"))
@dataclass(frozen=True)
class CorpusOptions(ReadingOptions):
    """Reading of the corpus.

    Attributes:
        id_field: Field of records that holds the name of their source. Default: `source`; in JSONL also `id`.
    """

    id_field: str | None = None


def read_corpus(corpus: Path, options: CorpusOptions, progress: Progress, without: Collection[Path]) -> list[Passage]:
    """Return the passages of a file or folder. The source of a document is its path in the folder.

    Of the folder, files and folders in ``without`` are not read.

    Raises:
        CommandError: The corpus has no text, or a part that cannot be embedded.
    """
    from nanogpt_core.comparison import Passage
    from nanogpt_core.comparison.passages import as_record

    with (
        tempfile.TemporaryDirectory(prefix="nanogpt-") as folder,
        contextlib.closing(Spool(Path(folder))) as spool,
    ):
        read_input(
            [str(corpus)],
            InputOptions(**asdict(options)),
            spool,
            progress,
            adapt_record=as_record if corpus.suffix.lower() in _JSON_LINES else None,
            default_id_field=_DEFAULT_ID_FIELD,
            without=[path for path in without if corpus.is_dir() and leads_into(path, [corpus])],
        )
        return [Passage(placed.text, _source(placed, corpus)) for block in spool.blocks() for placed in block.passages]


def _source(passage: PlacedPassage, corpus: Path) -> str:
    if passage.key is not None:
        return passage.key
    path = Path(passage.source)
    return path.relative_to(path_as_text(corpus)).as_posix() if corpus.is_dir() else path.name

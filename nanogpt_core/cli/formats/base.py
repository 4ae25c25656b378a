"""The interfaces of a format, and the facts that every output holds."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import orjson

from nanogpt_core.cli.exit_codes import CommandError, ExitCode
from nanogpt_core.cli.reading.passage import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS_PER_BLOCK = 1024
"""Maximum number of rows of a block, and of a row group: 6 MiB of vectors with 1,536 dimensions."""

COLUMNS = ("id", "source", "line", "page", "text", "metadata")
"""The columns of an output, beside the vectors."""

MODULES = {".parquet": "parquet", ".npy": "numpy_array", ".jsonl": "json_lines", ".lance": "lance_dataset"}
"""Modules of the formats, by the ends of the outputs' names."""

_NEEDS = {".parquet": "pyarrow", ".lance": "lance"}


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about an output, in the file itself if its format has a place for them.

    Attributes:
        texts_sha256: SHA-256, in hexadecimal, over the SHA-256 of each row's text, in order.
    """

    model: str
    dimensions: int
    rows: int
    texts_sha256: str

    def as_strings(self) -> dict[str, str]:
        """Return the facts as metadata of a file: ``nanogpt.model`` and so on."""
        return {f"nanogpt.{name}": str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_strings(cls, metadata: dict[str, str]) -> Facts | None:
        """Return the facts from metadata of a file; None if they are not there."""
        try:
            return cls(
                metadata["nanogpt.model"],
                int(metadata["nanogpt.dimensions"]),
                int(metadata["nanogpt.rows"]),
                metadata["nanogpt.texts_sha256"],
            )
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Block:
    """Rows to write: passages, and their vectors in parts as they arrived, ``(n, d)`` float32 each."""

    passages: Sequence[Passage]
    vectors: Sequence[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of an output, without its vector. See :class:`nanogpt_core.cli.reading.passage.Passage`."""

    id: str
    text: str
    source: str = ""
    line: int | None = None
    page: int | None = None
    metadata: str | None = None

    @property
    def place(self) -> str:
        """The place of the passage, for people: ``guide.md:12``, ``paper.pdf page 3``, or the ID."""
        if self.page is not None:
            return f"{self.source} page {self.page}"
        return self.id if self.line is None else f"{self.source}:{self.line}"


_ROW_FIELDS = StoredRow.__dataclass_fields__
_NUMBERS = ("line", "page")


class Format(Protocol):
    """A module of this package: how to write and read one format."""

    Reader: Callable[[Path], VectorReader]
    """Opens an output.

    Raises:
        CommandError: It is of another kind, or damaged.
    """

    def write(self, path: Path, facts: Facts, blocks: Iterator[Block]) -> None:
        """Write an output to a path at which nothing is; if the ``blocks`` end early, it is incomplete."""


class VectorReader(Protocol):
    """Reads an output."""

    facts: Facts | None
    """Facts that the file itself holds; None if its format has no place for them."""

    @property
    def row_count(self) -> int:
        """Number of rows."""

    def check_complete(self) -> None:
        """Check that the end of each file is there, and a passage for each vector, without reading the vectors.

        Raises:
            CommandError: It is not.
        """

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors in order, ``(n, d)`` float32 each; a row without a vector is NaN."""

    def rows(self, numbers: Sequence[int] | None = None) -> Iterator[StoredRow]:
        """Yield the rows with these numbers, counted from 0 and in ascending order; None for all."""


@runtime_checkable
class VectorLookup(VectorReader, Protocol):
    """A reader that finds single vectors without reading all of them."""

    def vectors(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of at least one row, as ``blocks`` yields them; the numbers are as for ``rows``."""


def format_of(output: Path) -> Format:
    """Return the format of a file, by the end of its name.

    Raises:
        CommandError: There is no such format.
        ImportError: Its package is not installed.
    """
    name, package = MODULES.get(output.suffix.lower()), _NEEDS.get(output.suffix.lower())
    if name is None:
        raise CommandError(f"{output}: The name of an output ends with {', '.join(MODULES)}.")
    if package is not None and importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} is not installed", name=package)
    return cast("Format", importlib.import_module(f"nanogpt_core.cli.formats.{name}"))


def open_output(output: Path) -> VectorReader:
    """Open a file that ``nanogpt embed`` has written.

    Raises:
        CommandError: There is none, or it is of another kind.
    """
    if not output.exists():
        raise CommandError(f"{output}: There is no such file.", remedy="Make it with nanogpt embed.")
    return format_of(output).Reader(output)


def unreadable(output: Path, reason: str) -> CommandError:
    """Return the error for a file that is damaged, or of another program; the ``reason`` stands after its name."""
    return CommandError(f"{output} {reason}.", code=ExitCode.BAD_INPUT)


def stored_row(fields: Any, output: Path, number: int) -> StoredRow:
    """Return a row from the fields that a file holds; fields that :class:`StoredRow` does not have are left out.

    ``fields`` is any value of the file: one that is not a dictionary is an error. ``number`` counts from 0.

    Raises:
        CommandError: The row has no text or no ID.
    """
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str) or fields.get("id") is None:
        raise unreadable(output, f"was not written by nanogpt embed: row {number} has no text or no id")
    known = {name: value for name, value in fields.items() if name in _ROW_FIELDS and value is not None}
    for name, value in known.items():  # other programs write values of other types into the same columns
        if name in _NUMBERS:
            known[name] = _integer(value)
        elif not isinstance(value, str):
            known[name] = _json(value) if name == "metadata" else str(value)
    return StoredRow(**known)


def _integer(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():  # pandas writes integers with nulls as floats
        return int(value)
    return value if isinstance(value, int) else None


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # nested too deeply
        return str(value)


def row_fields(passage: Passage) -> dict[str, str | int | None]:
    """Return the fields of a row, in the order of the columns."""
    return {name: getattr(passage, name) for name in COLUMNS}

"""Inputs of a command: files, folders and standard input, in a fixed order."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.formats.base import MODULES
from nanogpt_core.cli.paths import MANIFEST, STDIN, UNFINISHED, data_files, index_path, manifest_path, path_as_text
from nanogpt_core.cli.reading.passage import Problem

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".rst": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
"""Formats by the ends of file names."""

_FORMATS_IN_FOLDERS = FORMATS.keys() - {".json"}  # most of these hold settings, and no records

LINKED_FOLDER = "linked folder"
"""Name of links to folders among the files that are left out."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read, or standard input.

    Attributes:
        name: The name in messages and in the output, by :func:`nanogpt_core.cli.paths.path_as_text`.
        path: The file; None for standard input.
        format: One of the values of :data:`FORMATS`; None if neither name nor option tells it: the beginning does then.
        in_folder: Whether it was found in a folder, and not named itself.
    """

    name: str
    path: Path | None
    format: str | None
    in_folder: bool = False


def find_sources(
    inputs: Sequence[str], *, given_format: str | None = None, include: Sequence[str] = ()
) -> tuple[list[Source], list[Problem], Counter[str]]:
    """Return the files to read. Files that ``nanogpt embed`` has written are left out.

    ``given_format`` is that of standard input and named files, and of files in folders whose names do not tell it.
    ``include`` are patterns of files in folders, such as ``*.py``; by default those with an end in :data:`FORMATS`
    but ``.json``.

    Returns:
        The sources, folders in alphabetical order; folders without any; and the number of other files in folders, by
        the ends of their names.

    Raises:
        CommandError: An input does not exist, or its name is empty: a shell's variable may be unset.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()
    for name in inputs:
        path = Path(name)
        if not name:
            raise CommandError("An input has an empty name.", remedy="For the current folder, write a full stop.")
        if name == STDIN:
            sources.append(Source(STDIN, None, given_format))
        elif path.is_dir():
            unreadable: list[Problem] = []
            found = [
                Source(path_as_text(file), file, format_of_name(file) or given_format, in_folder=True)
                for file in _files(path, include, left_out, unreadable)
            ]
            sources += found
            problems += unreadable
            if not found and not unreadable:
                reason = "that --include names" if include else "of a known format"
                problems.append(Problem(path_as_text(path), f"the folder holds no file {reason}"))
        elif path.exists():
            sources.append(Source(path_as_text(path), path, given_format or format_of_name(path)))
        else:
            raise CommandError(f"{name}: There is no such file or folder.")
    # A file that is named twice, or also found in a folder, is read once.
    first: dict[Path | None, Source] = {}
    for source in sources:
        first.setdefault(source.path and source.path.absolute(), source)
    return list(first.values()), problems, +left_out


def format_of_name(path: Path) -> str | None:
    """Return the format that the end of a file's name tells; None if it tells none."""
    return FORMATS.get(path.suffix.lower())


def _files(folder: Path, include: Sequence[str], left_out: Counter[str], unreadable: list[Problem]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        unreadable.append(Problem(path_as_text(Path(error.filename)), error.strerror or str(error)))

    for root, folders, names in os.walk(folder, onerror=note):
        own = _own_files(Path(root), names)
        folders[:] = sorted(name for name in folders if name not in own and not _is_hidden(name))
        # A link may lead back to a folder above it.
        left_out[LINKED_FOLDER] += sum(Path(root, name).is_symlink() for name in folders)
        for name in sorted(name for name in names if name not in own and not _is_hidden(name)):
            path = Path(root, name)
            if include:
                wanted = any(fnmatch.fnmatch(name, pattern) for pattern in include)
            else:
                wanted = path.suffix.lower() in _FORMATS_IN_FOLDERS
            if not wanted:
                left_out[path_as_text(Path(path.suffix or name))] += path.is_file()
            elif path.is_file():
                yield path
            elif path.is_symlink():
                unreadable.append(Problem(path_as_text(path), "the link leads to no file"))


def _own_files(folder: Path, names: Sequence[str]) -> set[str]:
    """Return the names of outputs, which have a manifest, and of the files beside them."""
    outputs = [folder / name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST) and name != MANIFEST]
    return {
        path.name
        for each in outputs
        if each.suffix.lower() in MODULES  # other programs write manifests too, also beside a folder
        for path in (*data_files(each), manifest_path(each), index_path(each))
    }


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.endswith(UNFINISHED)

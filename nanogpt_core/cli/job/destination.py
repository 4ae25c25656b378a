"""The place of an output: checks of it, and of a finished output that is there; and moving a new one to it."""

from __future__ import annotations

import shutil
from pathlib import Path

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.formats.base import open_output
from nanogpt_core.cli.job.manifest import Manifest, read_manifest
from nanogpt_core.cli.job.state import State
from nanogpt_core.cli.paths import data_files, leads_into, manifest_path, path_as_text, state_folder
from nanogpt_core.cli.reading.spool import Spool
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.models.tokens import TokenCounter


def check_destination(output: Path, cache: Path | None) -> None:
    """Check that an output and its manifest can be put into their places, and that a cache is not in one of them.

    Raises:
        CommandError: The folder is missing, a folder is in one of the places, or a byte of the path is not UTF-8.
    """
    if path_as_text(output) != output.as_posix():
        raise CommandError(f"{path_as_text(output)}: Arrow and SQLite take only paths in UTF-8.")
    if not output.parent.is_dir():
        raise CommandError(f"{output.parent}: There is no such folder.", remedy="Make it, or pass another --output.")
    files = [*data_files(output), manifest_path(output)]
    for path in files:
        if path.is_dir() and path.suffix.lower() != ".lance":
            raise CommandError(f"{path} is a folder.", remedy="Pass another --output.")
    if cache is not None and leads_into(cache, [*files, state_folder(output)]):
        raise CommandError(f"{cache} is a file of the output, and would be lost.", remedy="Pass another --cache.")


def find_finished(output: Path, state: State) -> Manifest | None:
    """Return the manifest of a finished output; None if there is none.

    Raises:
        CommandError: There is a file that this program has not finished.
    """
    existing = next((path for path in data_files(output) if path.exists()), None)
    manifest = read_manifest(output) if existing == output else None
    # With a state, a kill may have come between the output and its manifest.
    if existing is not None and manifest is None and state.is_new:
        raise _exists(existing, "and has no manifest")
    return manifest


def check_finished(output: Path, manifest: Manifest, embedder: Embedder, spool: Spool, on_overflow: str) -> None:
    """Check that a finished output is complete, and the one of an embedder and the passages of a spool.

    Raises:
        CommandError: It is another one, or damaged.
    """
    same = {
        "other texts": manifest.texts_sha256 == spool.texts_sha256,
        "other IDs, places or metadata": manifest.rows_sha256 in (None, spool.rows_sha256)
        or manifest.texts_sha256 != spool.texts_sha256,
        f"--on-overflow {manifest.on_overflow}": manifest.on_overflow in (None, on_overflow)
        or not _has_long_text(embedder, spool),
        f"the model {manifest.model}": manifest.model == embedder.model,
        f"{manifest.dimensions:,} dimensions": embedder.width in (None, manifest.dimensions),
        f"the address {manifest.base_url}": manifest.base_url == embedder.base_url,  # for example that of a sandbox
    }
    differs = [words for words, equal in same.items() if not equal]
    if differs:
        raise _exists(output, f"with {' and '.join(differs)}")
    try:
        reader = open_output(output)
        reader.check_complete()
        rows = reader.row_count
    except CommandError as error:
        raise _exists(output, "and is damaged") from error
    if rows != manifest.rows:
        raise _exists(output, f"with {counted(rows, 'row')} of {manifest.rows:,}")


def _has_long_text(embedder: Embedder, spool: Spool) -> bool:
    """Return whether a text is over the model's token limit; without one, ``--on-overflow`` changes nothing."""
    counter = TokenCounter(embedder.model_info)
    return any(counter.count_if_too_long(text) for text in spool.distinct_texts())


def publish(part: Path, output: Path) -> None:
    """Move the complete files of an output to their places, the output itself last, and replace older ones."""
    older = part.with_name("older")
    shutil.rmtree(older, ignore_errors=True)
    for file, place in zip(reversed(data_files(part)), reversed(data_files(output)), strict=True):
        if file.is_dir() and place.exists():  # a dataset of Lance, which can replace nothing
            place.replace(older)
        file.replace(place)
    shutil.rmtree(older, ignore_errors=True)


def _exists(path: Path, reason: str) -> CommandError:
    return CommandError(f"{path} exists, {reason}. Nothing was sent.", remedy="Pass --overwrite, or another --output.")

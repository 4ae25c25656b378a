"""The manifest of an output: rows, hashes, tokens and cost, in a JSON file beside it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from nanogpt_core.cli.exit_codes import CommandError, ExitCode
from nanogpt_core.cli.paths import manifest_path

_FORMAT = "nanogpt embed 1"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Facts about a finished output.

    Attributes:
        output: Name of the file.
        rows: Number of rows.
        distinct_texts: Number of distinct texts among them.
        model: The model.
        dimensions: Dimensions of the vectors.
        base_url: Address of the API.
        texts_sha256: SHA-256, in hexadecimal, over the SHA-256 of each row's text, in order.
        vectors_sha256: SHA-256, in hexadecimal, over all vectors in order, little-endian float32.
        requests: Requests that were answered, in all runs.
        tokens: Tokens that were billed in all runs; None if a reply did not say. A run that was killed may have noted
            too few.
        usd: US dollars that were billed in all runs; None if unknown.
        skipped: Number of parts of the input that were left out.
        problems: The first of them, with their places.
        created: Time, in UTC.
        version: Version of nanogpt-rag.
        rows_sha256: SHA-256, in hexadecimal, over texts, IDs, places and metadata; None if an older version wrote it.
        on_overflow: Treatment of texts over the model's token limit; None if an older version wrote it.
    """

    output: str
    rows: int
    distinct_texts: int
    model: str
    dimensions: int
    base_url: str
    texts_sha256: str
    vectors_sha256: str
    requests: int
    tokens: int | None
    usd: float | None
    skipped: int
    problems: tuple[str, ...]
    created: str
    version: str
    rows_sha256: str | None = None
    on_overflow: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as a JSON object."""
        return {"format": _FORMAT, **asdict(self)}

    def write(self, output: Path, folder: Path) -> None:
        """Write the manifest of ``output``: into ``folder`` on the same disk, and from there to its place."""
        part = folder / "manifest.json"
        part.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(manifest_path(output))


def read_manifest(output: Path) -> Manifest | None:
    """Return the manifest of ``output``; None if there is none.

    Raises:
        CommandError: It cannot be read.
    """
    path = manifest_path(output)
    try:
        fields = orjson.loads(path.read_bytes())  # the json module would raise a RecursionError for nested lists
        if fields.pop("format") != _FORMAT:
            raise CommandError(f"{path} is of another version of nanogpt-rag.")
        # A later version may have written more fields.
        known = {name: fields[name] for name in Manifest.__dataclass_fields__ if name in fields}
        manifest = Manifest(**{**known, "problems": tuple(fields["problems"])})
        if not all(isinstance(value, int) for value in (manifest.rows, manifest.distinct_texts, manifest.dimensions)):
            raise TypeError("a count is not a number")
        if not all(isinstance(value, str) for value in (manifest.model, manifest.base_url)):
            raise TypeError("the model or its address is not a text")
        return manifest
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(
            f"{path} cannot be read ({type(error).__name__}: {error}).", code=ExitCode.BAD_INPUT
        ) from None

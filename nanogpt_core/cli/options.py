"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

# There is no option for the key: every user of the machine can read the arguments of a running process.

JsonFlag = Annotated[bool, Parameter(name="--json")]
"""Type of the option ``--json``: print one JSON document and nothing else on standard output."""

DEFAULT_CHAT_MODEL = "gpt-4o-mini"
"""The chat model of commands that ask one."""


@Parameter(name="*", group=Group.create_ordered("Model"))
@dataclass(frozen=True)
class ModelOptions:
    """The model and its address.

    Attributes:
        model: Name of the embedding model. `nanogpt models` lists them.
        dimensions: Reduce the vectors to so many dimensions, for models that support it.
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
    """

    model: Annotated[str, Parameter(alias="-m")] = "text-embedding-3-small"
    dimensions: Annotated[int | None, Parameter(alias="-d")] = None
    base_url: str | None = None


@dataclass(frozen=True)
class ReadingOptions:
    """Reading of documents and records.

    Attributes:
        field: Field of records (JSONL, JSON, CSV, Parquet) that holds the text. Dots lead into nested fields.
        id_field: Field of records that holds their ID. Default: file name and number.
        include: Pattern of files to read in folders, such as `*.py`. May be repeated. Default: all formats but JSON.
        encoding: Encoding of text files and CSV.
        chunk_tokens: Most tokens of a passage; 0 for whole documents. Default: 400, and whole texts for records.
        chunk_overlap: Tokens that a passage repeats of the one before it, at most. Default: a tenth of chunk-tokens.
        skip_bad: Leave out parts of the input that cannot be embedded, and count them.
    """

    field: str = "text"
    id_field: str | None = None
    include: tuple[str, ...] = ()
    encoding: str = "utf-8"
    chunk_tokens: int | None = None
    chunk_overlap: int | None = None
    skip_bad: bool = False


@Parameter(name="*", group=Group.create_ordered("Input"))
@dataclass(frozen=True)
class InputOptions(ReadingOptions):
    """Reading of the input of ``embed`` and ``estimate``.

    Attributes:
        keep: Field of records to keep in the column `metadata`, as JSON; null if absent. May be repeated.
        format: Format of standard input and of the files named. Files in folders have that of their names.
    """

    keep: tuple[str, ...] = ()
    format: Literal["text", "markdown", "html", "pdf", "jsonl", "json", "csv", "parquet"] | None = None


def warn_about_unknown_model(name: str) -> None:
    """Print a warning if the catalog does not know a model, with names that are near."""
    from nanogpt_core.cli.console import print_warning
    from nanogpt_core.models.catalog import MODELS, near_names

    if name in MODELS:
        return
    near = near_names(name)
    hint = f" Near names: {', '.join(near)}." if near else ""
    print_warning(f"{name} is not in the packaged list of models: its price and limits are unknown.{hint}")

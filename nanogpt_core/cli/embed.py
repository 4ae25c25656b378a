"""``nanogpt embed``: files and folders into one file with passages and vectors."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import print_json
from nanogpt_core.cli.cost import CostOptions, format_usd
from nanogpt_core.cli.job.job import Job
from nanogpt_core.cli.options import InputOptions, JsonFlag, ModelOptions, warn_about_unknown_model
from nanogpt_core.cli.progress import make_progress

_EXAMPLES = """\
The key is read from NANOGPT_API_KEY. `nanogpt sandbox` is a trial without one.
Ctrl-C, a kill or an error loses nothing: the same command goes on, and pays for
no text twice. Before anything is sent, all input is read, and each part that
cannot be embedded is named.

Examples:
  nanogpt embed docs/ -o docs.parquet
  nanogpt embed papers/*.pdf notes.md -o library.parquet --chunk-tokens 300
  nanogpt embed reviews.csv --field body --id-field id --keep stars -o r.npy
  jq -c .posts[] dump.json | nanogpt embed - --field body -o posts.jsonl --yes
  nanogpt embed docs/ -o docs.lance -m BAAI/bge-m3 --budget 0.50
Then:
  nanogpt search docs.parquet "How do I ...?"
  nanogpt verify docs.parquet
"""

command = App(name="embed", usage="Usage: nanogpt embed INPUT... -o OUTPUT [OPTIONS]", help_epilogue=_EXAMPLES)


@command.default
def embed(
    inputs: tuple[str, ...] = (),
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    overwrite: bool = False,
    cache: Path | None = None,
    on_overflow: Literal["error", "truncate", "split"] = "error",
    requests_per_second: float | None = None,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
    json: JsonFlag = False,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - it is frozen
    options: InputOptions = InputOptions(),  # noqa: B008 - it is frozen
    cost: CostOptions = CostOptions(),  # noqa: B008 - it is frozen
) -> None:
    """Embed files and folders, into one file with passages and vectors.

    Args:
        inputs: Files and folders; - for standard input.
        output: The file to write. Its name ends with .parquet, .npy, .jsonl or .lance, which is the format.
        overwrite: Replace an output with other texts, IDs, metadata, model or address. Vectors that fit are used again.
        cache: SQLite file that keeps all vectors, also for other outputs. Default: none after the end.
        on_overflow: Texts over the model's token limit: stop, embed their beginning, or the mean of pieces.
        requests_per_second: Maximum number of requests to start in a second. Default: 25, then as the service allows.
        quiet: Show no progress.
        json: Print the manifest as JSON.
        model: The model and its address.
        options: Reading of the input.
        cost: Consent to the cost.
    """
    warn_about_unknown_model(model.model)
    job = Job(
        inputs=inputs,
        output=output,
        reading=options,
        embedder_options={
            **asdict(model),
            "on_overflow": on_overflow,
            "requests_per_second": requests_per_second,
        },
        cost=cost,
        cache=cache,
        overwrite=overwrite,
    )
    manifest, was_complete = job.run(make_progress(quiet=quiet))
    if json:
        print_json(manifest.as_json())
        return
    if was_complete:
        sys.stdout.write(f"{output}: complete already, {counted(manifest.rows, 'row')}. Nothing was sent.\n")
        return
    tokens = "unknown tokens" if manifest.tokens is None else counted(manifest.tokens, "token")
    sys.stdout.write(
        f"{output}: {counted(manifest.rows, 'row')}, {counted(manifest.dimensions, 'dimension')}, {manifest.model}; "
        f"{tokens}, {format_usd(manifest.usd)}\n"
    )

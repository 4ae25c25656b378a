"""``nanogpt search``: passages of an output that answer a question, and an answer with citations on request."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.answer import cited_numbers, stream_answer
from nanogpt_core.cli.console import one_line, print_json, print_warning, printable
from nanogpt_core.cli.exit_codes import CommandError, ExitCode
from nanogpt_core.cli.formats.base import StoredRow, VectorReader, open_output
from nanogpt_core.cli.job.manifest import read_manifest
from nanogpt_core.cli.nearest import Hit, nearest
from nanogpt_core.cli.options import DEFAULT_CHAT_MODEL, JsonFlag
from nanogpt_core.cli.paths import STDIN
from nanogpt_core.cli.vector_index import indexed_nearest
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.errors import NanoGPTError, TextTooLongError
from nanogpt_core.http.endpoint import is_loopback
from nanogpt_core.models.catalog import get_model

_MAX_COUNT = 1000
_SHOWN_CHARACTERS = 600
_EXAMPLES = """\
The question is embedded, with the key in NANOGPT_API_KEY; nothing else is sent.
Scores are cosines: at most 1, higher is nearer. Every vector is compared. Only
the passages found are read: `nanogpt verify` checks the whole file.
In a .npy or Parquet file of 2 GiB or more, the extra cli-index compares only
the candidates of an index, OUTPUT.index, which the first search makes; with
--exact, every vector.

Examples:
  nanogpt search docs.parquet "How are errors reported?"
  nanogpt search docs.parquet "How are errors reported?" --answer
  nanogpt search docs.npy "refunds" -k 20 --json | jq -r .passages[].source
  echo "refunds" | nanogpt search docs.parquet -
"""

command = App(name="search", usage="Usage: nanogpt search OUTPUT QUESTION [OPTIONS]", help_epilogue=_EXAMPLES)

_Found = Sequence[tuple[StoredRow, Hit]]


@command.default
def search(
    output: Path,
    question: str,
    /,
    *,
    count: Annotated[int, Parameter(alias="-k")] = 5,
    answer: bool = False,
    chat_model: str | None = None,
    full: bool = False,
    exact: bool = False,
    query_instruction: str = "recommended",
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    base_url: str | None = None,
    json: JsonFlag = False,
) -> None:
    """Find the passages of an output that answer a question.

    Args:
        output: A file that `nanogpt embed` has written.
        question: The question; - for standard input.
        count: Number of passages, at most 1,000.
        answer: Have a chat model answer from the passages, with citations.
        chat_model: The chat model of `--answer`. Default: gpt-4o-mini.
        full: Print whole passages, not only their first 600 characters.
        exact: Compare every vector, without an index.
        query_instruction: Text to put around the question; `recommended` is that of the model's card, "" none.
        model: The embedding model of a file that does not name it.
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
        json: Print JSON.
    """
    if not 1 <= count <= _MAX_COUNT:
        raise CommandError(f"--count must be 1 to {_MAX_COUNT:,}, not {count}.")
    if chat_model is not None and not answer:
        raise CommandError("--chat-model has no effect without --answer.")
    if full and answer and not json:  # JSON holds whole passages anyway
        raise CommandError("--full has no effect with --answer, which prints no passages.")
    text = (_standard_input() if question == STDIN else question).strip()
    reader = open_output(output)
    embedder = _embedder(output, reader, model, base_url, query_instruction)
    _check(reader, embedder, output)
    _warn_about_other_server(output, embedder)
    try:
        query = embedder.embed_query(text)
    except TextTooLongError as error:
        raise CommandError(error.message, remedy="Shorten the question.", code=ExitCode.BAD_INPUT) from error
    found_by_index = None if exact else indexed_nearest(output, reader, query, count)
    hits, without_vector = found_by_index or nearest(reader.blocks(), query, count)
    if without_vector:
        print_warning(
            f"{counted(without_vector, 'row')} of {output} without a vector: not searched. See nanogpt verify."
        )
    found = _rows(reader, hits)
    if answer and not found:
        words = f"No row of {output} has a vector: there is nothing to answer from."
        raise CommandError(words, code=ExitCode.BAD_INPUT)
    chat_model = chat_model or DEFAULT_CHAT_MODEL
    if json:
        print_json(_document(text, found, chat_model if answer else None, base_url))
    elif answer:
        _print_answer(text, found, chat_model, base_url)
    else:
        _print_passages(found, full=full)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("Standard input is not UTF-8 text.", code=ExitCode.BAD_INPUT) from None


def _embedder(
    output: Path, reader: VectorReader, model: str | None, base_url: str | None, instruction: str
) -> Embedder:
    facts = reader.facts or read_manifest(output)
    name = facts.model if facts is not None else model
    if name is None:
        raise CommandError(f"{output} does not name its model.", remedy="Pass --model.")
    if model is not None and model != name:
        raise CommandError(f"The vectors of {output} are of {name}, not of {model}.", remedy="Leave --model out.")
    dimensions = _dimensions(output, reader) if facts is None else facts.dimensions
    info = get_model(name)
    reduced = dimensions if info.reduces and dimensions != info.dimensions else None
    return Embedder(name, dimensions=reduced, base_url=base_url, query_instruction=instruction)


def _dimensions(output: Path, reader: VectorReader) -> int:
    dimensions = next((block.shape[1] for block in reader.blocks() if len(block)), 0)
    if not dimensions:
        raise CommandError(f"{output} has no rows.")
    return dimensions


def _check(reader: VectorReader, embedder: Embedder, output: Path) -> None:
    """Check an output, as far as not all vectors have to be read: a mistake must cost nothing.

    Raises:
        CommandError: Its end is missing, or its vectors are not the embedder's.
    """
    reader.check_complete()
    try:
        embedder.check_width(_dimensions(output, reader))
    except NanoGPTError as error:
        raise CommandError(f"{output}: {error.message}", remedy="See nanogpt verify.") from None


def _warn_about_other_server(output: Path, embedder: Embedder) -> None:
    """Warn if either the vectors or the question's vector is of a server on this machine, such as a sandbox."""
    try:
        manifest = read_manifest(output)
    except (CommandError, OSError):  # nor does a search in Parquet need it
        manifest = None
    if manifest is not None and _is_here(manifest.base_url) != _is_here(embedder.base_url):
        print_warning(
            f"the vectors of {output} are from {manifest.base_url}, and the question goes to {embedder.base_url}: "
            "scores mean nothing unless both have the same model."
        )


def _is_here(base_url: str) -> bool:
    try:
        return is_loopback(urlsplit(base_url).hostname or "")
    except ValueError:  # a manifest that was changed
        return False


def _rows(reader: VectorReader, hits: list[Hit]) -> _Found:
    numbers = sorted(hit.row for hit in hits)
    rows = dict(zip(numbers, reader.rows(numbers), strict=True))
    return [(rows[hit.row], hit) for hit in hits]


def _print_passages(found: _Found, *, full: bool) -> None:
    for number, (row, hit) in enumerate(found, 1):
        text = row.text.strip()
        if not full and len(text) > _SHOWN_CHARACTERS:
            text = f"{text[:_SHOWN_CHARACTERS].rstrip()} ..."
        lines = "".join(f"    {line}\n" for line in printable(text).splitlines())
        sys.stdout.write(f"[{number}] {hit.score:.4f}  {one_line(row.place)}\n{lines}\n")


def _print_answer(question: str, found: _Found, chat_model: str, base_url: str | None) -> None:
    parts = []
    for part in stream_answer(question, [row.text for row, _ in found], chat_model, base_url):
        parts.append(part)
        sys.stdout.write(printable(part))
        sys.stdout.flush()
    sys.stdout.write("\n\n")
    cited = cited_numbers("".join(parts))
    for number, (row, hit) in enumerate(found, 1):
        if number in cited:
            sys.stdout.write(f"[{number}] {hit.score:.4f}  {one_line(row.place)}\n")
    _warn_about(cited, found)


def _warn_about(cited: Sequence[int], found: _Found) -> None:
    unknown = [f"[{number}]" for number in cited if not 1 <= number <= len(found)]
    if unknown:
        print_warning(f"The answer cites {', '.join(unknown)}, and there is no such passage.")
    elif not cited:
        print_warning("The answer cites no passage.")


def _document(question: str, found: _Found, chat_model: str | None, base_url: str | None) -> dict[str, Any]:
    passages = [
        {"number": number, "score": round(hit.score, 6), "row": hit.row, **asdict(row)}
        for number, (row, hit) in enumerate(found, 1)
    ]
    document: dict[str, Any] = {"question": question, "passages": passages}
    if chat_model is not None:
        text = "".join(stream_answer(question, [row.text for row, _ in found], chat_model, base_url))
        cited = cited_numbers(text)
        document.update(answer=text, cited=cited, chat_model=chat_model)
        _warn_about(cited, found)
    return document

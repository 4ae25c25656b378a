"""``nanogpt compare``: retrieval quality of models on the user's own questions, beside price, dimensions and time."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from nanogpt_core.cli.comparison.corpus import CorpusOptions
from nanogpt_core.cli.comparison.output import as_json, print_comparison, write_report
from nanogpt_core.cli.comparison.run import SANDBOX_NOTICE, Run, SyntheticOptions, open_service
from nanogpt_core.cli.console import print_json, print_warning
from nanogpt_core.cli.cost import CostOptions
from nanogpt_core.cli.exit_codes import CommandError, ExitCode, exit_code_of, message_of
from nanogpt_core.cli.options import JsonFlag
from nanogpt_core.cli.progress import make_progress

_EXAMPLES = """\
Examples:
  nanogpt compare questions.jsonl docs/ -m text-embedding-3-small -m BAAI/bge-m3
  nanogpt compare questions.csv corpus.jsonl --limit 50 --budget 0.10
  nanogpt compare questions.jsonl docs/ --make-questions 100
  nanogpt compare questions.jsonl docs/ --sandbox      a trial without a key
  nanogpt compare questions.jsonl docs/ -m BAAI/bge-m3 \\
      -m nomic-embed-text@http://localhost:11434/v1    a model of your own, here

Each model embeds the corpus once, and each question with and without the query
instruction of its model card. Reduced dimensions cost nothing more. A
difference that these questions do not show is called noise.

QUESTIONS has a line for each question: {"question": "...", "sources": ["..."]},
and "language" if you like; or the columns question and source of a CSV file.
CORPUS is a folder of text, Markdown, HTML or PDF files, whose sources are the
paths in it, such as guide/install.md; or a file with {"source": "...", "text":
"..."} in each line, or a CSV or Parquet file with these columns.

The folder comparison/ gets report.html, which says which model to take and why,
chart.png, chart.svg, results.json, and the vectors, which are not paid for
again. It needs the packages of the extra "compare".
"""
DEFAULT_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "BAAI/bge-m3", "Qwen/Qwen3-Embedding-0.6B")

command = App(name="compare", help_epilogue=_EXAMPLES)


@command.default
def compare(
    questions: Path,
    corpus: Path,
    /,
    *,
    models: Annotated[
        tuple[str, ...], Parameter(name=("--models", "--model", "-m"), consume_multiple=True)
    ] = DEFAULT_MODELS,
    dimensions: Annotated[tuple[int, ...] | None, Parameter(alias="-d", consume_multiple=True)] = None,
    no_reduced: bool = False,
    no_instructions: bool = False,
    limit: int | None = None,
    tolerance: float = 0.02,
    output: Annotated[Path, Parameter(alias="-o")] = Path("comparison"),
    sandbox: bool = False,
    base_url: str | None = None,
    quiet: Annotated[bool, Parameter(alias="-q")] = False,
    json: JsonFlag = False,
    reading: CorpusOptions = CorpusOptions(),  # noqa: B008 - it is frozen
    synthetic: SyntheticOptions = SyntheticOptions(),  # noqa: B008 - it is frozen
    cost: CostOptions = CostOptions(),  # noqa: B008 - it is frozen
) -> int:
    """Compare models on your own questions: quality, price, dimensions and time.

    Args:
        questions: File with the questions.
        corpus: Folder or file with the passages.
        models: The models, or MODEL@URL for one on another OpenAI-compatible server, which does not get the key.
        dimensions: Reduced dimensions to try, for models that take them. Default: 256, 512 and 1024.
        no_reduced: Try full dimensions only.
        no_instructions: Leave query instructions out.
        limit: Use only so many questions, spread over the file.
        tolerance: Loss of nDCG@10 to accept for a lower price or smaller vectors.
        output: Folder for the report and the vectors.
        sandbox: Use a sandbox on this machine in place of NanoGPT, for a trial without a key and without cost.
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
        quiet: Show no progress.
        json: Print one JSON document.
        reading: Reading of the corpus.
        synthetic: Questions that a chat model writes.
        cost: Consent to the cost.
    """
    import ir_measures  # noqa: F401 - a missing package is an error before anything is sent
    import matplotlib as mpl  # noqa: F401

    if dimensions and min(dimensions) < 1:
        raise CommandError(f"--dimensions must be at least 1, not {min(dimensions)}.")
    if no_reduced and dimensions:
        raise CommandError("--no-reduced and --dimensions contradict each other.", remedy="Leave one of them out.")
    if not tolerance >= 0:
        raise CommandError(f"--tolerance must be at least 0, not {tolerance:g}.")
    progress = make_progress(quiet=quiet)
    with open_service(sandbox, base_url) as service, contextlib.closing(progress):
        run = Run(service, sandbox=sandbox, cost=cost, output=output, progress=progress)
        passages = run.read_passages(corpus, reading, questions)
        asked = run.read_questions(questions, passages, limit, synthetic)
        comparison = run.compare(
            asked,
            passages,
            models=models,
            dimensions=() if no_reduced else dimensions,
            instructions=not no_instructions,
            tolerance=tolerance,
        )
    notice = SANDBOX_NOTICE if sandbox else ""
    try:
        files = write_report(comparison, output, notice)
    except OSError as problem:
        raise CommandError(f"{problem.filename or output}: {problem.strerror or problem}.") from problem
    if json:
        print_json(as_json(comparison, notice))
    else:
        print_comparison(comparison, files, notice)
    for error, note in zip(comparison.failures.values(), comparison.failure_notes, strict=True):
        print_warning(note.replace(str(error), message_of(error)) if error else note)
    errors = [error for error in comparison.failures.values() if error]
    return exit_code_of(errors[0]) if errors else ExitCode.OK

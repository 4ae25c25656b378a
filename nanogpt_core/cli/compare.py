"""``nanogpt compare``: retrieval quality of models on the user's own questions, beside price, dimensions and time."""

from __future__ import annotations

import contextlib
import json as json_format
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Group, Parameter

from nanogpt_core.cli.asking import confirm_cost
from nanogpt_core.cli.console import error_console, make_table, output_console, print_json, print_warning
from nanogpt_core.cli.exit_codes import CommandError, ExitCode, exit_code_of
from nanogpt_core.cli.options import JsonFlag

if TYPE_CHECKING:
    from nanogpt_core.comparison import Comparison, Passage, Question
    from nanogpt_core.comparison.advice import Assessment

__all__ = ["DEFAULT_MODELS", "CostOptions", "SyntheticOptions", "command", "compare"]

_EXAMPLES = """\
Examples:
  nanogpt compare questions.jsonl docs/ -m text-embedding-3-small -m BAAI/bge-m3
  nanogpt compare questions.csv corpus.jsonl --limit 50 --budget 0.10
  nanogpt compare questions.jsonl docs/ --make-questions 100
  nanogpt compare questions.jsonl docs/ --sandbox      a trial without a key
  nanogpt compare questions.jsonl docs/ -m BAAI/bge-m3 \\
      -m nomic-embed-text@http://localhost:11434/v1    a model of your own, here

QUESTIONS has a line for each question: {"question": "...", "sources": ["..."]},
and "language" if you like; or the columns question and source of a CSV file.
CORPUS is a folder of text files, whose sources are the paths in it, such as
guide/install.md; or a file with lines {"source": "...", "text": "..."}.

The folder comparison/ gets report.html, which says which model to take and why,
chart.png, chart.svg, results.json, and the vectors, which are not paid for
again. Needs: pip install 'nanogpt-rag[compare]'
"""
DEFAULT_MODELS = ("text-embedding-3-small", "text-embedding-3-large", "BAAI/bge-m3", "Qwen/Qwen3-Embedding-0.6B")
_SANDBOX_NOTICE = "SANDBOX: vectors made of words, without a model. These figures say nothing about the models."
_WIDE_COLUMNS = 150  # of a terminal; a narrower one gets fewer columns
# Headings, and True for those of a narrow terminal.
_COLUMNS = {
    "nDCG@10": True,
    "95 % interval": False,
    "to the best": True,
    "recall@5": False,
    "MRR": False,
    "dimensions": False,
    "$/1M tokens": True,
    "passages/s": False,
}
_Flag = Annotated[bool, Parameter(negative=())]
_DIFFERENCES = {"best": "best", "noise": "{:+.3f} noise", "worse": "{:+.3f} worse"}

command = App(name="compare", help_format="plaintext", help_epilogue=_EXAMPLES)


@Parameter(name="*", group=Group.create_ordered("Questions by a chat model"))
@dataclass(frozen=True)
class SyntheticOptions:
    """Questions that a chat model writes.

    Attributes:
        make_questions: Let a chat model write so many questions from the passages, into QUESTIONS. If the file has
            some already, only the rest are written.
        chat_model: The chat model.
    """

    make_questions: int | None = None
    chat_model: str = "gpt-4o-mini"


@Parameter(name="*", group=Group.create_ordered("Cost"))
@dataclass(frozen=True)
class CostOptions:
    """Consent to the cost.

    Attributes:
        yes: Accept any cost.
        budget: US dollars that may be spent, without a question. Nothing is sent if more is expected.
        ask_above: Without a budget, ask if the expected cost is above so many US dollars.
    """

    yes: Annotated[bool, Parameter(alias="-y", negative=())] = False
    budget: float | None = None
    ask_above: float = 0.5


@command.default
def compare(
    questions: Path,
    corpus: Path,
    /,
    *,
    models: Annotated[
        tuple[str, ...],
        Parameter(name=("--models", "--model", "-m"), consume_multiple=True, negative=(), show_default=False),
    ] = DEFAULT_MODELS,
    dimensions: Annotated[
        tuple[int, ...], Parameter(alias="-d", consume_multiple=True, negative=(), show_default=False)
    ] = (
        256,
        512,
        1024,
    ),
    no_reduced: _Flag = False,
    no_instructions: _Flag = False,
    limit: int | None = None,
    tolerance: float = 0.02,
    output: Annotated[Path, Parameter(alias="-o")] = Path("comparison"),
    sandbox: _Flag = False,
    base_url: str | None = None,
    json: JsonFlag = False,
    synthetic: SyntheticOptions = SyntheticOptions(),
    cost: CostOptions = CostOptions(),
) -> int:
    """Compare models on your own questions: quality, price, dimensions and time.

    Each model embeds the corpus once, and each question with and without the query instruction of its model card.
    Reduced dimensions cost nothing more. A difference that these questions do not show is called noise.

    Args:
        questions: File with the questions.
        corpus: Folder or file with the passages.
        models: The models, or MODEL@URL for a model on another OpenAI-compatible server, which does not get the key.
            Default: text-embedding-3-small, text-embedding-3-large, BAAI/bge-m3 and Qwen/Qwen3-Embedding-0.6B.
        dimensions: Reduced dimensions to try, for models that take them. Default: 256, 512 and 1024.
        no_reduced: Try full dimensions only.
        no_instructions: Leave query instructions out.
        limit: Use only so many questions, spread over the file.
        tolerance: Loss of nDCG@10 to accept for a lower price or smaller vectors.
        output: Folder for the report and the vectors.
        sandbox: Use a sandbox on this machine in place of NanoGPT, for a trial without a key and without cost.
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
        json: Print one JSON document.
        synthetic: Questions that a chat model writes.
        cost: Consent to the cost.
    """
    import ir_measures  # noqa: F401 - a missing package is an error before anything is sent
    import matplotlib as mpl  # noqa: F401

    if tolerance < 0:
        raise CommandError(f"--tolerance must be at least 0, not {tolerance:g}.")
    with _service(sandbox, base_url) as service:
        run = _Run(service, cost, output)
        passages = run.read_passages(corpus)
        asked = run.read_questions(questions, passages, limit, synthetic)
        comparison = run.compare(
            asked,
            passages,
            models=models,
            dimensions=() if no_reduced else dimensions,
            instructions=not no_instructions,
            tolerance=tolerance,
        )
    files = run.write_report(comparison)
    if json:
        print_json(_as_json(comparison, run.notice))
    else:
        _print(comparison, files, run.notice)
    for name, error in comparison.failures.items():
        print_warning(f"{name} was not measured: {error or 'another model of the same server failed before.'}")
    errors = [error for error in comparison.failures.values() if error]
    return exit_code_of(errors[0]) if errors else ExitCode.OK


@dataclass(frozen=True)
class _Service:
    """Key and address; None for the environment's."""

    api_key: str | None = None
    base_url: str | None = None
    is_sandbox: bool = False


@contextlib.contextmanager
def _service(sandbox: bool, base_url: str | None) -> Iterator[_Service]:
    if not sandbox:
        from nanogpt_core.http.endpoint import resolve_base_url

        yield _Service(base_url=resolve_base_url(base_url))
        return
    if base_url:
        raise CommandError("--sandbox has an address of its own.", remedy="Leave --base-url out.")
    from nanogpt_core import Sandbox

    with Sandbox() as running:
        yield _Service(running.api_key, running.base_url, is_sandbox=True)


class _Run:
    """One run of the command: the service, the consent to costs, and the folder of the output."""

    def __init__(self, service: _Service, cost: CostOptions, output: Path) -> None:
        self._service = service
        self._cost = cost
        self._output = output
        self._left = cost.budget
        self.notice = _SANDBOX_NOTICE if service.is_sandbox else ""

    def read_passages(self, corpus: Path) -> list[Passage]:
        """Read the corpus."""
        from nanogpt_core.comparison import load_passages

        _check_exists(corpus)
        return load_passages(corpus)

    def read_questions(
        self, file: Path, passages: list[Passage], limit: int | None, synthetic: SyntheticOptions
    ) -> list[Question]:
        """Read the questions; let the chat model write those that are missing."""
        from nanogpt_core.comparison import load_questions

        for option, number in (("--limit", limit), ("--make-questions", synthetic.make_questions)):
            if number is not None and number < 1:
                raise CommandError(f"{option} must be at least 1, not {number}.")
        if synthetic.make_questions is None:
            _check_exists(file, "A chat model can write questions: --make-questions 100")
        else:
            self._make_questions(file, passages, synthetic.make_questions, synthetic.chat_model)
        return load_questions(file, limit)

    def _make_questions(self, file: Path, passages: list[Passage], count: int, chat_model: str) -> None:
        from nanogpt_core.comparison import load_questions
        from nanogpt_core.comparison.synthetic import QuestionWriter

        if file.suffix.lower() != ".jsonl":
            raise CommandError(
                f"{file}: Questions are written as JSON lines.", remedy="Name a file that ends in .jsonl."
            )
        found = load_questions(file) if file.exists() and file.stat().st_size else []
        count -= len(found)
        if count <= 0:
            return
        options: dict[str, Any] = {"api_key": self._service.api_key, "base_url": self._service.base_url}
        writer = QuestionWriter(passages, chat_model, done=found, **options)
        count = min(count, writer.available)
        usd = writer.most_usd(count)
        self._confirm(f"{count} questions by {chat_model} cost {_at_most(usd)}", usd)
        self._left = None if self._left is None else self._left - (usd or 0.0)
        written = 0
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8", newline="\n") as lines:
            for question in writer.write(count):
                # Line by line: after an interruption, the same command pays only for the rest.
                row = {"question": question.text, "sources": question.sources, "synthetic": True}
                lines.write(json_format.dumps(row, ensure_ascii=False) + "\n")
                lines.flush()
                written += 1
                _report(f"Questions by {chat_model}", written, count)
        if written < count:
            print_warning(f"{count - written} answers of {chat_model} were no questions. The same command tries again.")

    def compare(self, questions: list[Question], passages: list[Passage], **options: Any) -> Comparison:
        """Show the expected cost, ask, and measure."""
        from nanogpt_core.comparison import compare_models, estimate_expense
        from nanogpt_core.comparison.candidates import find_candidates
        from nanogpt_core.comparison.questions import check_sources

        check_sources(questions, {passage.source for passage in passages})
        service: dict[str, Any] = {"api_key": self._service.api_key, "base_url": self._service.base_url}
        candidates = find_candidates(options.pop("models"), **service)
        self._output.mkdir(parents=True, exist_ok=True)
        service["cache"] = self._output / "vectors.sqlite"
        if not self._service.is_sandbox:
            expenses = estimate_expense(
                candidates, questions, passages, instructions=options["instructions"], **service
            )
            unknown = [each.candidate.label for each in expenses if each.cost_usd is None]
            usd = sum(each.cost_usd or 0.0 for each in expenses)
            tokens = sum(each.tokens for each in expenses)
            more = f", and those of {', '.join(unknown)}, whose price is unknown" if unknown else ""
            words = f"{len(candidates)} models take {tokens:,} tokens, about ${usd:.4f}{more}"
            error_console().print(f"{words}.")
            self._confirm(words, None if unknown else usd)
        return compare_models(
            candidates, questions, passages, budget_usd=self._left, progress=_report, **options, **service
        )

    def _confirm(self, words: str, usd: float | None) -> None:
        if not self._service.is_sandbox:
            confirm_cost(words, usd, budget=self._left, ask_above=self._cost.ask_above, yes=self._cost.yes)

    def write_report(self, comparison: Comparison) -> list[Path]:
        """Write page, charts and figures, and return the files."""
        from nanogpt_core.comparison.chart import write_chart
        from nanogpt_core.comparison.page import write_page

        files = [self._output / name for name in ("report.html", "chart.png", "chart.svg", "results.json")]
        write_page(comparison, files[0], notice=self.notice)
        for chart in files[1:3]:
            write_chart(comparison, chart, self.notice)
        document = json_format.dumps(_as_json(comparison, self.notice), ensure_ascii=False, indent=1)
        files[3].write_text(document + "\n", encoding="utf-8")
        return files


def _check_exists(path: Path, remedy: str = "") -> None:
    if not path.exists():
        raise CommandError(f"{path}: There is no such file or folder.", remedy=remedy, code=ExitCode.BAD_INPUT)


def _at_most(usd: float | None) -> str:
    return "an unknown amount" if usd is None else f"at most ${usd:.4f}"


def _report(name: str, done: int, total: int) -> None:
    """Show progress on standard error: a line that is overwritten in a terminal, else a line at the end."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{name}: {done:,} of {total:,}" + ("\n" if done == total else ""))
    elif done == total:
        sys.stderr.write(f"{name}: {done:,} of {total:,}\n")
    sys.stderr.flush()


def _print(comparison: Comparison, files: list[Path], notice: str) -> None:
    console = output_console()
    if notice:
        console.print(f"{notice}\n")
    wide = console.width >= _WIDE_COLUMNS
    columns = [heading for heading, is_short in _COLUMNS.items() if wide or is_short]
    table = make_table("variant", *columns, right=columns)
    if not wide:
        table.padding = 0
    for each in sorted(comparison.assessments, key=lambda each: -each.means["nDCG@10"]):
        cells = _cells(each)
        table.add_row(each.result.variant.label, *(cells[heading] for heading in columns))
    console.print(table)
    advice = comparison.advice
    console.print(f"\n{advice.summary}")
    for sentence in (*advice.reasons, *advice.reservations):
        console.print(f"- {sentence}")
    console.print(f"\nWritten: {', '.join(map(str, files))}.")


def _cells(each: Assessment) -> dict[str, str]:
    result = each.result
    return {
        "nDCG@10": f"{each.means['nDCG@10']:.3f}",
        "95 % interval": f"{each.interval.low:.3f} to {each.interval.high:.3f}",
        "to the best": _DIFFERENCES[each.verdict].format(each.difference),
        "recall@5": f"{each.means['recall@5']:.3f}",
        "MRR": f"{each.means['MRR']:.3f}",
        "dimensions": f"{result.dimensions:,}",
        "$/1M tokens": "?" if result.usd_per_million_tokens is None else f"{result.usd_per_million_tokens:g}",
        "passages/s": "cached" if result.passages_per_second is None else f"{result.passages_per_second:,.0f}",
    }


def _as_json(comparison: Comparison, notice: str) -> dict[str, Any]:
    advice = comparison.advice
    return {
        "notice": notice or None,
        "questions": len(comparison.questions),
        "synthetic_questions": sum(question.synthetic for question in comparison.questions),
        "passages": comparison.passages,
        "sources": comparison.sources,
        "spent_usd": comparison.spent.cost_usd,
        "advice": {
            "take": _variant(advice.chosen.result.variant),
            "summary": advice.summary,
            "reasons": list(advice.reasons),
            "reservations": list(advice.reservations),
        },
        "failures": {name: str(error) if error else None for name, error in comparison.failures.items()},
        "variants": [
            {
                **_variant(each.result.variant),
                "dimensions_of_vectors": each.result.dimensions,
                **each.means,
                "interval": list(each.interval),
                "difference": each.difference,
                "difference_interval": list(each.difference_interval),
                "verdict": each.verdict,
                "usd_per_million_tokens": each.result.usd_per_million_tokens,
                "passages_per_second": each.result.passages_per_second,
                "query_seconds": each.result.query_seconds,
            }
            for each in comparison.assessments
        ],
    }


def _variant(variant: Any) -> dict[str, Any]:
    return {
        "model": variant.candidate.info.id,
        "base_url": variant.candidate.base_url,
        "dimensions": variant.dimensions,
        "query_instruction": variant.instruction,
    }

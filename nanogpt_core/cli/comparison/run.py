"""One run of ``nanogpt compare``: the service, the consent to costs, questions and measurement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.comparison.corpus import CorpusOptions, read_corpus
from nanogpt_core.cli.console import make_console, print_warning
from nanogpt_core.cli.cost import CostOptions, format_usd
from nanogpt_core.cli.exit_codes import CommandError, ExitCode
from nanogpt_core.cli.kept_cache import KeptCache
from nanogpt_core.cli.options import DEFAULT_CHAT_MODEL
from nanogpt_core.cli.progress import Progress

if TYPE_CHECKING:
    from nanogpt_core.comparison import Candidate, Comparison, Passage, Question

SANDBOX_NOTICE = "SANDBOX: vectors made of words, without a model. These figures say nothing about the models."
"""The warning that goes with all figures of a sandbox."""


@Parameter(name="*", group=Group.create_ordered("Questions by a chat model"))
@dataclass(frozen=True)
class SyntheticOptions:
    """Questions that a chat model writes.

    Attributes:
        make_questions: Have a chat model write questions from the passages until QUESTIONS holds so many.
        chat_model: The chat model of `--make-questions`. Default: gpt-4o-mini.
    """

    make_questions: int | None = None
    chat_model: str | None = None


@contextlib.contextmanager
def open_service(sandbox: bool, base_url: str | None) -> Iterator[dict[str, str | None]]:
    """Yield key and address of NanoGPT, or of a sandbox that runs until the end of the block, as keyword arguments.

    Raises:
        CommandError: A sandbox with a base URL.
        ConfigurationError: An invalid base URL.
    """
    if not sandbox:
        from nanogpt_core.http.endpoint import resolve_base_url

        yield {"api_key": None, "base_url": resolve_base_url(base_url)}
        return
    if base_url:
        raise CommandError("--sandbox has an address of its own.", remedy="Leave --base-url out.")
    from nanogpt_core import Sandbox

    with Sandbox() as running:
        yield {"api_key": running.api_key, "base_url": running.base_url}


class Run:
    """One run of the command, with key and address from :func:`open_service`.

    With a ``sandbox``, nothing costs money, and no vector is kept.
    """

    def __init__(
        self, service: dict[str, Any], *, sandbox: bool, cost: CostOptions, output: Path, progress: Progress
    ) -> None:
        self._service = service
        self._sandbox = sandbox
        self._cost = CostOptions(yes=True) if sandbox else cost
        self._output = output
        self._progress = progress
        self._stage = ""

    def read_passages(self, corpus: Path, options: CorpusOptions, questions: Path) -> list[Passage]:
        """Read the corpus, without the report and the file with the questions if they are in it."""
        _check_exists(corpus)
        if corpus.is_dir() and os.path.realpath(corpus) == os.path.realpath(self._output):
            raise CommandError(f"{corpus} is the folder of the report too.", remedy="Pass another --output.")
        if questions.is_dir():
            raise CommandError(f"{questions} is a folder.", remedy="Pass a file with the questions.")
        return read_corpus(corpus, options, self._progress, [self._output, questions])

    def read_questions(
        self, file: Path, passages: list[Passage], limit: int | None, synthetic: SyntheticOptions
    ) -> list[Question]:
        """Read the questions; let the chat model write those that are missing."""
        from nanogpt_core.comparison import load_questions

        for option, number in (("--limit", limit), ("--make-questions", synthetic.make_questions)):
            if number is not None and number < 1:
                raise CommandError(f"{option} must be at least 1, not {number}.")
        if synthetic.make_questions is None:
            if synthetic.chat_model is not None:
                raise CommandError("--chat-model has no effect without --make-questions.")
            _check_exists(file, "A chat model can write questions: --make-questions 100")
        else:
            self._make_questions(file, passages, synthetic.make_questions, synthetic.chat_model or DEFAULT_CHAT_MODEL)
        return load_questions(file, limit)

    def _make_questions(self, file: Path, passages: list[Passage], count: int, chat_model: str) -> None:
        from nanogpt_core.comparison.questions import load_questions, question_line
        from nanogpt_core.comparison.synthetic import QuestionWriter

        if file.suffix.lower() != ".jsonl":
            raise CommandError(
                f"{file}: Questions are written as JSON lines.", remedy="Name a file that ends in .jsonl."
            )
        found = load_questions(file) if file.exists() and file.read_bytes().strip() else []
        count -= len(found)
        if count <= 0:
            return
        writer = QuestionWriter(passages, chat_model, done=found, **self._service)
        count = min(count, writer.available)
        if not found and not count:
            raise CommandError("The corpus has no passage that is long enough for a question.", code=ExitCode.BAD_INPUT)
        usd = writer.most_usd(count)
        cost = "an unknown amount" if usd is None else f"at most {format_usd(usd)}"
        self._cost.confirm(f"{counted(count, 'question')} by {chat_model} will cost {cost}", usd)
        if self._cost.budget is not None:
            self._cost = replace(self._cost, budget=self._cost.budget - (usd or 0.0))
        written = 0
        self._progress.begin(f"Questions by {chat_model}", count)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8", newline="\n") as lines:
            if found and not file.read_bytes().endswith(b"\n"):  # an editor may have left the last line without an end
                lines.write("\n")
            for question in writer.write(count):
                # Line by line: after an interruption, the same command pays only for the rest.
                lines.write(question_line(question))
                lines.flush()
                written += 1
                self._progress.advance_to(written)
        self._progress.end(f"{written:,} of {count:,} written to {file}")
        if written < count:
            print_warning(
                f"{counted(count - written, 'answer')} of {chat_model} had no question. The same command tries again."
            )

    def compare(
        self,
        questions: list[Question],
        passages: list[Passage],
        *,
        models: Sequence[str],
        dimensions: Sequence[int] | None,
        instructions: bool,
        tolerance: float,
    ) -> Comparison:
        """Show the expected cost, ask, and measure; if ``dimensions`` is None, the default ones are tried.

        Raises:
            CommandError: The cost was not accepted, or Ctrl-C.
        """
        from nanogpt_core.comparison import compare_models
        from nanogpt_core.comparison.candidates import DEFAULT_DIMENSIONS, find_candidates
        from nanogpt_core.comparison.questions import check_sources

        check_sources(questions, {passage.source for passage in passages})
        candidates = find_candidates(models, **self._service)
        _warn_about_unused(candidates, dimensions or ())
        if self._output.is_file():
            raise CommandError(f"{self._output} is a file.", remedy="Pass a folder as --output.")
        self._output.mkdir(parents=True, exist_ok=True)
        path = self._output / "vectors.sqlite"
        cache = None if self._sandbox else KeptCache(path)
        try:
            if not self._sandbox:
                self._confirm_expense(candidates, questions, passages, instructions, cache)
            return compare_models(
                candidates,
                questions,
                passages,
                **self._service,
                dimensions=DEFAULT_DIMENSIONS if dimensions is None else dimensions,
                instructions=instructions,
                cache=cache,
                budget_usd=self._cost.budget,
                tolerance=tolerance,
                progress=self._report,
            )
        except KeyboardInterrupt:
            remedy = f"The same command goes on, and pays for no text again whose vector is in {path}."
            remedy = "" if self._sandbox else remedy
            raise CommandError("Interrupted.", remedy=remedy, code=ExitCode.INTERRUPTED) from None
        finally:
            if cache is not None:
                cache.close()

    def _confirm_expense(
        self,
        candidates: list[Candidate],
        questions: list[Question],
        passages: list[Passage],
        instructions: bool,
        cache: KeptCache | None,
    ) -> None:
        from nanogpt_core.comparison import estimate_expense

        expenses = estimate_expense(
            candidates, questions, passages, instructions=instructions, cache=cache, **self._service
        )
        unknown = [each.candidate.label for each in expenses if each.cost_usd is None]
        usd = sum(each.cost_usd or 0.0 for each in expenses)
        tokens = sum(each.tokens for each in expenses)
        more = f", and those of {', '.join(unknown)}, whose price is unknown" if unknown else ""
        words = (
            f"{counted(len(candidates), 'model')} will take {counted(tokens, 'token')}, about {format_usd(usd)}{more}"
        )
        make_console(stderr=True).print(f"{words}.")
        self._cost.confirm(words, None if unknown else usd)

    def _report(self, name: str, done: int, total: int) -> None:
        """Show the passages of one model after the other."""
        if name != self._stage:
            self._stage = name
            self._progress.begin(f"Embedding with {name}", total)
        self._progress.advance_to(done)
        if done == total:
            self._progress.end(f"{counted(total, 'passage')}")


def _warn_about_unused(candidates: Sequence[Candidate], dimensions: Sequence[int]) -> None:
    from nanogpt_core.comparison import make_variants

    tried = {variant.dimensions for variant in make_variants(candidates, dimensions)}
    tried |= {candidate.info.dimensions for candidate in candidates}
    for width in sorted(set(dimensions) - tried):
        print_warning(f"{width} dimensions are not tried: none of these models reduces its vectors to them.")


def _check_exists(path: Path, remedy: str = "") -> None:
    if not path.exists():
        raise CommandError(f"{path}: There is no such file or folder.", remedy=remedy)

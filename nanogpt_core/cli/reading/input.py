"""Reading of all input of a command into a spool; all problems are named before anything is sent."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import print_error, print_warning
from nanogpt_core.cli.exit_codes import CommandError, ExitCode
from nanogpt_core.cli.options import InputOptions
from nanogpt_core.cli.paths import leads_into
from nanogpt_core.cli.progress import Progress
from nanogpt_core.cli.reading.passage import NO_TEXT, Passage, Problem
from nanogpt_core.cli.reading.source_reader import RecordAdapter, SourceReader
from nanogpt_core.cli.reading.sources import LINKED_FOLDER, Source, find_sources, format_of_name
from nanogpt_core.cli.reading.spool import Spool

_MAX_PROBLEMS_SHOWN = 10
_MAX_PROBLEMS_KEPT = 100


@dataclass
class InputReport:
    """The result of a reading pass.

    Attributes:
        sources: Number of files that were read.
        bad: Number of parts of the input that cannot be embedded.
        problems: The first of them.
        empty: Number of files in folders that hold no text. They are no problem: many an ``__init__.py`` is empty.
    """

    sources: int = 0
    bad: int = 0
    empty: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count a problem."""
        self.bad += 1
        if len(self.problems) < _MAX_PROBLEMS_KEPT:
            self.problems.append(str(problem))


def read_input(
    inputs: Sequence[str],
    options: InputOptions,
    spool: Spool,
    progress: Progress,
    *,
    reason_against: Callable[[str], str | None] = lambda _: None,
    adapt_record: RecordAdapter | None = None,
    default_id_field: str | None = None,
    outputs: Collection[Path] = (),
    without: Collection[Path] = (),
) -> InputReport:
    """Read all input into the spool.

    ``reason_against`` returns the reason for which a text cannot be embedded, or None. ``adapt_record`` returns the
    fields of a record under the names that ``options`` has. If ``options`` has no ID field, it is ``default_id_field``.
    ``outputs`` are files that the command writes, and that must not be among the input. Files and folders in
    ``without`` are not read.

    Raises:
        CommandError: An input does not exist or is an output; or there are problems and no ``--skip-bad``; or there is
            no text at all; or an option has no effect on this input.
    """
    if not inputs:
        raise CommandError("There is no input.", remedy="Name files or folders, or - for standard input.")
    report = InputReport()
    reader = SourceReader(options, adapt_record, default_id_field)
    sources, folders, left_out = find_sources(inputs, given_format=options.format, include=options.include)
    sources = [source for source in sources if source.path is None or not leads_into(source.path, without)]
    for source in sources:
        if source.path is not None and leads_into(source.path, outputs):
            raise CommandError(f"{source.name} is an input, and the output would replace it.")
    for problem in folders:
        report.add(problem)
    report.sources = len(sources)
    progress.begin("Reading", None)
    for count in spool.add_all(_passages(reader, sources, report, reason_against)):
        progress.advance_to(count)
    progress.end(f"{counted(spool.passages, 'passage')} from {counted(len(sources), 'file')}")
    _print_problems(report, left_out, skip_bad=options.skip_bad)
    if not spool.passages:
        raise CommandError("The input holds no text to embed.", code=ExitCode.BAD_INPUT)
    _check_effects(inputs, options, sources, reader.used)
    return report


def _check_effects(inputs: Sequence[str], options: InputOptions, sources: Sequence[Source], used: set[str]) -> None:
    """Check that each option has an effect; ``used`` names those of the reader that have one.

    If a folder is read, options for some kinds of files may be without one: later the folder may hold such files.

    Raises:
        CommandError: One has none: it was meant for another input.
    """
    formatted = any(each.path is None or not each.in_folder or not format_of_name(each.path) for each in sources)
    records = "--keep" in used
    if any(Path(name).is_dir() for name in inputs):
        formatted = formatted or bool(options.include)
        used = used | {"--include", "--encoding", "--field", "--id-field", "--keep", "--chunk-overlap"}
    no_records = "the input holds no records"
    for option, given, reason in (
        ("--include", options.include, "it is for folders, and the input holds files only"),
        ("--format", options.format and not formatted, "files in folders have the format of their names"),
        ("--encoding", not _is_utf8(options.encoding), "the formats of this input have no other than UTF-8"),
        ("--field", options.field != InputOptions.field, no_records),
        ("--id-field", options.id_field, no_records),
        ("--keep", options.keep, no_records),
        *((f"--keep {name}", records, "no record has this field") for name in options.keep),
        ("--chunk-overlap", options.chunk_overlap, "records are divided only with --chunk-tokens"),
    ):
        if given and option not in used:
            raise CommandError(f"{option} has no effect: {reason}. Nothing was sent.", remedy="Leave it out.")


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}


def _passages(
    reader: SourceReader, sources: Sequence[Source], report: InputReport, reason_against: Callable[[str], str | None]
) -> Iterator[Passage]:
    for source in sources:
        for item in reader.read(source):
            if isinstance(item, Problem):
                if item.reason == NO_TEXT and source.in_folder:
                    report.empty += 1
                else:
                    report.add(item)
            elif (reason := reason_against(item.text)) is not None:
                report.add(Problem(item.place, reason))
            else:
                yield item


def _print_problems(report: InputReport, left_out: Counter[str], *, skip_bad: bool) -> None:
    linked_folders = left_out.pop(LINKED_FOLDER, 0)
    if left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common(5))
        print_warning(f"Left out in folders: {kinds}. See --include.")
    if linked_folders:
        print_warning(f"Left out in folders: {counted(linked_folders, 'link')} to folders.")
    if report.empty:
        print_warning(f"Left out in folders: {counted(report.empty, 'file')} without text.")
    if not report.bad:
        return
    show = print_warning if skip_bad else print_error
    for problem in report.problems[:_MAX_PROBLEMS_SHOWN]:
        show(problem)
    if report.bad > _MAX_PROBLEMS_SHOWN:
        show(f"and {report.bad - _MAX_PROBLEMS_SHOWN:,} more")
    parts = "part of the input" if report.bad == 1 else "parts of the input"
    if not skip_bad:
        raise CommandError(
            f"{report.bad:,} {parts} cannot be embedded. Nothing was sent.",
            remedy="Correct the input, or pass --skip-bad.",
            code=ExitCode.BAD_INPUT,
        )
    print_warning(f"{report.bad:,} {parts} left out.")

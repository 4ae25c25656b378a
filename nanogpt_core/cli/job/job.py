"""A job: everything between the options of ``nanogpt embed`` and the finished output."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import print_warning
from nanogpt_core.cli.cost import CostOptions
from nanogpt_core.cli.exit_codes import CommandError, ExitCode, exit_code_of, message_of
from nanogpt_core.cli.formats.base import Facts, format_of, open_output
from nanogpt_core.cli.job.manifest import Manifest, read_manifest
from nanogpt_core.cli.job.run import JobRun
from nanogpt_core.cli.job.spending import budget_left, check_space, confirm
from nanogpt_core.cli.job.state import State
from nanogpt_core.cli.job.vector_log import VectorLog
from nanogpt_core.cli.kept_cache import KeptCache
from nanogpt_core.cli.options import InputOptions
from nanogpt_core.cli.paths import data_files, leads_into, manifest_path, path_as_text, real_paths, state_folder
from nanogpt_core.cli.progress import Progress
from nanogpt_core.cli.reading.input import InputReport, read_input
from nanogpt_core.cli.reading.spool import Spool
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.errors import BadRequestError, InvalidInputError, NanoGPTError, ReplyError
from nanogpt_core.models.tokens import TokenCounter


@dataclass(frozen=True)
class Job:
    """Embeds inputs into one output.

    Attributes:
        embedder_options: Keyword arguments of :class:`nanogpt_core.Embedder`, without cache and budget.
        cost: Consent to the cost. The budget is that of all runs of the job.
        cache: Path of a cache that is kept, in place of the state's own; or None.
    """

    inputs: Sequence[str]
    output: Path
    reading: InputOptions
    embedder_options: dict[str, Any]
    cost: CostOptions
    cache: Path | None
    overwrite: bool

    def run(self, progress: Progress) -> tuple[Manifest, bool]:
        """Do the job, or go on with it.

        Returns:
            The manifest of the output, and True if the output was complete already, and nothing was sent.

        Raises:
            CommandError: The job cannot be done, or was interrupted; the message says if it can go on.
            NanoGPTError: An option of the embedder is invalid.
        """
        format_of(self.output)
        Embedder(**self.embedder_options)  # an invalid option or a missing key is named before anything is read
        self._check_places()
        with contextlib.ExitStack() as stack:
            state = State(self.output)
            stack.callback(state.close)
            earlier = self._earlier_output(state)  # now no other process can finish the output
            stack.callback(progress.close)
            cache = self._open_cache(state)
            stack.callback(cache.close)
            spool = Spool(state.folder)
            stack.callback(spool.close)
            cost = replace(self.cost, budget=budget_left(self.cost.budget, state.earlier_usage.cost_usd))
            embedder = Embedder(
                **self.embedder_options,
                cache=cache,
                budget_usd=cost.budget,
                # After each request: the budget of the next run cannot count what has no note when this one is killed.
                on_request=lambda _: state.note_usage(lambda: embedder.usage),
            )
            report = self._read_input(embedder, spool, progress)
            if earlier is not None:
                self._check_earlier(earlier, embedder, spool)
                if state.keep:
                    print_warning(
                        f"{state.folder} is left from an unfinished run with --overwrite, which the same command "
                        "continues. Delete it if you do not want that output."
                    )
                return earlier, True
            new = max(0, spool.texts - len(cache)) if isinstance(cache, VectorLog) else 0  # a cache may be elsewhere
            check_space(state.folder, spool, embedder.width, new)
            confirm(embedder, spool, progress, cost)
            run = JobRun(embedder, spool, state, cache, progress)
            facts = self._write(run)
            progress.end(counted(run.done, "text"))
            state.sync_output()
            format_of(self.output).publish(state.folder, self.output)
            manifest = self._manifest(run, facts, report)
            manifest.write(self.output, state.folder)
            state.keep = False
        return manifest, False

    def _open_cache(self, state: State) -> VectorLog | KeptCache:
        """Return the cache of the embedder, with the vectors of earlier runs."""
        path = state.folder / "vectors.log"
        if self.cache is None:
            return VectorLog(path)
        cache = KeptCache(self.cache)
        if path.exists():  # an earlier run had no --cache
            with contextlib.closing(VectorLog(path)) as log:
                log.copy_to(cache)
        return cache

    def _read_input(self, embedder: Embedder, spool: Spool, progress: Progress) -> InputReport:
        counter = TokenCounter(embedder.model_info)
        may_be_long = self.embedder_options.get("on_overflow", "error") != "error"

        def reason_against(text: str) -> str | None:
            tokens = None if may_be_long else counter.count_if_too_long(text)
            if tokens is None:
                return None
            return f"has {tokens:,} tokens, and the model takes {counter.limit:,}; see --chunk-tokens and --on-overflow"

        outputs = [*data_files(self.output), manifest_path(self.output)]
        report = read_input(self.inputs, self.reading, spool, progress, reason_against=reason_against, outputs=outputs)
        if spool.repeated_ids:
            rows = "row has" if spool.repeated_ids == 1 else "rows have"
            print_warning(
                f"{spool.repeated_ids:,} {rows} the ID of an earlier row: a vector store would keep only one of them. "
                "See --id-field."
            )
        return report

    def _check_places(self) -> None:
        """Check that output and manifest can be put into their places.

        Raises:
            CommandError: The folder is missing, a folder is in one of the places, or a byte of the path is not UTF-8.
        """
        if path_as_text(self.output) != self.output.as_posix():
            raise CommandError(f"{path_as_text(self.output)}: Arrow and SQLite take only paths in UTF-8.")
        folder = self.output.parent
        if not folder.is_dir():
            raise CommandError(f"{folder}: There is no such folder.", remedy="Make it, or pass another --output.")
        files = [*data_files(self.output), manifest_path(self.output)]
        for path in files:
            if path.is_dir() and path.suffix.lower() != ".lance":
                raise CommandError(f"{path} is a folder.", remedy="Pass another --output.")
        if self.cache is not None and leads_into(self.cache, real_paths([*files, state_folder(self.output)])):
            raise CommandError(
                f"{self.cache} is a file of the output, and would be lost.", remedy="Pass another --cache."
            )

    def _earlier_output(self, state: State) -> Manifest | None:
        """Return the manifest of a finished output that must not be replaced; None if there is none.

        Raises:
            CommandError: There is a file that this program has not finished.
        """
        existing = next((path for path in data_files(self.output) if path.exists()), None)
        if existing is None or self.overwrite:
            return None
        manifest = read_manifest(self.output) if existing == self.output else None
        if manifest is None and state.is_new:  # else a kill may have come between the output and its manifest
            raise _exists(existing, "and has no manifest")
        return manifest

    def _check_earlier(self, earlier: Manifest, embedder: Embedder, spool: Spool) -> None:
        """Check that the existing output is the one that this job would make, and complete.

        Raises:
            CommandError: It is another one, or damaged.
        """
        same = {
            "texts": earlier.texts_sha256 == spool.texts_sha256,
            "model": earlier.model == embedder.model,
            "dimensions": embedder.width in (None, earlier.dimensions),
            "address": earlier.base_url == embedder.base_url,  # for example that of a sandbox
        }
        differs = [name for name, equal in same.items() if not equal]
        if differs:
            raise _exists(self.output, f"with other {' and '.join(differs)}")
        try:
            reader = open_output(self.output)
            reader.check_complete()
            rows = reader.row_count
        except CommandError as error:
            raise _exists(self.output, "and is damaged") from error
        if rows != earlier.rows:
            raise _exists(self.output, f"with {counted(rows, 'row')} of {earlier.rows:,}")

    def _write(self, run: JobRun) -> Facts:
        """Embed and write everything; an error says how much is kept.

        Raises:
            CommandError: An error of the service, of the disk, or Ctrl-C.
        """
        try:
            return run.write(partial(format_of(self.output).write, run.state.folder))
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", remedy=self._remedy(run), code=ExitCode.INTERRUPTED) from None
        except NanoGPTError as error:
            remedy = _place(error, run.spool) + self._remedy(run)
            raise CommandError(message_of(error), remedy=remedy, code=exit_code_of(error)) from error
        except OSError as error:
            reason = (error.strerror or str(error)).partition("\n")[0]  # Lance adds lines about its own source
            place = error.filename or run.state.folder
            raise CommandError(f"{place}: {reason}.", remedy=self._remedy(run)) from error

    def _remedy(self, run: JobRun) -> str:
        """Return the sentences about finished texts, for the error that ends a run."""
        if not run.state.keep:
            return "No text was embedded."
        place = run.state.folder if self.cache is None else self.cache
        # Replies come in any order: more vectors than those in order may be there.
        done = f"At least {run.done:,} of {counted(run.spool.texts, 'text')} are done. " if run.done else ""
        return f"{done}The same command goes on: vectors in {place} are not paid for again."

    def _manifest(self, run: JobRun, facts: Facts, report: InputReport) -> Manifest:
        import nanogpt_core

        usage = run.usage
        return Manifest(
            output=self.output.name,
            rows=facts.rows,
            distinct_texts=run.spool.texts,
            model=facts.model,
            dimensions=facts.dimensions,
            base_url=run.embedder.base_url,
            texts_sha256=facts.texts_sha256,
            vectors_sha256=run.vectors_sha256,
            requests=usage.requests,
            tokens=usage.prompt_tokens,
            usd=usage.cost_usd,
            skipped=report.bad,
            problems=tuple(report.problems),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            version=nanogpt_core.__version__,
        )


def _exists(path: Path, reason: str) -> CommandError:
    return CommandError(f"{path} exists, {reason}. Nothing was sent.", remedy="Pass --overwrite, or another --output.")


def _place(error: NanoGPTError, spool: Spool) -> str:
    """Return a sentence with the place of the first text that an error is about; empty if it is about none."""
    if not isinstance(error, (InvalidInputError, BadRequestError, ReplyError)):
        return ""  # no text is the cause
    positions = getattr(error, "positions", ()) or error.failed_positions[:1]
    passage = spool.first_passage(positions[0] + 1) if positions else None
    return "" if passage is None else f"First text concerned: {passage.place}. "

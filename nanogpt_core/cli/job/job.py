"""A job: everything between the options of ``nanogpt embed`` and the finished output."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from nanogpt_core._runtime.extras import package_version
from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import print_warning
from nanogpt_core.cli.cost import CostOptions
from nanogpt_core.cli.exit_codes import CommandError, ExitCode, exit_code_of, message_of
from nanogpt_core.cli.formats.base import Facts, format_of
from nanogpt_core.cli.job.destination import check_destination, check_finished, find_finished, publish
from nanogpt_core.cli.job.manifest import Manifest
from nanogpt_core.cli.job.replaced import keep_vectors
from nanogpt_core.cli.job.run import JobRun
from nanogpt_core.cli.job.spending import budget_left, check_space, confirm
from nanogpt_core.cli.job.state import State
from nanogpt_core.cli.job.vector_log import VectorLog
from nanogpt_core.cli.kept_cache import KeptCache
from nanogpt_core.cli.options import InputOptions
from nanogpt_core.cli.paths import data_files, manifest_path
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
        check_destination(self.output, self.cache)
        with contextlib.ExitStack() as stack:
            state = State(self.output)
            stack.callback(state.close)
            # Now no other process can finish the output.
            earlier = None if self.overwrite else find_finished(self.output, state)
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
                check_finished(self.output, earlier, embedder, spool, self.embedder_options["on_overflow"])
                if state.is_rest:
                    state.keep = False
                elif state.keep:
                    print_warning(
                        f"{state.folder} is left from an unfinished run with --overwrite, which the same command "
                        "continues. Delete it if you do not want that output."
                    )
                return earlier, True
            new = max(0, spool.texts - len(cache)) if isinstance(cache, VectorLog) else 0  # a cache may be elsewhere
            check_space(state.folder, spool, embedder.width, new)
            if self.overwrite and self.output.exists():
                self._keep_vectors(embedder, spool, cache, progress)
            confirm(embedder, spool, progress, cost)
            run = JobRun(embedder, spool, state, cache, progress)
            with self._error_with_remedy(run):
                facts = run.write(partial(format_of(self.output).write, state.part))
                progress.end(counted(run.done, "text"))
                state.sync_output()
                publish(state.part, self.output)
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
        may_be_long = self.embedder_options["on_overflow"] != "error"

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

    def _keep_vectors(self, embedder: Embedder, spool: Spool, cache: VectorLog | KeptCache, progress: Progress) -> None:
        progress.begin(f"Reading {self.output.name}", None)
        kept = keep_vectors(self.output, embedder, self.embedder_options["dimensions"], spool, cache)
        progress.end(f"{counted(kept, 'vector')} can be used again")

    @contextlib.contextmanager
    def _error_with_remedy(self, run: JobRun) -> Iterator[None]:
        """Add to an error how much is kept.

        Raises:
            CommandError: An error of the service, of the disk, or Ctrl-C.
        """
        try:
            yield
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
            version=package_version(),
            rows_sha256=run.spool.rows_sha256,
            on_overflow=self.embedder_options["on_overflow"],
        )


def _place(error: NanoGPTError, spool: Spool) -> str:
    """Return a sentence with the place of the first text that an error is about; empty if it is about none."""
    if not isinstance(error, (InvalidInputError, BadRequestError, ReplyError)):
        return ""  # no text is the cause
    positions = getattr(error, "positions", ()) or error.failed_positions[:1]
    passage = spool.first_passage(positions[0] + 1) if positions else None
    return "" if passage is None else f"First text concerned: {passage.place}. "

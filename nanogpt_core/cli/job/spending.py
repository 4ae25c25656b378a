"""The question before money is spent, and the budget of all runs of a job."""

from __future__ import annotations

import shutil
from pathlib import Path

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.cost import CostOptions, format_usd
from nanogpt_core.cli.exit_codes import CommandError, ExitCode
from nanogpt_core.cli.progress import Progress
from nanogpt_core.cli.reading.spool import Spool
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.models.pricing import price
from nanogpt_core.models.tokens import TokenCounter

_MAX_SPECIAL_TOKENS = 2  # of a text
_BYTES_PER_ENTRY = 44  # of a vector in the log, beside its numbers
_FLOAT_BYTES = 4


def budget_left(budget: float | None, spent: float | None) -> float | None:
    """Return the part of the budget that earlier runs have left; None without a budget.

    Raises:
        CommandError: Nothing is left, or it is not known.
    """
    if budget is None:
        return None
    if spent is None:
        raise CommandError("The cost of earlier runs is not known.", remedy="Leave --budget out.")
    if spent >= budget:
        raise CommandError(
            f"Earlier runs have spent {format_usd(spent)}: the budget of {format_usd(budget)} is used up.",
            remedy="Pass a higher --budget.",
            code=ExitCode.NOT_CONFIRMED,
        )
    return budget - spent


def confirm(embedder: Embedder, spool: Spool, progress: Progress, cost: CostOptions) -> None:
    """Compare the expected cost with the budget that is left, or ask. Texts in the embedder's cache cost nothing.

    Raises:
        CommandError: The cost is above the budget, or was not accepted.
    """
    if cost.allows(None):
        return
    usd_per_million = embedder.model_info.usd_per_million_tokens
    # A token has at least one byte. If so many cost little enough, nothing has to be counted.
    bound = TokenCounter(embedder.model_info).scale(spool.text_bytes) + _MAX_SPECIAL_TOKENS * spool.texts
    usd = price(bound, usd_per_million)
    if usd is None:
        cost.confirm(f"The price of {embedder.model} is unknown", None)
    elif not cost.allows(usd):
        usd = price(_tokens(embedder, spool, progress), usd_per_million)
        cost.confirm(f"This will cost about {format_usd(usd)}", usd)


def _tokens(embedder: Embedder, spool: Spool, progress: Progress) -> int:
    progress.begin("Counting tokens", spool.texts)
    tokens = done = 0
    for block in spool.text_blocks():
        tokens += embedder.estimate(block).tokens
        done += len(block)
        progress.advance_to(done)
    progress.end(f"{counted(tokens, 'token')} to send")
    return tokens


def check_space(folder: Path, spool: Spool, dimensions: int | None, new_vectors: int) -> None:
    """Check that the disk of a folder has room for the output, and for ``new_vectors`` in the log.

    ``dimensions`` is None if they are not known yet.

    Raises:
        CommandError: There is not enough room.
    """
    if dimensions is None:
        return
    vector = dimensions * _FLOAT_BYTES
    needed = new_vectors * (vector + _BYTES_PER_ENTRY) + spool.passages * vector + spool.text_bytes
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CommandError(
            f"{folder}: {free / 2**20:,.0f} MiB are free, and vectors and output need {needed / 2**20:,.0f} MiB. "
            "Nothing was sent."
        )

"""``nanogpt estimate``: tokens, requests, cost and time, without sending anything."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import make_console, make_table, print_json
from nanogpt_core.cli.cost import format_usd
from nanogpt_core.cli.options import InputOptions, JsonFlag, warn_about_unknown_model
from nanogpt_core.cli.progress import make_progress
from nanogpt_core.cli.reading.input import InputReport, read_input
from nanogpt_core.cli.reading.spool import Spool
from nanogpt_core.embeddings.planning import pack
from nanogpt_core.models.catalog import MODELS, ModelInfo, get_model
from nanogpt_core.models.pricing import price
from nanogpt_core.models.tokens import TokenCounter, byte_lengths, count_base_tokens

_ALL = "all"
_MAX_TEXTS_PER_BATCH = 256  # of a stream
_REQUESTS_PER_SECOND = 16  # assumed: 16 are in flight, and each takes a second
_FULL_WIDTH_CHARACTERS = 100  # a narrower terminal gets the table without space between columns,
_MEDIUM_WIDTH_CHARACTERS = 70  # and one that is narrower still only the most important columns
_NARROW_HEADINGS = ("tokens", "USD", "too long")
_EXAMPLES = """\
Nothing is sent, and no key is needed. The input is read as by nanogpt embed.

Examples:
  nanogpt estimate docs/
  nanogpt estimate docs/ --model all
  nanogpt estimate reviews.csv --field body -m BAAI/bge-m3 -m zhipu-embedding-2
  jq -c .posts[] dump.json | nanogpt estimate - --json
"""

command = App(name="estimate", usage="Usage: nanogpt estimate INPUT... [OPTIONS]", help_epilogue=_EXAMPLES)


@command.default
def estimate(
    inputs: tuple[str, ...] = (),
    /,
    *,
    model: Annotated[tuple[str, ...], Parameter(alias="-m")] = ("text-embedding-3-small",),
    options: InputOptions = InputOptions(),  # noqa: B008 - it is frozen
    json: JsonFlag = False,
) -> None:
    """Show tokens, requests, cost and time of embedding files, and send nothing.

    Args:
        inputs: Files and folders; - for standard input.
        model: A model, or `all` of the packaged list. May be repeated.
        options: Reading of the input.
        json: Print JSON.
    """
    names = list(dict.fromkeys(one for name in model for one in (MODELS if name == _ALL else [name])))
    for name in names:
        warn_about_unknown_model(name)
    tallies = [_Tally(get_model(name)) for name in names]
    with (
        tempfile.TemporaryDirectory(prefix="nanogpt-") as folder,
        contextlib.closing(Spool(Path(folder))) as spool,
        contextlib.closing(make_progress(quiet=json)) as progress,
    ):
        report = read_input(inputs, options, spool, progress)
        progress.begin("Counting tokens", spool.texts)
        done = 0
        for block in spool.text_blocks():
            tokens, lengths = list(map(count_base_tokens, block)), byte_lengths(block)
            for tally in tallies:
                tally.add(tokens, lengths)
            done += len(block)
            progress.advance_to(done)
        progress.end(counted(done, "text"))
    _print(spool, report, tallies, as_json=json)


class _Tally:
    """Adds up texts for one model.

    Attributes:
        tokens: Tokens of the texts.
        too_long: Number of texts over the model's token limit.
    """

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self.counter = TokenCounter(model)
        self.tokens = self.too_long = self._requests = 0
        self._batch_size = min(model.batch_size, _MAX_TEXTS_PER_BATCH)
        self._weights: list[int] = []

    def add(self, base_tokens: Sequence[int], lengths: Sequence[int]) -> None:
        """Add texts, by their tokens and their lengths in bytes.

        The tokens are those of :func:`nanogpt_core.models.tokens.count_base_tokens`.
        """
        limit = self.model.max_tokens
        for tokens in map(self.counter.scale, base_tokens):
            self.tokens += tokens
            self.too_long += limit is not None and tokens > limit
        self._weights += self.counter.weights(lengths)
        while len(self._weights) >= self._batch_size:
            self._requests += self._packed(self._weights[: self._batch_size])
            del self._weights[: self._batch_size]

    def _packed(self, weights: Sequence[int]) -> int:
        return sum(1 for _ in pack(weights, self._batch_size, self.model.max_request_tokens))

    @property
    def requests(self) -> int:
        """Number of requests."""
        return self._requests + self._packed(self._weights)

    @property
    def usd(self) -> float | None:
        """Cost in US dollars; None if the price is unknown."""
        return price(self.tokens, self.model.usd_per_million_tokens)

    @property
    def minutes(self) -> float:
        """Time in minutes, at the assumed rate."""
        return self.requests / _REQUESTS_PER_SECOND / 60

    def as_json(self) -> dict[str, Any]:
        """Return the sums as a JSON object."""
        return {
            "model": self.model.id,
            "dimensions": self.model.dimensions,
            "tokens": self.tokens,
            "counting": self.counter.kind,
            "requests": self.requests,
            "usd": self.usd,
            "minutes": round(self.minutes, 3),
            "too_long": self.too_long,
        }


def _print(spool: Spool, report: InputReport, tallies: list[_Tally], *, as_json: bool) -> None:
    if as_json:
        facts: dict[str, Any] = {"files": report.sources, "passages": spool.passages, "texts": spool.texts}
        print_json({**facts, "skipped": report.bad, "models": [tally.as_json() for tally in tallies]})
        return
    console = make_console()
    repeated = spool.passages - spool.texts
    console.print(
        counted(spool.passages, "passage") + (f", {counted(repeated, 'repetition')} among them" if repeated else "")
    )
    headings = ["dimensions", "tokens", "requests", "USD", "minutes", "too long"]
    shown = [name for name in headings if console.width >= _MEDIUM_WIDTH_CHARACTERS or name in _NARROW_HEADINGS]
    table = make_table("model", *shown, right=shown, narrow=console.width < _FULL_WIDTH_CHARACTERS)
    for tally in sorted(tallies, key=lambda tally: (tally.usd is None, tally.usd)):
        exact = tally.counter.kind == "exact"
        cells = {
            "dimensions": f"{tally.model.dimensions:,}" if tally.model.dimensions else "?",
            "tokens": f"{'' if exact else '~'}{tally.tokens:,}",
            "requests": f"{tally.requests:,}",
            "USD": format_usd(tally.usd),
            "minutes": f"{tally.minutes:,.1f}",
            "too long": f"{tally.too_long:,}",
        }
        table.add_row(tally.model.id, *(cells[name] for name in shown))
    console.print(table)
    notes = ["Minutes: 16 requests at once, each of 1 second, as an assumption."]
    if any(tally.counter.kind != "exact" for tally in tallies):
        notes.append("~ is a high estimate: an exact count is not possible here.")
    if any(tally.too_long for tally in tallies):
        notes.append("Too long: passages over the model's token limit. Pass a lower --chunk-tokens.")
    for note in notes:
        console.print(note)

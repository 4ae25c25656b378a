"""``nanogpt models``: the table of embedding models, from the packaged catalog or from the service's live list."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import make_console, make_table, print_json
from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.options import JsonFlag
from nanogpt_core.models.catalog import MODELS, ModelInfo

_EXAMPLES = """\
Examples:
  nanogpt models                             the packaged list
  nanogpt models --language de --sort price  for German texts, cheapest first
  nanogpt models qwen --reduces              names with "qwen" that reduce
  nanogpt models --live                      the service's list of now

Prices are in US dollars for a million tokens. With --live, a value that differs
from the packaged list has a star, and the packaged value follows in brackets.
The live list needs no key. `nanogpt compare` finds the best model for your own
questions.
"""

command = App(name="models", help_epilogue=_EXAMPLES)

_COMPARED = ("dimensions", "min_dimensions", "max_dimensions", "usd_per_million_tokens", "max_tokens")
_ANY_LANGUAGE = "multilingual"
_LETTERS_OF_A_CODE = 2  # of a language
_WIDE_COLUMNS = 120  # of a terminal; a narrower one gets shorter headings
_Sort = Literal["list", "name", "price", "dimensions", "tokens"]
_KEYS: dict[str, Callable[[ModelInfo], Any]] = {
    "name": lambda row: row.id.lower(),
    "price": lambda row: (row.usd_per_million_tokens is None, row.usd_per_million_tokens, row.id.lower()),
    "dimensions": lambda row: (row.dimensions is None, row.dimensions, row.id.lower()),
    "tokens": lambda row: (row.max_tokens is None, -(row.max_tokens or 0), row.id.lower()),
}


@dataclasses.dataclass(frozen=True)
class _Row:
    """A model, and its differences from the packaged catalog."""

    info: ModelInfo
    difference: Literal["", "new", "gone", "changed"] = ""
    packaged: ModelInfo | None = None

    def before(self, *fields: str) -> bool:
        """Return True if one of the fields differs from the packaged catalog."""
        return self.difference == "changed" and any(
            getattr(self.info, field) != getattr(self.packaged, field) for field in fields
        )


@command.default
def models(
    pattern: Annotated[str, Parameter(show_default=False)] = "",
    /,
    *,
    language: str | None = None,
    max_price: float | None = None,
    max_dimensions: int | None = None,
    min_tokens: int | None = None,
    reduces: bool = False,
    sort: Annotated[_Sort, Parameter(alias="-s")] = "list",
    live: bool = False,
    base_url: str | None = None,
    json: JsonFlag = False,
) -> None:
    """List the embedding models: dimensions, price, longest text and languages.

    Args:
        pattern: Part of the name. Default: all models.
        language: Only models for this language: a code such as `de`, `zh` or `code`.
        max_price: Only models that cost at most so many US dollars for a million tokens.
        max_dimensions: Only models whose full vectors have at most so many dimensions.
        min_tokens: Only models that take texts of at least so many tokens.
        reduces: Only models whose vectors can be reduced to fewer dimensions.
        sort: The order: as listed by NanoGPT, by name, the cheapest, the smallest vectors or the longest texts first.
        live: Ask the service for its list of now.
        base_url: Address of the API for `--live`. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
        json: Print one JSON document, which also has the query instruction of each model's card.
    """
    if language is not None and len(language) != _LETTERS_OF_A_CODE and language.lower() not in {_ANY_LANGUAGE, "code"}:
        raise CommandError(f"--language must be a code such as de, zh or code, not {language!r}.")
    if base_url is not None and not live:
        raise CommandError("--base-url has no effect without --live.")
    rows = _live_rows(base_url) if live else [_Row(info) for info in MODELS.values()]
    rows = [
        row
        for row in rows
        if pattern.lower() in row.info.id.lower()
        and _speaks(row.info, language)
        and _at_most(row.info.usd_per_million_tokens, max_price)
        and _at_most(row.info.dimensions, max_dimensions)
        and (min_tokens is None or (row.info.max_tokens or 0) >= min_tokens)
        and (row.info.reduces or not reduces)
    ]
    if sort != "list":
        rows.sort(key=lambda row: _KEYS[sort](row.info))
    if json:
        print_json([_as_json(row, live) for row in rows])
    else:
        _print_table(rows, live)


def _live_rows(base_url: str | None) -> list[_Row]:
    from nanogpt_core import list_models

    listed = list_models(base_url=base_url)
    rows = [_live_row(info) for info in listed.values()]
    return rows + [_Row(info, "gone") for name, info in MODELS.items() if name not in listed]


def _live_row(info: ModelInfo) -> _Row:
    packaged = MODELS.get(info.id)
    if packaged is None:
        return _Row(info, "new")
    same = all(getattr(info, field) == getattr(packaged, field) for field in _COMPARED)
    return _Row(info, "" if same else "changed", packaged)


def _speaks(info: ModelInfo, language: str | None) -> bool:
    if language is None:
        return True
    return language.lower() in info.languages or (_ANY_LANGUAGE in info.languages and language.lower() != "code")


def _at_most(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)


def _print_table(rows: Sequence[_Row], live: bool) -> None:
    console = make_console()
    columns = ["model", "dimensions", "reduces to", "$ / 1M tokens", "tokens per text", "languages"]
    narrow = console.width < _WIDE_COLUMNS
    if narrow:
        columns = ["model", "width", "reduces", "$/1M", "tokens", "languages"]
    table = make_table(*columns, *(["list"] if live else []), right=columns[1:5], narrow=narrow)
    for row in rows:
        cells = [
            row.info.id,
            _cell(row, _number, "dimensions"),
            _cell(row, _yes_or_no if narrow else _range, "min_dimensions", "max_dimensions"),
            _cell(row, _price, "usd_per_million_tokens"),
            _cell(row, _number, "max_tokens"),
            ", ".join(row.info.languages) or "?",
        ]
        table.add_row(*cells, *([row.difference] if live else []))
    console.print(table)
    changes = sum(row.difference != "" for row in rows)
    differ = f", {changes} of them not as in the packaged list" if changes else ""
    console.print(f"\n{counted(len(rows), 'model')}{differ}.")


def _cell(row: _Row, text: Callable[..., str], *fields: str) -> str:
    now = text(*(getattr(row.info, field) for field in fields))
    if not row.before(*fields):
        return now
    return f"*{now} ({text(*(getattr(row.packaged, field) for field in fields))})"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _price(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


def _yes_or_no(_least: int | None, most: int | None) -> str:
    return "" if most is None else "yes"


def _range(least: int | None, most: int | None) -> str:
    return "" if least is None or most is None else f"{least} to {most:,}"


def _as_json(row: _Row, live: bool) -> dict[str, Any]:
    info = row.info
    shown: dict[str, Any] = {field: getattr(info, field) for field in ("id", *_COMPARED, "query_instruction")}
    shown |= {"languages": list(info.languages), "reduces": info.reduces, "source": info.source}
    if live:
        shown["difference"] = row.difference or None
        shown["packaged"] = {field: getattr(row.packaged, field) for field in _COMPARED if row.before(field)}
    return shown

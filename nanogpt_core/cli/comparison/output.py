"""Output of ``nanogpt compare``: a table, JSON, and the files of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_core.cli.console import make_console, make_table
from nanogpt_core.cli.exit_codes import message_of

if TYPE_CHECKING:
    from nanogpt_core.comparison import Comparison, Variant
    from nanogpt_core.comparison.advice import Assessment

_DIFFERENCES = {"best": "best", "noise": "{:+.3f} noise", "worse": "{:+.3f} worse"}
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


def write_report(comparison: Comparison, folder: Path, notice: str) -> list[Path]:
    """Write page, charts and figures into a folder, and return the files."""
    from nanogpt_core.comparison.chart import write_chart
    from nanogpt_core.comparison.files import write_text
    from nanogpt_core.comparison.page import make_page

    files = [folder / name for name in ("report.html", "chart.png", "chart.svg", "results.json")]
    write_text(files[0], make_page(comparison, notice=notice))
    for chart in files[1:3]:
        write_chart(comparison, chart, notice)
    document = json.dumps(as_json(comparison, notice), ensure_ascii=False, indent=1)
    write_text(files[3], document + "\n")
    return files


def print_comparison(comparison: Comparison, files: list[Path], notice: str) -> None:
    """Print table, advice and the names of the files."""
    console = make_console()
    if notice:
        console.print(f"{notice}\n")
    wide = console.width >= _WIDE_COLUMNS
    columns = [heading for heading, is_short in _COLUMNS.items() if wide or is_short]
    table = make_table("variant", *columns, right=columns, narrow=not wide)
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


def as_json(comparison: Comparison, notice: str) -> dict[str, Any]:
    """Return the comparison as JSON values."""
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
        "failures": {name: message_of(error) if error else None for name, error in comparison.failures.items()},
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


def _variant(variant: Variant) -> dict[str, Any]:
    return {
        "model": variant.candidate.info.id,
        "base_url": variant.candidate.base_url,
        "dimensions": variant.dimensions,
        "query_instruction": variant.instruction,
    }

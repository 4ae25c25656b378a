"""``nanogpt cache``: inspect, verify, export and clear a cache file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.console import answered_yes, make_console, print_error, print_json
from nanogpt_core.cli.exit_codes import CommandError, ExitCode
from nanogpt_core.cli.options import JsonFlag

if TYPE_CHECKING:
    from nanogpt_core.cache.admin import CacheReport

_EXAMPLES = """\
Examples:
  nanogpt cache info vectors.sqlite
  nanogpt cache verify vectors.sqlite && echo sound
  nanogpt cache export vectors.sqlite vectors.npz
  nanogpt cache clear vectors.sqlite --yes
"""

command = App(name="cache", help_epilogue=_EXAMPLES)


@command.command
def info(file: Path, /, *, json: JsonFlag = False) -> None:
    """Print the number of vectors, their dimensions and the size of the file, without checking the vectors.

    Args:
        file: The cache file.
        json: Print one JSON document.
    """
    from nanogpt_core import inspect_cache

    _print_report(inspect_cache(file), json)


@command.command
def verify(file: Path, /, *, json: JsonFlag = False) -> int:
    """Check every vector and the file itself. Exit code 0: sound; 1: damaged.

    A damaged vector is never used: its text is embedded again when it is needed.

    Args:
        file: The cache file.
        json: Print one JSON document.
    """
    from nanogpt_core import verify_cache

    report = verify_cache(file)
    _print_report(report, json)
    if report.clean:
        return ExitCode.OK
    damage = f" {' '.join(report.damage)}" if report.damage else ""
    print_error(f"{file} is damaged: {counted(report.unsound, 'unsound vector')}.{damage}")
    return ExitCode.FOUND_PROBLEM


@command.command
def export(file: Path, target: Path, /) -> None:
    """Write the valid vectors into a NumPy file.

    For each number of dimensions d it has the arrays `keys_d`, 32 bytes a row,
    and `vectors_d`, float32. The keys are hashes of the texts: a cache does not
    hold the texts themselves.

    Args:
        file: The cache file.
        target: The file to write; its name ends in .npz.
    """
    from nanogpt_core import export_cache

    if target.suffix != ".npz":
        raise CommandError(f"The name of the target must end in .npz, unlike {target}.")
    count = export_cache(file, target)
    make_console().print(f"{counted(count, 'vector')} written to {target}.")


@command.command
def clear(file: Path, /, *, yes: Annotated[bool, Parameter(alias="-y")] = False) -> None:
    """Delete every vector of a cache file, and release its space. Embedding the texts again is paid for again.

    Args:
        file: The cache file.
        yes: Do not ask.
    """
    from nanogpt_core import clear_cache, inspect_cache

    count = inspect_cache(file).entries
    if not yes and not answered_yes(f"Delete {counted(count, 'vector')} of {file}?"):
        raise CommandError("Nothing was deleted.", remedy="Confirm with --yes.", code=ExitCode.NOT_CONFIRMED)
    make_console().print(f"{counted(clear_cache(file), 'vector')} deleted.")


def _print_report(report: CacheReport, json: bool) -> None:
    if json:
        shown = {
            "path": str(report.path),
            "entries": report.entries,
            "bytes": report.bytes,
            "dimensions": {str(width): count for width, count in sorted(report.widths.items())},
        }
        if report.unsound is not None:
            shown |= {"sound": report.clean, "unsound": report.unsound, "damage": list(report.damage or ())}
        print_json(shown)
        return
    console = make_console()
    console.print(f"{report.path}: {counted(report.entries, 'vector')}, {report.bytes / 1e6:,.1f} MB.")
    for width, count in sorted(report.widths.items()):
        console.print(f"  {count:,} of {counted(width, 'dimension')}")
    if report.clean:
        console.print("Every vector and the file itself are sound.")

"""Tells how far a call has come: a bar, a function of the caller's, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from nanogpt_core.embeddings.config import Progress

__all__ = ["reporting"]


@contextlib.contextmanager
def reporting(progress: Progress, total: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function that is to be called with each number of texts newly done.

    Args:
        progress: True for a bar, a function of (texts done, texts in all), or None or False for nothing.
        total: Texts in all, or None where that is not known; a function is then given the texts done instead.
    """
    if progress is True:
        from tqdm.auto import tqdm  # only where a bar is wanted

        with tqdm(total=total, unit="text", desc="Embedding") as bar:
            yield bar.update
    elif callable(progress):
        yield _adding_up(progress, total)
    else:
        yield _silent


def _silent(_: int) -> None:
    pass


def _adding_up(function: Callable[[int, int], None], total: int | None) -> Callable[[int], None]:
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        function(done, done if total is None else total)

    return report

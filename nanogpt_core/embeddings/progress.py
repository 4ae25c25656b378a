"""Progress reports of a call: a bar, or a function of the caller's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def reporting(progress: bool | Callable[[int, int], None], total: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with each number of texts that have just been embedded.

    Args:
        progress: True for a bar, or a function of (texts done, texts in total).
        total: Texts in total. If None, the function gets the texts done in its place.
    """
    if callable(progress):
        yield _counter(progress, total)
        return
    from tqdm.auto import tqdm  # only needed for a bar

    with tqdm(total=total, unit="text", desc="Embedding") as bar:
        yield bar.update


def _counter(function: Callable[[int, int], None], total: int | None) -> Callable[[int], None]:
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        function(done, done if total is None else total)

    return report

"""From the caller's texts to requests, and from the vectors that come back to the caller's order. Pure.

A text goes on the wire as it is, cut down, or in several pieces; a *wire text* is any such string, and each distinct
one is sent once, however often it was given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal

from nanogpt_core.embeddings.inputs import MAX_POSITIONS_SHOWN, describe_positions
from nanogpt_core.errors import TextTooLongError
from nanogpt_core.models.tokens import TokenCounter, byte_lengths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OVERFLOW_MODES", "Overflow", "Plan", "make_batches", "make_plan"]

Overflow = Literal["error", "truncate", "split"]
OVERFLOW_MODES: tuple[Overflow, ...] = ("error", "truncate", "split")


@dataclass(slots=True)
class Plan:
    """Which wire texts stand for which of the caller's texts.

    Attributes:
        texts: How many texts the caller gave.
        first: The position of the first of them in the caller's row.
        wire: The distinct wire texts.
        weights: For each wire text, its tokens as far as packing needs to know them.
        positions: For each wire text, the first position in the caller's list that needs it.
        unique: For each of the caller's texts, the number of its distinct text.
        rows: For each distinct text, the wire text that stands for it; -1 where several pieces do.
        pieces: For a distinct text that was split, its pieces: wire text and tokens.
    """

    texts: int
    first: int = 0
    wire: list[str] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    positions: Sequence[int] = ()
    unique: Sequence[int] = ()
    rows: Sequence[int] = ()
    pieces: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def assemble(self, vectors: NDArray[np.float32], positions: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Put the wire texts' vectors into the caller's order.

        Args:
            vectors: ``(len(wire), d)`` float32, a row for each wire text.
            positions: The caller's texts that are wanted. Default: all.

        Returns:
            ``(n, d)`` float32, a row for each text wanted. The same array where nothing was repeated or split.
        """
        if positions is None and self.texts == len(self.wire) and not self.pieces:
            return vectors
        import numpy as np  # planning itself needs no numpy

        numbers = np.asarray(self.unique, dtype=np.intp)
        if positions is not None:
            numbers = numbers[np.asarray(positions, dtype=np.intp)]
        rows = np.asarray(self.rows, dtype=np.intp)
        # A split text's row is -1 for now; it is filled in from the pieces below.
        answer: NDArray[np.float32] = vectors[rows[numbers]]
        if self.pieces:
            for place in np.flatnonzero(rows[numbers] < 0).tolist():
                answer[place] = self._mean(vectors, self.pieces[int(numbers[place])])
        return answer

    @staticmethod
    def _mean(vectors: NDArray[np.float32], pieces: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        import numpy as np

        rows = vectors[[row for row, _ in pieces]].astype(np.float64)
        mean: NDArray[np.float64] = np.average(rows, axis=0, weights=[tokens for _, tokens in pieces])
        # Pieces that point in opposite directions leave nothing to scale; the first then stands for the text.
        norm = float(np.linalg.norm(mean))
        return mean / norm if norm else rows[0] / np.linalg.norm(rows[0])

    def answered_by(self, rows: Collection[int]) -> int:
        """Return how many distinct texts need no other wire texts than these."""
        return sum(
            row in rows if row >= 0 else all(piece in rows for piece, _ in self.pieces[number])
            for number, row in enumerate(self.rows)
        )

    def counts(self) -> list[int]:
        """Return for each wire text how many of the caller's texts are done with it; they add up to ``texts``."""
        if self.texts == len(self.wire) and not self.pieces:
            return [1] * self.texts
        counts = [0] * len(self.wire)
        last = [self.pieces[number][-1][0] if row < 0 else row for number, row in enumerate(self.rows)]
        for number in self.unique:
            counts[last[number]] += 1
        return counts


def make_plan(texts: Sequence[str], counter: TokenCounter, overflow: Overflow = "error", first: int = 0) -> Plan:
    """Plan what to send for ``texts``, which have been checked.

    Args:
        texts: The texts.
        counter: Counts their tokens.
        overflow: What to do with texts over the model's limit.
        first: The position of the first text in the caller's row.

    Raises:
        TextTooLongError: ``overflow`` is ``"error"`` and a text has more tokens than the model takes.
    """
    distinct = list(dict.fromkeys(texts))
    plan = Plan(len(texts), first)
    positions: Sequence[int]
    if len(distinct) == len(texts):
        plan.unique, positions = range(len(texts)), range(first, first + len(texts))
    else:
        numbers = {text: number for number, text in enumerate(distinct)}
        plan.unique = [numbers[text] for text in texts]
        # The later ones come first here, so that the first one stays.
        firsts = dict(zip(reversed(texts), range(first + len(texts) - 1, first - 1, -1), strict=True))
        positions = [firsts[text] for text in distinct]
    lengths = byte_lengths(distinct)
    over = {number: tokens for number in counter.suspects(lengths) if (tokens := counter.over(distinct[number]))}
    if over and overflow == "error":
        raise _too_long([(positions[number], tokens) for number, tokens in over.items()], counter)
    if over:
        _cut(plan, distinct, positions, over, counter, split=overflow == "split")
    else:
        plan.wire, plan.weights = distinct, counter.weights(lengths)
        plan.positions, plan.rows = positions, range(len(distinct))
    return plan


def _cut(
    plan: Plan,
    distinct: Sequence[str],
    positions: Sequence[int],
    over: Collection[int],
    counter: TokenCounter,
    *,
    split: bool,
) -> None:
    """Fill in the plan's wire texts where some texts are over the limit."""
    rows: dict[str, int] = {}
    wire_positions: list[int] = []

    def send(text: str, position: int) -> int:
        row = rows.setdefault(text, len(rows))
        if row == len(wire_positions):
            wire_positions.append(position)
        return row

    plan.rows = plan_rows = []
    for number, text in enumerate(distinct):
        if number not in over:
            plan_rows.append(send(text, positions[number]))
        elif split:
            plan.pieces[number] = [(send(piece, positions[number]), size) for piece, size in counter.cut(text)]
            plan_rows.append(-1)
        else:
            plan_rows.append(send(next(counter.cut(text))[0], positions[number]))
    plan.wire, plan.positions = list(rows), wire_positions
    plan.weights = counter.weights(byte_lengths(plan.wire))


def _too_long(found: Sequence[tuple[int, int]], counter: TokenCounter) -> TextTooLongError:
    positions = [position for position, _ in found]
    about = "" if counter.kind == "exact" else "about "
    sizes = ", ".join(f"{about}{tokens:,}" for _, tokens in islice(found, MAX_POSITIONS_SHOWN))
    return TextTooLongError(
        f"Too many tokens for the model, which takes {counter.limit:,} a text: {sizes} at "
        f"{describe_positions(positions)}.",
        remedy='Split the texts, or pass on_overflow="truncate" or on_overflow="split".',
        positions=positions,
    )


def make_batches(weights: Sequence[int], max_items: int, max_tokens: int | None) -> list[range]:
    """Cut a row of texts into requests, each with at most so many items and tokens.

    Args:
        weights: Each text's tokens. A text that is over ``max_tokens`` by itself gets a request of its own.
        max_items: Most texts a request.
        max_tokens: Most tokens a request, or None for no limit.

    Returns:
        The texts' indices, a range for each request; together they are ``range(len(weights))``.
    """
    requests: list[range] = []
    start = total = 0
    for index, weight in enumerate(weights):
        full = index - start >= max_items or (max_tokens is not None and total + weight > max_tokens)
        if full and index > start:
            requests.append(range(start, index))
            start, total = index, 0
        total += weight
    if start < len(weights):
        requests.append(range(start, len(weights)))
    return requests

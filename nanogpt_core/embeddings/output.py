"""What a call makes of its vectors: a matrix, or lists of floats."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from nanogpt_core.embeddings.lists import iter_lists, to_lists
from nanogpt_core.embeddings.memory import empty_matrix
from nanogpt_core.embeddings.planning import Plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ArrayOutput", "ListOutput", "Output", "in_one"]

R_co = TypeVar("R_co", covariant=True)


class Output(Protocol[R_co]):
    """What a call makes of its vectors."""

    def __init__(self, plan: Plan) -> None:
        """Begin without vectors."""

    def room(self, rows: Sequence[int], width: int) -> NDArray[np.float32] | None:
        """Return where the vectors of these rows will be, ``(len(rows), width)`` float32; None where they are copied.

        They count from :meth:`put` on; until then anything may be there.
        """

    def put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[None]:
        """Take vectors, ``(len(rows), d)`` float32, as what is returned is run through, part by part.

        Called from several threads, for other rows each.
        """

    def result(self, width: int) -> R_co:
        """Return all vectors in the caller's order; ``width`` is said where there are none."""

    def some(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of some of the caller's texts, ``(len(positions), d)`` float32."""


class ArrayOutput:
    """A matrix, ``(n, d)`` float32."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._vectors: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def room(self, rows: Sequence[int], width: int) -> NDArray[np.float32] | None:
        """Return the rows' part of the matrix, where they follow one another."""
        if not in_one(rows):
            return None
        with self._lock:
            if self._vectors is None:
                self._vectors = empty_matrix(len(self._plan.wire), width)
            matrix = self._vectors
        return matrix[rows[0] : rows[-1] + 1] if matrix.shape[1] == width else None

    def put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[None]:
        """Take vectors, at once."""
        import numpy as np

        with self._lock:
            # What is put is of one width. Another may have been expected, and room made for it in vain.
            if self._vectors is None or self._vectors.shape[1] != vectors.shape[1]:
                self._vectors = empty_matrix(len(self._plan.wire), vectors.shape[1])
            matrix = self._vectors
        if not np.may_share_memory(matrix, vectors):
            matrix[slice(rows[0], rows[-1] + 1) if in_one(rows) else list(rows)] = vectors
        return ()

    def result(self, width: int) -> NDArray[np.float32]:
        """Return the matrix."""
        import numpy as np

        if self._vectors is None:
            return np.empty((0, width), dtype=np.float32)
        return self._plan.assemble(self._vectors)

    def some(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return some of the vectors."""
        assert self._vectors is not None  # noqa: S101 - there are some
        return self._plan.assemble(self._vectors, positions)


class ListOutput:
    """A list of floats for each text, which the frameworks want.

    They are made while other requests are under way, and without a whole matrix beside them: a text's list takes ten
    times the memory of its row. Where texts are repeated or split there is a matrix first.
    """

    def __init__(self, plan: Plan) -> None:
        plain = plan.texts == len(plan.wire) and not plan.pieces
        self._matrix = None if plain else ArrayOutput(plan)
        self._lists: list[list[float]] = [[]] * len(plan.wire) if plain else []

    def room(self, rows: Sequence[int], width: int) -> NDArray[np.float32] | None:
        """Return the rows' part of the matrix, where there is one."""
        return None if self._matrix is None else self._matrix.room(rows, width)

    def put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterable[None]:
        """Take vectors, part by part."""
        return self._put(rows, vectors) if self._matrix is None else self._matrix.put(rows, vectors)

    def _put(self, rows: Sequence[int], vectors: NDArray[np.float32]) -> Iterator[None]:
        left = iter(rows)
        for lists in iter_lists(vectors):
            for numbers, row in zip(lists, left, strict=False):
                self._lists[row] = numbers
            yield

    def result(self, width: int) -> list[list[float]]:
        """Return the lists."""
        return self._lists if self._matrix is None else to_lists(self._matrix.result(width))

    def some(self, positions: Sequence[int]) -> NDArray[np.float32]:
        """Return some of the vectors."""
        import numpy as np

        if self._matrix is not None:
            return self._matrix.some(positions)
        return np.array([self._lists[position] for position in positions], dtype=np.float32)


def in_one(rows: Sequence[int]) -> bool:
    """Return whether the rows follow one another."""
    return rows[-1] + 1 - rows[0] == len(rows)

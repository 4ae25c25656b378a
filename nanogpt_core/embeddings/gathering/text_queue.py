"""The queue of a gatherer: texts that wait, in order, and the lanes that they belong to. No I/O, no lock."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator

from nanogpt_core.embeddings.gathering.waiting_call import Item, Lane


class TextQueue:
    """Texts that wait, and the lanes that they belong to."""

    def __init__(self) -> None:
        self._lanes: Counter[Lane] = Counter()
        self._items: deque[Item] = deque()

    @property
    def lanes(self) -> Counter[Lane]:
        """The number of texts of each lane, at least 1."""
        if not self._items:
            self._lanes.clear()  # a signal handler may have raised before a text was counted out
        return self._lanes

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def add(self, items: Iterable[Item], *, front: bool = False) -> None:
        """Add texts that no sender has, at the end or at the front."""
        items = list(items)
        for item in items:
            item.sender = None
        if front:
            self._items.extendleft(reversed(items))
        else:
            self._items.extend(items)
        self._lanes.update(item.lane for item in items)

    def discard(self, item: Item) -> None:
        """Remove a text, if it is in the queue."""
        if item in self._items:
            self._items.remove(item)
            self._count_out(item)

    def move_to_threads(self, item: Item) -> None:
        """Let a thread carry a text of the queue."""
        self._count_out(item)
        item.lane = None
        self._lanes[None] += 1

    def take(self, lane: Lane, *, from_all_lanes: bool, max_items: int, max_tokens: float = math.inf) -> list[Item]:
        """Remove and return the first texts of a lane, or of all, up to ``max_items`` and ``max_tokens``.

        A text with more tokens is returned by itself.
        """
        taken: list[Item] = []
        passed_over: list[Item] = []
        tokens = 0
        while self._items:
            item = self._items[0]
            if not from_all_lanes and item.lane is not lane:
                passed_over.append(self._items.popleft())
                continue
            tokens += item.tokens
            if taken and (len(taken) >= max_items or tokens > max_tokens):
                break
            taken.append(self._items.popleft())
        self._items.extendleft(reversed(passed_over))
        for item in taken:
            self._count_out(item)
        return taken

    def _count_out(self, item: Item) -> None:
        self._lanes[item.lane] -= 1
        if self._lanes[item.lane] <= 0:
            del self._lanes[item.lane]

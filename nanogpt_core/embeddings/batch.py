"""One request to be, and what this process has learned about the host that gets it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanogpt_core.models.tokens import byte_lengths

__all__ = ["Batch", "HostLimits", "host_limits_for"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One request to be: its texts, and for each its row in the result, its position in the caller's list, its tokens.

    The tokens are left out where no budget asks for them.
    """

    texts: Sequence[str]
    rows: Sequence[int]
    positions: Sequence[int]
    tokens: Sequence[int]

    def halves(self) -> tuple[Batch, Batch]:
        """Return the batch in two parts."""
        middle = len(self.texts) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> Batch:
        return Batch(self.texts[part], self.rows[part], self.positions[part], self.tokens[part])


class HostLimits:
    """What this process has learned about the host behind one model at one address."""

    def __init__(self) -> None:
        self.encoding = "base64"
        self._items: int | None = None
        self._bytes: int | None = None

    def fits(self, batch: Batch) -> bool:
        """Whether a request is as small as those that the host takes, by texts or by bytes: either may be its limit."""
        if self._items is None or self._bytes is None or len(batch.texts) == 1:
            return True
        return len(batch.texts) <= self._items or _bytes_of(batch) <= self._bytes

    def took(self, batch: Batch) -> None:
        """Note the largest part that the host took of a request that it found too large."""
        items, size = len(batch.texts), _bytes_of(batch)
        self._items = items if self._items is None else min(items, self._items)
        self._bytes = size if self._bytes is None else min(size, self._bytes)

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """Yield a request in parts that fit."""
        if self.fits(batch):
            yield batch
        else:
            for half in batch.halves():
                yield from self.parts(half)


_hosts: dict[tuple[str, str], HostLimits] = {}


def host_limits_for(base_url: str, model: str) -> HostLimits:
    """Return what this process has learned about the host of ``model`` at ``base_url``."""
    return _hosts.setdefault((base_url, model), HostLimits())


def _bytes_of(batch: Batch) -> int:
    return sum(byte_lengths(batch.texts))

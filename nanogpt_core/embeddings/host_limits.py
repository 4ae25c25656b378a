"""Limits of the host behind one model, learned by this process from refusals."""

from __future__ import annotations

from nanogpt_core._runtime.log import logger
from nanogpt_core.embeddings.planning import Batch
from nanogpt_core.models.tokens import byte_lengths

__all__ = ["HostLimits", "host_limits_for"]


class HostLimits:
    """Limits of the host behind one model, learned by this process from its refusals.

    Attributes:
        encoding: The ``encoding_format`` that the host accepts: ``"base64"`` until it refuses it, then ``"float"``.
    """

    def __init__(self) -> None:
        self.encoding = "base64"
        self._max_items: int | None = None
        self._max_bytes: int | None = None

    def fits(self, batch: Batch) -> bool:
        """Return whether the host accepts the batch by what is known; its limit may be one of texts or of bytes."""
        if self._max_items is None or self._max_bytes is None or len(batch.texts) == 1:
            return True
        return len(batch.texts) <= self._max_items or _size(batch) <= self._max_bytes

    def learn(self, accepted: Batch) -> None:
        """Learn from the largest part that the host accepted of a batch that it refused as too large."""
        items, size = len(accepted.texts), _size(accepted)
        self._max_items = items if self._max_items is None else min(items, self._max_items)
        self._max_bytes = size if self._max_bytes is None else min(size, self._max_bytes)
        logger.info("Learned: the host takes %d texts, or %d bytes, in a request", self._max_items, self._max_bytes)

    def split(self, batch: Batch) -> list[Batch]:
        """Return the batch in parts that fit."""
        if self.fits(batch):
            return [batch]
        return [part for half in batch.halves() for part in self.split(half)]


_hosts: dict[tuple[str, str], HostLimits] = {}


def host_limits_for(base_url: str, model: str) -> HostLimits:
    """Return the limits that this process has learned for ``model`` at ``base_url``."""
    return _hosts.setdefault((base_url, model), HostLimits())


def _size(batch: Batch) -> int:
    return sum(byte_lengths(batch.texts))

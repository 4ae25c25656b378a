"""Qdrant's folder on disk, as both frameworks' pipelines open it: whole, or with an error that says what is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from endings import reading
from qdrant_client import QdrantClient

COLLECTION = "passages"


def open_store(folder: Path, check_width: Callable[[int], object]) -> QdrantClient:
    """Open the store in a folder, or make an empty one.

    Args:
        folder: Its folder; one process at a time has it.
        check_width: Called with the floats in a vector of the store, where it holds a collection already.

    Raises:
        RuntimeError: If another process has it open.
        ValueError: If it is damaged; ``OSError``, ``sqlite3.Error`` and what ``pickle`` raises tell of damage too.
    """
    with reading(folder):
        client, before = None, None
        while client is None or _state(folder) != before:  # another ended between the reading and the lock
            if client:
                client.close()
            before = _state(folder)
            # A page that serves this asks from several threads.
            client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
        if client.collection_exists(COLLECTION):
            width = client.get_collection(COLLECTION).config.params.vectors.size
        else:
            width = None
            # Half made, or Qdrant's list of collections is lost: passages would come back that are not wanted any more.
            shutil.rmtree(folder / "collection" / COLLECTION, ignore_errors=True)
    if width is not None:
        check_width(width)
    return client


def _state(folder: Path) -> list[tuple[str, int, int]]:
    found = [(file, file.stat()) for file in sorted(folder.rglob("*.sqlite"))]
    return [(str(file), state.st_mtime_ns, state.st_size) for file, state in found]


def stored(client: QdrantClient) -> dict[str, str | None]:
    """Return the ids of all passages in the store, and the ``source`` in the payload of each, where it has one."""
    if not client.collection_exists(COLLECTION):
        return {}
    everything = client.count(COLLECTION).count or 1
    points, _ = client.scroll(COLLECTION, limit=everything, with_payload=["source"])
    return {str(point.id): (point.payload or {}).get("source") for point in points}

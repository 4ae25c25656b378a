"""Open Qdrant's folder on disk for both frameworks' pipelines, with errors that name the damage."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from cli_errors import name_damaged
from qdrant_client import QdrantClient

COLLECTION = "passages"


def open_store(folder: Path, check_width: Callable[[int], object]) -> QdrantClient:
    """Open the store in a folder, or create an empty one.

    Args:
        folder: Folder of the store; only one process at a time can open it.
        check_width: Called with the number of dimensions of an existing collection.

    Raises:
        RuntimeError: Another process has it open.
        ValueError: It is damaged; ``OSError``, ``sqlite3.Error`` and the errors of ``pickle`` mean damage too.
    """
    with name_damaged(folder):
        client, before = None, None
        while client is None or _state(folder) != before:  # another process ended between the reading and the lock
            if client:
                client.close()
            before = _state(folder)
            # The page calls it from several threads.
            client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
    with close_on_error(client), name_damaged(folder):
        if client.collection_exists(COLLECTION):
            check_width(client.get_collection(COLLECTION).config.params.vectors.size)
        else:
            # An interrupted creation, or a lost list of collections, would bring back passages that were deleted.
            shutil.rmtree(folder / "collection" / COLLECTION, ignore_errors=True)
    return client


@contextlib.contextmanager
def close_on_error(client: QdrantClient) -> Iterator[None]:
    """Close the store if the block raises: there is no pipeline yet that would close it."""
    try:
        yield
    except BaseException:
        client.close()
        raise


def _state(folder: Path) -> list[tuple[str, int, int]]:
    found = [(file, file.stat()) for file in sorted(folder.rglob("*.sqlite"))]
    return [(str(file), state.st_mtime_ns, state.st_size) for file, state in found]


def stored_sources(client: QdrantClient) -> dict[str, str | None]:
    """Return the id of each passage in the store, with the ``source`` in its payload or None."""
    if not client.collection_exists(COLLECTION):
        return {}
    everything = client.count(COLLECTION).count or 1
    points, _ = client.scroll(COLLECTION, limit=everything, with_payload=["source"])
    return {str(point.id): (point.payload or {}).get("source") for point in points}

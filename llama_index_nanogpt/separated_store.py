"""LlamaIndex's ``embeddings_cache``: a key-value store that LlamaIndex asks by the text only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

from nanogpt_core._runtime.log import warn

_query: ContextVar[object] = ContextVar("nanogpt_query", default=None)


@contextmanager
def as_query(text: object) -> Iterator[None]:
    """Look ``text`` up as a query in this block."""
    token = _query.set(text)
    try:
        yield
    finally:
        _query.reset(token)


class SeparatedStore(BaseKVStore):
    """A store with collections of its own for everything beside the text that changes a vector.

    Args:
        store: The store of the caller, or one that was separated for other options.
        namespace: Differs if a document's vector differs.
        query_instruction: The text around queries, or None.

    Attributes:
        store: The store of the caller.
    """

    def __init__(self, store: BaseKVStore, namespace: str, query_instruction: str | None) -> None:
        self.store: BaseKVStore = store.store if isinstance(store, SeparatedStore) else store
        self._documents, self._queries = _digest(namespace), _digest(namespace + (query_instruction or ""))

    def _at(self, key: str, collection: str) -> dict[str, Any]:
        digest = self._queries if _query.get() == key else self._documents
        return {"key": key, "collection": f"{collection}-{digest}"}

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        self.store.put(val=val, **self._at(key, collection))

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        await self.store.aput(val=val, **self._at(key, collection))

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, or None."""
        return self.store.get(**self._at(key, collection))

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, or None."""
        return await self.store.aget(**self._at(key, collection))

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all values of documents."""
        return self.store.get_all(f"{collection}-{self._documents}")

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all values of documents."""
        return await self.store.aget_all(f"{collection}-{self._documents}")

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete a value; return whether it was there."""
        return self.store.delete(**self._at(key, collection))

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete a value; return whether it was there."""
        return await self.store.adelete(**self._at(key, collection))


@contextmanager
def warning_if_not_stored(store: SeparatedStore) -> Iterator[None]:
    """Turn an error of storing vectors into a warning: they are paid for, and must reach the caller."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a store may raise anything
        # Without the error's message: drivers of databases repeat the key, which is a text.
        kind, failure = type(store.store).__name__, type(error).__name__
        warn(f"The embeddings_cache, a {kind}, failed to store vectors ({failure}); continuing without storing.")


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]

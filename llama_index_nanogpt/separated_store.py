"""LlamaIndex's ``embeddings_cache``: a key-value store that LlamaIndex asks by the text only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core._runtime.signals import raised_by_signal_handler, unwrap_signal_errors

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

    A store that fails, or holds a value that is no vector of the model, gives a warning, and the texts are embedded:
    vectors that are paid for must reach the caller.

    Args:
        store: The store of the caller, or one that was separated for other options.
        namespace: Differs if a document's vector differs.
        query_instruction: The text around queries, or None.
        get_width: Returns the dimensions of the model's vectors, or None as long as they are not known.

    Attributes:
        store: The store of the caller.
    """

    def __init__(
        self, store: BaseKVStore, namespace: str, query_instruction: str | None, get_width: Callable[[], int | None]
    ) -> None:
        self.store: BaseKVStore = store.store if isinstance(store, SeparatedStore) else store
        self._documents, self._queries = _digest(namespace), _digest(namespace + (query_instruction or ""))
        self._get_width = get_width
        self._warnings = DistinctWarnings()

    def _at(self, key: str, collection: str) -> dict[str, Any]:
        digest = self._queries if _query.get() == key else self._documents
        return {"key": key, "collection": f"{collection}-{digest}"}

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        self.store_all([(key, val)], collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        await self.astore_all([(key, val)], collection)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, or None."""
        return self.find([key], collection)[0]

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, or None."""
        return (await self.afind([key], collection))[0]

    def find(self, keys: Sequence[str], collection: str = DEFAULT_COLLECTION) -> list[dict[str, Any] | None]:
        """Return the value of each key, or None; after a failure, None for all that are left."""
        found = []
        with self._warning_of_failure("read"):
            for key in keys:
                value = self.store.get(**self._at(key, collection))
                found.append(self._checked(value))
        return [*found, *[None] * (len(keys) - len(found))]

    async def afind(self, keys: Sequence[str], collection: str = DEFAULT_COLLECTION) -> list[dict[str, Any] | None]:
        """Do what :meth:`find` does, without blocking the event loop."""
        found = []
        with self._warning_of_failure("read"):
            for key in keys:
                value = await self.store.aget(**self._at(key, collection))
                found.append(self._checked(value))
        return [*found, *[None] * (len(keys) - len(found))]

    def store_all(self, values: Iterable[tuple[str, dict[str, Any]]], collection: str = DEFAULT_COLLECTION) -> None:
        """Store values under their keys, up to the first failure."""
        with self._warning_of_failure("store"):
            for key, value in values:
                self.store.put(val=value, **self._at(key, collection))

    async def astore_all(
        self, values: Iterable[tuple[str, dict[str, Any]]], collection: str = DEFAULT_COLLECTION
    ) -> None:
        """Do what :meth:`store_all` does, without blocking the event loop."""
        with self._warning_of_failure("store"):
            for key, value in values:
                await self.store.aput(val=value, **self._at(key, collection))

    @contextmanager
    def _warning_of_failure(self, verb: str) -> Iterator[None]:
        try:
            with unwrap_signal_errors():
                yield
        except Exception as error:
            # A store may raise anything.
            if raised_by_signal_handler(error):
                raise
            # Without the error's message: drivers of databases repeat the key, which is a text.
            self._warn(f"failed to {verb} vectors ({type(error).__name__}); continuing without it.")

    def _checked(self, value: Any) -> Any:
        if value is None:
            return None
        vector = _vector_in(value)
        if _is_vector(vector, self._get_width()):
            return {next(iter(value)): vector}
        self._warn("holds values that are no vectors of the model; their texts are embedded again.")
        return None

    def _warn(self, problem: str) -> None:
        self._warnings.warn(f"The embeddings_cache, a {type(self.store).__name__}, {problem}")

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


def _vector_in(value: Any) -> Any:
    """Return the vector in a value as LlamaIndex stores it, under a random key; None if the value has another form.

    A store may give a tuple or an array in place of a list.
    """
    vector = next(iter(value.values()), None) if isinstance(value, dict) else None
    return list(vector) if isinstance(vector, tuple) else vector.tolist() if isinstance(vector, np.ndarray) else vector


def _is_vector(vector: Any, width: int | None) -> bool:
    """Return whether an object is a list of ``width`` numbers, finite and not all zero; of any length if it is None."""
    if not isinstance(vector, list) or len(vector) != (len(vector) if width is None else width):
        return False
    try:
        numbers = np.array(vector)
    except ValueError:  # lists of different lengths
        return False
    # Other kinds are text, bools, and objects such as None and an int that is no float.
    is_numeric = numbers.ndim == 1 and numbers.dtype.kind in "fi"
    return is_numeric and bool(numbers.any() and np.isfinite(numbers).all())


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]

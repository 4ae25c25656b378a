"""The output that a run replaces: its vectors of texts that stay are not paid for again."""

from __future__ import annotations

import contextlib
import hashlib
from itertools import islice
from pathlib import Path

from nanogpt_core.cache.base import CacheNamespace, EmbeddingCache, encode_entry
from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.formats.base import VectorReader, open_output
from nanogpt_core.cli.job.manifest import Manifest, read_manifest
from nanogpt_core.cli.reading.spool import Spool
from nanogpt_core.embeddings.embedder import Embedder


def keep_vectors(output: Path, embedder: Embedder, dimensions: int | None, spool: Spool, cache: EmbeddingCache) -> int:
    """Store the vectors of a finished output in ``cache``, those of texts that are in the spool too.

    ``dimensions`` is the option of the embedder. An output of another model, address or dimensions has no such vectors,
    nor has one that may have truncated texts, or that is not as its manifest says.

    Returns:
        The number of rows with such a text.
    """
    kept = 0
    # It is damaged, or no output; or the cache cannot be written, which ends the run.
    with contextlib.suppress(CommandError, OSError):
        reader, manifest = open_output(output), read_manifest(output)
        if manifest is None or not _fits(manifest, embedder) or not _is_as_manifest_says(reader, manifest):
            return 0
        namespace = CacheNamespace(embedder.base_url, embedder.model, dimensions)
        rows = reader.rows()
        for vectors in reader.blocks():
            texts = [row.text for row in islice(rows, len(vectors))]
            stays = spool.holds(texts)
            entries = {
                key: encode_entry(key, vector)
                for key, vector, text in zip(namespace.keys(texts), vectors, texts, strict=True)
                if text in stays
            }
            kept += sum(text in stays for text in texts)
            for key in cache.get_many(list(entries)):  # an earlier run has stored them
                del entries[key]
            if entries:
                cache.put_many(entries)
    return kept


def _fits(manifest: Manifest, embedder: Embedder) -> bool:
    """Return whether the vectors of an output are those that the embedder would make."""
    same_service = (manifest.model, manifest.base_url) == (embedder.model, embedder.base_url)
    return same_service and embedder.width == manifest.dimensions and manifest.on_overflow == "error"


def _is_as_manifest_says(reader: VectorReader, manifest: Manifest) -> bool:
    import numpy as np

    texts, vectors = hashlib.sha256(), hashlib.sha256()
    for row in reader.rows():
        texts.update(hashlib.sha256(row.text.encode()).digest())
    for block in reader.blocks():
        vectors.update(np.ascontiguousarray(block, dtype="<f4").data)
    return (texts.hexdigest(), vectors.hexdigest()) == (manifest.texts_sha256, manifest.vectors_sha256)

"""100,000 passages: Python's own documentation, divided at several sizes, in a JSON Lines file for each size."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from nanogpt_core.cli.reading.chunking import Chunker

ROOT = Path(__file__).resolve().parents[2]
SIZES = (16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256, 384)
"""Maximum number of tokens of a passage."""

# The benchmark's server counts texts by their quotes.
_PLAIN = str.maketrans({'"': "'", "[": "(", "]": ")", "\\": "/"})


def documents() -> list[str]:
    """Return the documents of the demo's corpus."""
    # LlamaIndex ships tiktoken's vocabulary.
    with contextlib.suppress(ImportError, AttributeError):
        package = Path(importlib.util.find_spec("llama_index.core").origin).parent  # type: ignore[union-attr, arg-type]
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(package / "_static" / "tiktoken_cache"))
    path = ROOT / "examples" / "demo" / "corpus.py"
    spec = importlib.util.spec_from_file_location("demo_corpus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_corpus"] = module
    spec.loader.exec_module(module)
    return [document.text.translate(_PLAIN) for document in module.load_documents()]


def passages(size: int, texts: list[str]) -> Iterator[str]:
    """Yield the passages of one size."""
    chunker = Chunker(size, size // 4)
    for text in texts:
        for _, passage in chunker.chunks(text):
            yield passage


def write_corpus(folder: Path, count: int) -> int:
    """Write ``count`` distinct passages, or all if there are fewer, into ``folder``; return their number."""
    texts = documents()
    seen: set[str] = set()
    for size in reversed(SIZES):
        if len(seen) == count:
            break
        with (folder / f"passages-{size:03}.jsonl").open("w", encoding="utf-8") as file:
            for text in passages(size, texts):
                if text not in seen and len(seen) < count:
                    seen.add(text)
                    file.write(json.dumps({"text": text}) + "\n")
    return len(seen)
